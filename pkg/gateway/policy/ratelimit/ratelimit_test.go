package ratelimit_test

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"strconv"
	"testing"
	"time"

	"github.com/keywarden/keywarden/pkg/gateway/policy"
	policylimit "github.com/keywarden/keywarden/pkg/gateway/policy/ratelimit"
	"github.com/keywarden/keywarden/pkg/ratelimit"
)

var now = time.Unix(1_800_000_000, 0)

// counter counts in memory at a time that stands still.
type counter struct {
	*ratelimit.Limiter
	alone bool
}

func (c counter) TakeAt(_ context.Context, subject string, cost int64, _ time.Time) (ratelimit.Decision, bool) {
	return c.Take(subject, now, cost), c.alone
}

func limited(t *testing.T, name string, quota int64, header string) policylimit.Limit {
	t.Helper()
	l, err := ratelimit.NewLimiter(ratelimit.Limit{Quota: quota, Window: time.Minute, Burst: quota}, 1000)
	if err != nil {
		t.Fatal(err)
	}
	return policylimit.Limit{Name: name, Counter: counter{Limiter: l}, Subject: func(r *http.Request) (string, error) {
		if r.Header.Get(header) == "broken" {
			return "", errors.New("broken")
		}
		return r.Header.Get(header), nil
	}}
}

// route sends requests through the limits.
type route struct{ handler http.Handler }

func newRoute(t *testing.T, limits ...policylimit.Limit) *route {
	t.Helper()
	step, err := policylimit.New(limits, func() time.Time { return now })
	if err != nil {
		t.Fatal(err)
	}
	service := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusTeapot) })
	return &route{policy.Chain(service, nil, policy.Rule{Name: policylimit.Name, Step: step})}
}

func (rt *route) get(header ...string) *http.Response {
	r := httptest.NewRequest("GET", "/", nil)
	for i := 0; i+1 < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	w := httptest.NewRecorder()
	rt.handler.ServeHTTP(w, r)
	return w.Result()
}

func TestAnswersSayWhatIsLeft(t *testing.T) {
	rt := newRoute(t, limited(t, "per-key", 2, "Key"))
	for i, want := range []struct {
		status int
		fields map[string]string
	}{
		{418, map[string]string{"RateLimit": `"per-key";r=1;t=30`, "X-RateLimit-Remaining": "1", "X-RateLimit-Limit": "2", "Retry-After": ""}},
		{418, map[string]string{"RateLimit": `"per-key";r=0;t=60`, "X-RateLimit-Remaining": "0", "X-RateLimit-Reset": strconv.FormatInt(now.Unix()+60, 10)}},
		{429, map[string]string{"RateLimit": `"per-key";r=0;t=30`, "X-RateLimit-Remaining": "0", "Retry-After": "30"}},
	} {
		resp := rt.get("Key", "a")
		if resp.StatusCode != want.status {
			t.Errorf("request %d: status %d, want %d", i, resp.StatusCode, want.status)
		}
		want.fields["RateLimit-Policy"] = `"per-key";q=2;w=60`
		for name, value := range want.fields {
			if got := resp.Header.Get(name); got != value {
				t.Errorf("request %d: %s is %q, want %q", i, name, got, value)
			}
		}
	}
}

func TestEveryLimitCountsAndARefusalCountsForNone(t *testing.T) {
	rt := newRoute(t, limited(t, "per-key", 10, "Key"), limited(t, "per-tenant", 3, "Tenant"))
	for i := range 3 {
		if resp := rt.get("Key", "a", "Tenant", "t"); resp.StatusCode != 418 || resp.Header.Get("X-RateLimit-Limit") != "3" {
			t.Errorf("request %d: status %d, the tightest limit is %s", i, resp.StatusCode, resp.Header.Get("X-RateLimit-Limit"))
		}
	}
	for range 20 {
		if resp := rt.get("Key", "a", "Tenant", "t"); resp.StatusCode != 429 {
			t.Fatalf("status %d", resp.StatusCode)
		}
	}
	if resp := rt.get("Key", "a", "Tenant", "other"); resp.StatusCode != 418 {
		t.Error("refusals of one limit used up another")
	}
}

func TestWhoHasNoSubjectIsNotCounted(t *testing.T) {
	rt := newRoute(t, limited(t, "per-key", 1, "Key"))
	for range 3 {
		if resp := rt.get(); resp.StatusCode != 418 || resp.Header.Get("RateLimit") != "" {
			t.Errorf("status %d, RateLimit %q", resp.StatusCode, resp.Header.Get("RateLimit"))
		}
	}
}

func TestASubjectThatCannotBeWorkedOutIsRefused(t *testing.T) {
	first := limited(t, "first", 1, "Key")
	rt := newRoute(t, first, limited(t, "second", 1, "Tenant"))
	if resp := rt.get("Key", "a", "Tenant", "broken"); resp.StatusCode != 500 {
		t.Errorf("status %d", resp.StatusCode)
	}
	if resp := rt.get("Key", "a", "Tenant", "t"); resp.StatusCode != 418 {
		t.Error("it counted for the other limit")
	}
}

func TestCosts(t *testing.T) {
	l := limited(t, "weighted", 10, "Key")
	l.Cost = func(r *http.Request) (int64, error) { return strconv.ParseInt(r.Header.Get("Cost"), 10, 64) }
	rt := newRoute(t, l)
	for i, want := range []struct {
		cost   string
		status int
	}{{"6", 418}, {"0", 418}, {"5", 429}, {"4", 418}, {"11", 429}, {"x", 500}} {
		if resp := rt.get("Key", "a", "Cost", want.cost); resp.StatusCode != want.status {
			t.Errorf("request %d of cost %s: status %d, want %d", i, want.cost, resp.StatusCode, want.status)
		}
	}
}

func TestShadowCountsAndSaysNothing(t *testing.T) {
	step, err := policylimit.New([]policylimit.Limit{limited(t, "per-key", 1, "Key")}, func() time.Time { return now })
	if err != nil {
		t.Fatal(err)
	}
	reports := 0
	h := step.Watch(http.NotFoundHandler(), func(*http.Request, error) { reports++ })
	for range 3 {
		r := httptest.NewRequest("GET", "/", nil)
		r.Header.Set("Key", "a")
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		if w.Code != 404 || w.Header().Get("RateLimit-Policy") != "" {
			t.Errorf("status %d, header %v", w.Code, w.Header())
		}
	}
	if reports != 2 {
		t.Errorf("%d reports, want 2", reports)
	}
}

func TestAReplicaThatDecidesAloneSaysSo(t *testing.T) {
	l := limited(t, "per-key", 1, "Key")
	l.Counter = counter{Limiter: l.Counter.(counter).Limiter, alone: true}
	if got := newRoute(t, l).get("Key", "a").Header.Get("X-RateLimit-Scope"); got != "replica" {
		t.Errorf("got %q", got)
	}
}

func BenchmarkStep(b *testing.B) {
	l, err := ratelimit.NewLimiter(ratelimit.Limit{Quota: 1e6, Window: time.Second, Burst: 1e6}, 1000)
	if err != nil {
		b.Fatal(err)
	}
	step, err := policylimit.New([]policylimit.Limit{{
		Name: "a", Counter: counter{Limiter: l}, Subject: func(*http.Request) (string, error) { return "subject", nil },
	}}, time.Now)
	if err != nil {
		b.Fatal(err)
	}
	h := step.Apply(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	r := httptest.NewRequest("GET", "/", nil)
	w := httptest.NewRecorder()
	b.ReportAllocs()
	for b.Loop() {
		clear(w.Header())
		h.ServeHTTP(w, r)
	}
}
