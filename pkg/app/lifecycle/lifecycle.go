// Package lifecycle is what begins with the program and ends with it: cleanups in the
// opposite order of what was opened, work beside the start, and tasks that begin in turn.
// It knows nothing of what those do.
package lifecycle

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sync/errgroup"
)

// cleanupTimeout bounds each cleanup.
const cleanupTimeout = 20 * time.Second

// Cleanups is what to close, last opened first. The zero value has nothing to close.
type Cleanups struct{ list []cleanup }

type cleanup struct {
	name string
	run  func(context.Context) error
}

// Add registers a cleanup; cancel makes it do nothing.
func (c *Cleanups) Add(name string, run func(context.Context) error) (cancel func()) {
	i := len(c.list)
	c.list = append(c.list, cleanup{name, run})
	return func() { c.list[i].run = nil }
}

// Go runs something beside what comes next. Its context ends with ctx or at the cleanup,
// which waits for it.
func (c *Cleanups) Go(ctx context.Context, name string, run func(context.Context)) {
	ctx, cancel := context.WithCancel(ctx)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		run(ctx)
	}()
	c.Add(name, func(context.Context) error {
		cancel()
		<-ended
		return nil
	})
}

// Run runs all cleanups, also after one that failed.
func (c *Cleanups) Run(ctx context.Context) error {
	var all []error
	for i := len(c.list) - 1; i >= 0; i-- {
		if c.list[i].run == nil {
			continue
		}
		ctx, cancel := context.WithTimeout(ctx, cleanupTimeout)
		if err := c.list[i].run(ctx); err != nil {
			all = append(all, fmt.Errorf("close %s: %w", c.list[i].name, err))
		}
		cancel()
	}
	return errors.Join(all...)
}

// RunInTurn runs tasks until one fails or ctx ends, each of which begins a pause after
// the one before, and the first after one. One that has not begun when ctx ends does so then: some write down what
// is left.
func RunInTurn(ctx context.Context, tasks []func(context.Context) error, pause time.Duration) error {
	group, ctx := errgroup.WithContext(ctx)
	for i, task := range tasks {
		group.Go(func() error {
			wait(ctx, time.Duration(i+1)*pause)
			return task(ctx)
		})
	}
	return group.Wait()
}

// wait returns after d, or when ctx ends.
func wait(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	}
}
