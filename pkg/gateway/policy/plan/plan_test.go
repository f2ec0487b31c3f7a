package plan

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/keywarden/keywarden/pkg/access"
	"github.com/keywarden/keywarden/pkg/catalog"
	"github.com/keywarden/keywarden/pkg/gateway/policy"
	policylimit "github.com/keywarden/keywarden/pkg/gateway/policy/ratelimit"
	"github.com/keywarden/keywarden/pkg/problem"
	"github.com/keywarden/keywarden/pkg/quota"
	"github.com/keywarden/keywarden/pkg/quota/quotatest"
	"github.com/keywarden/keywarden/pkg/ratelimit"
	"github.com/keywarden/keywarden/pkg/reqctx"
)

var now = time.Date(2026, 5, 4, 10, 0, 0, 0, time.UTC)

// shelf is what is known of products.
type shelf struct {
	appsOnly map[string]bool
	opening  map[string][]string
	unknown  bool
}

func (s *shelf) AppsOnly(route string) (only, known bool) { return s.appsOnly[route], !s.unknown }
func (s *shelf) Opening(route string) []string            { return s.opening[route] }

// counters are in memory, at a time that stands still.
type counters struct {
	mu   sync.Mutex
	made []string
}

type counter struct{ *ratelimit.Limiter }

func (c counter) TakeAt(_ context.Context, subject string, cost int64, _ time.Time) (ratelimit.Decision, bool) {
	return c.Take(subject, now, cost), false
}

func (c *counters) Counter(name string, l ratelimit.Limit) (policylimit.Counter, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.made = append(c.made, name)
	made, err := ratelimit.NewLimiter(l, 1000)
	return counter{made}, err
}

// world is a gateway's plans, and all that they are made of.
type world struct {
	t        testing.TB
	shelf    *shelf
	counters *counters
	ledger   *quotatest.Memory
	plans    *Plans
}

func newWorld(t testing.TB) *world {
	t.Helper()
	w := &world{t: t, shelf: &shelf{}, counters: &counters{}, ledger: quotatest.NewMemory(func() time.Time { return now })}
	meters, err := quota.NewMeters(quota.Options{
		Ledger: w.ledger, Subjects: 1000, Timeout: time.Second, Replicas: func() int { return 1 },
		Logger: slog.New(slog.DiscardHandler), Now: func() time.Time { return now },
	})
	if err != nil {
		t.Fatal(err)
	}
	w.plans = New(Options{Products: w.shelf, Counters: w.counters, Meters: meters, Now: func() time.Time { return now }})
	return w
}

// route is a route of the gateway, whose service answers with 418.
func (w *world) route(name string) http.Handler {
	return policy.Chain(teapot{}, nil, policy.Rule{Name: Name, Step: w.plans.Step(name)})
}

type teapot struct{}

func (teapot) ServeHTTP(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusTeapot) }

// as is a request of the caller.
func as(p *access.Principal) *http.Request {
	r := httptest.NewRequest("GET", "/", nil)
	ctx := reqctx.With(r.Context(), &reqctx.Info{ID: "request-1"})
	if p != nil {
		ctx = access.WithPrincipal(ctx, p)
	}
	return r.WithContext(ctx)
}

func get(h http.Handler, p *access.Principal) *httptest.ResponseRecorder {
	w := httptest.NewRecorder()
	h.ServeHTTP(w, as(p))
	return w
}

func document(t *testing.T, w *httptest.ResponseRecorder) (d problem.Document) {
	t.Helper()
	if err := json.Unmarshal(w.Body.Bytes(), &d); err != nil {
		t.Fatalf("%s: %v", w.Body, err)
	}
	return d
}

// app is the key of an app with a subscription.
func app(subscription string, terms access.Terms, routes ...string) *access.Principal {
	return &access.Principal{Kind: access.KindKey, UserID: "u", KeyID: "k", App: "a", Grant: access.NewGrant(false, []access.Entitlement{{
		Subscription: subscription, ProductID: "id", Product: "people", Plan: "free", Terms: terms, Routes: routes,
	}})}
}

func perMinute(n int64) access.Terms {
	return access.Terms{Rate: access.RateTerms{Requests: n, Window: time.Minute, Burst: n}}
}

