package quota

import (
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/keywarden/keywarden/pkg/gateway/policy"
	"github.com/keywarden/keywarden/pkg/problem"
	"github.com/keywarden/keywarden/pkg/quota"
	"github.com/keywarden/keywarden/pkg/quota/quotatest"
	"github.com/keywarden/keywarden/pkg/reqctx"
)

var now = time.Date(2026, 5, 4, 10, 0, 0, 0, time.UTC)

// world is a ledger and one replica.
type world struct {
	t      testing.TB
	ledger *quotatest.Memory
	meters *quota.Meters
}

func newWorld(t testing.TB) *world {
	w := &world{t: t, ledger: quotatest.NewMemory(func() time.Time { return now })}
	var err error
	w.meters, err = quota.NewMeters(quota.Options{
		Ledger: w.ledger, Subjects: 1000, Timeout: time.Second, Replicas: func() int { return 1 },
		Logger: slog.New(slog.DiscardHandler), Now: func() time.Time { return now },
	})
	if err != nil {
		t.Fatal(err)
	}
	return w
}

// quota counts by a field of the request, and costs what another one says.
func (w *world) quota(name string, limit int64, header string) Quota {
	w.t.Helper()
	m, err := w.meters.Meter(quota.Quota{Name: name, Limit: limit, Period: quota.Period{Unit: quota.Day}}, "route", "header")
	if err != nil {
		w.t.Fatal(err)
	}
	return Quota{
		Meter: m,
		Subject: func(r *http.Request) (string, error) {
			if r.Header.Get(header) == "broken" {
				return "", errors.New("broken")
			}
			return r.Header.Get(header), nil
		},
		Cost: func(r *http.Request) (int64, error) {
			if text := r.Header.Get("Cost"); text != "" {
				return strconv.ParseInt(text, 10, 64)
			}
			return 1, nil
		},
	}
}

// used is what is booked and not leased.
func (w *world) used() (units int64) {
	w.t.Helper()
	w.meters.Close(w.t.Context())
	list, err := w.ledger.ListQuotaAccounts(w.t.Context(), quota.Filter{Limit: 1000})
	if err != nil {
		w.t.Fatal(err)
	}
	for _, a := range list {
		units += a.Used
	}
	return units
}

// route sends requests through the quotas to a service.
type route struct {
	t       testing.TB
	handler http.Handler
}

func newRoute(t testing.TB, service http.HandlerFunc, mode policy.Mode, quotas ...Quota) *route {
	t.Helper()
	step, err := New(quotas, func() time.Time { return now })
	if err != nil {
		t.Fatal(err)
	}
	return &route{t, policy.Chain(service, discard{}, policy.Rule{Name: Name, Step: step, Mode: mode})}
}

type discard struct{}

func (discard) Shadowed(*http.Request, string, error)        {}
func (discard) ConditionFailed(*http.Request, string, error) {}

func (rt *route) get(header ...string) *http.Response {
	rt.t.Helper()
	r := httptest.NewRequest("GET", "/", nil)
	r = r.WithContext(reqctx.With(r.Context(), &reqctx.Info{ID: "request-1"}))
	for i := 0; i+1 < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	w := httptest.NewRecorder()
	rt.handler.ServeHTTP(w, r)
	return w.Result()
}

func teapot(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusTeapot) }

func TestAnswersSayWhatIsLeftOfThePeriod(t *testing.T) {
	w := newWorld(t)
	rt := newRoute(t, teapot, policy.Enforce, w.quota("daily", 2, "Key"))
	for i, want := range []struct {
		status int
		fields map[string]string
	}{
		{418, map[string]string{"RateLimit": `"daily";r=1;t=50400`, "X-RateLimit-Remaining": "1", "X-RateLimit-Limit": "2", "Retry-After": ""}},
		{418, map[string]string{"RateLimit": `"daily";r=0;t=50400`, "X-RateLimit-Reset": strconv.FormatInt(now.Unix()+50400, 10)}},
		{429, map[string]string{"RateLimit": `"daily";r=0;t=50400`, "X-RateLimit-Remaining": "0", "Retry-After": "50400"}},
	} {
		resp := rt.get("Key", "a")
		if resp.StatusCode != want.status {
			t.Errorf("request %d: status %d, want %d", i, resp.StatusCode, want.status)
		}
		want.fields["RateLimit-Policy"] = `"daily";q=2;w=86400`
		for name, value := range want.fields {
			if got := resp.Header.Get(name); got != value {
				t.Errorf("request %d: %s is %q, want %q", i, name, got, value)
			}
		}
	}
	var said struct {
		Code     string   `json:"code"`
		Violated []string `json:"violated-policies"`
	}
	if err := json.NewDecoder(rt.get("Key", "a").Body).Decode(&said); err != nil || said.Code != "gateway.quota_exceeded" || len(said.Violated) != 1 || said.Violated[0] != "daily" {
		t.Errorf("the problem is %+v, %v", said, err)
	}
}

