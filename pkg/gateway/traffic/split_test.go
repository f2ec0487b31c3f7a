package traffic_test

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/keywarden/keywarden/pkg/access"
	"github.com/keywarden/keywarden/pkg/gateway/traffic"
	"github.com/keywarden/keywarden/pkg/reqctx"
)

// nothing is a handler that does as little as there is.
func nothing(http.ResponseWriter, *http.Request) {}

func service(name string) traffic.Service {
	return traffic.Service{Name: name, Handler: http.HandlerFunc(nothing)}
}

func newSplit(t testing.TB, c traffic.SplitConfig) *traffic.Split {
	t.Helper()
	s, err := traffic.NewSplit(c)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// request is a request with its info, of which info.Service says what was chosen.
func request(method, target string) (*http.Request, *reqctx.Info) {
	info := &reqctx.Info{Client: netip.MustParseAddr("192.0.2.1")}
	r := httptest.NewRequest(method, target, nil)
	return r.WithContext(reqctx.With(r.Context(), info)), info
}

// chiSquare is the statistic of counts against the shares that they should have.
func chiSquare(counts map[string]int, weights map[string]int) float64 {
	n, sum := 0, 0
	for _, c := range counts {
		n += c
	}
	for _, w := range weights {
		sum += w
	}
	x := 0.0
	for name, w := range weights {
		want := float64(n) * float64(w) / float64(sum)
		if want == 0 {
			if counts[name] > 0 {
				return float64(n)
			}
			continue
		}
		d := float64(counts[name]) - want
		x += d * d / want
	}
	return x
}

func TestSharesFollowTheWeights(t *testing.T) {
	weights := map[string]int{"old": 70, "new": 25, "newest": 5, "silent": 0}
	// The value that a chi-square variable of two degrees of freedom exceeds once in a
	// thousand times; the numbers are seeded, so that the outcome never changes.
	const critical = 13.8
	shares := []traffic.Share{
		{Service: service("old"), Weight: 70}, {Service: service("silent")},
		{Service: service("new"), Weight: 25}, {Service: service("newest"), Weight: 5},
	}
	random := rand.New(rand.NewPCG(1, 2))
	for name, c := range map[string]traffic.SplitConfig{
		"by chance": {Random: random.IntN},
		"sticky":    {Identity: traffic.ByHeader("X-User"), By: "header"},
	} {
		t.Run(name, func(t *testing.T) {
			c.Services = shares
			s := newSplit(t, c)
			counts := map[string]int{}
			for i := range 20_000 {
				r, info := request("GET", "/")
				r.Header.Set("X-User", fmt.Sprintf("user-%d", i))
				s.ServeHTTP(nil, r)
				counts[info.Service]++
			}
			if x := chiSquare(counts, weights); x > critical {
				t.Errorf("chi-square %.1f, want at most %v: %v", x, critical, counts)
			}
		})
	}
}

func TestPinsComeFirstInTheOrderOfTheDocument(t *testing.T) {
	s := newSplit(t, traffic.SplitConfig{Services: []traffic.Share{
		{Service: service("old"), Weight: 1},
		{Service: service("new"), Pins: []traffic.Pin{{Header: "X-Canary", Value: "always"}, {Cookie: "canary", Value: "1"}}},
		{Service: service("newest"), Pins: []traffic.Pin{{Header: "X-Canary"}, {Cookie: "newest"}}},
	}})
	for _, c := range []struct {
		name   string
		header http.Header
		want   string
	}{
		{"none", http.Header{}, "old"},
		{"value", http.Header{"X-Canary": {"always"}}, "new"},
		{"second of two values", http.Header{"X-Canary": {"never", "always"}}, "new"},
		{"other value", http.Header{"X-Canary": {"Always"}}, "newest"},
		{"empty value", http.Header{"X-Canary": {""}}, "newest"},
		{"cookie", http.Header{"Cookie": {"a=b; canary=1"}}, "new"},
		{"cookie in quotes", http.Header{"Cookie": {`canary="1"`}}, "new"},
		{"cookie in another line", http.Header{"Cookie": {"a=b", "canary=1"}}, "new"},
		{"first cookie of the name counts", http.Header{"Cookie": {"canary=0; canary=1"}}, "old"},
		{"cookie of any value", http.Header{"Cookie": {"newest="}}, "newest"},
		{"name within a value", http.Header{"Cookie": {"a=canary=1"}}, "old"},
		{"name of another case", http.Header{"Cookie": {"Canary=1"}}, "old"},
		{"no pair", http.Header{"Cookie": {"newest"}}, "old"},
	} {
		t.Run(c.name, func(t *testing.T) {
			r, info := request("GET", "/")
			r.Header = c.header
			if chosen, _ := s.Choose(r); chosen != c.want {
				t.Errorf("explained as %s, want %s", chosen, c.want)
			}
			s.ServeHTTP(nil, r)
			if info.Service != c.want {
				t.Errorf("got %s, want %s", info.Service, c.want)
			}
		})
	}
}

// TestRaisingAWeightMovesRequestsToItOnly holds for any weights, when those of the
// others stay what they are among each other.
func TestRaisingAWeightMovesRequestsToItOnly(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		weights := rapid.SliceOfN(rapid.IntRange(0, 1000), 2, 6).Draw(t, "weights")
		weights[0] = max(1, weights[0])
		raised := rapid.IntRange(0, len(weights)-1).Draw(t, "raised")
		by := rapid.IntRange(1, 1000).Draw(t, "by")
		build := func() *traffic.Split {
			c := traffic.SplitConfig{Identity: traffic.ByHeader("X-User")}
			for i, w := range weights {
				c.Services = append(c.Services, traffic.Share{Service: service(fmt.Sprint("s", i)), Weight: w})
			}
			s, err := traffic.NewSplit(c)
			if err != nil {
				t.Fatal(err)
			}
			return s
		}
		before := build()
		weights[raised] += by
		after := build()
		target := fmt.Sprint("s", raised)
		for i := range 200 {
			r, _ := request("GET", "/")
			r.Header.Set("X-User", fmt.Sprintf("user-%d", i))
			old, _ := before.Choose(r)
			if now, _ := after.Choose(r); now != old && now != target {
				t.Fatalf("user %d moved from %s to %s, though only %s was raised", i, old, now, target)
			}
		}
	})
}

