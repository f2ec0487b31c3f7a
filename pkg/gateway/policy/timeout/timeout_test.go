package timeout_test

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"testing"
	"testing/synctest"
	"time"

	"github.com/keywarden/keywarden/pkg/gateway/policy/timeout"
	"github.com/keywarden/keywarden/pkg/reqctx"
)

func TestBoundIsToldToTheEndOfTheRoute(t *testing.T) {
	step, err := timeout.New(time.Second)
	if err != nil {
		t.Fatal(err)
	}
	info := &reqctx.Info{}
	r := httptest.NewRequest("GET", "/", nil)
	step.Apply(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {})).
		ServeHTTP(nil, r.WithContext(reqctx.With(r.Context(), info)))
	if info.Timeout != time.Second {
		t.Errorf("got %s", info.Timeout)
	}
}

func TestShadowReportsWhatIsLateAndCutsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		step, _ := timeout.New(time.Second)
		for took, want := range map[time.Duration]bool{500 * time.Millisecond: false, 2 * time.Second: true} {
			var reported error
			info := &reqctx.Info{}
			r := httptest.NewRequest("GET", "/", nil)
			step.Watch(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { time.Sleep(took) }),
				func(_ *http.Request, err error) { reported = err }).
				ServeHTTP(nil, r.WithContext(reqctx.With(r.Context(), info)))
			if errors.Is(reported, timeout.ErrLate) != want || info.Timeout != 0 {
				t.Errorf("%s: reported %v, bound %s", took, reported, info.Timeout)
			}
		}
	})
}

func TestShadowDoesNotReportStreamsThatLast(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		step, _ := timeout.New(time.Second)
		for wait, want := range map[time.Duration]bool{500 * time.Millisecond: false, 2 * time.Second: true} {
			var reported error
			info := &reqctx.Info{}
			r := httptest.NewRequest("GET", "/", nil)
			step.Watch(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
				time.Sleep(wait)
				info.Stream = time.Now()
				time.Sleep(time.Hour)
			}), func(_ *http.Request, err error) { reported = err }).
				ServeHTTP(nil, r.WithContext(reqctx.With(r.Context(), info)))
			if errors.Is(reported, timeout.ErrLate) != want {
				t.Errorf("a stream that began after %s: reported %v", wait, reported)
			}
		}
	})
}

func TestNewRefusesNoBound(t *testing.T) {
	if _, err := timeout.New(0); err == nil {
		t.Error("accepted")
	}
}
