package cors_test

import (
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/keywarden/keywarden/pkg/gateway/policy"
	"github.com/keywarden/keywarden/pkg/gateway/policy/cors"
)

func config() cors.Config {
	return cors.Config{
		Origins: []string{"https://app.example.com", "https://*.partner.test", "http://localhost:3000"},
		Methods: []string{"PUT"}, Headers: []string{"Authorization", "X-Api-Key"}, Expose: []string{"X-Request-Id"},
		Credentials: true, MaxAge: 10 * time.Minute,
	}
}

// ask sends a request through the step; the service answers with CORS fields of
// its own, which nobody must see.
func ask(t *testing.T, c cors.Config, method string, header ...string) *http.Response {
	t.Helper()
	step, err := cors.New(c)
	if err != nil {
		t.Fatal(err)
	}
	service := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Access-Control-Allow-Origin", "https://evil.test")
		w.Header().Set("Access-Control-Allow-Credentials", "true")
		w.Header().Add("Vary", "Accept")
		w.WriteHeader(http.StatusTeapot)
	})
	r := httptest.NewRequest(method, "/", nil)
	for i := 0; i+1 < len(header); i += 2 {
		r.Header.Add(header[i], header[i+1])
	}
	w := httptest.NewRecorder()
	policy.Chain(service, nil, policy.Rule{Name: "cors", Step: step}).ServeHTTP(w, r)
	return w.Result()
}

func TestOrigins(t *testing.T) {
	for origin, allowed := range map[string]bool{
		"https://app.example.com":                   true,
		"HTTPS://APP.EXAMPLE.COM":                   true, // as some write it
		"https://a.partner.test":                    true,
		"https://a.b.partner.test":                  true,
		"http://localhost:3000":                     true,
		"http://app.example.com":                    false,
		"https://app.example.com:8443":              false,
		"https://app.example.com.evil.test":         false,
		"https://evil.test/https://app.example.com": false,
		"https://evilapp.example.com":               false,
		"https://partner.test":                      false,
		"https://evilpartner.test":                  false,
		"https://.partner.test":                     false,
		"https://evil.test/.partner.test":           false,
		"https://evil.test#.partner.test":           false,
		"https://evil.test?.partner.test":           false,
		"https://user@x.partner.test":               false,
		"https://evil.test:443\\.partner.test":      false,
		"http://localhost":                          false,
		"http://localhost:3000.evil.test":           false,
		"null":                                      false,
		"":                                          false,
	} {
		resp := ask(t, config(), "GET", "Origin", origin)
		want := ""
		if allowed {
			want = origin
		}
		if got := resp.Header.Get("Access-Control-Allow-Origin"); got != want {
			t.Errorf("%q: allowed is %q, want %q", origin, got, want)
		}
		if got := resp.Header.Get("Access-Control-Allow-Credentials") == "true"; got != allowed {
			t.Errorf("%q: credentials %t", origin, got)
		}
		if resp.StatusCode != http.StatusTeapot {
			t.Errorf("%q: the request did not pass: %d", origin, resp.StatusCode)
		}
		if !strings.Contains(strings.Join(resp.Header["Vary"], ","), "Origin") {
			t.Errorf("%q: the answer does not vary by origin", origin)
		}
	}
}