// TestACanaryOnlyGrows is the common case: the shares of two services change
// against each other, step by step.
func TestACanaryOnlyGrows(t *testing.T) {
	onCanary := map[string]bool{}
	for _, weight := range []int{0, 1, 5, 10, 25, 50, 75, 99, 100} {
		s := newSplit(t, traffic.SplitConfig{Identity: traffic.ByHeader("X-User"), Services: []traffic.Share{
			{Service: service("old"), Weight: 100 - weight}, {Service: service("new"), Weight: weight},
		}})
		n := 0
		for i := range 5000 {
			user := fmt.Sprintf("user-%d", i)
			r, _ := request("GET", "/")
			r.Header.Set("X-User", user)
			chosen, _ := s.Choose(r)
			if onCanary[user] && chosen == "old" {
				t.Fatalf("%s went back at weight %d", user, weight)
			}
			if chosen == "new" {
				onCanary[user] = true
				n++
			}
		}
		if share := float64(n) / 50; share < float64(weight)-2 || share > float64(weight)+2 {
			t.Errorf("%.1f %% of the users at weight %d", share, weight)
		}
	}
}

func TestIdentities(t *testing.T) {
	principal := func(user, key string) func(*http.Request) *http.Request {
		return func(r *http.Request) *http.Request {
			return r.WithContext(access.WithPrincipal(r.Context(), &access.Principal{UserID: user, KeyID: key}))
		}
	}
	header := func(name, value string) func(*http.Request) *http.Request {
		return func(r *http.Request) *http.Request { r.Header.Set(name, value); return r }
	}
	client := func(address string) func(*http.Request) *http.Request {
		return func(r *http.Request) *http.Request {
			reqctx.From(r.Context()).Client = netip.MustParseAddr(address)
			return r
		}
	}
	plain := func(r *http.Request) *http.Request { return r }
	for _, c := range []struct {
		name     string
		identity traffic.Identity
		a, b     func(*http.Request) *http.Request
		same     bool
	}{
		{"one user with two keys", traffic.ByUser(), principal("u", "k1"), principal("u", "k2"), true},
		{"two users", traffic.ByUser(), principal("u", ""), principal("v", ""), false},
		{"an anonymous caller by address", traffic.ByUser(), plain, client("192.0.2.2"), false},
		{"one address", traffic.ByClient(), plain, header("X-Other", "x"), true},
		{"two addresses", traffic.ByClient(), client("2001:db8::1"), client("2001:db8::2"), false},
		{"one header", traffic.ByHeader("x-tenant"), header("X-Tenant", "a"), header("X-Tenant", "a"), true},
		{"two headers", traffic.ByHeader("X-Tenant"), header("X-Tenant", "a"), header("X-Tenant", "b"), false},
		{"no header, two addresses", traffic.ByHeader("X-Tenant"), plain, client("192.0.2.2"), false},
		{"one cookie", traffic.ByCookie("id"), header("Cookie", "id=1"), header("Cookie", "x=y; id=1"), true},
		{"two cookies", traffic.ByCookie("id"), header("Cookie", "id=1"), header("Cookie", "id=2"), false},
		{"empty cookie, two addresses", traffic.ByCookie("id"), header("Cookie", "id="), client("192.0.2.2"), false},
	} {
		t.Run(c.name, func(t *testing.T) {
			hash := func(change func(*http.Request) *http.Request) uint64 {
				r, info := request("GET", "/")
				return c.identity(change(r), info)
			}
			if same := hash(c.a) == hash(c.b); same != c.same {
				t.Errorf("same: %t, want %t", same, c.same)
			}
		})
	}
}

