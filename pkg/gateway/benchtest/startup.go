package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"
)

const (
	starts       = 9                      // of each, the median counts
	startPoll    = 500 * time.Microsecond // between two attempts to be answered
	startTimeout = time.Minute
)

// startup measures the time from the call of the program until the first answer of
// the backend that came through it. The database is there already, with its tables.
func (t *site) startup(ctx context.Context, o settings) (*facts, error) {
	f := &facts{
		title:   "First answer after the start, on a database that is there",
		columns: []string{"what", fmt.Sprintf("ms, median of %d (least to most)", starts)},
	}
	for _, without := range waysOf(o) {
		took, err := t.startTimes(ctx, gateway{netHTTP: without, log: true, traces: true})
		if err != nil {
			return nil, err
		}
		f.add(nameAll+suffixOf(without), spread(took, 0))
	}
	return f, nil
}

// startTimes are milliseconds.
func (t *site) startTimes(ctx context.Context, g gateway) (took []float64, err error) {
	defer t.clear()
	if g.database, err = t.databases.make(ctx); err != nil {
		return nil, err
	}
	first, err := t.gateway(ctx, g) // makes the tables, a user and a key
	if err != nil {
		return nil, err
	}
	t.clear()
	for range starts {
		cmd, p, err := t.command(ctx, g)
		if err != nil {
			return nil, err
		}
		p.key = first.key
		began := time.Now()
		if err := t.launch(cmd, p); err != nil {
			return nil, err
		}
		if err := awaitAnswer(ctx, p); err != nil {
			text, _ := os.ReadFile(p.log)
			return nil, fmt.Errorf("%w; its log: %s", err, text)
		}
		took = append(took, float64(time.Since(began).Microseconds())/1e3)
		t.clear()
	}
	return took, nil
}

// awaitAnswer asks until there is an answer from the backend.
func awaitAnswer(ctx context.Context, p *process) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	l := &load{addr: p.addr, request: get("", p, pathAll+item, false).request}
	for {
		c := &connection{load: l}
		err := c.exchange(ctx, 0)
		c.close()
		if err == nil {
			return nil
		}
		select {
		case <-time.After(startPoll):
		case <-p.ended:
			return errors.New("the program has ended")
		case <-ctx.Done():
			return fmt.Errorf("no answer came: %w", err)
		}
	}
}