func TestFieldsOfAnEarlierStepStay(t *testing.T) {
	w := newWorld(t)
	rt := newRoute(t, teapot, policy.Enforce, w.quota("daily", 1, "Key"))
	inner := rt.handler
	rt.handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("RateLimit-Policy", `"burst";q=9;w=1`)
		h.Set("RateLimit", `"burst";r=8;t=1`)
		h.Set("X-RateLimit-Limit", "9")
		inner.ServeHTTP(w, r)
	})
	for i, want := range []struct{ fields, limit string }{{`"burst";r=8;t=1, "daily";r=0;t=50400`, "9"}, {`"burst";r=8;t=1, "daily";r=0;t=50400`, "1"}} {
		h := rt.get("Key", "a").Header
		if h.Get("RateLimit-Policy") != `"burst";q=9;w=1, "daily";q=1;w=86400` || h.Get("RateLimit") != want.fields || h.Get("X-RateLimit-Limit") != want.limit {
			t.Errorf("request %d: %v", i, h)
		}
	}
}

func TestEveryQuotaCountsAndARefusalCountsForNone(t *testing.T) {
	w := newWorld(t)
	names := []string{"a", "b", "c", "d", "e", "f"} // more than fit beside the request
	var quotas []Quota
	for i, name := range names {
		quotas = append(quotas, w.quota(name, 100, "Key"))
		if i == len(names)-1 {
			quotas[i] = w.quota(name, 3, "Tenant")
		}
	}
	rt := newRoute(t, teapot, policy.Enforce, quotas...)
	for i := range 20 {
		if resp := rt.get("Key", "k", "Tenant", "t"); (resp.StatusCode == 418) != (i < 3) {
			t.Fatalf("request %d: status %d", i, resp.StatusCode)
		}
	}
	if resp := rt.get("Key", "k", "Tenant", "broken"); resp.StatusCode != 500 {
		t.Errorf("status %d", resp.StatusCode)
	}
	if resp := rt.get(); resp.StatusCode != 418 || resp.Header.Get("RateLimit") != "" {
		t.Errorf("nobody: status %d, %v", resp.StatusCode, resp.Header)
	}
	if used := w.used(); used != 3*6 {
		t.Errorf("%d units are booked, want 18", used)
	}
}

func TestWhatTheServiceHasNotSeenIsGivenBack(t *testing.T) {
	for _, c := range []struct {
		code string
		used int64
	}{
		{"", 1}, {"gateway.upstream_unreachable", 0}, {"gateway.circuit_open", 0}, {"gateway.overloaded", 0}, {"gateway.no_targets", 0},
		{"gateway.upstream_timeout", 1}, {"gateway.upstream_reset", 1}, {"request.canceled", 1},
	} {
		w := newWorld(t)
		rt := newRoute(t, func(w http.ResponseWriter, r *http.Request) {
			reqctx.From(r.Context()).Code = c.code
			w.Header().Set("X-Cost", "5") // not by the service
			w.WriteHeader(503)
		}, policy.Enforce, w.quota("daily", 100, "Key"))
		rt.get("Key", "a")
		if used := w.used(); used != c.used {
			t.Errorf("%q: %d units are booked, want %d", c.code, used, c.used)
		}
	}
}

func TestWhatAPolicyRefusesBeforeTheServiceCostsNothing(t *testing.T) {
	for _, c := range []struct{ policy, code string }{
		{"cache", "gateway.not_cached"}, {"request_headers", "gateway.secret_unavailable"}, {"", "gateway.credential_unavailable"},
		{"validate", "request.invalid"}, {"validate", "request.body_too_large"}, {"mock", "gateway.mock_without_answer"},
	} {
		w := newWorld(t)
		rt := newRoute(t, func(w http.ResponseWriter, r *http.Request) {
			info := reqctx.From(r.Context())
			info.Code, info.Policy = c.code, c.policy
			w.WriteHeader(503)
		}, policy.Enforce, w.quota("daily", 100, "Key"))
		rt.get("Key", "a")
		if used := w.used(); used != 0 {
			t.Errorf("%s of %q: %d units are booked, want none", c.code, c.policy, used)
		}
	}
}

func TestTheServiceSaysWhatARequestHasCost(t *testing.T) {
	for _, c := range []struct {
		said string
		used int64
	}{{"", 10}, {"0", 0}, {"3", 3}, {" 25 ", 25}, {"1000", 100}, {"-1", 10}, {"many", 10}, {"99999999999999999999", 10}} {
		for _, mode := range []policy.Mode{policy.Enforce, policy.Shadow} {
			w := newWorld(t)
			q := w.quota("daily", 100, "Key")
			q.CostHeader = "x-cost"
			rt := newRoute(t, func(w http.ResponseWriter, _ *http.Request) {
				if c.said != "" {
					w.Header().Set("X-Cost", c.said)
				}
				_, _ = w.Write([]byte("hello"))
			}, mode, q)
			resp := rt.get("Key", "a", "Cost", "10")
			if used := w.used(); resp.StatusCode != 200 || used != c.used {
				t.Errorf("%q: status %d, %d units are booked, want %d", c.said, resp.StatusCode, used, c.used)
			}
			if mode == policy.Enforce && resp.Header.Get("X-Cost") != "" || mode == policy.Shadow && resp.Header.Get("X-Cost") != c.said {
				t.Errorf("%q: the client sees %q", c.said, resp.Header.Get("X-Cost"))
			}
		}
	}
}

