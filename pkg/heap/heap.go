// Package heap tunes Go's collector of garbage for a program that has little in use and
// makes garbage quickly.
package heap

import (
	"context"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"sync"
)

const (
	// headroom is how much may be allocated between two collections of garbage, in
	// bytes, as long as less than that is in use. What is in use of a gateway is little,
	// and Go's own measure, which is as much again, would have it collect some thirty
	// times in a second.
	headroom = 32 << 20

	usualPercent = 100 // Go's
	mostPercent  = 400

	// slack is by how many percent the measure may be off before it is set anew, for
	// which the program stands still for a moment.
	slack = 10
)

// Tune keeps the headroom until ctx ends. A limit of memory (GOMEMLIMIT) counts in any
// case: the runtime collects earlier then. It is for the one who owns the process.
func Tune(ctx context.Context) {
	t := &tuner{percent: mostPercent, live: []metrics.Sample{{Name: "/gc/heap/live:bytes"}}}
	before := debug.SetGCPercent(t.percent)
	t.arm()
	<-ctx.Done()
	t.mu.Lock()
	defer t.mu.Unlock()
	t.ended = true
	debug.SetGCPercent(before)
}

// tuner sets the measure after each collection.
type tuner struct {
	mu      sync.Mutex
	ended   bool
	percent int
	live    []metrics.Sample
}

// arm has look called after the next collection, which finds that nobody holds the
// sentinel.
func (t *tuner) arm() {
	sentinel := &struct{ t *tuner }{t}
	runtime.AddCleanup(sentinel, func(t *tuner) { t.look() }, t)
}

func (t *tuner) look() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.ended {
		return
	}
	metrics.Read(t.live)
	if want := percentFor(t.live[0].Value.Uint64()); want < t.percent-slack || want > t.percent+slack {
		t.percent = want
		debug.SetGCPercent(want)
	}
	t.arm()
}

// percentFor is what gives the headroom where live bytes are in use.
func percentFor(live uint64) int {
	return int(min(mostPercent, max(usualPercent, 100*headroom/max(live, 1))))
}
