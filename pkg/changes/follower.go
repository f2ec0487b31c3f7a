package changes

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"
)

const (
	batch           = 500                    // events per read of the log
	beatInterval    = 2 * time.Second        // heartbeat when nothing happens
	liveWithin      = 3 * beatInterval       // a replica that is silent for longer is not live
	receiptPoll     = 10 * time.Millisecond  // how often a receipt looks at the registry
	relistenBackoff = 250 * time.Millisecond // first pause after a lost notification connection
	relistenMax     = 5 * time.Second
	callTimeout     = 2 * time.Second // bound of one read or heartbeat
)

// Options configure a [Follower]. All fields but Applied are required.
type Options struct {
	Log          Log
	Registry     Registry
	ReplicaID    string
	PollInterval time.Duration // how often the log is read without a notification
	MaxStaleness time.Duration // how long cached verdicts hold without contact to the log
	Logger       *slog.Logger
	Now          func() time.Time

	// Applied is told, on the follower's goroutine, how long after its commit a change
	// that was read from the log holds on this replica; nil for nobody.
	Applied func(kind Kind, delay time.Duration)
}

// Follower follows the log for one replica and tells its subscribers. It is
// safe for concurrent use; [Follower.Run] owns its goroutines.
type Follower struct {
	opts Options
	wake chan struct{}

	epoch  atomic.Int64 // last applied epoch
	synced atomic.Int64 // unix nanoseconds: everything committed before is applied
	live   atomic.Int64 // replicas, as of the last heartbeat; 0 before the first

	mu        sync.RWMutex
	subs      []func(Event)
	resets    []func()
	lastBeat  time.Time // of the running goroutine only
	lastCount time.Time // likewise: when the replicas were counted
	lastAcked int64     // likewise
	failing   bool      // likewise: one log line per outage
}

// NewFollower makes a follower; nothing runs before [Follower.Start].
func NewFollower(opts Options) *Follower {
	return &Follower{opts: opts, wake: make(chan struct{}, 1)}
}

// Subscribe registers apply, called for each event on the follower's goroutine
// or on the goroutine that made the change, and reset, called when events may
// have been missed and everything cached must go. Call it before Start.
func (f *Follower) Subscribe(apply func(Event), reset func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.subs = append(f.subs, apply)
	f.resets = append(f.resets, reset)
}

// Start finds the end of the log and enters the registry. Older events do not
// matter: what subscribers have cached before, they drop.
func (f *Follower) Start(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	at := f.opts.Now()
	head, err := f.opts.Log.ChangeHead(ctx)
	if err != nil {
		return err
	}
	f.reset(head)
	f.synced.Store(at.UnixNano())
	return f.opts.Registry.Beat(ctx, f.opts.ReplicaID, head)
}

// Run follows the log until ctx ends, then leaves the registry.
func (f *Follower) Run(ctx context.Context) error {
	var listening sync.WaitGroup
	listening.Go(func() { f.listen(ctx) })
	tick := time.NewTicker(f.opts.PollInterval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			listening.Wait()
			leaving, cancel := context.WithTimeout(context.WithoutCancel(ctx), callTimeout)
			defer cancel()
			if err := f.opts.Registry.Leave(leaving, f.opts.ReplicaID); err != nil {
				f.opts.Logger.DebugContext(ctx, "the replica could not sign off", "error", err)
			}
			return nil
		case <-f.wake:
		case <-tick.C:
		}
		f.report(ctx, f.sync(ctx))
	}
}

// report logs the beginning and the end of an outage, not every attempt.
func (f *Follower) report(ctx context.Context, err error) {
	switch {
	case err != nil && ctx.Err() == nil && !f.failing:
		f.failing = true
		f.opts.Logger.WarnContext(ctx, "the change log cannot be read; known credentials stay valid for a while",
			"error", err, "max_staleness", f.opts.MaxStaleness.String())
	case err == nil && f.failing:
		f.failing = false
		f.opts.Logger.InfoContext(ctx, "the change log is read again")
	}
}

// sync applies what is new and says so.
func (f *Follower) sync(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	for {
		at := f.opts.Now()
		events, gap, err := f.opts.Log.ChangesSince(ctx, f.epoch.Load(), batch)
		if err != nil {
			return err
		}
		if gap {
			if err := f.restart(ctx); err != nil {
				return err
			}
			continue
		}
		read := f.opts.Now()
		for _, e := range events {
			f.Apply(e)
			f.epoch.Store(e.Epoch)
			if f.opts.Applied != nil {
				f.opts.Applied(e.Kind, e.Age+f.opts.Now().Sub(read))
			}
		}
		if len(events) < batch {
			f.synced.Store(at.UnixNano())
			return f.beat(ctx)
		}
	}
}

// restart drops everything cached: events are gone that were never seen.
func (f *Follower) restart(ctx context.Context) error {
	head, err := f.opts.Log.ChangeHead(ctx)
	if err != nil {
		return err
	}
	f.opts.Logger.WarnContext(ctx, "events were missed; every cached verdict is dropped")
	f.reset(head)
	return nil
}

// reset has the subscribers drop what they know, and goes on after head. What is
// read from the database from now on is at least as new.
func (f *Follower) reset(head int64) {
	f.mu.RLock()
	defer f.mu.RUnlock()
	for _, reset := range f.resets {
		reset()
	}
	f.epoch.Store(head)
}