func TestWhoReachesARoute(t *testing.T) {
	const route = "people.list"
	user := &access.Principal{Kind: access.KindUser, UserID: "u"}
	key := &access.Principal{Kind: access.KindKey, UserID: "u", KeyID: "k"}
	certificate := &access.Principal{Kind: access.KindCertificate, UserID: "sha256:x"}
	suspended := app("s", access.Terms{}, "people")
	suspended.Grant = access.NewGrant(true, []access.Entitlement{{Subscription: "s", Routes: []string{"people"}}})
	lost := &access.Principal{Kind: access.KindKey, UserID: "u", App: "a"}
	wildcard := app("s", access.Terms{}, "birds")
	wildcard.Scopes = []string{access.Wildcard}
	plain, kept, away := &shelf{}, &shelf{appsOnly: map[string]bool{route: true}}, &shelf{unknown: true}
	shown := &shelf{opening: map[string][]string{route: {"crowd", "people"}}, appsOnly: kept.appsOnly}
	for _, c := range []struct {
		name   string
		shelf  *shelf
		caller *access.Principal
		want   *problem.Error // nil: passes
		detail string
	}{
		{"nobody", plain, nil, nil, ""},
		{"nobody, where the route is for apps", kept, nil, nil, ""},
		{"nobody, without the products", away, nil, nil, ""},
		{"user", plain, user, nil, ""},
		{"key without an app", plain, key, nil, ""},
		{"certificate", plain, certificate, nil, ""},
		{"user, where the route is for apps", kept, user, ErrAppsOnly, ""},
		{"key without an app, where the route is for apps", kept, key, ErrAppsOnly, ""},
		{"certificate, where the route is for apps", kept, certificate, ErrAppsOnly, ""},
		{"user, and it is known which product helps", shown, user, ErrAppsOnly, "crowd, people"},
		{"key without an app, without the products", away, key, ErrUnknown, ""},
		{"app by the API", plain, app("s", access.Terms{}, "people"), nil, ""},
		{"app by the route", plain, app("s", access.Terms{}, route), nil, ""},
		{"app, where the route is for apps", kept, app("s", access.Terms{}, route), nil, ""},
		{"app, without the products", away, app("s", access.Terms{}, route), nil, ""},
		{"app with another route", plain, app("s", access.Terms{}, "people.get", "people.list.x", "peopl", "list"), ErrNotSubscribed, ""},
		{"app with another route, and it is known which product helps", shown, app("s", access.Terms{}, "birds"), ErrNotSubscribed, "crowd, people"},
		{"app with another route, without the products", away, app("s", access.Terms{}, "birds"), ErrNotSubscribed, ""},
		{"app with another route and all scopes", plain, wildcard, ErrNotSubscribed, ""},
		{"app without a subscription", plain, app("s", access.Terms{}), ErrNotSubscribed, ""},
		{"app without a grant", plain, lost, ErrNotSubscribed, ""},
		{"suspended app", plain, suspended, ErrSuspended, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t)
			*w.shelf = *c.shelf
			got := get(w.route(route), c.caller)
			reach := w.plans.Reach(route, c.caller)
			preview := w.plans.Step(route).Preview(as(c.caller))
			if c.want == nil {
				if got.Code != http.StatusTeapot || reach != nil || preview != nil {
					t.Errorf("%d %s, %v, %v", got.Code, got.Body, reach, preview)
				}
				return
			}
			d := document(t, got)
			if got.Code != c.want.Status() || d.Code != c.want.Code || !strings.Contains(d.Detail, c.detail) || !errors.Is(reach, c.want) || !errors.Is(preview, c.want) {
				t.Errorf("%d %+v, %v, %v", got.Code, d, reach, preview)
			}
			if c.detail == "" && strings.Contains(d.Detail, "opened by") {
				t.Errorf("a product is named: %s", d.Detail)
			}
		})
	}
}

func TestManyProductsAreNotAllNamed(t *testing.T) {
	w := newWorld(t)
	var names []string
	for i := range 50 {
		names = append(names, fmt.Sprintf("product-%02d", i))
	}
	w.shelf.opening = map[string][]string{"r": names}
	d := document(t, get(w.route("r"), app("s", access.Terms{})))
	if !strings.HasSuffix(d.Detail, "product-09, and others.") {
		t.Errorf("%s", d.Detail)
	}
}

func TestPlanIsCountedForTheSubscriptionOverAllRoutes(t *testing.T) {
	w := newWorld(t)
	list, get2 := w.route("people.list"), w.route("people.get")
	first, again, other := app("s-1", perMinute(3), "people"), app("s-1", perMinute(3), "people"), app("s-2", perMinute(3), "people")
	for i, c := range []struct {
		route  http.Handler
		caller *access.Principal
		status int
		left   string
	}{
		{list, first, 418, `"plan-rate";r=2;t=20`}, {get2, first, 418, `"plan-rate";r=1;t=40`},
		{list, again, 418, `"plan-rate";r=0;t=60`}, {get2, again, 429, `"plan-rate";r=0;t=20`},
		{list, other, 418, `"plan-rate";r=2;t=20`},
	} {
		got := get(c.route, c.caller)
		if got.Code != c.status || got.Header().Get("RateLimit") != c.left || got.Header().Get("RateLimit-Policy") != `"plan-rate";q=3;w=60` {
			t.Errorf("request %d: %d %v", i, got.Code, got.Header())
		}
		if c.status != 429 {
			continue
		}
		d := document(t, got)
		if d.Code != policylimit.ErrLimited.Code || !slices.Equal(d.ViolatedPolicies, []string{"plan-rate"}) || got.Header().Get("Retry-After") != "20" ||
			got.Header().Get("X-RateLimit-Limit") != "3" {
			t.Errorf("%+v %v", d, got.Header())
		}
	}
	if diff := cmp.Diff([]string{"platform/plan/3-1m0s-3"}, w.counters.made); diff != "" {
		t.Error(diff)
	}
}

