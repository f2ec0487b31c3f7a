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
	// some 7 MB with 64 connections, and Go's own measure, which is as much again, would
	// have it collect dozens of times in a second.
	//
	// All of it is resident sooner or later, and a collection costs about the same
	// whatever there is to collect. Of the processor's time under load, with 6.6 KB of
	// garbage for each request, collections took 3 percent with 32 MiB, 5 with 12 and 8
	// with 8, and the process's own memory was 44, 26 and 21 MB; with half the garbage
	// they take half. More than 12 MiB buys little of the one for much of the other.
	headroom = 12 << 20

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
