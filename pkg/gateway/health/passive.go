package health

import (
	"log/slog"
	"sync"
	"time"

	"github.com/keywarden/keywarden/pkg/gateway/balance"
)

// Passive configures what is concluded from requests. A zero Failures or
// ErrorRate switches that rule off.
type Passive struct {
	Failures    int           // failures in a row that eject a target
	ErrorRate   float64       // share of failures in a window that ejects it, above 0 to 1
	MinRequests int           // requests a window must have for ErrorRate to count
	Window      time.Duration // of ErrorRate
	EjectFor    time.Duration // the first time; the n-th time in a row n times as long
}

// maxEjections bounds how long an ejection grows.
const maxEjections = 10

// Watcher draws conclusions for the targets of one service. It never keeps out
// more than half of them: when most fail, the fault is likely not theirs. It is
// safe for concurrent use.
type Watcher struct {
	config Passive
	logger *slog.Logger

	mu      sync.Mutex
	targets map[*balance.State]*record
}

// record is what is known of one target.
type record struct {
	failures  int // in a row
	ejections int // in a row: without a success after the end of one
	until     time.Time
	begun     time.Time // of the window
	requests  int
	failed    int
}

// NewWatcher makes a watcher of the targets.
func NewWatcher(config Passive, targets []*balance.State, logger *slog.Logger) *Watcher {
	w := &Watcher{config: config, logger: logger}
	w.Follow(targets)
	return w
}

// Follow watches these targets from now on and no others; what is known of those
// that stay is kept. One that another watcher has ejected counts as ejected.
func (w *Watcher) Follow(targets []*balance.State) {
	w.mu.Lock()
	defer w.mu.Unlock()
	next := make(map[*balance.State]*record, len(targets))
	for _, s := range targets {
		if next[s] = w.targets[s]; next[s] == nil {
			next[s] = &record{until: s.EjectedUntil()}
		}
	}
	w.targets = next
}

// Result tells what became of a request to the target: failed when it could not
// be reached, broke off, took too long or answered that it is not well.
func (w *Watcher) Result(s *balance.State, failed bool, now time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	r := w.targets[s]
	if r == nil || now.Before(r.until) {
		return // what is still under way to an ejected target says nothing new
	}
	if now.Sub(r.begun) >= w.config.Window {
		r.begun, r.requests, r.failed = now, 0, 0
	}
	r.requests++
	if !failed {
		r.failures = 0
		r.ejections = 0
		return
	}
	r.failures++
	r.failed++
	if w.condemned(r) && w.mayEject(now) {
		w.eject(s, r, now)
	}
}

func (w *Watcher) condemned(r *record) bool {
	if w.config.Failures > 0 && r.failures >= w.config.Failures {
		return true
	}
	return w.config.ErrorRate > 0 && r.requests >= w.config.MinRequests &&
		float64(r.failed) >= w.config.ErrorRate*float64(r.requests)
}

// mayEject reports whether one more would leave at least half.
func (w *Watcher) mayEject(now time.Time) bool {
	ejected := 1
	for _, r := range w.targets {
		if now.Before(r.until) {
			ejected++
		}
	}
	return 2*ejected <= len(w.targets)
}

func (w *Watcher) eject(s *balance.State, r *record, now time.Time) {
	r.ejections = min(r.ejections+1, maxEjections)
	span := time.Duration(r.ejections) * w.config.EjectFor
	r.until = now.Add(span)
	r.failures, r.requests, r.failed = 0, 0, 0
	s.Eject(r.until)
	w.logger.Warn("a target is kept out for its failures", "target", s.Name(), "for", span.String())
}