func TestChangedPlanCountsAtOnce(t *testing.T) {
	w := newWorld(t)
	h := w.route("r")
	if got := get(h, app("s", perMinute(1), "r")); got.Code != 418 {
		t.Fatal(got.Code)
	}
	if got := get(h, app("s", perMinute(1), "r")); got.Code != 429 {
		t.Fatal(got.Code)
	}
	for range 2 {
		if got := get(h, app("s", perMinute(2), "r")); got.Code != 418 {
			t.Errorf("%d %s", got.Code, got.Body)
		}
	}
	if got := get(h, app("s", access.Terms{}, "r")); got.Code != 418 || got.Header().Get("RateLimit") != "" {
		t.Errorf("a plan without limits: %d %v", got.Code, got.Header())
	}
	quotas := func(n int64) access.Terms {
		return access.Terms{Quota: access.QuotaTerms{Units: n, Period: "day", Zone: "UTC"}}
	}
	for i, c := range []struct {
		units  int64
		status int
	}{{2, 418}, {2, 418}, {2, 429}, {4, 418}, {4, 418}, {4, 429}, {2, 429}} {
		w.plans = New(Options{Products: w.shelf, Counters: w.counters, Meters: w.plans.limits.meters, Now: w.plans.now})
		// A meter asks the ledger again after a second; another replica does at once.
		meters, err := quota.NewMeters(quota.Options{
			Ledger: w.ledger, Subjects: 1000, Timeout: time.Second, Replicas: func() int { return 1 },
			Logger: slog.New(slog.DiscardHandler), Now: func() time.Time { return now },
		})
		if err != nil {
			t.Fatal(err)
		}
		w.plans.limits.meters = meters
		got := get(w.route("r"), app("s", quotas(c.units), "r"))
		meters.Close(t.Context())
		if got.Code != c.status {
			t.Errorf("request %d: %d %s", i, got.Code, got.Body)
		}
	}
}

func TestQuotaOfAPlanIsKeptInTheLedger(t *testing.T) {
	w := newWorld(t)
	terms := access.Terms{
		Rate:  access.RateTerms{Requests: 100, Window: time.Minute, Burst: 100},
		Quota: access.QuotaTerms{Units: 2, Period: "month", Zone: "Europe/Berlin", Rolling: true},
	}
	h := w.route("r")
	for i, want := range []int{418, 418, 429} {
		got := get(h, app("s-1", terms, "r"))
		if got.Code != want || got.Header().Get("RateLimit-Policy") != `"plan-rate";q=100;w=60, "plan-quota";q=2` {
			t.Errorf("request %d: %d %v", i, got.Code, got.Header())
		}
		if want == 429 {
			if d := document(t, got); d.Code != "gateway.quota_exceeded" || !slices.Equal(d.ViolatedPolicies, []string{"plan-quota"}) {
				t.Errorf("%+v", d)
			}
		}
	}
	list, err := w.ledger.ListQuotaAccounts(t.Context(), quota.Filter{Limit: 10})
	if err != nil || len(list) != 1 {
		t.Fatal(list, err)
	}
	want := quota.Identity{Quota: catalog.QuotaName, Period: "rolling month Europe/Berlin", Kind: catalog.QuotaKind, Subject: "s-1"}
	if diff := cmp.Diff(want, list[0].Identity); diff != "" {
		t.Error(diff)
	}
}

func TestUnusableTermsLetNobodyPass(t *testing.T) {
	for _, terms := range []access.Terms{
		{Rate: access.RateTerms{Requests: -1, Window: time.Minute, Burst: 1}},
		{Rate: access.RateTerms{Window: time.Minute}},
		{Quota: access.QuotaTerms{Units: 0, Period: "day", Zone: "UTC"}},
		{Quota: access.QuotaTerms{Units: 5, Period: "year", Zone: "UTC"}},
		{Quota: access.QuotaTerms{Units: 5, Period: "day", Zone: "Nowhere/At_All"}},
		{Quota: access.QuotaTerms{Units: 5, Period: "day", Zone: "Local"}},
	} {
		got := get(newWorld(t).route("r"), app("s", terms, "r"))
		if d := document(t, got); got.Code != 500 || d.Code != ErrTerms.Code {
			t.Errorf("%+v: %d %+v", terms, got.Code, d)
		}
	}
}