func TestARequestThatIsBrokenOffCounts(t *testing.T) {
	w := newWorld(t)
	rt := newRoute(t, func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, policy.Enforce, w.quota("daily", 100, "Key"))
	func() {
		defer func() { _ = recover() }()
		rt.get("Key", "a")
	}()
	if used := w.used(); used != 1 {
		t.Errorf("%d units are booked", used)
	}
}

func TestCostsAndOutages(t *testing.T) {
	w := newWorld(t)
	rt := newRoute(t, teapot, policy.Enforce, w.quota("daily", 10, "Key"))
	for i, want := range []struct {
		cost   string
		status int
	}{{"6", 418}, {"0", 418}, {"5", 429}, {"4", 418}, {"11", 429}, {"x", 500}} {
		resp := rt.get("Key", "a", "Cost", want.cost)
		if resp.StatusCode != want.status || want.cost == "11" && resp.Header.Get("Retry-After") != "" {
			t.Errorf("request %d of cost %s: status %d, want %d", i, want.cost, resp.StatusCode, want.status)
		}
	}
	w.ledger.Down = true
	if resp := rt.get("Key", "stranger"); resp.StatusCode != 503 || resp.Header.Get("Retry-After") == "" || resp.Header.Get("RateLimit-Policy") == "" {
		t.Errorf("without the ledger: status %d, %v", resp.StatusCode, resp.Header)
	}
}

func TestShadowCountsAndSaysNothing(t *testing.T) {
	w := newWorld(t)
	step, err := New([]Quota{w.quota("daily", 1, "Key")}, time.Now)
	if err != nil {
		t.Fatal(err)
	}
	var reports []error
	h := step.Watch(http.NotFoundHandler(), func(_ *http.Request, err error) { reports = append(reports, err) })
	for range 3 {
		r := httptest.NewRequest("GET", "/", nil)
		r.Header.Set("Key", "a")
		rec := httptest.NewRecorder()
		h.ServeHTTP(rec, r)
		if rec.Code != 404 || rec.Header().Get("RateLimit-Policy") != "" {
			t.Errorf("status %d, header %v", rec.Code, rec.Header())
		}
	}
	if len(reports) != 2 || !errors.Is(reports[0], ErrExceeded) {
		t.Errorf("reports %v, want 2", reports)
	}
}

// A code that is misspelled here would make requests count that nobody has seen.
func TestCodesOfUnaskedServicesExist(t *testing.T) {
	source, err := os.ReadFile("quota.go")
	if err != nil {
		t.Fatal(err)
	}
	guide, err := os.ReadFile("../../../../docs/guides/errors.md")
	if err != nil {
		t.Fatal(err)
	}
	_, list, _ := strings.Cut(string(source), "func unasked(")
	codes := regexp.MustCompile(`"([a-z_]+\.[a-z_]+)"`).FindAllStringSubmatch(list, -1)
	if len(codes) < 10 {
		t.Fatal("the codes are not found")
	}
	for _, c := range codes {
		if !unasked(c[1]) || !strings.Contains(string(guide), "`"+c[1]+"`") {
			t.Errorf("there is no problem %s", c[1])
		}
	}
}

func TestMistakesAreRefused(t *testing.T) {
	w := newWorld(t)
	for _, quotas := range [][]Quota{nil, {{}}, {{Meter: w.quota("a", 1, "Key").Meter}}} {
		if _, err := New(quotas, time.Now); err == nil {
			t.Errorf("%+v was accepted", quotas)
		}
	}
	if err := undecided(problem.ErrInvalid, "a"); !errors.Is(err, problem.ErrInvalid) {
		t.Error(err)
	}
}

func BenchmarkStep(b *testing.B) {
	w := newWorld(b)
	m, err := w.meters.Meter(quota.Quota{Name: "a", Limit: quota.MaxLimit}, "", "key")
	if err != nil {
		b.Fatal(err)
	}
	for range 40 { // grows the block
		r, _, _ := m.Reserve(b.Context(), "subject", 1_000_000_000)
		r.Cancel(b.Context())
	}
	step, err := New([]Quota{{Meter: m, Subject: func(*http.Request) (string, error) { return "subject", nil }}}, time.Now)
	if err != nil {
		b.Fatal(err)
	}
	h := step.Apply(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	r := httptest.NewRequest("GET", "/", nil)
	r = r.WithContext(reqctx.With(r.Context(), &reqctx.Info{}))
	rec := httptest.NewRecorder()
	b.ReportAllocs()
	for b.Loop() {
		clear(rec.Header())
		h.ServeHTTP(rec, r)
	}
}
