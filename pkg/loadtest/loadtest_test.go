package loadtest_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/keywarden/keywarden/pkg/loadtest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// A quantile of the histogram is that of the list, and at most 1/64 more.
func TestQuantilesAreThoseOfTheList(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	for name, next := range map[string]func() time.Duration{
		"short":     func() time.Duration { return time.Duration(random.IntN(200)) * time.Microsecond },
		"spread":    func() time.Duration { return time.Duration(1) << random.IntN(40) },
		"heavy":     func() time.Duration { return time.Duration(1e6 * (1/(1-random.Float64()) - 1)) },
		"very long": func() time.Duration { return time.Duration(random.Int64N(int64(72 * time.Hour))) },
	} {
		t.Run(name, func(t *testing.T) {
			var all []time.Duration
			parts := make([]loadtest.Histogram, 3)
			for i := range 10_000 {
				d := next()
				all = append(all, d)
				parts[i%len(parts)].Add(d)
			}
			var h loadtest.Histogram
			for i := range parts {
				h.Merge(&parts[i])
			}
			slices.Sort(all)
			for _, q := range []float64{0, 0.5, 0.9, 0.95, 0.99, 0.999, 1} {
				exact := all[max(0, int(q*float64(len(all)))-1)]
				got := h.Quantile(q)
				if got < exact || got > exact+exact/64+time.Microsecond {
					t.Errorf("p%v is %v, want %v", 100*q, got, exact)
				}
			}
			if h.Count() != int64(len(all)) || h.Max() != all[len(all)-1] {
				t.Errorf("%d values, the longest %v; want %d, %v", h.Count(), h.Max(), len(all), all[len(all)-1])
			}
		})
	}
}

func TestHistogramOfNothing(t *testing.T) {
	var h, other loadtest.Histogram
	h.Merge(&other)
	if h.Quantile(0.99) != 0 || h.Mean() != 0 || h.Max() != 0 {
		t.Error("nothing has figures")
	}
	h.Add(-time.Second) // a clock that was set back
	h.Add(1 << 62)      // and one that was not
	if h.Quantile(0.5) >= time.Microsecond || h.Quantile(1) != 1<<62 {
		t.Errorf("%v, %v", h.Quantile(0.5), h.Quantile(1))
	}
}

// A server that stands still for a second holds up every request of that second,
// not only the one that each client has under way.
func TestAPauseIsSeenByEveryRequestThatWasDue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		r := loadtest.Run(t.Context(), loadtest.Plan{Rate: 100, Duration: 10 * time.Second, Workers: 2, Do: func(context.Context, int, int) error {
			if since := time.Since(began); since >= 5*time.Second && since < 6*time.Second {
				time.Sleep(time.Until(began.Add(6 * time.Second)))
			}
			time.Sleep(time.Millisecond)
			return nil
		}})
		if r.Sent != 1000 || r.Failed != 0 {
			t.Errorf("%d sent, %d failed", r.Sent, r.Failed)
		}
		// Due in the second of the pause: 100 of 1,000, half of them for more than 500 ms.
		if p := r.Latency.Quantile(0.95); p < 450*time.Millisecond || p > 550*time.Millisecond {
			t.Errorf("p95 is %v: requests that could not be sent in time do not count", p)
		}
		if p := r.Latency.Quantile(0.5); p > 2*time.Millisecond {
			t.Errorf("p50 is %v", p)
		}
		if r.Late.Max() < 900*time.Millisecond {
			t.Errorf("nothing was late: %v", r.Late.Max())
		}
	})
}

func TestRequestsComeAtTheirRate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const rate, warm, span = 250, time.Second, 4 * time.Second
		began := time.Now()
		var calls atomic.Int64
		r := loadtest.Run(t.Context(), loadtest.Plan{Rate: rate, Warm: warm, Duration: span, Workers: 50, Do: func(_ context.Context, _, n int) error {
			calls.Add(1)
			if due := time.Duration(n) * time.Second / rate; time.Since(began) != due {
				t.Errorf("request %d after %v, due after %v", n, time.Since(began), due)
			}
			time.Sleep(30 * time.Millisecond)
			if n%10 == 0 {
				return errors.New("the tenth")
			}
			return nil
		}})
		if calls.Load() != rate*5 || r.Sent != rate*4 || r.Failed != rate*4/10 || r.Failures["the tenth"] != rate*4/10 {
			t.Errorf("%d calls, %d counted, %d failed: %v", calls.Load(), r.Sent, r.Failed, r.Failures)
		}
		if got := r.Rate(); got < 240 || got > rate {
			t.Errorf("%.1f a second", got)
		}
		if r.Latency.Max() != 30*time.Millisecond || r.Late.Max() != 0 {
			t.Errorf("latency %v, late %v", r.Latency.Max(), r.Late.Max())
		}
	})
}

func TestLoadEndsBeforeItsTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		stop := make(chan struct{})
		time.AfterFunc(time.Second, func() { close(stop) })
		r := loadtest.Run(t.Context(), loadtest.Plan{Rate: 10, Duration: time.Hour, Workers: 3, Stop: stop, Do: func(context.Context, int, int) error { return nil }})
		if r.Sent < 10 || r.Sent > 11 {
			t.Errorf("%d were sent in a second at 10", r.Sent)
		}
	})
}

func TestKindsOfFailuresAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := loadtest.Run(t.Context(), loadtest.Plan{Rate: 1000, Duration: time.Second, Workers: 4, Do: func(_ context.Context, _, n int) error {
			return fmt.Errorf("failure %d", n)
		}})
		total := 0
		for _, n := range r.Failures {
			total += n
		}
		if len(r.Failures) > 21 || total != 1000 {
			t.Errorf("%d kinds with %d failures", len(r.Failures), total)
		}
	})
}

func TestConnectionsAreKeptAndHideNothing(t *testing.T) {
	var conns atomic.Int64
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/half":
			w.Header().Set("Content-Length", "10")
			_, _ = w.Write([]byte("half"))
			_ = http.NewResponseController(w).Flush()
			panic(http.ErrAbortHandler)
		case "/last":
			w.Header().Set("Connection", "close")
		}
		_, _ = fmt.Fprintf(w, "%s %s", r.Method, r.Header.Get("X-API-Key"))
	}))
	srv.Config.ConnState = func(_ net.Conn, s http.ConnState) {
		if s == http.StateNew {
			conns.Add(1)
		}
	}
	srv.Start()
	defer srv.Close()
	addr := srv.Listener.Addr().String()
	c := loadtest.NewConn(addr, 10*time.Second)
	defer c.Close()
	ask := func(path string) (int, string, error) {
		status, body, err := c.Exchange(t.Context(), loadtest.Request("POST", path, addr, "{}", "X-API-Key: secret"))
		return status, string(body), err
	}
	for range 3 {
		if status, body, err := ask("/"); err != nil || status != 200 || body != "POST secret" {
			t.Fatalf("%d %q, %v", status, body, err)
		}
	}
	if n := conns.Load(); n != 1 {
		t.Errorf("%d connections", n)
	}
	if _, _, err := ask("/half"); err == nil {
		t.Error("half an answer is no error")
	}
	for _, path := range []string{"/last", "/"} {
		if status, _, err := ask(path); err != nil || status != 200 {
			t.Errorf("%s: %d, %v", path, status, err)
		}
	}
	if n := conns.Load(); n != 3 {
		t.Errorf("%d connections", n)
	}
}

func TestInsertLeavesTheRestAlone(t *testing.T) {
	const begin, end = "<!-- begin -->\n", "<!-- end -->\n"
	file := filepath.Join(t.TempDir(), "a.md")
	if err := os.WriteFile(file, []byte("before\n"+begin+"old\n"+end+"after\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := loadtest.Insert(file, begin, end, "new\n"); err != nil {
			t.Fatal(err)
		}
	}
	text, err := os.ReadFile(file)
	if want := "before\n" + begin + "\nnew\n\n" + end + "after\n"; err != nil || string(text) != want {
		t.Errorf("got %q, %v", text, err)
	}
	if err := os.WriteFile(file, []byte("nothing"), 0o600); err != nil {
		t.Fatal(err)
	}
	if loadtest.Insert(file, begin, end, "new") == nil {
		t.Error("a file without markers was written")
	}
}

func TestAddressesDiffer(t *testing.T) {
	list, err := loadtest.FreeAddresses(5)
	if err != nil || len(slices.Compact(slices.Sorted(slices.Values(list)))) != 5 || !strings.HasPrefix(list[0], "127.0.0.1:") {
		t.Errorf("%v, %v", list, err)
	}
}