func TestWhatPlansKeepIsBounded(t *testing.T) {
	w := newWorld(t)
	h := w.route("r")
	for i := range int64(maxRates + 10) {
		if got := get(h, app("s", perMinute(i+1), "r")); got.Code != 418 {
			t.Fatal(got.Code)
		}
	}
	if n := len(w.plans.limits.rates); n != 10 {
		t.Errorf("%d rates", n)
	}
	// Both routes, and the one that was used before, count on with the same counter.
	other := w.route("other")
	for i, want := range []int{418, 429, 429} {
		if got := get([]http.Handler{h, other, h}[i], app("s", perMinute(1), "r", "other")); got.Code != want {
			t.Errorf("request %d: %d, want %d", i, got.Code, want)
		}
	}
}

func TestPlansAreSafeForConcurrentUse(t *testing.T) {
	w := newWorld(t)
	h := w.route("r")
	const each, rates = 40, 10
	var passed [rates]int
	var mu sync.Mutex
	var group sync.WaitGroup
	for i := range rates {
		for range each {
			group.Go(func() {
				if get(h, app("s", perMinute(int64(i)+1), "r")).Code == 418 {
					mu.Lock()
					passed[i]++
					mu.Unlock()
				}
			})
		}
	}
	group.Wait()
	for i, n := range passed {
		if n != i+1 {
			t.Errorf("%d requests of %d passed", n, i+1)
		}
	}
}

func TestCodesAreDocumented(t *testing.T) {
	text, err := os.ReadFile("../../../../docs/guides/errors.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range []*problem.Error{ErrNotSubscribed, ErrSuspended, ErrAppsOnly, ErrUnknown, ErrTerms, catalog.ErrProduct, catalog.ErrState, access.ErrAppKey} {
		if !strings.Contains(string(text), "`"+e.Code+"` | "+fmt.Sprint(e.Status())) {
			t.Errorf("%s is not in the guide", e.Code)
		}
	}
}

// bare is the cost of a recorder and a request that are there already.
type bare struct{ h http.Header }

func (b bare) Header() http.Header         { return b.h }
func (b bare) Write(p []byte) (int, error) { return len(p), nil }
func (b bare) WriteHeader(int)             {}

func TestNoAllocationButThoseOfTheLimits(t *testing.T) {
	w := newWorld(t)
	h := w.route("people.list")
	limit, err := w.counters.Counter("other", catalog.RateLimit(access.RateTerms{Requests: 1e6, Window: time.Minute, Burst: 1e6}))
	if err != nil {
		t.Fatal(err)
	}
	step, err := policylimit.New([]policylimit.Limit{{Name: "l", Counter: limit, Subject: func(*http.Request) (string, error) { return "s", nil }}}, w.plans.now)
	if err != nil {
		t.Fatal(err)
	}
	count := func(h http.Handler, p *access.Principal) float64 {
		r, to := as(p), bare{http.Header{}}
		h.ServeHTTP(to, r)
		return testing.AllocsPerRun(100, func() { clear(to.h); h.ServeHTTP(to, r) })
	}
	limited := count(policy.Chain(teapot{}, nil, policy.Rule{Step: step}), nil)
	if n := count(h, app("s", perMinute(1e6), "people")); n > limited {
		t.Errorf("%v allocations, and a limit has %v", n, limited)
	}
	for name, p := range map[string]*access.Principal{"nobody": nil, "user": {UserID: "u"}, "app": app("s", access.Terms{}, "people")} {
		if n := count(h, p); n != 0 {
			t.Errorf("%s: %v allocations", name, n)
		}
	}
}

func BenchmarkStep(b *testing.B) {
	w := newWorld(b)
	directory := catalog.NewDirectory(products{}, time.Second, slog.New(slog.DiscardHandler))
	if err := directory.Load(b.Context()); err != nil {
		b.Fatal(err)
	}
	w.plans.products = directory
	for _, c := range []struct {
		name   string
		caller *access.Principal
		step   bool
	}{
		{"no step", &access.Principal{UserID: "u"}, false},
		{"anonymous", nil, true},
		{"key without app", &access.Principal{UserID: "u"}, true},
		{"app without limits", app("s", access.Terms{}, "people"), true},
		{"app with a rate", app("s", perMinute(1e9), "people"), true},
	} {
		b.Run(c.name, func(b *testing.B) {
			var h http.Handler = teapot{}
			if c.step {
				h = w.route("people.list")
			}
			r, to := as(c.caller), bare{http.Header{}}
			b.ReportAllocs()
			for b.Loop() {
				clear(to.h)
				h.ServeHTTP(to, r)
			}
		})
	}
}

// products are none.
type products struct{}

func (products) ListProducts(context.Context, catalog.ProductFilter) ([]catalog.Product, error) {
	return nil, nil
}
