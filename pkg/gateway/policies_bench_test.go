package gateway_test

import (
	"context"
	"fmt"
	"hash/crc32"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"runtime/debug"
	"strings"
	"testing"
	"time"

	"github.com/keywarden/keywarden/pkg/access"
	"github.com/keywarden/keywarden/pkg/apikey"
	"github.com/keywarden/keywarden/pkg/gateway"
	"github.com/keywarden/keywarden/pkg/gateway/policy/plan"
	policylimit "github.com/keywarden/keywarden/pkg/gateway/policy/ratelimit"
	"github.com/keywarden/keywarden/pkg/httpedge"
	"github.com/keywarden/keywarden/pkg/quota"
	"github.com/keywarden/keywarden/pkg/ratelimit"
	"github.com/keywarden/keywarden/pkg/reqctx"
	"github.com/keywarden/keywarden/pkg/seal"
	"github.com/keywarden/keywarden/pkg/spec"
	"github.com/keywarden/keywarden/pkg/telemetry"
	"github.com/keywarden/keywarden/pkg/throttle"
	"github.com/keywarden/keywarden/pkg/usage"
)

// BenchmarkPolicies is what the policies of a request cost on a warm path, by the
// compiled chains of the product: everything is what the bound of 1 µs in
// docs/benchmarks.md is about. It has the look-up of the route; the bound of the body;
// the API key, verified, with the step that holds keys of apps to their products; a rate
// limit by key, leased from a store that replicas share; a quota by key, leased from a
// ledger; the fields in which the answer tells of both; and around them the duration
// histogram, the count of active requests, the drawing of one trace in a hundred, and
// the usage that the database is told of.
//
// It has neither the reading of the request nor the answer, neither the request id nor
// the canonical path, and no line of the access log. Request and writer are made once;
// what is found out about the request, and the fields of the answer, begin anew each time.
//
// The parts are the same with less in the document or around it, so that what each adds
// can be read: bare is what the benchmark itself costs.
func BenchmarkPolicies(b *testing.B) {
	const keys, routes = 1000, 10
	w := newPolicyWorld(b, keys, routes)
	for _, part := range []struct {
		name, path string
		handler    http.Handler
	}{
		{"bare", "/", nothing},
		{"route", "/r7/open/x", w.gateway},
		{"route,key", "/r7/keyed/x", w.gateway},
		{"route,key,limit", "/r7/limited/x", w.gateway},
		{"route,key,quota", "/r7/counted/x", w.gateway},
		{"route,key,limit,quota", "/r7/both/x", w.gateway},
		{"metrics,draw", "/", w.observed(b, nothing, nil)},
		{"metrics,draw,usage", "/", w.observed(b, nothing, w.count)},
		{"everything", "/r7/both/x", w.observed(b, w.gateway, w.count)},
	} {
		b.Run(part.name, func(b *testing.B) {
			x := w.exchange(part.handler, part.path)
			x.warm(b, w.keys[:1])
			b.ReportAllocs()
			for b.Loop() {
				x.serve()
			}
			x.passed(b)
		})
	}
}

// A request that keeps a limit and a quota makes one allocation, for what its answer says of
// both; one with a key alone makes none.
func TestWarmPoliciesMakeOneAllocation(t *testing.T) {
	w := newPolicyWorld(t, 1, 1)
	for path, most := range map[string]float64{"/r0/keyed/x": 0, "/r0/both/x": 1} {
		x := w.exchange(w.gateway, path)
		x.warm(t, w.keys)
		if n := testing.AllocsPerRun(1000, x.serve); n > most {
			t.Errorf("%s: %v allocations, and not %v", path, n, most)
		}
		x.passed(t)
	}
}

