package proxy_test

import (
	"crypto/tls"
	"encoding/pem"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/keywarden/keywarden/pkg/gateway/proxy"
	"github.com/keywarden/keywarden/pkg/gateway/upstream"
)

func TestTheRouteDecidesOnTheHost(t *testing.T) {
	target := recorder(t)
	for _, c := range []struct {
		name   string
		route  proxy.RouteConfig
		sent   string
		want   string
		client string // what X-Forwarded-Host says
	}{
		{"its own", proxy.RouteConfig{}, "Host: Client.test:81", strings.TrimPrefix(target, "http://"), "client.test:81"},
		{"another", proxy.RouteConfig{Host: "api.internal.example"}, "Host: client.test", "api.internal.example", "client.test"},
		{"another with a port", proxy.RouteConfig{Host: "api.internal.example:8443"}, "Host: client.test", "api.internal.example:8443", "client.test"},
		{"the client's, in one form", proxy.RouteConfig{PreserveHost: true}, "Host: Client.Test.:81", "client.test:81", "client.test:81"},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := newFront(t, target, setup{route: c.route})
			_, body := f.raw("GET /x HTTP/1.1\r\n" + c.sent + "\r\nConnection: close\r\n\r\n")
			got := decode(t, body)
			if got.Host != c.want || !slices.Equal(got.Header["X-Forwarded-Host"], []string{c.client}) {
				t.Errorf("host %q, forwarded %q, want %q and %q", got.Host, got.Header["X-Forwarded-Host"], c.want, c.client)
			}
		})
	}
	t.Run("a client without one", func(t *testing.T) {
		f := newFront(t, target, setup{route: proxy.RouteConfig{PreserveHost: true}})
		_, body := f.raw("GET /x HTTP/1.0\r\n\r\n")
		if got := decode(t, body).Host; got != strings.TrimPrefix(target, "http://") {
			t.Errorf("host %q", got)
		}
	})
}

// TestTheHostHasNoInfluenceOnTLS holds for HTTP/1.1 and HTTP/2: the name that is
// asked for, and checked, is that of the target.
func TestTheHostHasNoInfluenceOnTLS(t *testing.T) {
	for _, http2 := range []bool{false, true} {
		var asked atomic.Value
		s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, r.Proto, " ", r.Host) }))
		s.EnableHTTP2 = http2
		s.TLS = &tls.Config{GetConfigForClient: func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
			asked.Store(hello.ServerName)
			return nil, nil
		}}
		s.StartTLS()
		t.Cleanup(s.Close)
		authority := filepath.Join(t.TempDir(), "authority.pem")
		text := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw})
		if err := os.WriteFile(authority, text, 0o600); err != nil {
			t.Fatal(err)
		}
		f := newFront(t, s.URL, setup{route: proxy.RouteConfig{PreserveHost: true}, identity: func(id *upstream.Identity) {
			id.TLS.CAFile = authority
		}})
		resp, body := f.raw("GET /x HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n")
		want := "HTTP/1.1 evil.example"
		if http2 {
			want = "HTTP/2.0 evil.example"
		}
		if resp.StatusCode != 200 || body != want {
			t.Errorf("got %d %q, want %q", resp.StatusCode, body, want)
		}
		if name := asked.Load(); name != "" { // the target is an address, which is not asked for by name
			t.Errorf("the gateway asked for the certificate of %q", name)
		}
	}
}

// TestCopiesAreMarkedAndCarryNoAuthorization holds whatever the route does with
// credentials, and no client can mark its request so.
func TestCopiesAreMarkedAndCarryNoAuthorization(t *testing.T) {
	for _, authenticated := range []bool{false, true} {
		f := newFront(t, recorder(t), setup{route: proxy.RouteConfig{Mirrored: true, Authenticated: authenticated}, principal: caller()})
		got := sendFields(t, f, "Authorization: Basic dTpw", "X-Api-Key: "+key, "X-Mirrored: 2", "X_Mirrored: 3", "Connection: X-Mirrored")
		if !slices.Equal(got.Values("X-Mirrored"), []string{"1"}) || got["X_mirrored"] != nil {
			t.Errorf("X-Mirrored is %q", got.Values("X-Mirrored"))
		}
		for name, values := range got {
			if all := strings.Join(values, " "); strings.Contains(all, "dTpw") || strings.Contains(all, key) {
				t.Errorf("the copy has the credential in %s: %q", name, values)
			}
		}
		if consumer := got.Get("X-Consumer"); (consumer == "user-1") != authenticated {
			t.Errorf("authenticated %t, X-Consumer %q", authenticated, consumer)
		}
	}
	f := newFront(t, recorder(t), setup{})
	if got := sendFields(t, f, "X-Mirrored: 1", "x.mirrored: 1"); got.Values("X-Mirrored") != nil || got["X.mirrored"] != nil {
		t.Errorf("a client marked its request as a copy: %q", got)
	}
}

func TestWhatWasStrippedIsSaidOnlyWhenNothingTakesItsPlace(t *testing.T) {
	for _, c := range []struct {
		route  proxy.RouteConfig
		target string
		want   []string
	}{
		{proxy.RouteConfig{StripPrefix: "/x"}, "/", []string{"/x"}},
		{proxy.RouteConfig{StripPrefix: "/x", AddPrefix: "/y"}, "/y", nil},
	} {
		f := newFront(t, recorder(t), setup{route: c.route})
		_, body := f.do("GET", "/x", nil, nil)
		got := decode(t, body)
		if !slices.Equal(got.Header["X-Forwarded-Prefix"], c.want) || got.Target != c.target {
			t.Errorf("%+v: %s with prefix %q, want %s and %q", c.route, got.Target, got.Header["X-Forwarded-Prefix"], c.target, c.want)
		}
	}
}
