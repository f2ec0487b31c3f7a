package proxy_test

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/keywarden/keywarden/pkg/access"
	"github.com/keywarden/keywarden/pkg/gateway/proxy"
)

// key is an API key by its form.
const key = "kw_live_0123456789abABCDEFGHIJKLMNOPQRSTUVWXYZ012345678901"

// sendFields sends a request with the given field lines and returns the header
// that the service got.
func sendFields(t *testing.T, f *front, lines ...string) http.Header {
	t.Helper()
	f.t = t
	resp, body := f.raw("GET /x HTTP/1.1\r\nHost: client.test\r\nConnection: close\r\n" + strings.Join(append(lines, "\r\n"), "\r\n"))
	if resp.StatusCode != 200 {
		t.Fatalf("got %d %s", resp.StatusCode, body)
	}
	return decode(t, body).Header
}

func caller() *access.Principal {
	return &access.Principal{
		Kind: access.KindKey, UserID: "user-1", Role: access.RoleUser,
		Scopes: []string{"orders:read", "orders:write"}, KeyID: "key-1", KeyName: "secret name",
	}
}

func TestIdentityReachesTheServiceOnceAndOnlyFromUs(t *testing.T) {
	f := newFront(t, recorder(t), setup{route: proxy.RouteConfig{Authenticated: true}, principal: caller()})
	forged := []string{
		"X-Consumer: admin", "x-consumer: admin", "X_Consumer: admin", "X.Consumer: admin", "X-Consumer-Role: admin",
		"X_Consumer_Role: admin", "X-Consumer-Scopes: *", "X-Consumer-Username: admin", "x-consumer~kind: admin",
	}
	for _, lines := range [][]string{
		nil,
		forged,
		{"Connection: X-Consumer, X-Consumer-Role, X-Consumer-Key, X-Forwarded-For, X-Request-Id"},
	} {
		got := sendFields(t, f, lines...)
		want := map[string]string{
			"X-Consumer": "user-1", "X-Consumer-Kind": "key", "X-Consumer-Role": "user",
			"X-Consumer-Scopes": "orders:read orders:write", "X-Consumer-Key": "key-1",
			"X-Forwarded-For": "127.0.0.1", "X-Request-Id": "request-1",
		}
		for name, value := range want {
			if !slices.Equal(got.Values(name), []string{value}) {
				t.Errorf("%s is %q, want %q alone", name, got.Values(name), value)
			}
		}
		for name, values := range got {
			if strings.Contains(strings.Join(values, " "), "admin") {
				t.Errorf("forged %s: %q reached the service", name, values)
			}
		}
		if strings.Contains(fmt.Sprint(got), "secret name") {
			t.Error("the name of the key reached the service")
		}
	}
}

func TestNobodysIdentityIsForwardedFromAnOpenRoute(t *testing.T) {
	f := newFront(t, recorder(t), setup{principal: caller()}) // a principal from elsewhere
	for name := range sendFields(t, f, "X-Consumer: admin", "X_Consumer_Role: admin") {
		if strings.HasPrefix(strings.ToLower(name), "x-consumer") {
			t.Errorf("%s reached the service", name)
		}
	}
}

func TestForwardingFieldsAreReplaced(t *testing.T) {
	f := newFront(t, recorder(t), setup{})
	got := sendFields(t, f,
		"X-Forwarded-For: 1.2.3.4", "X_Forwarded_For: 1.2.3.4", "X-Forwarded-Host: evil.test", "X-Forwarded-Proto: gopher",
		"X-Forwarded-Prefix: //evil.test", "X-Forwarded-Port: 1", "X-Forwarded: x", "X-Forwarded-Server: evil.test",
		"Forwarded: for=1.2.3.4;proto=https", "X-Real-IP: 1.2.3.4", "Proxy: http://127.0.0.1:9",
		"X-Request-Id: theirs", "X_Request_Id: theirs",
		"X-HTTP-Method-Override: DELETE", "X-Original-URL: /admin", "X-Rewrite-URL: /admin",
		"True-Client-IP: 1.2.3.4", "Client-IP: 1.2.3.4", "X-Client-IP: 1.2.3.4", "X-Cluster-Client-IP: 1.2.3.4",
		"CF-Connecting-IP: 1.2.3.4", "CF-Connecting-IPv6: 2001:db8::1", "Fastly-Client-IP: 1.2.3.4", "Fly-Client-IP: 1.2.3.4",
		"X-Original-Forwarded-For: 1.2.3.4", "X-Original-Host: evil.test",
		"X-Kept: 1", "X-Forwarder: kept",
	)
	for name, want := range map[string]string{
		"X-Forwarded-For": "127.0.0.1", "X-Forwarded-Host": "client.test", "X-Forwarded-Proto": "http", "X-Request-Id": "request-1",
		"X-Kept": "1", "X-Forwarder": "kept",
	} {
		if !slices.Equal(got.Values(name), []string{want}) {
			t.Errorf("%s is %q, want %q alone", name, got.Values(name), want)
		}
	}
	for _, name := range []string{
		"X-Forwarded-Prefix", "X-Forwarded-Port", "X-Forwarded", "X-Forwarded-Server", "Forwarded", "X-Real-Ip", "Proxy",
		"X-Http-Method-Override", "X-Original-Url", "X-Rewrite-Url", "X-Original-Host",
		"True-Client-Ip", "Client-Ip", "X-Client-Ip", "X-Cluster-Client-Ip", "Cf-Connecting-Ip", "Cf-Connecting-Ipv6",
		"Fastly-Client-Ip", "Fly-Client-Ip", "X-Original-Forwarded-For",
	} {
		if got.Values(name) != nil {
			t.Errorf("%s: %q reached the service", name, got.Values(name))
		}
	}
	for name := range got {
		if strings.Contains(name, "_") {
			t.Errorf("%s reached the service", name)
		}
	}
}

