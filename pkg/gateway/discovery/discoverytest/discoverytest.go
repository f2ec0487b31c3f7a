// Package discoverytest runs sources in tests.
package discoverytest

import (
	"context"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/keywarden/keywarden/pkg/gateway/discovery"
)

// patience bounds the wait for something that has to happen.
const patience = 30 * time.Second

// Run is a source that is being watched, once.
type Run struct {
	t    *testing.T
	done chan error

	mu      sync.Mutex
	answers [][]discovery.Found
}

// Start watches a source until the test ends.
func Start(t *testing.T, s discovery.Source) *Run {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	r := &Run{t: t, done: make(chan error, 1)}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		r.done <- s.Watch(ctx, r.publish)
	}()
	t.Cleanup(func() {
		cancel()
		select {
		case <-ended:
		case <-time.After(patience):
			t.Error("the source does not end with its context")
		}
	})
	return r
}

func (r *Run) publish(found []discovery.Found) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.answers = append(r.answers, found)
}

// Answers is how often something was published.
func (r *Run) Answers() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.answers)
}

// Last is what was published last, in the order of the hosts.
func (r *Run) Last() []discovery.Found {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.answers) == 0 {
		return nil
	}
	last := slices.Clone(r.answers[len(r.answers)-1])
	slices.SortFunc(last, func(a, b discovery.Found) int { return strings.Compare(a.Host, b.Host) })
	return last
}

// Wait returns when the source has published want.
func (r *Run) Wait(want ...discovery.Found) {
	r.t.Helper()
	deadline := time.Now().Add(patience)
	for {
		diff := cmp.Diff(want, r.Last())
		if r.Answers() > 0 && (diff == "" || len(want) == 0 && len(r.Last()) == 0) {
			return
		}
		select {
		case err := <-r.done:
			r.t.Fatalf("the source has ended: %v", err)
		case <-time.After(time.Millisecond):
		}
		if time.Now().After(deadline) {
			r.t.Fatalf("the source does not publish what it should: %s", diff)
		}
	}
}

// Err waits for the end of the source and returns why.
func (r *Run) Err() error {
	r.t.Helper()
	select {
	case err := <-r.done:
		return err
	case <-time.After(patience):
		r.t.Fatal("the source goes on")
		return nil
	}
}

// Eventually waits until ok.
func Eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !ok(); {
		if time.Now().After(deadline) {
			t.Fatalf("never: %s", what)
		}
		<-time.After(time.Millisecond)
	}
}