// BenchmarkPoliciesGrowth is the same with more keys and more routes, each of them in
// turn, in a random order: what is more than with few is what the caches of the
// processor miss. At the most keys, usage is counted by route alone, as it is for more
// than usage.DefaultMaxCells keys within a minute.
func BenchmarkPoliciesGrowth(b *testing.B) {
	for _, size := range []struct{ keys, routes int }{{1000, 10}, {1000, 10_000}, {1_000_000, 10}} {
		b.Run(fmt.Sprintf("keys=%d/routes=%d", size.keys, size.routes), func(b *testing.B) {
			w := newPolicyWorld(b, size.keys, size.routes)
			x := w.exchange(w.observed(b, w.gateway, w.count), "/r7/both/x")
			x.warm(b, w.keys)
			order := rand.New(rand.NewPCG(1, 2)).Perm(max(size.keys, size.routes))
			paths := make([]string, size.routes)
			for i := range paths {
				paths[i] = fmt.Sprintf("/r%d/both/x", i)
			}
			if size.routes > 10 {
				for i := range paths { // a quota and a limit for each key and route
					x.r.URL.Path = paths[i]
					x.warm(b, w.keys[:1])
				}
			}
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				at := order[i%len(order)]
				if size.keys > size.routes {
					x.key[0] = w.keys[at]
				} else {
					x.r.URL.Path = paths[at]
				}
				x.serve()
			}
			x.passed(b)
		})
	}
}

// policyWorld is a gateway with policies and what they are made with.
type policyWorld struct {
	gateway   *gateway.Gateway
	telemetry *telemetry.Telemetry
	usage     *usage.Meter
	keys      []string
}

// newPolicyWorld makes one of so many keys, that are verified and cached, and of so many
// routes of each kind.
func newPolicyWorld(b testing.TB, keys, routes int) *policyWorld {
	b.Helper()
	percent := debug.SetGCPercent(800) // about what package heap sets: that of a tiny heap would be dear
	b.Cleanup(func() { debug.SetGCPercent(percent) })
	quiet := slog.New(slog.DiscardHandler)
	w := &policyWorld{keys: make([]string, keys)}
	for i := range w.keys {
		w.keys[i] = benchKey(i)
	}
	auth := access.NewAuthenticator(newBenchVerifier(b, 2*keys+10_000), nil, "kw", "api")
	guard := ratelimit.NewGuard(ratelimit.GuardOptions{Store: generous{}, Timeout: time.Second, Failed: func(err error) { b.Error(err) }, Now: time.Now})
	b.Cleanup(guard.Close)
	counters := leasedCounters{guard, 2*keys + 10_000}
	quotas, err := quota.NewMeters(quota.Options{
		Ledger: generousLedger{}, Subjects: 2*keys + 100_000, Timeout: time.Second, Replicas: func() int { return 1 }, Logger: quiet, Now: time.Now,
	})
	if err != nil {
		b.Fatal(err)
	}
	w.usage = usage.NewMeter(usage.Options{Replica: "bench", Now: time.Now, Logger: quiet})
	if w.telemetry, err = telemetry.Setup(b.Context(), telemetry.Options{ServiceName: "bench", SampleRatio: 0.01, Logger: quiet}); err != nil {
		b.Fatal(err)
	}
	w.gateway, err = gateway.New(gateway.Options{
		Authenticator: auth, Logger: quiet, Counters: counters, Quotas: quotas, BodyLimit: 10 << 20,
		Plans: plan.New(plan.Options{Products: noProducts{}, Counters: counters, Meters: quotas, Now: time.Now}),
	})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(w.gateway.Close)
	if err := w.gateway.Apply(policyRoutes(b, routes)); err != nil {
		b.Fatal(err)
	}
	w.gateway.EndWith(nothing)
	return w
}

