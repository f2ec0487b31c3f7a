package discovery

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"slices"
	"sync"
	"time"
)

// Times of following a source.
const (
	// gather is how long further changes are waited for before one is told: a
	// rollout moves many addresses, one after the other.
	gather = 200 * time.Millisecond

	// minPause and maxPause bound the wait before a source that failed is started
	// again; it doubles, and a random half of it is left out.
	minPause = 200 * time.Millisecond
	maxPause = 30 * time.Second
)

// Options is what following a source needs. All fields are required.
type Options struct {
	Logger *slog.Logger
	Now    func() time.Time

	// Changed is told that [Follower.Found] has changed. It is called by one
	// goroutine at a time, and not after [Follower.Wait].
	Changed func()

	// Failed and Updated count, for metrics.
	Failed, Updated func()
}

// Follower follows one source until it is stopped. It is safe for concurrent use.
type Follower struct {
	options Options
	cancel  context.CancelFunc
	done    sync.WaitGroup
	wake    chan struct{} // something was published

	mu    sync.Mutex // guards what follows
	found []Found    // what was told last
	next  []Found    // what was published and not told yet
	fresh bool       // there is next
	state State
}

// State is what is known of a source.
type State struct {
	Known     bool      // it has answered once
	UpdatedAt time.Time // when its targets changed last
	Error     error     // why its answers are not, or not wholly, in force; nil when they are
	FailedAt  time.Time // since when there is Error
	Failures  int       // in a row: how often it had to be started again within a short time
}

// Start begins to follow a source.
func Start(source Source, o Options) *Follower {
	ctx, cancel := context.WithCancel(context.Background())
	f := &Follower{options: o, cancel: cancel, wake: make(chan struct{}, 1)}
	f.done.Go(func() { f.run(ctx, source) })
	f.done.Go(func() { f.tell(ctx) })
	return f
}

// Stop ends following. It returns at once.
func (f *Follower) Stop() { f.cancel() }

// Wait returns when everything that Start began has ended.
func (f *Follower) Wait() { f.done.Wait() }

// Found is what the source has answered last, in a fixed order; known is false
// before its first answer. The list must not be changed.
func (f *Follower) Found() (found []Found, known bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.found, f.state.Known
}

// State reports.
func (f *Follower) State() State {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.state
}

// run keeps the source going.
func (f *Follower) run(ctx context.Context, source Source) {
	for {
		begun := f.options.Now()
		err := source.Watch(ctx, func(answer []Found) { f.publish(ctx, answer) })
		if ctx.Err() != nil {
			return
		}
		if err == nil {
			err = errors.New("the source has ended")
		}
		timer := time.NewTimer(f.failed(ctx, err, f.options.Now().Sub(begun)))
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-timer.C:
		}
	}
}

// failed notes the failure of a source that has lasted so long, and returns how
// long to wait before the next attempt.
func (f *Follower) failed(ctx context.Context, err error, lasted time.Duration) time.Duration {
	f.options.Failed()
	f.mu.Lock()
	defer f.mu.Unlock()
	f.note(ctx, err)
	if lasted > maxPause {
		f.state.Failures = 0
	}
	pause := min(minPause<<min(f.state.Failures, 16), maxPause)
	f.state.Failures++
	return pause/2 + rand.N(pause/2) //nolint:gosec // no secret
}

// note keeps an error. It is logged when there was none before, so that an outage
// is logged once. The caller holds the lock.
func (f *Follower) note(ctx context.Context, err error) {
	if f.state.Error == nil {
		f.state.FailedAt = f.options.Now()
		f.options.Logger.WarnContext(ctx, "looking up targets fails; the last known ones are used", "targets", len(f.found), "error", err)
	}
	f.state.Error = err
}

// publish takes an answer of the source.
func (f *Follower) publish(ctx context.Context, answer []Found) {
	found, err := clean(answer)
	f.mu.Lock()
	defer f.mu.Unlock()
	if err != nil {
		f.note(ctx, err)
	} else if f.state.Error != nil {
		f.state.Error, f.state.FailedAt = nil, time.Time{}
		f.options.Logger.InfoContext(ctx, "looking up targets works again", "targets", len(found))
	}
	if found == nil {
		return // nonsense: the last good answer stays
	}
	f.next, f.fresh = found, true
	select {
	case f.wake <- struct{}{}:
	default:
	}
}

// tell puts answers into force: the first at once, later ones after further
// changes were waited for.
func (f *Follower) tell(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-f.wake:
		}
		if f.settle() {
			f.options.Updated()
			f.options.Changed()
		}
		timer := time.NewTimer(gather)
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-timer.C:
		}
	}
}

// settle takes over what was published, and reports whether that is new.
func (f *Follower) settle() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.fresh {
		return false
	}
	next := f.next
	f.next, f.fresh = nil, false
	if f.state.Known && slices.Equal(f.found, next) {
		return false
	}
	f.found = next
	f.state.Known, f.state.UpdatedAt = true, f.options.Now()
	return true
}