func TestPreflight(t *testing.T) {
	const friend = "https://app.example.com"
	for _, c := range []struct {
		name   string
		header []string
		status int
	}{
		{"allowed", []string{"Origin", friend, "Access-Control-Request-Method", "PUT", "Access-Control-Request-Headers", "authorization, x-api-key"}, 204},
		{"safelisted method", []string{"Origin", friend, "Access-Control-Request-Method", "POST"}, 204},
		{"other method", []string{"Origin", friend, "Access-Control-Request-Method", "DELETE"}, 403},
		{"method in other letters", []string{"Origin", friend, "Access-Control-Request-Method", "put"}, 403},
		{"other field", []string{"Origin", friend, "Access-Control-Request-Method", "PUT", "Access-Control-Request-Headers", "X-Evil"}, 403},
		{"other origin", []string{"Origin", "https://evil.test", "Access-Control-Request-Method", "PUT"}, 403},
		{"two origins", []string{"Origin", friend, "Origin", "https://evil.test", "Access-Control-Request-Method", "PUT"}, 403},
		{"no preflight", []string{"Origin", friend}, http.StatusTeapot},
	} {
		t.Run(c.name, func(t *testing.T) {
			resp := ask(t, config(), "OPTIONS", c.header...)
			if resp.StatusCode != c.status {
				t.Errorf("status %d, want %d", resp.StatusCode, c.status)
			}
			granted := resp.Header.Get("Access-Control-Allow-Methods") != ""
			if granted != (c.status == 204) {
				t.Errorf("methods are granted: %t", granted)
			}
			if c.status == 204 && (resp.Header.Get("Access-Control-Max-Age") != "600" || resp.Header.Get("Access-Control-Allow-Origin") != friend) {
				t.Errorf("got %v", resp.Header)
			}
			if c.status != http.StatusTeapot && !strings.Contains(strings.Join(resp.Header["Vary"], ","), "Access-Control-Request-Method") {
				t.Error("a preflight answer does not vary by what was asked")
			}
		})
	}
}

func TestEverybodyIsAllowedWithoutCredentials(t *testing.T) {
	c := cors.Config{Origins: []string{"*"}, Expose: []string{"X-Request-Id"}}
	resp := ask(t, c, "GET", "Origin", "null")
	if resp.Header.Get("Access-Control-Allow-Origin") != "*" || resp.Header.Get("Access-Control-Allow-Credentials") != "" ||
		resp.Header.Get("Access-Control-Expose-Headers") != "X-Request-Id" {
		t.Errorf("got %v", resp.Header)
	}
	c.Credentials = true
	if _, err := cors.New(c); err == nil {
		t.Error("credentials to everybody are accepted")
	}
}

func TestRequestsThatAreNotOfAPagePassWithoutAWord(t *testing.T) {
	resp := ask(t, config(), "GET")
	for name := range resp.Header {
		if strings.HasPrefix(name, "Access-Control") {
			t.Errorf("%s is there", name)
		}
	}
}

func TestShadowReportsStrangersAndSaysNothing(t *testing.T) {
	step, err := cors.New(config())
	if err != nil {
		t.Fatal(err)
	}
	for origin, want := range map[string]int{"": 0, "https://app.example.com": 0, "https://evil.test": 1} {
		reports := 0
		r := httptest.NewRequest("GET", "/", nil)
		if origin != "" {
			r.Header.Set("Origin", origin)
		}
		w := httptest.NewRecorder()
		step.Watch(http.NotFoundHandler(), func(*http.Request, error) { reports++ }).ServeHTTP(w, r)
		if reports != want || w.Header().Get("Access-Control-Allow-Origin") != "" {
			t.Errorf("%q: %d reports, header %v", origin, reports, w.Header())
		}
	}
}

// Whatever an origin looks like, one that is allowed by a wildcard is, to a URL
// parser, a name below the domain.
func FuzzWildcard(f *testing.F) {
	for _, origin := range []string{"https://a.partner.test", "https://evil.test/.partner.test", "https://a@b.partner.test", "https://.partner.test"} {
		f.Add(origin)
	}
	step, err := cors.New(cors.Config{Origins: []string{"https://*.partner.test"}})
	if err != nil {
		f.Fatal(err)
	}
	h := step.Apply(http.NotFoundHandler())
	f.Fuzz(func(t *testing.T, origin string) {
		r := httptest.NewRequest("GET", "/", nil)
		r.Header["Origin"] = []string{origin}
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		if w.Header().Get("Access-Control-Allow-Origin") == "" {
			return
		}
		u, err := url.Parse(strings.ToLower(origin))
		if err != nil || u.Scheme != "https" || !strings.HasSuffix(u.Hostname(), ".partner.test") || u.User != nil || u.Path != "" || u.Port() != "" {
			t.Fatalf("%q is allowed", origin)
		}
	})
}