// policyRoutes has routes without a key, with one, and with a limit and a quota.
func policyRoutes(b testing.TB, n int) spec.Document {
	b.Helper()
	const limit, quotas = "rate_limit: [{name: second, by: key, rate: 1000000/1h}]", "quota: [{name: month, by: key, limit: 1000000000000, period: month}]"
	var text strings.Builder
	text.WriteString("version: 1\nservices: [{name: a, url: 'http://127.0.0.1:1'}]\ndefaults: {auth: {mode: required, methods: [key]}}\nroutes:\n")
	for i := range n {
		for _, kind := range []struct{ name, policies string }{
			{"open", "auth: {mode: none}"}, {"keyed", ""}, {"limited", limit}, {"counted", quotas}, {"both", limit + "\n    " + quotas},
		} {
			if n > 10 && kind.name != "both" {
				continue
			}
			fmt.Fprintf(&text, "  - name: r%d-%s\n    match: {path: {prefix: /r%d/%s}}\n    service: a\n    %s\n", i, kind.name, i, kind.name, kind.policies)
		}
	}
	return parse(b, text.String())
}

// observed is next with what is recorded of every request.
func (w *policyWorld) observed(b *testing.B, next http.Handler, ended func(*reqctx.Info, httpedge.Ended)) http.Handler {
	b.Helper()
	observe, err := httpedge.Observe(httpedge.ObserveOptions{
		Logger: slog.New(slog.DiscardHandler), MeterProvider: w.telemetry.MeterProvider(),
		TracerProvider: w.telemetry.TracerProvider(), Draw: w.telemetry.Draw(), Ended: ended,
	})
	if err != nil {
		b.Fatal(err)
	}
	return observe(next)
}

// count is what package app/shared does with every request.
func (w *policyWorld) count(info *reqctx.Info, e httpedge.Ended) {
	w.usage.Record(usage.Event{
		At: e.At, UserID: info.Subject, KeyID: info.KeyID, App: info.App, Route: info.Route, Product: info.Product, Client: info.Client,
		Status: e.Status, Duration: e.Duration, RequestBytes: e.RequestBytes, ResponseBytes: e.ResponseBytes,
	})
}

// policyExchange is one request that is served again and again.
type policyExchange struct {
	handler http.Handler
	r       *http.Request
	info    *reqctx.Info
	key     []string
	fields  http.Header
	w       http.ResponseWriter
	wrong   string // code of the last problem
}

func (w *policyWorld) exchange(h http.Handler, path string) *policyExchange {
	x := &policyExchange{handler: h, info: &reqctx.Info{}, key: []string{w.keys[0]}, fields: http.Header{}}
	x.w = silentWriter{x.fields}
	x.r = httptest.NewRequest(http.MethodGet, path, http.NoBody)
	x.r.Header["User-Agent"], x.r.Header["Accept"], x.r.Header["X-Api-Key"] = []string{"bench"}, []string{"*/*"}, x.key
	x.r = x.r.WithContext(reqctx.With(x.r.Context(), x.info))
	return x
}

// serve serves the request once more, as if it came anew.
func (x *policyExchange) serve() {
	*x.info = reqctx.Info{
		ID: "01890a5d-ac96-774b-bcce-b302099a8057", Client: netip.AddrFrom4([4]byte{192, 0, 2, 1}), Start: time.Now(), Scheme: "http", Host: "example.com",
	}
	clear(x.fields)
	x.handler.ServeHTTP(x.w, x.r)
	if x.info.Code != "" {
		x.wrong = x.info.Code
	}
}

// warm has each key be known by everything that remembers keys.
func (x *policyExchange) warm(b testing.TB, keys []string) {
	b.Helper()
	for range 3 {
		for _, key := range keys {
			x.key[0] = key
			x.serve()
		}
	}
	x.passed(b)
}

func (x *policyExchange) passed(b testing.TB) {
	b.Helper()
	if x.wrong != "" {
		b.Fatal("refused: ", x.wrong)
	}
}

var nothing = http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusOK) })

// silentWriter is an answer that nobody gets.
type silentWriter struct{ fields http.Header }

func (w silentWriter) Header() http.Header       { return w.fields }
func (silentWriter) Write(p []byte) (int, error) { return len(p), nil }
func (silentWriter) WriteHeader(int)             {}

