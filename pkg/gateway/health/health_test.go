package health_test

import (
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"
	"pgregory.net/rapid"

	"github.com/keywarden/keywarden/pkg/gateway/balance"
	"github.com/keywarden/keywarden/pkg/gateway/health"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("never: %s", what)
		}
	}
}

func checked(t *testing.T, address string) health.Checked {
	t.Helper()
	u, err := url.Parse(address)
	if err != nil {
		t.Fatal(err)
	}
	transport := &http.Transport{}
	t.Cleanup(transport.CloseIdleConnections)
	return health.Checked{State: balance.NewState(address), URL: u, Prober: transport}
}

func active(kind health.Kind) health.Active {
	return health.Active{
		Kind: kind, Path: "/well", Interval: time.Millisecond, Timeout: time.Second,
		HealthyAfter: 2, UnhealthyAfter: 3, Status: []health.StatusRange{{From: 200, To: 299}},
	}
}

func TestHTTPCheckTakesATargetOutAndBack(t *testing.T) {
	var sick atomic.Bool
	var asked atomic.Int64
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		if r.URL.Path != "/well" || sick.Load() {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	}))
	defer s.Close()
	target := checked(t, s.URL)
	c := health.Start(active(health.HTTP), []health.Checked{target}, slog.New(slog.DiscardHandler), time.Now)
	defer c.Stop()
	eventually(t, "it is asked", func() bool { return asked.Load() > 5 })
	if target.State.Down() {
		t.Fatal("a well target is down")
	}
	sick.Store(true)
	eventually(t, "it goes down", target.State.Down)
	sick.Store(false)
	eventually(t, "it comes back", func() bool { return !target.State.Down() })
}

func TestOneFailureDoesNotTakeATargetOut(t *testing.T) {
	var n atomic.Int64
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if n.Add(1)%3 != 0 { // two failures, then a success
			w.WriteHeader(http.StatusInternalServerError)
		}
	}))
	defer s.Close()
	target := checked(t, s.URL)
	c := health.Start(active(health.HTTP), []health.Checked{target}, slog.New(slog.DiscardHandler), time.Now)
	defer c.Stop()
	eventually(t, "it is asked often", func() bool { return n.Load() > 60 })
	if target.State.Down() {
		t.Error("it is down without three failures in a row")
	}
}

func TestTCPCheckSeesWhetherSomebodyListens(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	target := checked(t, "http://"+l.Addr().String())
	c := health.Start(active(health.TCP), []health.Checked{target}, slog.New(slog.DiscardHandler), time.Now)
	defer c.Stop()
	if conn, err := l.Accept(); err != nil {
		t.Fatal(err)
	} else {
		_ = conn.Close()
	}
	if target.State.Down() {
		t.Error("it is down although it listens")
	}
	_ = l.Close()
	eventually(t, "it goes down", target.State.Down)
}

func watcher(config health.Passive, n int) (*health.Watcher, []*balance.State) {
	var states []*balance.State
	for i := range n {
		states = append(states, balance.NewState(fmt.Sprint(i)))
	}
	return health.NewWatcher(config, states, slog.New(slog.DiscardHandler)), states
}

var begin = time.Unix(1_700_000_000, 0)

func TestFailuresInARowEject(t *testing.T) {
	w, states := watcher(health.Passive{Failures: 3, Window: time.Minute, EjectFor: 10 * time.Second}, 3)
	for i, failed := range []bool{true, true, false, true, true, true} {
		if states[0].Ejected(begin) {
			t.Fatalf("ejected before result %d", i)
		}
		w.Result(states[0], failed, begin)
	}
	if !states[0].Ejected(begin.Add(9*time.Second)) || states[0].Ejected(begin.Add(10*time.Second)) {
		t.Error("it is not kept out for just ten seconds")
	}
	// The second time in a row is twice as long, after a success as long as at first.
	again := begin.Add(11 * time.Second)
	for range 3 {
		w.Result(states[0], true, again)
	}
	if !states[0].Ejected(again.Add(19 * time.Second)) {
		t.Error("the second ejection is not longer")
	}
	later := begin.Add(time.Hour)
	w.Result(states[0], false, later)
	for range 3 {
		w.Result(states[0], true, later)
	}
	if states[0].Ejected(later.Add(10 * time.Second)) {
		t.Error("a success does not shorten the next ejection")
	}
}

func TestErrorRateEjectsOnlyWithEnoughRequests(t *testing.T) {
	w, states := watcher(health.Passive{ErrorRate: 0.5, MinRequests: 10, Window: time.Minute, EjectFor: time.Second}, 2)
	for i := range 9 {
		w.Result(states[0], i%2 == 0, begin)
	}
	if states[0].Ejected(begin) {
		t.Fatal("ejected with nine requests")
	}
	w.Result(states[0], true, begin)
	if !states[0].Ejected(begin) {
		t.Error("not ejected with six failures of ten")
	}
}

func TestErrorsOfAnEarlierWindowDoNotCount(t *testing.T) {
	w, states := watcher(health.Passive{ErrorRate: 0.5, MinRequests: 10, Window: time.Minute, EjectFor: time.Second}, 2)
	for range 9 {
		w.Result(states[0], true, begin)
	}
	w.Result(states[0], true, begin.Add(time.Minute))
	if states[0].Ejected(begin.Add(time.Minute)) {
		t.Error("ejected for errors of the window before")
	}
}

// Whatever fails, at least half of the targets stay in.
func TestNeverMoreThanHalfAreEjected(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(1, 9).Draw(t, "targets")
		w, states := watcher(health.Passive{
			Failures: rapid.IntRange(0, 3).Draw(t, "failures"), ErrorRate: rapid.SampledFrom([]float64{0, 0.3, 1}).Draw(t, "rate"),
			MinRequests: 2, Window: time.Minute, EjectFor: 10 * time.Second,
		}, n)
		at := begin
		for range 100 {
			at = at.Add(time.Duration(rapid.IntRange(0, 5).Draw(t, "seconds")) * time.Second)
			w.Result(states[rapid.IntRange(0, n-1).Draw(t, "target")], rapid.Bool().Draw(t, "failed"), at)
			ejected := 0
			for _, s := range states {
				if s.Ejected(at) {
					ejected++
				}
			}
			if 2*ejected > n {
				t.Fatalf("%d of %d are ejected", ejected, n)
			}
		}
	})
}
