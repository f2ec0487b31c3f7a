package lifecycle

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// What was opened last may need what was opened first.
func TestCleanupsRunInTheOppositeOrderAndAllOfThem(t *testing.T) {
	var c Cleanups
	var ran []string
	failure := errors.New("it does not close")
	add := func(name string, err error) (cancel func()) {
		return c.Add(name, func(context.Context) error { ran = append(ran, name); return err })
	}
	add("first", nil)
	cancel := add("second", nil)
	add("third", failure)
	add("fourth", nil)
	cancel()
	if err := c.Run(t.Context()); !errors.Is(err, failure) || err.Error() != "close third: it does not close" {
		t.Errorf("error %v", err)
	}
	if diff := cmp.Diff([]string{"fourth", "third", "first"}, ran); diff != "" {
		t.Error(diff)
	}
}

func TestWorkBesideTheStartEndsWithIt(t *testing.T) {
	var c Cleanups
	ended := false
	c.Go(t.Context(), "work", func(ctx context.Context) { <-ctx.Done(); ended = true })
	if err := c.Run(t.Context()); err != nil || !ended {
		t.Errorf("error %v, and it has ended: %t", err, ended)
	}
}

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
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second/2)
		defer cancel()
		if err := RunInTurn(ctx, tasks, time.Second); err != nil {
			t.Fatal(err)
		}
		if want := [3]time.Duration{time.Second, 2 * time.Second, 5 * time.Second / 2}; at != want {
			t.Errorf("tasks began at %v, want %v", at, want)
		}
	})
}

func TestTaskThatFailsEndsTheOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		failure := errors.New("a task has failed")
		others := 0
		err := RunInTurn(t.Context(), []func(context.Context) error{
			func(context.Context) error { return failure },
			func(ctx context.Context) error { others++; <-ctx.Done(); return nil },
		}, time.Hour)
		if !errors.Is(err, failure) || others != 1 {
			t.Errorf("error %v, and %d other tasks were run", err, others)
		}
	})
}