func TestExplanationsSayWhy(t *testing.T) {
	shares := []traffic.Share{{Service: service("old"), Weight: 95}, {Service: service("new"), Weight: 5, Pins: []traffic.Pin{{Header: "X-Canary"}}}}
	r, info := request("GET", "/")
	for _, c := range []struct {
		config traffic.SplitConfig
		pinned bool
		want   string
	}{
		{traffic.SplitConfig{Services: shares}, false, "most likely; chance decides, with old 95, new 5 of 100"},
		{traffic.SplitConfig{Services: shares, Identity: traffic.ByClient(), By: "client"}, false, "its client stays there, with old 95, new 5 of 100"},
		{traffic.SplitConfig{Services: shares}, true, "it is pinned"},
	} {
		if r.Header.Del("X-Canary"); c.pinned {
			r.Header.Set("X-Canary", "x")
		}
		if _, why := newSplit(t, c.config).Choose(r); why != c.want {
			t.Errorf("got %q, want %q", why, c.want)
		}
	}
	if info.Service != "" {
		t.Error("an explanation has left a trace in the request")
	}
}

func TestNewSplitRefuses(t *testing.T) {
	for name, list := range map[string][]traffic.Share{
		"nothing":         nil,
		"no weight":       {{Service: service("a")}},
		"negative weight": {{Service: service("a"), Weight: 2}, {Service: service("b"), Weight: -1}},
		"no handler":      {{Service: traffic.Service{Name: "a"}, Weight: 1}},
	} {
		if _, err := traffic.NewSplit(traffic.SplitConfig{Services: list}); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

// TestChoosingDoesNotAllocate covers every way to choose.
func TestChoosingDoesNotAllocate(t *testing.T) {
	for name, h := range choosers(t) {
		r, _ := request("GET", "/api/v1/users")
		r.Header = http.Header{
			"Cookie": {"a=b; id=user-1"}, "X-User": {"user-1"}, "X-Version": {"v1"},
			"Accept": {"text/html, application/vnd.acme.v1+json;q=0.9, */*;q=0.1"},
		}
		w := httptest.NewRecorder()
		if n := testing.AllocsPerRun(100, func() { clear(w.Header()); h.ServeHTTP(w, r) }); n != 0 {
			t.Errorf("%s: %v allocations", name, n)
		}
	}
}

// choosers is one end of each kind.
func choosers(t testing.TB) map[string]http.Handler {
	shares := []traffic.Share{
		{Service: service("old"), Weight: 95},
		{Service: service("new"), Weight: 5, Pins: []traffic.Pin{{Header: "X-Canary", Value: "always"}, {Cookie: "canary", Value: "1"}}},
	}
	versions := []traffic.Version{{Service: service("one"), Version: "v1"}, {Service: service("two"), Version: "v2"}}
	all := map[string]http.Handler{
		"split=chance": newSplit(t, traffic.SplitConfig{Services: shares}),
		"split=client": newSplit(t, traffic.SplitConfig{Services: shares, Identity: traffic.ByClient()}),
		"split=user":   newSplit(t, traffic.SplitConfig{Services: shares, Identity: traffic.ByUser()}),
		"split=header": newSplit(t, traffic.SplitConfig{Services: shares, Identity: traffic.ByHeader("X-User")}),
		"split=cookie": newSplit(t, traffic.SplitConfig{Services: shares, Identity: traffic.ByCookie("id")}),
	}
	for name, c := range map[string]traffic.VersionsConfig{
		"versions=header":     {Header: "X-Version"},
		"versions=path":       {Path: true, Prefix: "/api"},
		"versions=media_type": {MediaType: [2]string{"application/vnd.acme.", "+json"}},
	} {
		c.Services = versions
		vs, err := traffic.NewVersions(c)
		if err != nil {
			t.Fatal(err)
		}
		all[name] = vs
	}
	return all
}

func BenchmarkChoose(b *testing.B) {
	for name, h := range choosers(b) {
		b.Run(name, func(b *testing.B) {
			r, _ := request("GET", "/api/v1/users")
			r.Header.Set("Cookie", strings.Repeat("a=b; ", 10)+"id=user-1")
			r.Header.Set("X-User", "user-1")
			r.Header.Set("X-Version", "v1")
			r.Header.Set("Accept", "text/html, application/vnd.acme.v1+json;q=0.9, */*;q=0.1")
			w := httptest.NewRecorder()
			b.ReportAllocs()
			for b.Loop() {
				clear(w.Header())
				h.ServeHTTP(w, r)
			}
		})
	}
}
