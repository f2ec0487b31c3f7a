package main

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"golang.org/x/sync/errgroup"
)

const (
	// manyConnections are enough to see what one takes, and fewer than a process may
	// usually have files open.
	manyConnections = 2000

	// warmConnections are made before the first look, so that what the first ones bring
	// with them counts for none.
	warmConnections = 64

	// rest is how long a process is left alone before its memory is read.
	rest = 500 * time.Millisecond
)

// memoryTable measures the memory of the gateway and of its counterpart: each figure is
// of a process of its own, in which nothing else has left room behind.
func (t *site) memoryTable(ctx context.Context, o settings) (*facts, error) {
	f := &facts{title: "Memory", columns: []string{
		"what", "resident after the start, MB (of it its own)", fmt.Sprintf("after load with %d connections, MB (of it its own)", o.connections),
		fmt.Sprintf("KB for each of %d idle connections", manyConnections), fmt.Sprintf("KB for each of %d requests in flight", manyConnections),
	}}
	starters := []struct {
		name  string
		start func() (*process, error)
	}{{nameRivalAll, func() (*process, error) { return t.rival(policyAll) }}}
	for _, without := range waysOf(o) {
		starters = append(starters, struct {
			name  string
			start func() (*process, error)
		}{nameAll + suffixOf(without), func() (*process, error) { return t.gateway(ctx, gateway{netHTTP: without, log: true, traces: true}) }})
	}
	for _, s := range starters {
		began, loaded, err := t.loadedMemory(ctx, o, s.start)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", s.name, err)
		}
		idle, err := t.connectionMemory(ctx, s.start, item, manyConnections)
		if err != nil {
			return nil, fmt.Errorf("%s, idle: %w", s.name, err)
		}
		busy, err := t.connectionMemory(ctx, s.start, silent, manyConnections)
		if err != nil {
			return nil, fmt.Errorf("%s, in flight: %w", s.name, err)
		}
		f.add(s.name, began.text(), loaded.text(), fmt.Sprintf("%.1f", idle/1e3), fmt.Sprintf("%.1f", busy/1e3))
	}
	return f, nil
}

// loadedMemory is the memory after the start, and while the load at
// saturation still runs.
func (t *site) loadedMemory(ctx context.Context, o settings, start func() (*process, error)) (began, loaded memory, err error) {
	defer t.clear()
	p, err := start()
	if err != nil {
		return began, loaded, err
	}
	if began, err = p.memory(); err != nil {
		return began, loaded, err
	}
	err = get("memory", p, pathAll+item, false).underLoad(ctx, o.connections, func(ctx context.Context, _ *load) error {
		if err := pause(ctx, max(2*o.window, 3*time.Second)); err != nil {
			return err
		}
		loaded, err = p.memory()
		return err
	})
	return began, loaded, err
}

// connectionMemory is the memory in bytes that each of n connections takes: idle
// after one request, or with a request that is not answered.
func (t *site) connectionMemory(ctx context.Context, start func() (*process, error), what string, n int) (float64, error) {
	defer t.clear()
	p, err := start()
	if err != nil {
		return 0, err
	}
	// Whatever is held ends before the process does.
	holding, end := context.WithCancel(ctx)
	var held []*connection
	defer func() {
		end()
		for _, c := range held {
			c.close()
		}
	}()
	if held, err = hold(holding, held, p, warmConnections, item); err != nil {
		return 0, err
	}
	resident := func() (float64, error) {
		if err := pause(ctx, rest); err != nil {
			return 0, err
		}
		m, err := p.memory()
		return m.resident, err
	}
	before, err := resident()
	if err != nil {
		return 0, err
	}
	if held, err = hold(holding, held, p, n, what); err != nil {
		return 0, err
	}
	if what == silent {
		if err := t.awaitAsked(ctx, n); err != nil {
			return 0, fmt.Errorf("%w; %s", err, answers(held))
		}
	}
	after, err := resident()
	return (after - before) / float64(n), err
}

// hold opens n more connections, sends one request on each, and waits for the answer
// where there is one. What it has opened is among the result in any case.
func hold(ctx context.Context, held []*connection, p *process, n int, what string) ([]*connection, error) {
	l := &load{addr: p.addr, request: get("", p, pathAll+what, false).request}
	var group errgroup.Group
	group.SetLimit(warmConnections) // not all at once
	for range n {
		c := &connection{load: l}
		held = append(held, c)
		group.Go(func() error {
			if what != silent {
				return c.exchange(ctx, 0)
			}
			if err := c.dial(ctx); err != nil {
				return err
			}
			_, err := c.conn.Write(l.request(nil, 0))
			return err
		})
	}
	return held, group.Wait()
}

// answers tells of those that should not have come.
func answers(held []*connection) string {
	n, example := 0, ""
	for _, c := range held {
		if c.in == nil || c.conn.SetReadDeadline(time.Now().Add(time.Millisecond)) != nil {
			continue
		}
		if text, err := c.in.Peek(1); err != nil || len(text) == 0 {
			continue
		}
		if n++; n == 1 {
			text, _ := c.in.Peek(c.in.Buffered())
			example = string(text)
		}
	}
	return fmt.Sprintf("%d of %d connections were answered, such as %.600q", n, len(held), example)
}

// awaitAsked waits until n requests without an answer have come to the backend.
func (t *site) awaitAsked(ctx context.Context, n int) error {
	ctx, cancel := context.WithTimeout(ctx, answerTimeout)
	defer cancel()
	for {
		text, err := fetch(ctx, t.service()+pathKey+asked)
		if err != nil {
			return fmt.Errorf("waiting for %d requests at the backend: %w", n, err)
		}
		var at struct{ Waiting int }
		if err := json.Unmarshal(text, &at); err != nil {
			return err
		}
		if at.Waiting >= n {
			return nil
		}
		if err := pause(ctx, 10*time.Millisecond); err != nil {
			return fmt.Errorf("only %d of %d requests are at the backend: %w", at.Waiting, n, err)
		}
	}
}
