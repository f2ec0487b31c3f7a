package app

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

// A task that did not come to its turn runs all the same: what it has to write down at
// the end would be lost.
func TestTasksBeginInTurnAndAllEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		var at [3]time.Duration
		var tasks []func(context.Context) error
		for i := range at {
			tasks = append(tasks, func(ctx context.Context) error {
				at[i] = time.Since(began)
				<-ctx.Done()
				return nil
			})
		}
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second/2)
		defer cancel()
		if err := runTasks(ctx, tasks, time.Second); err != nil {
			t.Fatal(err)
		}
		if want := [3]time.Duration{0, time.Second, 3 * time.Second / 2}; at != want {
			t.Errorf("tasks began at %v, want %v", at, want)
		}
	})
}

func TestTaskThatFailsEndsTheOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		failure := errors.New("a task has failed")
		others := 0
		err := runTasks(t.Context(), []func(context.Context) error{
			func(context.Context) error { return failure },
			func(ctx context.Context) error { others++; <-ctx.Done(); return nil },
		}, time.Hour)
		if !errors.Is(err, failure) || others != 1 {
			t.Errorf("error %v, and %d other tasks were run", err, others)
		}
	})
}
