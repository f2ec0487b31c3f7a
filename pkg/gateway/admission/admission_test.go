package admission_test

import (
	"net/http"
	"net/http/httptest"
	"sync"
	"sync/atomic"
	"testing"

	"go.opentelemetry.io/otel/metric/noop"

	"github.com/keywarden/keywarden/pkg/gateway/admission"
	"github.com/keywarden/keywarden/pkg/reqctx"
)

func newGate(t testing.TB, limit int) *admission.Gate {
	t.Helper()
	g, err := admission.New(limit, noop.Meter{})
	if err != nil {
		t.Fatal(err)
	}
	return g
}

func TestOneMoreThanTheLimitIsRefusedUntilOneHasEnded(t *testing.T) {
	const limit = 3
	g := newGate(t, limit)
	entered, leave := make(chan struct{}), make(chan struct{})
	h := g.Middleware(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { entered <- struct{}{}; <-leave }))
	var group sync.WaitGroup
	serve := func() *httptest.ResponseRecorder {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest("GET", "/", nil))
		return w
	}
	for range limit {
		group.Go(func() { serve() })
		<-entered
	}
	info := &reqctx.Info{}
	r := httptest.NewRequest("GET", "/", nil)
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r.WithContext(reqctx.With(r.Context(), info)))
	if w.Code != http.StatusServiceUnavailable || w.Header().Get("Retry-After") != "1" || info.Code != "gateway.saturated" {
		t.Errorf("answered %d with %v, code %q", w.Code, w.Header(), info.Code)
	}
	if g.InFlight() != limit {
		t.Errorf("%d in flight, want %d: a refusal takes a place", g.InFlight(), limit)
	}
	leave <- struct{}{}
	group.Go(func() {
		for serve().Code != http.StatusOK { // until the one that left has given its place back
		}
	})
	<-entered
	close(leave)
	group.Wait()
	if g.InFlight() != 0 {
		t.Errorf("%d in flight at the end", g.InFlight())
	}
}

func TestPlaceOfARequestThatPanicsIsFreeAgain(t *testing.T) {
	g := newGate(t, 1)
	h := g.Middleware(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }))
	for range 3 {
		func() {
			defer func() { _ = recover() }()
			h.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest("GET", "/", nil))
		}()
	}
	if g.InFlight() != 0 {
		t.Errorf("%d in flight", g.InFlight())
	}
}

func TestNeverMoreThanTheLimitAtOnce(t *testing.T) {
	const limit = 4
	g := newGate(t, limit)
	var now, most, passed atomic.Int64
	h := g.Middleware(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		passed.Add(1)
		n := now.Add(1)
		defer now.Add(-1)
		for m := most.Load(); n > m && !most.CompareAndSwap(m, n); m = most.Load() {
		}
	}))
	var group sync.WaitGroup
	for range 16 {
		group.Go(func() {
			for range 2_000 {
				h.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest("GET", "/", nil))
			}
		})
	}
	group.Wait()
	if most.Load() > limit || passed.Load() == 0 {
		t.Errorf("%d at once of %d that passed, want at most %d", most.Load(), passed.Load(), limit)
	}
}

func TestWithoutALimitAllPass(t *testing.T) {
	g := newGate(t, 0)
	h := g.Middleware(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	for range 100 {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest("GET", "/", nil))
		if w.Code != http.StatusOK {
			t.Fatalf("status %d", w.Code)
		}
	}
	if _, err := admission.New(-1, noop.Meter{}); err == nil {
		t.Error("a negative limit was accepted")
	}
}

func BenchmarkAdmit(b *testing.B) {
	g := newGate(b, 1_000)
	h := g.Middleware(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	w, r := httptest.NewRecorder(), httptest.NewRequest("GET", "/", nil)
	b.ReportAllocs()
	for b.Loop() {
		h.ServeHTTP(w, r)
	}
}
