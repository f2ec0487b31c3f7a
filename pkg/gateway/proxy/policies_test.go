package proxy_test

import (
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/keywarden/keywarden/pkg/gateway/policy"
	"github.com/keywarden/keywarden/pkg/gateway/policy/basicauth"
	"github.com/keywarden/keywarden/pkg/gateway/policy/headers"
	"github.com/keywarden/keywarden/pkg/gateway/policy/securityheaders"
	"github.com/keywarden/keywarden/pkg/gateway/proxy"
)

// behind puts a policy around the handler of a front.
func behind(t *testing.T, step policy.Step, err error) func(http.Handler) http.Handler {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	return func(h http.Handler) http.Handler {
		return policy.Chain(h, nil, policy.Rule{Name: "policy", Step: step})
	}
}

// TestFieldsOfTheDocumentReachTheService holds whatever the client tries against
// them.
func TestFieldsOfTheDocumentReachTheService(t *testing.T) {
	step, err := headers.Request(headers.Config{
		Set:    map[string]string{"X-Tenant": "{{ principal.user_id }}", "X-Fixed": "ours", "X-Empty": `{{ request.header "X-Missing" }}`},
		Add:    map[string]string{"X-Added": "ours"},
		Remove: []string{"X-Debug"},
	})
	f := newFront(t, recorder(t), setup{route: proxy.RouteConfig{Authenticated: true}, principal: caller(), outer: behind(t, step, err)})
	for _, lines := range [][]string{
		nil,
		{"X-Tenant: evil", "x-tenant: evil", "X-Fixed: evil", "X-Empty: evil", "X-Debug: evil"},
		{"X.Tenant: evil", "X_Tenant: evil", "x~fixed: evil", "X!Empty: evil", "X.Debug: evil"},
		{"Connection: X-Tenant, X-Fixed, x-added"},
		{"Connection: x-tenant", "Connection: X-Fixed,X-Added", "X-Tenant: evil"},
		{"Connection: upgrade, X-Tenant, x-fixed, X-Added", "Upgrade: h2c"},
	} {
		got := sendFields(t, f, lines...)
		for name, want := range map[string][]string{
			"X-Tenant": {"user-1"}, "X-Fixed": {"ours"}, "X-Added": {"ours"}, "X-Consumer": {"user-1"},
			"X-Empty": nil, "X-Debug": nil, "Connection": nil, "Upgrade": nil,
		} {
			if name == "Connection" && slices.Equal(got[name], []string{"close"}) {
				continue
			}
			if !slices.Equal(got[name], want) {
				t.Errorf("%q: %s is %q, want %q", lines, name, got[name], want)
			}
		}
		for name, values := range got {
			if strings.Contains(strings.Join(values, " "), "evil") {
				t.Errorf("%q: %s: %q reached the service", lines, name, values)
			}
		}
	}
}

func TestAddedFieldsStandBesideTheClients(t *testing.T) {
	step, err := headers.Request(headers.Config{Add: map[string]string{"X-Added": "ours"}})
	f := newFront(t, recorder(t), setup{outer: behind(t, step, err)})
	if got := sendFields(t, f, "X-Added: theirs")["X-Added"]; !slices.Equal(got, []string{"theirs", "ours"}) {
		t.Errorf("got %q", got)
	}
}

// passwordFile is a file with the password.
func passwordFile(t *testing.T, text string) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "password")
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

func TestTheServiceGetsTheGatewaysPassword(t *testing.T) {
	step, err := basicauth.New("gateway", passwordFile(t, "open sesame\n"))
	want := []string{"Basic Z2F0ZXdheTpvcGVuIHNlc2FtZQ=="}
	for name, s := range map[string]setup{
		"authenticated": {route: proxy.RouteConfig{Authenticated: true}, principal: caller()},
		"open":          {},
	} {
		s.outer = behind(t, step, err)
		f := newFront(t, recorder(t), s)
		for _, lines := range [][]string{
			nil, {"Authorization: Bearer " + key}, {"Authorization: Basic ZXZpbDpldmls"}, {"Connection: Authorization"},
			{"Proxy-Authorization: Basic ZXZpbDpldmls"},
		} {
			got := sendFields(t, f, lines...)
			if !slices.Equal(got["Authorization"], want) || len(got["Proxy-Authorization"]) > 0 {
				t.Errorf("%s, %q: %q", name, lines, got)
			}
		}
	}
	mirrored := newFront(t, recorder(t), setup{route: proxy.RouteConfig{Mirrored: true}, outer: behind(t, step, err)})
	if got := sendFields(t, mirrored); len(got["Authorization"]) > 0 {
		t.Errorf("a copy carries %q", got["Authorization"])
	}
}

func TestAnswersOfTheServiceAreChangedAndFailuresAreNot(t *testing.T) {
	step, err := headers.Response(headers.Config{
		Set:    map[string]string{"Cache-Control": "public", "X-Path": "{{ request.path }}", "X-Evil": `{{ request.query "a" }}`},
		Add:    map[string]string{"Vary": "X-Tenant"},
		Remove: []string{"X-Internal"},
	})
	good := backend(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Link", "</a>; rel=preload")
		w.WriteHeader(http.StatusEarlyHints)
		w.Header()["Vary"] = []string{"Accept"}
		w.Header().Set("X-Internal", "10.0.0.1")
		w.Header().Set("Cache-Control", "private")
	})
	f := newFront(t, good, setup{outer: behind(t, step, err)})
	resp, _ := f.do("GET", "/x?a=1%0d%0aSet-Cookie:%20b=c", nil, nil)
	for name, want := range map[string][]string{
		"Cache-Control": {"public"}, "X-Path": {"/x"}, "Vary": {"Accept", "X-Tenant"}, "X-Internal": nil, "X-Request-Id": {"request-1"},
		"X-Evil": {"1Set-Cookie: b=c"}, "Set-Cookie": nil,
	} {
		if !slices.Equal(resp.Header[name], want) {
			t.Errorf("%s is %q, want %q", name, resp.Header[name], want)
		}
	}

	bad := newFront(t, "http://127.0.0.1:1", setup{outer: behind(t, step, err)})
	resp, body := bad.do("GET", "/x", nil, nil)
	bad.wantProblem(resp, body, 502, "gateway.upstream_unreachable")
	if resp.Header.Get("Cache-Control") == "public" || resp.Header.Get("X-Path") != "" {
		t.Errorf("a failure got the fields of an answer: %v", resp.Header)
	}
}

func TestFailuresAreProtectedToo(t *testing.T) {
	step, err := securityheaders.New(securityheaders.Config{})
	f := newFront(t, "http://127.0.0.1:1", setup{outer: behind(t, step, err)})
	resp, body := f.do("GET", "/x", nil, nil)
	f.wantProblem(resp, body, 502, "gateway.upstream_unreachable")
	if resp.Header.Get("X-Content-Type-Options") != "nosniff" {
		t.Errorf("got %v", resp.Header)
	}
}
