package app

import (
	"context"
	"runtime/debug"
	"runtime/metrics"
	"time"
)

const (
	// heapHeadroom is how much may be allocated between two collections of garbage, in
	// bytes, as long as less than that is in use. What is in use of a gateway is little,
	// and Go's own measure, which is as much again, would have it collect some thirty
	// times in a second.
	heapHeadroom = 32 << 20

	usualGCPercent = 100 // Go's
	mostGCPercent  = 400

	heapTick = 5 * time.Second
)

// tuneHeap keeps the headroom until ctx ends, unless GOGC says what to do. A limit of
// memory (GOMEMLIMIT) counts in any case: the runtime collects earlier then.
func (a *application) tuneHeap(ctx context.Context) error {
	if set, _ := a.Env.Lookup("GOGC"); set != "" {
		return nil
	}
	live := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
	tick := time.NewTicker(heapTick)
	defer tick.Stop()
	now := mostGCPercent
	before := debug.SetGCPercent(now)
	defer debug.SetGCPercent(before)
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		metrics.Read(live)
		if percent := gcPercent(live[0].Value.Uint64()); percent != now {
			debug.SetGCPercent(percent)
			now = percent
		}
	}
}

// gcPercent is what gives the headroom where live bytes are in use.
func gcPercent(live uint64) int {
	return int(min(mostGCPercent, max(usualGCPercent, 100*heapHeadroom/max(live, 1))))
}
