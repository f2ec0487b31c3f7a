package headers_test

import (
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/keywarden/keywarden/pkg/gateway/policy/headers"
	"github.com/keywarden/keywarden/pkg/reqctx"
)

// through sends r through the step for requests and returns what comes out.
func through(t testing.TB, c headers.Config, r *http.Request) http.Header {
	t.Helper()
	step, err := headers.Request(c)
	if err != nil {
		t.Fatal(err)
	}
	var got http.Header
	step.Apply(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { got = r.Header })).ServeHTTP(httptest.NewRecorder(), r)
	return got
}

func request(h http.Header) *http.Request {
	r := httptest.NewRequest("GET", "/", nil)
	r.Header = h
	return r.WithContext(reqctx.With(r.Context(), &reqctx.Info{ID: "id-1"}))
}

func TestOuterHandlersKeepTheirRequest(t *testing.T) {
	before := http.Header{"X-A": append(make([]string, 0, 8), "1"), "X-B": {"1"}, "X.C": {"1"}, "Connection": {"close"}}
	h := before.Clone()
	h["X-A"] = append(make([]string, 0, 8), "1") // with room behind it
	got := through(t, headers.Config{
		Set: map[string]string{"X-B": "2", "X-C": "2"}, Add: map[string]string{"x-a": "2"}, Remove: []string{"X-D"},
	}, request(h))
	if diff := cmp.Diff(http.Header{"X-A": {"1", "2"}, "X-B": {"2"}, "X-C": {"2"}}, got); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff(before, h); diff != "" || h["X-A"][:2][1] != "" {
		t.Errorf("the request of outer handlers was changed: %s", diff)
	}
}

func TestWebSocketsStayUpgrades(t *testing.T) {
	got := through(t, headers.Config{Set: map[string]string{"X-A": "1"}}, request(http.Header{
		"Connection": {"keep-alive, UPGRADE", "x-a"}, "Upgrade": {"websocket"}, "Keep-Alive": {"1"},
	}))
	want := http.Header{"Connection": {"Upgrade"}, "Upgrade": {"websocket"}, "X-A": {"1"}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// TestNothingOfTheClientIsLeftUnderASetName holds for every spelling, and
// whatever the template gives.
func TestNothingOfTheClientIsLeftUnderASetName(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		spelling := strings.Map(func(c rune) rune {
			if c == '-' {
				return rapid.SampledFrom([]rune("-_.~!#$%&'*+^`|")).Draw(t, "separator")
			}
			if rapid.Bool().Draw(t, "upper") {
				return []rune(strings.ToUpper(string(c)))[0]
			}
			return c
		}, "x-tenant-id")
		r := request(http.Header{http.CanonicalHeaderKey(spelling): {"evil"}, "X-In": {rapid.String().Draw(t, "in")}})
		step, err := headers.Request(headers.Config{Set: map[string]string{"X-Tenant-Id": `{{ request.header "X-In" }}`}})
		if err != nil {
			t.Fatal(err)
		}
		step.Apply(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			for name, values := range r.Header {
				if name != "X-In" && slices.Contains(values, "evil") {
					t.Fatalf("%s: %q", name, values)
				}
				if name != "X-In" && strings.ContainsAny(strings.Join(values, ""), "\r\n\x00") {
					t.Fatalf("%s: %q", name, values)
				}
			}
		})).ServeHTTP(httptest.NewRecorder(), r)
	})
}

func TestFieldsOfTheGatewayCannotBeChanged(t *testing.T) {
	for _, name := range []string{"X-Consumer", "Host", "Connection", "Authorization", "X_Tenant", "Content-Length", ""} {
		for _, c := range []headers.Config{
			{Set: map[string]string{name: "a"}}, {Add: map[string]string{name: "a"}}, {Remove: []string{name}},
		} {
			if _, err := headers.Request(c); err == nil {
				t.Errorf("%+v: accepted", c)
			}
		}
	}
	for _, c := range []headers.Config{
		{Set: map[string]string{"Content-Length": "1"}}, {Add: map[string]string{"X-Request-Id": "a"}}, {Remove: []string{"Connection"}},
		{Set: map[string]string{"X-A": "{{"}}, {Add: map[string]string{"X-A": "a\nb"}},
	} {
		if _, err := headers.Response(c); err == nil {
			t.Errorf("%+v: accepted", c)
		}
	}
}

func BenchmarkRequest(b *testing.B) {
	step, err := headers.Request(headers.Config{
		Set: map[string]string{"X-Tenant": `{{ request.header "X-In" }}`, "X-Fixed": "ours"}, Remove: []string{"X-Debug"},
	})
	if err != nil {
		b.Fatal(err)
	}
	h := step.Apply(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	r := request(http.Header{"X-In": {"acme"}, "Accept": {"*/*"}, "User-Agent": {"bench"}, "X-Other": {"1"}})
	w := httptest.NewRecorder()
	b.ReportAllocs()
	for b.Loop() {
		h.ServeHTTP(w, r)
	}
}