// beat tells the registry when there is something new to say, or it is time.
func (f *Follower) beat(ctx context.Context) error {
	now, acked := f.opts.Now(), f.epoch.Load()
	if acked == f.lastAcked && now.Sub(f.lastBeat) < beatInterval {
		return nil
	}
	if err := f.opts.Registry.Beat(ctx, f.opts.ReplicaID, acked); err != nil {
		return err
	}
	f.lastBeat, f.lastAcked = now, acked
	return f.count(ctx, now)
}

// count finds out how many replicas there are.
func (f *Follower) count(ctx context.Context, now time.Time) error {
	if now.Sub(f.lastCount) < beatInterval {
		return nil
	}
	replicas, err := f.opts.Registry.Replicas(ctx, liveWithin)
	if err != nil {
		return err
	}
	f.lastCount = now
	f.live.Store(int64(len(replicas)))
	return nil
}

// Live is how many replicas live, this one included, as far as is known: another
// one is noticed within [Follower.Run]'s heartbeats, a few seconds.
func (f *Follower) Live() int { return int(max(1, f.live.Load())) }

// listen keeps a notification connection open until ctx ends.
func (f *Follower) listen(ctx context.Context) {
	pause := relistenBackoff
	for ctx.Err() == nil {
		begun := f.opts.Now()
		err := f.opts.Log.ListenChanges(ctx, f.nudge)
		if ctx.Err() != nil {
			return
		}
		if err == nil {
			err = errors.New("the connection ended")
		}
		f.opts.Logger.DebugContext(ctx, "notifications are interrupted; polling goes on", "error", err)
		if f.opts.Now().Sub(begun) > relistenMax {
			pause = relistenBackoff
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause/2 + rand.N(pause)): //nolint:gosec // jitter, so that replicas do not come back in step
		}
		pause = min(2*pause, relistenMax)
	}
}

// nudge makes the loop read the log now; nudges coalesce.
func (f *Follower) nudge() {
	select {
	case f.wake <- struct{}{}:
	default:
	}
}

// Apply tells the subscribers of e. The code that made a change calls it after
// the commit, so that the change holds at once on this replica; the follower
// will apply it again, which is harmless.
func (f *Follower) Apply(e Event) {
	f.mu.RLock()
	defer f.mu.RUnlock()
	for _, apply := range f.subs {
		apply(e)
	}
}

// Fresh reports whether cached verdicts may be trusted at now: the log was read
// within the staleness bound.
func (f *Follower) Fresh(now time.Time) bool {
	return now.UnixNano()-f.synced.Load() <= int64(f.opts.MaxStaleness)
}

// Lag is how long ago this replica last knew the whole log.
func (f *Follower) Lag() time.Duration {
	return f.opts.Now().Sub(time.Unix(0, f.synced.Load()))
}

// Ack is one replica's line of a receipt.
type Ack struct {
	Replica      string `json:"replica"`
	Acknowledged bool   `json:"acknowledged"`
	Milliseconds int64  `json:"milliseconds"` // from the commit until it was known to have acknowledged
}

// Receipt says which replicas have applied a change.
type Receipt struct {
	Complete     bool  `json:"complete"` // every live replica has acknowledged
	Milliseconds int64 `json:"milliseconds"`
	Replicas     []Ack `json:"replicas"`
	// Silent counts replicas that have not been heard of for a few seconds but
	// may still honour cached verdicts within the staleness bound.
	Silent int `json:"silent"`
}

// Await waits until every live replica has applied epoch, or timeout passes, and
// returns the receipt of how far it came. Epoch 0 stands for all that was
// committed so far: what a change that changed nothing has to wait for.
func (f *Follower) Await(ctx context.Context, epoch int64, timeout time.Duration) (Receipt, error) {
	begun := f.opts.Now()
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	if epoch == 0 {
		head, err := f.opts.Log.ChangeHead(ctx)
		if err != nil {
			return Receipt{}, err
		}
		epoch = head
	}
	f.nudge()
	acked := map[string]int64{}
	var receipt Receipt
	for {
		replicas, err := f.opts.Registry.Replicas(ctx, max(liveWithin, f.opts.MaxStaleness))
		if err != nil {
			if receipt.Replicas != nil && ctx.Err() != nil {
				return receipt, nil // out of time between two looks: what is known stands
			}
			return Receipt{}, err
		}
		elapsed := f.opts.Now().Sub(begun)
		receipt = f.receipt(replicas, epoch, acked, elapsed)
		if receipt.Complete {
			return receipt, nil
		}
		select {
		case <-ctx.Done():
			return receipt, nil
		case <-time.After(receiptPoll):
		}
	}
}

func (f *Follower) receipt(replicas []Replica, epoch int64, acked map[string]int64, elapsed time.Duration) Receipt {
	receipt := Receipt{Complete: true, Milliseconds: elapsed.Milliseconds(), Replicas: []Ack{}}
	for _, r := range replicas {
		done := r.Acked >= epoch
		if !done && f.opts.Now().Sub(r.Seen) > liveWithin {
			receipt.Silent++
			continue
		}
		if _, known := acked[r.ID]; done && !known {
			acked[r.ID] = elapsed.Milliseconds()
		}
		receipt.Complete = receipt.Complete && done
		receipt.Replicas = append(receipt.Replicas, Ack{Replica: r.ID, Acknowledged: done, Milliseconds: acked[r.ID]})
	}
	return receipt
}
