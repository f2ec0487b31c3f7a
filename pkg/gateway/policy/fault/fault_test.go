package fault_test

import (
	"context"
	"errors"
	"math"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/keywarden/keywarden/pkg/gateway/policy/fault"
	"github.com/keywarden/keywarden/pkg/problem"
)

// sequence returns numbers that spread evenly from 0 to 1.
func sequence() func() float64 {
	i := -1
	return func() float64 { i++; return float64(i%100) / 100 }
}

func TestThePercentageIsHitWithTheStatus(t *testing.T) {
	step, err := fault.New(fault.Config{Percent: 30, Abort: http.StatusTeapot, Random: sequence()})
	if err != nil {
		t.Fatal(err)
	}
	statuses := map[int]int{}
	for range 100 {
		w := httptest.NewRecorder()
		step.Apply(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {})).ServeHTTP(w, httptest.NewRequest("GET", "/", nil))
		statuses[w.Code]++
	}
	if statuses[http.StatusTeapot] != 30 || statuses[200] != 70 {
		t.Errorf("got %v", statuses)
	}
}

func TestDelayComesBeforeTheService(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		step, _ := fault.New(fault.Config{Percent: 100, Delay: time.Second})
		begun := time.Now()
		var waited time.Duration
		step.Apply(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { waited = time.Since(begun) })).
			ServeHTTP(httptest.NewRecorder(), httptest.NewRequest("GET", "/", nil))
		if waited != time.Second {
			t.Errorf("waited %s", waited)
		}
	})
}

func TestAClientThatLeavesEndsTheDelay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		step, _ := fault.New(fault.Config{Percent: 100, Delay: time.Hour})
		ctx, cancel := context.WithCancel(t.Context())
		go func() { time.Sleep(time.Second); cancel() }()
		begun := time.Now()
		var seen error
		step.Apply(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { seen = r.Context().Err() })).
			ServeHTTP(httptest.NewRecorder(), httptest.NewRequest("GET", "/", nil).WithContext(ctx))
		if time.Since(begun) != time.Second || !errors.Is(seen, context.Canceled) {
			t.Errorf("ended after %s, what follows sees %v", time.Since(begun), seen)
		}
	})
}

func TestDelayComesBeforeTheRefusal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		step, err := fault.New(fault.Config{Percent: 100, Delay: time.Second, Abort: http.StatusBadGateway})
		if err != nil {
			t.Fatal(err)
		}
		begun, w := time.Now(), httptest.NewRecorder()
		step.Apply(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("the service was asked") })).
			ServeHTTP(w, httptest.NewRequest("GET", "/", nil))
		if time.Since(begun) != time.Second || w.Code != http.StatusBadGateway || !strings.Contains(w.Body.String(), fault.ErrInjected.Code) {
			t.Errorf("after %s: %d %s", time.Since(begun), w.Code, w.Body)
		}
	})
}

func TestShadowHitsNobody(t *testing.T) {
	step, _ := fault.New(fault.Config{Percent: 50, Abort: 500, Random: sequence()})
	reports, passed := 0, 0
	for range 100 {
		step.Watch(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { passed++ }), func(_ *http.Request, err error) {
			if problem.From(err).Status() == 500 {
				reports++
			}
		}).ServeHTTP(httptest.NewRecorder(), httptest.NewRequest("GET", "/", nil))
	}
	if reports != 50 || passed != 100 {
		t.Errorf("%d reports, %d passed", reports, passed)
	}
}

func TestNewRefusesDrillsOfNothing(t *testing.T) {
	for _, c := range []fault.Config{{}, {Percent: 5}, {Abort: 500}, {Percent: 101, Abort: 500}, {Percent: 5, Delay: -1}, {Percent: math.NaN(), Abort: 500}, {Percent: 5, Abort: 200}, {Percent: 5, Abort: 600}} {
		if _, err := fault.New(c); err == nil {
			t.Errorf("%+v is accepted", c)
		}
	}
}

func BenchmarkServe(b *testing.B) {
	step, err := fault.New(fault.Config{Percent: 0.000001, Abort: 500})
	if err != nil {
		b.Fatal(err)
	}
	h := step.Apply(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	w, r := httptest.NewRecorder(), httptest.NewRequest("GET", "/", nil)
	b.ReportAllocs()
	for b.Loop() {
		h.ServeHTTP(w, r)
	}
}