// leasedCounters are those of a gateway with replicas.
type leasedCounters struct {
	guard    *ratelimit.Guard
	subjects int
}

func (c leasedCounters) Counter(name string, l ratelimit.Limit) (policylimit.Counter, error) {
	return ratelimit.NewLeased(ratelimit.SharedOptions{
		Name: name, Limit: l, Guard: c.guard, Subjects: c.subjects, Replicas: func() int { return 1 }, Now: time.Now,
	})
}

// generous is a store that grants far more than is asked for.
type generous struct{}

func (generous) Reserve(context.Context, string, ratelimit.Limit, int64, int64) (ratelimit.Grant, error) {
	return ratelimit.Grant{Units: 1 << 40, Decision: ratelimit.Decision{Allowed: true, Limit: 1_000_000, Remaining: 1000, ResetAfter: time.Second}}, nil
}

// generousLedger likewise.
type generousLedger struct{}

func (generousLedger) Reserve(_ context.Context, a quota.Ask) (quota.Grant, error) {
	now := time.Now()
	return quota.Grant{Units: 1 << 40, Epoch: 1, Capacity: a.Limit, Now: now, Ends: now.Add(24 * time.Hour)}, nil
}

func (generousLedger) Return(context.Context, []quota.Unused) error { return nil }

// noProducts is a platform without products.
type noProducts struct{}

func (noProducts) AppsOnly(string) (only, known bool) { return false, true }
func (noProducts) Opening(string) []string            { return nil }

// benchKeys knows every key, and takes the first text that is shown for a key as its own.
type benchKeys struct{}

func (benchKeys) KeyByPublicID(_ context.Context, publicID string) (apikey.Stored, error) {
	return apikey.Stored{
		Key: apikey.Key{
			ID: "0198c1f4-0000-7000-8000-" + publicID, PublicID: publicID, UserID: "0198c1f4-0001-7000-8000-" + publicID, Name: "bench", Env: apikey.Live,
			Scopes: []string{access.ScopeProfileRead},
		},
		OwnerRole: access.RoleUser, Secrets: []apikey.Secret{{ID: publicID, Bcrypt: "any"}},
	}, nil
}

func (benchKeys) StoreVerifier(context.Context, string, []byte, []byte, string) error { return nil }
func (benchKeys) TouchKeys(context.Context, map[string]time.Time) error               { return nil }

// Compare implements apikey.Comparer.
func (benchKeys) Compare(context.Context, string, []byte) (ok, stale bool, err error) {
	return true, false, nil
}

func newBenchVerifier(b testing.TB, entries int) *apikey.Verifier {
	b.Helper()
	ring, err := seal.ParseKeyring(seal.NewMasterKey())
	if err != nil {
		b.Fatal(err)
	}
	peppers, err := apikey.NewPeppers(ring)
	if err != nil {
		b.Fatal(err)
	}
	roles, err := access.NewRoles(nil)
	if err != nil {
		b.Fatal(err)
	}
	misses, err := throttle.New(1_000_000, time.Minute, time.Now)
	if err != nil {
		b.Fatal(err)
	}
	v, err := apikey.NewVerifier(apikey.VerifierOptions{
		Store: benchKeys{}, Hasher: benchKeys{}, Peppers: peppers, Roles: roles, Prefix: "kw", Fresh: func(time.Time) bool { return true },
		Misses: misses, Entries: entries, Timeout: time.Second, Now: time.Now, Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		b.Fatal(err)
	}
	return v
}

// benchKey is the text of key number i.
func benchKey(i int) string {
	const alphabet = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
	head := fmt.Sprintf("kw_live_%012d%032d", i, i)
	var check [6]byte
	sum := crc32.ChecksumIEEE([]byte(head))
	for at := len(check) - 1; at >= 0; at-- {
		check[at] = alphabet[sum%62]
		sum /= 62
	}
	return head + string(check[:])
}
