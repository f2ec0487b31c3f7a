package securityheaders_test

import (
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/keywarden/keywarden/pkg/gateway/policy/securityheaders"
	"github.com/keywarden/keywarden/pkg/reqctx"
)

// answer is the header of an answer that began as said.
func answer(t *testing.T, c securityheaders.Config, scheme string, said http.Header) http.Header {
	t.Helper()
	step, err := securityheaders.New(c)
	if err != nil {
		t.Fatal(err)
	}
	r := httptest.NewRequest("GET", "/", nil)
	r = r.WithContext(reqctx.With(r.Context(), &reqctx.Info{Scheme: scheme}))
	w := httptest.NewRecorder()
	step.Apply(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		for name, values := range said {
			w.Header()[name] = values
		}
		w.WriteHeader(204)
	})).ServeHTTP(w, r)
	return w.Result().Header
}

func defaults() http.Header {
	return http.Header{
		"Strict-Transport-Security":    {"max-age=31536000"},
		"X-Content-Type-Options":       {"nosniff"},
		"X-Frame-Options":              {"DENY"},
		"Referrer-Policy":              {"strict-origin-when-cross-origin"},
		"Permissions-Policy":           {"camera=(), geolocation=(), microphone=()"},
		"Cross-Origin-Opener-Policy":   {"same-origin"},
		"Cross-Origin-Resource-Policy": {"same-origin"},
	}
}

func TestDefaultsFillInWhatTheServiceDoesNotSay(t *testing.T) {
	if diff := cmp.Diff(defaults(), answer(t, securityheaders.Config{}, "https", nil)); diff != "" {
		t.Error(diff)
	}
	said := http.Header{"X-Frame-Options": {"SAMEORIGIN"}, "Content-Security-Policy": {"default-src 'self'"}, "Cross-Origin-Opener-Policy": {"unsafe-none"}}
	want := defaults()
	for name, values := range said {
		want[name] = values
	}
	if diff := cmp.Diff(want, answer(t, securityheaders.Config{}, "https", said)); diff != "" {
		t.Error(diff)
	}
}

func TestWhatTheDocumentSaysReplaces(t *testing.T) {
	got := answer(t, securityheaders.Config{
		FrameOptions: "SAMEORIGIN", ContentSecurityPolicy: "default-src 'none'", PermissionsPolicy: securityheaders.Off,
		CrossOriginEmbedderPolicy: "require-corp",
	}, "https", http.Header{"X-Frame-Options": {"DENY", "ALLOWALL"}, "Content-Security-Policy": {"default-src *"}, "Permissions-Policy": {"camera=*"}})
	want := defaults()
	want["X-Frame-Options"], want["Content-Security-Policy"] = []string{"SAMEORIGIN"}, []string{"default-src 'none'"}
	want["Permissions-Policy"], want["Cross-Origin-Embedder-Policy"] = []string{"camera=*"}, []string{"require-corp"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestTransportSecurityIsNotPromisedOverHTTP(t *testing.T) {
	if got := answer(t, securityheaders.Config{StrictTransportSecurity: "max-age=1"}, "http", nil); len(got["Strict-Transport-Security"]) > 0 {
		t.Errorf("got %v", got)
	}
}

func TestWhatTellsOfTheServiceIsTakenAway(t *testing.T) {
	said := http.Header{"Server": {"nginx/1.0"}, "X-Powered-By": {"PHP"}, "X-Aspnet-Version": {"4"}, "X-Kept": {"1"}}
	got := answer(t, securityheaders.Config{}, "https", said)
	want := defaults()
	want["X-Kept"] = []string{"1"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	got = answer(t, securityheaders.Config{Remove: []string{"x-kept"}}, "https", said)
	if got.Get("Server") == "" || got.Get("X-Kept") != "" {
		t.Errorf("got %v", got)
	}
}

func TestSharedValuesAreNotChangedByOthers(t *testing.T) {
	step, err := securityheaders.New(securityheaders.Config{})
	if err != nil {
		t.Fatal(err)
	}
	h := step.Apply(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(200) }))
	for range 2 {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest("GET", "/", nil))
		w.Header().Add("X-Frame-Options", "second")
		if got := w.Result().Header["X-Frame-Options"]; !cmp.Equal(got, []string{"DENY"}) {
			t.Errorf("got %q", got)
		}
	}
}

func TestValuesThatCannotBeSentAreRefused(t *testing.T) {
	for _, c := range []securityheaders.Config{
		{ContentSecurityPolicy: "a\r\nb"}, {ReferrerPolicy: " a"}, {Remove: []string{"Content-Length"}}, {Remove: []string{"a b"}},
	} {
		if _, err := securityheaders.New(c); err == nil {
			t.Errorf("%+v: accepted", c)
		}
	}
}
