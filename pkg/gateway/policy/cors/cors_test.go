package cors_test

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/keywarden/keywarden/pkg/gateway/policy"
	"github.com/keywarden/keywarden/pkg/gateway/policy/cors"
	"github.com/keywarden/keywarden/pkg/problem"
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
		"HTTPS://APP.EXAMPLE.COM":                   false, // no browser sends that
		"https://app.example.com.":                  false,
		"https://app.example.com:443":               false,
		"https://a..partner.test":                   false,
		"https://A.partner.test":                    false,
		"https://a.partner.test:8443":               false,
		"https://a.partner.test.":                   false,
		"http://a.partner.test":                     false,
		" https://app.example.com":                  false,
		"https://app.example.com https://evil.test": false,
		"https://evil.test\x00.partner.test":        false,
		"https://[::1].partner.test":                false,
		"*":                                         false,
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
		{"fields that always may be sent", []string{"Origin", friend, "Access-Control-Request-Method", "GET", "Access-Control-Request-Headers", "accept,content-language"}, 204},
		{"fields on two lines", []string{"Origin", friend, "Access-Control-Request-Method", "GET", "Access-Control-Request-Headers", "x-api-key", "Access-Control-Request-Headers", "x-evil"}, 403},
		{"null", []string{"Origin", "null", "Access-Control-Request-Method", "GET"}, 403},
		{"empty origin", []string{"Origin", "", "Access-Control-Request-Method", "GET"}, 403},
		{"no origin", []string{"Access-Control-Request-Method", "GET"}, http.StatusTeapot},
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
			if c.status == 403 && len(resp.Header["Access-Control-Allow-Origin"]) > 0 {
				t.Error("who is refused may read the answer")
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

// TestEverybodyIsAllowedWithoutCredentials also asks as nobody's page: the answer
// may be kept and given to a page later, so it has to be the same.
func TestEverybodyIsAllowedWithoutCredentials(t *testing.T) {
	c := cors.Config{Origins: []string{"*"}, Expose: []string{"X-Request-Id"}}
	for name, header := range map[string][]string{
		"a page": {"Origin", "https://a.test"}, "a sandbox": {"Origin", "null"}, "no page": nil,
	} {
		want := http.Header{
			"Access-Control-Allow-Origin": {"*"}, "Access-Control-Expose-Headers": {"X-Request-Id"}, "Vary": {"Accept"},
		}
		if diff := cmp.Diff(want, ask(t, c, "GET", header...).Header); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
	c.Credentials = true
	if _, err := cors.New(c); err == nil {
		t.Error("credentials to everybody are accepted")
	}
}

func TestEveryHeaderFieldMeansThoseThatAreAskedFor(t *testing.T) {
	c := config()
	c.Headers, c.MaxAge = []string{"*"}, 0
	preflight := []string{"Origin", "https://app.example.com", "Access-Control-Request-Method", "GET", "Access-Control-Request-Headers"}
	resp := ask(t, c, "OPTIONS", append(preflight, "authorization ,x-any")...)
	want := http.Header{
		"Access-Control-Allow-Origin":      {"https://app.example.com"},
		"Access-Control-Allow-Credentials": {"true"},
		"Access-Control-Allow-Methods":     {"GET, HEAD, POST, PUT"},
		"Access-Control-Allow-Headers":     {"authorization, x-any"},
		"Access-Control-Max-Age":           {"0"},
		"Vary":                             {"Origin", "Access-Control-Request-Method", "Access-Control-Request-Headers"},
	}
	if diff := cmp.Diff(want, resp.Header); diff != "" || resp.StatusCode != http.StatusNoContent {
		t.Errorf("status %d, header (-want +got):\n%s", resp.StatusCode, diff)
	}
	if resp := ask(t, c, "OPTIONS", append(preflight, "x-any, <b>")...); resp.StatusCode != http.StatusForbidden {
		t.Errorf("what is no field is granted: %d %v", resp.StatusCode, resp.Header)
	}
}

// TestRefusalsCanBeReadByThePage has a step after this one refuse.
func TestRefusalsCanBeReadByThePage(t *testing.T) {
	step, err := cors.New(config())
	if err != nil {
		t.Fatal(err)
	}
	refused := policy.Step{Check: func(*http.Request) error { return problem.ErrInvalid }}
	h := policy.Chain(http.NotFoundHandler(), nil, policy.Rule{Step: step}, policy.Rule{Step: refused})
	r := httptest.NewRequest("GET", "/", nil)
	r.Header.Set("Origin", "https://app.example.com")
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	if w.Code != http.StatusBadRequest || w.Header().Get("Access-Control-Allow-Origin") != "https://app.example.com" {
		t.Errorf("%d %v", w.Code, w.Header())
	}
}

// TestALaterStepCannotChangeWhoMayRead has one change the request in place.
func TestALaterStepCannotChangeWhoMayRead(t *testing.T) {
	step, err := cors.New(config())
	if err != nil {
		t.Fatal(err)
	}
	r := httptest.NewRequest("GET", "/", nil)
	r.Header.Set("Origin", "https://app.example.com")
	w := httptest.NewRecorder()
	step.Apply(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { r.Header.Set("Origin", "https://evil.test") })).ServeHTTP(w, r)
	if got := w.Header().Get("Access-Control-Allow-Origin"); got != "https://app.example.com" {
		t.Errorf("%q may read the answer", got)
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
		var reports int
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

func TestShadowReportsPreflightsThatWouldBeRefused(t *testing.T) {
	step, err := cors.New(config())
	if err != nil {
		t.Fatal(err)
	}
	for method, want := range map[string]error{"PUT": nil, "DELETE": cors.ErrUse} {
		var got error
		r := httptest.NewRequest("OPTIONS", "/", nil)
		r.Header.Set("Origin", "https://app.example.com")
		r.Header.Set("Access-Control-Request-Method", method)
		step.Watch(http.NotFoundHandler(), func(_ *http.Request, err error) { got = err }).ServeHTTP(httptest.NewRecorder(), r)
		if !errors.Is(got, want) {
			t.Errorf("%s: %v", method, got)
		}
	}
}

func TestNewRefusesWhatIsNoOrigin(t *testing.T) {
	for _, origin := range []string{"", "app.example.com", "https://", "https://*", "https://*.", "https://*evil.test", "https://a.*.test", "https://a.test/", "https://*.*.test", "null"} {
		if _, err := cors.New(cors.Config{Origins: []string{origin}}); err == nil {
			t.Errorf("%q is accepted", origin)
		}
	}
	if _, err := cors.New(cors.Config{}); err == nil {
		t.Error("a policy for nobody is accepted")
	}
}

// TestOriginsAreThoseOfAnObviousMatcher compares with one that takes origins apart
// as URLs, on origins that are built from parts that are close to those allowed.
func TestOriginsAreThoseOfAnObviousMatcher(t *testing.T) {
	c := cors.Config{Origins: []string{"https://app.example.com", "https://*.partner.test:8443", "http://*.local.test"}}
	step, err := cors.New(c)
	if err != nil {
		t.Fatal(err)
	}
	h := step.Apply(http.NotFoundHandler())
	part := func(list ...string) *rapid.Generator[string] { return rapid.SampledFrom(list) }
	rapid.Check(t, func(t *rapid.T) {
		origin := part("https", "http", "HTTPS", "file", "").Draw(t, "scheme") + part("://", ":/", "").Draw(t, "separator") +
			part("", "evil.test/", "evil.test#", "evil.test\\", "user@", "a.", "evil", ".", "a b.", "x-1.y_2.").Draw(t, "before") +
			part("app.example.com", "partner.test", "local.test", "evil.test").Draw(t, "host") +
			part("", ":8443", ":443", ".", ".evil.test", "/", "?", "#").Draw(t, "after")
		r := httptest.NewRequest("GET", "/", nil)
		r.Header["Origin"] = []string{origin}
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		if got, want := w.Header().Get("Access-Control-Allow-Origin") == origin, slices.ContainsFunc(c.Origins, func(allowed string) bool { return obviously(allowed, origin) }); got != want {
			t.Fatalf("%q is allowed: %t, want %t", origin, got, want)
		}
	})
}

// obviously is the rule of the guide, word by word.
func obviously(allowed, origin string) bool {
	got, err := url.Parse(origin)
	if err != nil || got.Scheme+"://"+got.Host != origin {
		return false // not what a browser sends
	}
	want, err := url.Parse(strings.Replace(allowed, "*.", "", 1))
	if err != nil || got.Scheme != want.Scheme || got.Port() != want.Port() {
		return false
	}
	if !strings.Contains(allowed, "*") {
		return got.Hostname() == want.Hostname()
	}
	below, ok := strings.CutSuffix(got.Hostname(), "."+want.Hostname())
	return ok && !slices.Contains(strings.Split(below, "."), "") && !strings.ContainsAny(below, " \\")
}

// BenchmarkServe is the step alone, around a service that answers nothing.
func BenchmarkServe(b *testing.B) {
	step, err := cors.New(config())
	if err != nil {
		b.Fatal(err)
	}
	h := step.Apply(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	for name, origin := range map[string]string{"exact": "https://app.example.com", "wildcard": "https://a.partner.test", "stranger": "https://evil.test", "none": ""} {
		b.Run(name, func(b *testing.B) {
			r := httptest.NewRequest("GET", "/", nil)
			if origin != "" {
				r.Header.Set("Origin", origin)
			}
			w := httptest.NewRecorder()
			b.ReportAllocs()
			for b.Loop() {
				clear(w.Header())
				h.ServeHTTP(w, r)
			}
		})
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
