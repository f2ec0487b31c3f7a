// Package loadtest sends requests at a constant rate and tells what they took.
//
// The loop is open: each request has a moment at which it is due, whatever became
// of those before it, and its latency counts from that moment. A server that stands
// still for a second is thus seen to hold up every request of that second, where
// clients that wait for their answers would send, and notice, one each (the
// "coordinated omission" of Gil Tene's wrk2).
//
// It owns the loop, the histogram, connections that hide nothing, and what a
// measurement has around it: processes, free addresses and the place of a report in
// a Markdown file. It owns no scenarios: those are in loadtest/run ("make load") and
// in tests. Only tests and measurements import it.
package loadtest

import (
	"context"
	"maps"
	"math"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// Plan says what to send. All fields but Warm and Stop are required.
type Plan struct {
	Rate     float64       // requests in a second
	Warm     time.Duration // requests of this time, at the beginning, do not count
	Duration time.Duration // of what counts
	Workers  int           // most requests at once; what is due when all are busy is sent late, and counted from when it was due
	// Do makes request number n and reads the whole of its answer. worker is from 0
	// to Workers-1 and has one request at a time. Any error is a failed request.
	Do func(ctx context.Context, worker, n int) error
	// Stop, when given, ends the sending before its time.
	Stop <-chan struct{}
}

// Result is what became of the requests that count.
type Result struct {
	Sent     int64
	Failed   int64
	Took     time.Duration  // from when the first was due until the last was done
	Latency  Histogram      // from when a request was due, failed ones included
	Late     Histogram      // from when a request was due until it was sent: high where Workers are too few, or the machine too slow
	Failures map[string]int // by what was wrong
}

// Rate is how many requests were done in a second, failed ones included.
func (r *Result) Rate() float64 {
	if r.Took <= 0 {
		return 0
	}
	return float64(r.Sent) / r.Took.Seconds()
}

// mostKinds bounds how many different failures are told apart.
const mostKinds = 20

// Run sends what the plan says and waits for every answer. The end of ctx ends it
// early; requests under way are then Do's to end.
func Run(ctx context.Context, p Plan) *Result {
	results := make([]Result, p.Workers)
	var next atomic.Int64
	var all sync.WaitGroup
	begin := time.Now()
	counts := begin.Add(p.Warm)
	until := counts.Add(p.Duration)
	for worker := range p.Workers {
		all.Go(func() {
			mine := &results[worker]
			for {
				n := next.Add(1) - 1
				due := begin.Add(time.Duration(math.Round(float64(n) / p.Rate * float64(time.Second))))
				if !due.Before(until) || !await(ctx, p.Stop, due) {
					return
				}
				sent := time.Now()
				err := p.Do(ctx, worker, int(n))
				done := time.Now()
				if due.Before(counts) {
					continue
				}
				mine.add(due, sent, done, err)
				mine.Took = max(mine.Took, done.Sub(counts))
			}
		})
	}
	all.Wait()
	total := &Result{Failures: map[string]int{}}
	for i := range results {
		total.merge(&results[i])
	}
	return total
}

// await reports whether the moment has come, and not the end before it.
func await(ctx context.Context, stop <-chan struct{}, due time.Time) bool {
	wait := time.Until(due)
	if wait <= 0 {
		select {
		case <-ctx.Done():
			return false
		case <-stop:
			return false
		default:
			return true
		}
	}
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-stop:
		return false
	case <-ctx.Done():
		return false
	}
}

func (r *Result) add(due, sent, done time.Time, err error) {
	r.Sent++
	r.Latency.Add(done.Sub(due))
	r.Late.Add(sent.Sub(due))
	if err == nil {
		return
	}
	r.Failed++
	if r.Failures == nil {
		r.Failures = map[string]int{}
	}
	note(r.Failures, err.Error(), 1)
}

// note counts a failure; those of a kind beyond the bound are counted together.
func note(failures map[string]int, kind string, n int) {
	if _, known := failures[kind]; !known && len(failures) >= mostKinds {
		kind = "others"
	}
	failures[kind] += n
}

func (r *Result) merge(other *Result) {
	r.Sent += other.Sent
	r.Failed += other.Failed
	r.Took = max(r.Took, other.Took)
	r.Latency.Merge(&other.Latency)
	r.Late.Merge(&other.Late)
	for _, kind := range slices.Sorted(maps.Keys(other.Failures)) {
		note(r.Failures, kind, other.Failures[kind])
	}
}