func TestHopByHopFieldsStay(t *testing.T) {
	f := newFront(t, recorder(t), setup{})
	got := sendFields(t, f,
		"Keep-Alive: 5", "Proxy-Connection: close", "Proxy-Authorization: Basic eA==", "Te: trailers", "Trailer: X-A",
		"Connection: X-Hop", "X-Hop: 1", "X-End: 1",
		"Upgrade: h2c", "Connection: Upgrade, HTTP2-Settings", "HTTP2-Settings: AAA",
	)
	for _, name := range []string{
		"Connection", "Keep-Alive", "Proxy-Connection", "Proxy-Authorization", "Te", "Trailer", "X-Hop", "Upgrade", "Http2-Settings",
	} {
		if got.Values(name) != nil {
			t.Errorf("%s: %q reached the service", name, got.Values(name))
		}
	}
	if got.Get("X-End") != "1" {
		t.Error("X-End did not reach the service")
	}
}

func TestRequestTrailersStay(t *testing.T) {
	f := newFront(t, recorder(t), setup{})
	_, body := f.raw("POST / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nTransfer-Encoding: chunked\r\nTrailer: X-Consumer\r\n\r\n" +
		"3\r\nabc\r\n0\r\nX-Consumer: admin\r\nX-Other: admin\r\n\r\n")
	got := decode(t, body)
	if got.Body != "abc" || len(got.Trailer) != 0 || got.Header.Get("Trailer") != "" {
		t.Errorf("the service got %q with trailers %v", got.Body, got.Trailer)
	}
}

// Access tokens by their form, of "keywarden" and of "elsewhere".
const (
	ourToken   = "eyJhbGciOiJFZERTQSIsInR5cCI6ImF0K2p3dCJ9.eyJpc3MiOiJrZXl3YXJkZW4iLCJzdWIiOiJ1In0.c2lnbmF0dXJl"
	theirToken = "eyJhbGciOiJFZERTQSIsInR5cCI6ImF0K2p3dCJ9.eyJpc3MiOiJlbHNld2hlcmUiLCJzdWIiOiJ1In0.c2lnbmF0dXJl"
)

func TestCredentialsStay(t *testing.T) {
	for _, c := range []struct {
		name          string
		authenticated bool
		field         string
		forwarded     bool
	}{
		{"consumed key", true, "X-API-Key: " + key, false},
		{"consumed bearer", true, "Authorization: Bearer " + key, false},
		{"consumed token", true, "Authorization: Bearer a.b.c", false},
		{"key on an open route", false, "X-API-Key: " + key, false},
		{"anything in the key's field", false, "X-API-Key: other", false},
		{"key as bearer on an open route", false, "Authorization: Bearer " + key, false},
		{"test key with another prefix", false, "Authorization: bearer acme_test_" + key[8:], false},
		{"key that lost its end", false, "Authorization: Bearer " + key[:len(key)-3], false},
		{"underscore spelling", false, "X_API_Key: " + key, false},
		{"key in a list", false, "Authorization: Bearer " + key + ", Bearer other", false},
		{"key as a parameter", false, `Authorization: Key id="` + key + `", realm="x"`, false},
		{"our token on an open route", false, "Authorization: Bearer " + ourToken, false},
		{"our token without scheme", false, "Authorization: " + ourToken, false},
		{"our token in a list", false, `Authorization: Basic eA==, Bearer token="` + ourToken + `"`, false},
		{"another issuer's token", false, "Authorization: Bearer " + theirToken, true},
		{"long run that is no key", false, "Authorization: Bearer sk_live_" + strings.Repeat("a1B2", 25), true},
		{"the service's own scheme", false, "Authorization: Basic dXNlcjpwYXNz", true},
		{"the service's own token", false, "Authorization: Bearer eyJ.a_b-c.d", true},
		{"another platform's key", false, "Authorization: Bearer sk_live_51Habcdefghijklmnopqrst", true},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := setup{
				route:   proxy.RouteConfig{Authenticated: c.authenticated},
				options: func(o *proxy.Options) { o.Issuer = "keywarden" },
			}
			if c.authenticated {
				s.principal = caller()
			}
			got := sendFields(t, newFront(t, recorder(t), s), c.field)
			_, value, _ := strings.Cut(c.field, ": ")
			found := false
			for _, values := range got {
				found = found || slices.Contains(values, value)
			}
			if found != c.forwarded {
				t.Errorf("reached the service: %t, want %t", found, c.forwarded)
			}
		})
	}
}
