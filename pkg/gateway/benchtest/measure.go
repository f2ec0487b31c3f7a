package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"time"
)

// row is one of those that are compared in a table.
type row struct {
	name    string
	process *process
	request requests
	rate    float64 // requests a second; 0 for as many as there can be
	events  bool    // what counts are events and not answers
	beside  *row    // what it is compared with, if anything

	cost        []float64 // of each round: CPU microseconds per request or event
	pace        []float64 // of each round: requests or events per second
	allocations []float64 // of some windows of their own: heap allocations per request
}

// get is a row of GET requests for a path with the process's key, or its token when
// that is wanted.
func get(name string, p *process, path string, withToken bool) *row {
	credential := ""
	switch {
	case withToken:
		credential = "Authorization: Bearer " + p.token + "\r\n"
	case p.key != "":
		credential = "X-API-Key: " + p.key + "\r\n"
	}
	return &row{name: name, process: p, request: same(getText(nil, p.addr, path, credential))}
}

// getText appends a GET request. credential is a header line with its end, or empty.
func getText(to []byte, addr, path, credential string) []byte {
	return fmt.Appendf(to, "GET %s HTTP/1.1\r\nHost: %s\r\nUser-Agent: bench\r\nAccept: */*\r\n%s\r\n", path, addr, credential)
}

// settle is how long the load runs before it counts.
const settle = 400 * time.Millisecond

// underLoad runs the load on the row, and count once that has settled.
func (r *row) underLoad(ctx context.Context, connections int, count func(ctx context.Context, l *load) error) error {
	if err := r.process.emptyLog(); err != nil {
		return err
	}
	l := &load{addr: r.process.addr, connections: connections, request: r.request, rate: r.rate, events: r.events}
	loading, end := context.WithCancel(ctx)
	defer end()
	counting, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	ended := make(chan error, 1)
	go func() {
		err := l.run(loading)
		if err != nil {
			stop(fmt.Errorf("the load ended early: %w", err))
		}
		ended <- err
	}()
	err := pause(counting, settle)
	if err == nil {
		err = count(counting, l)
	}
	end()
	return errors.Join(err, <-ended)
}

// measure takes one window of one round.
func (r *row) measure(ctx context.Context, o settings) error {
	return r.underLoad(ctx, o.connections, func(ctx context.Context, l *load) error {
		cpu, begun, done := r.process.cpu(), time.Now(), l.done.Load()
		if err := pause(ctx, o.window); err != nil {
			return err
		}
		cpu, took, done := r.process.cpu()-cpu, time.Since(begun), l.done.Load()-done
		if done == 0 || cpu <= 0 {
			return errors.New("nothing was measured")
		}
		r.cost = append(r.cost, float64(cpu.Nanoseconds())/1e3/float64(done))
		r.pace = append(r.pace, float64(done)/took.Seconds())
		return nil
	})
}

// countAllocations takes one window in which the heap allocations of the whole
// process are counted, without those that asking for them costs.
func (r *row) countAllocations(ctx context.Context, o settings) error {
	if r.process.metrics == "" {
		return nil
	}
	var counts [3]float64
	ask := func(ctx context.Context, i int) (err error) {
		counts[i], err = r.process.mallocs(ctx)
		return err
	}
	for i := range 2 { // while nothing else happens
		if err := ask(ctx, i); err != nil {
			return err
		}
	}
	asking := counts[1] - counts[0]
	return r.underLoad(ctx, o.connections, func(ctx context.Context, l *load) error {
		if err := ask(ctx, 1); err != nil {
			return err
		}
		done := l.done.Load()
		if err := pause(ctx, o.window); err != nil {
			return err
		}
		if err := ask(ctx, 2); err != nil {
			return err
		}
		if done = l.done.Load() - done; done == 0 {
			return errors.New("nothing was measured")
		}
		r.allocations = append(r.allocations, (counts[2]-counts[1]-asking)/float64(done))
		return nil
	})
}

// pause waits for d, unless ctx ends before.
func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// table is what is measured in the same rounds.
type table struct {
	title   string
	per     string // what the cost is of: a request or an event
	rows    []*row
	alloc   bool // count allocations as well
	profile *row // its last window is profiled, if it is to be
}

// turns are the rows in the order of a round. Each begins with another one: none is
// always the first.
func (t *table) turns(round int) []*row {
	first := round % len(t.rows)
	return slices.Concat(t.rows[first:], t.rows[:first])
}

// run takes all rounds.
func (t *table) run(ctx context.Context, o settings, progress io.Writer) error {
	for round := range o.rounds {
		for _, r := range t.turns(round) {
			if t.profile == r && round == o.rounds-1 && o.profile != "" {
				go saveProfile(ctx, "http://"+r.process.metrics, settle+o.window, o.profile)
			}
			if err := r.measure(ctx, o); err != nil {
				return fmt.Errorf("%s: %w", r.name, err)
			}
			_, _ = fmt.Fprintf(progress, "round %d of %d: %-48s %7.1f µs, %7.0f a second\n", round+1, o.rounds, r.name,
				r.cost[len(r.cost)-1], r.pace[len(r.pace)-1])
		}
	}
	if !t.alloc {
		return nil
	}
	for _, r := range t.rows {
		if err := r.countAllocations(ctx, o); err != nil {
			return fmt.Errorf("%s: %w", r.name, err)
		}
	}
	return nil
}

// saveProfile writes a CPU profile; without one the measurement goes on.
func saveProfile(ctx context.Context, base string, d time.Duration, file string) {
	text, err := fetch(ctx, fmt.Sprintf("%s/debug/pprof/profile?seconds=%d", base, max(1, int(d.Seconds()))))
	if err == nil {
		err = os.WriteFile(file, text, 0o600)
	}
	if err != nil {
		_, _ = fmt.Fprintln(os.Stderr, "no profile:", err)
	}
}
