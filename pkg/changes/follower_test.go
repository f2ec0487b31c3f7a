package changes_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/keywarden/keywarden/pkg/changes"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var errAway = errors.New("the log is away")

// fakeLog is a log and a registry in memory, with the outages of a real one.
type fakeLog struct {
	mu        sync.Mutex
	events    []changes.Event
	pruned    int64
	away      bool // every call fails
	frozen    bool // every call waits for its context
	deaf      bool // connections for notifications fail
	delay     time.Duration
	dials     []time.Time
	reads     int
	listeners []func()
	cut       chan struct{} // closed to end all connections
	replicas  map[string]changes.Replica
	beats     []time.Time
}

func newFakeLog() *fakeLog {
	return &fakeLog{cut: make(chan struct{}), replicas: map[string]changes.Replica{}}
}

func (l *fakeLog) set(change func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	change()
}

// commit appends events and wakes the listeners, unless the notification is lost.
func (l *fakeLog) commit(notify bool, subjects ...string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, s := range subjects {
		l.events = append(l.events, changes.Event{Epoch: int64(len(l.events) + 1), Kind: changes.KeyChanged, Subject: s})
	}
	for _, wake := range l.listeners {
		if notify {
			wake()
		}
	}
}

// call waits or fails as the log is told to.
func (l *fakeLog) call(ctx context.Context) error {
	l.mu.Lock()
	away, frozen, delay := l.away, l.frozen, l.delay
	l.mu.Unlock()
	time.Sleep(delay)
	if frozen {
		<-ctx.Done()
		return ctx.Err()
	}
	if away {
		return errAway
	}
	return ctx.Err()
}

func (l *fakeLog) ChangesSince(ctx context.Context, epoch int64, limit int) ([]changes.Event, bool, error) {
	if err := l.call(ctx); err != nil {
		return nil, false, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.reads++
	if epoch > int64(len(l.events)) {
		return nil, true, nil
	}
	after := l.events[epoch:]
	return slices.Clone(after[:min(limit, len(after))]), epoch < l.pruned, nil
}

func (l *fakeLog) ChangeHead(ctx context.Context) (int64, error) {
	if err := l.call(ctx); err != nil {
		return 0, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return int64(len(l.events)), nil
}

func (l *fakeLog) ListenChanges(ctx context.Context, wake func()) error {
	l.mu.Lock()
	l.dials = append(l.dials, time.Now())
	if l.deaf {
		l.mu.Unlock()
		return errAway
	}
	l.listeners = append(l.listeners, wake)
	cut := l.cut
	l.mu.Unlock()
	wake()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-cut:
		return errAway
	}
}

// disconnect ends all connections for notifications.
func (l *fakeLog) disconnect() {
	l.mu.Lock()
	defer l.mu.Unlock()
	close(l.cut)
	l.cut, l.listeners = make(chan struct{}), nil
}

func (l *fakeLog) Beat(ctx context.Context, id string, acked int64) error {
	if err := l.call(ctx); err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.replicas[id] = changes.Replica{ID: id, Acked: acked, Seen: time.Now()}
	l.beats = append(l.beats, time.Now())
	return nil
}

func (l *fakeLog) Leave(ctx context.Context, id string) error {
	if err := l.call(ctx); err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.replicas, id)
	return nil
}

func (l *fakeLog) Replicas(ctx context.Context, within time.Duration) (found []changes.Replica, err error) {
	if err := l.call(ctx); err != nil {
		return nil, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, r := range l.replicas {
		if time.Since(r.Seen) < within {
			found = append(found, r)
		}
	}
	return found, nil
}

// counts is how often the log was read, and when it was beaten and dialled.
func (l *fakeLog) counts() (reads int, beats, dials []time.Time) {
	synctest.Wait()
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.reads, slices.Clone(l.beats), slices.Clone(l.dials)
}

// replica is what the registry knows.
func (l *fakeLog) replica(id string) (r changes.Replica, known bool) {
	synctest.Wait()
	l.mu.Lock()
	defer l.mu.Unlock()
	r, known = l.replicas[id]
	return r, known
}

const (
	poll      = 500 * time.Millisecond
	staleness = time.Minute
	self      = "self"
)

// replica is a follower under test with what its subscriber saw.
type replica struct {
	*changes.Follower
	log     *fakeLog
	written *buffer // its log lines
	cancel  context.CancelFunc
	ended   chan error

	mu       sync.Mutex
	subjects []string
	resets   int
}

func newReplica(log *fakeLog, pollInterval time.Duration) *replica {
	r := &replica{log: log, written: &buffer{}, ended: make(chan error, 1)}
	r.Follower = changes.NewFollower(changes.Options{
		Log: log, Registry: log, ReplicaID: self, PollInterval: pollInterval, MaxStaleness: staleness,
		Logger: slog.New(slog.NewTextHandler(r.written, nil)), Now: time.Now,
	})
	r.Subscribe(func(e changes.Event) {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.subjects = append(r.subjects, e.Subject)
	}, func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.resets++
	})
	return r
}

// start runs the follower until [replica.stop].
func (r *replica) start(t *testing.T) {
	t.Helper()
	if err := r.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if n := r.resetCount(); n != 1 {
		t.Errorf("%d resets at the start: a program may have cached something before", n)
	}
	r.resets = 0
	var ctx context.Context
	ctx, r.cancel = context.WithCancel(t.Context())
	go func() { r.ended <- r.Run(ctx) }()
	synctest.Wait()
}

func (r *replica) stop(t *testing.T) {
	t.Helper()
	r.cancel()
	if err := <-r.ended; err != nil {
		t.Error(err)
	}
}

// seen is what was applied so far, and forgets it.
func (r *replica) seen() []string {
	synctest.Wait()
	r.mu.Lock()
	defer r.mu.Unlock()
	seen := r.subjects
	r.subjects = nil
	return seen
}

func (r *replica) wants(t *testing.T, what string, want ...string) {
	t.Helper()
	if got := r.seen(); !slices.Equal(got, want) {
		t.Errorf("%s: applied %q, want %q", what, got, want)
	}
}

// resetCount is how often everything was dropped.
func (r *replica) resetCount() int {
	synctest.Wait()
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.resets
}

// buffer is a bytes.Buffer for several goroutines.
type buffer struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}

// running is a test in a bubble, with a log and a follower that runs.
func running(t *testing.T, pollInterval time.Duration, test func(t *testing.T, log *fakeLog, r *replica)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		log := newFakeLog()
		r := newReplica(log, pollInterval)
		r.start(t)
		test(t, log, r)
		r.stop(t)
	})
}

// never is a poll interval that no test lives through.
const never = 1000 * time.Hour

func TestNotificationIsFollowedAtOnce(t *testing.T) {
	running(t, never, func(t *testing.T, log *fakeLog, r *replica) {
		log.commit(true, "a")
		r.wants(t, "one", "a")
		log.commit(true, "b", "c")
		log.commit(true, "d")
		r.wants(t, "several", "b", "c", "d")
	})
}

// The delay of a change is its age when it was read, and the time that applying it took.
func TestDelayOfChangesIsTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := &aged{fakeLog: newFakeLog(), age: 40 * time.Millisecond}
		var delays []time.Duration
		f := changes.NewFollower(changes.Options{
			Log: log, Registry: log, ReplicaID: self, PollInterval: poll, MaxStaleness: staleness, Logger: slog.New(slog.DiscardHandler), Now: time.Now,
			Applied: func(kind changes.Kind, delay time.Duration) {
				if kind != changes.KeyChanged {
					t.Errorf("kind %s", kind)
				}
				delays = append(delays, delay)
			},
		})
		f.Subscribe(func(changes.Event) { time.Sleep(5 * time.Millisecond) }, func() {})
		if err := f.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- f.Run(ctx) }()
		synctest.Wait()
		f.Apply(changes.Event{Kind: changes.UserChanged, Subject: "made here"})
		log.commit(true, "a", "b")
		time.Sleep(poll)
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		if want := []time.Duration{45 * time.Millisecond, 50 * time.Millisecond}; !slices.Equal(delays, want) {
			t.Errorf("delays %v, want %v", delays, want)
		}
	})
}

// aged is a log that tells the age of its events.
type aged struct {
	*fakeLog
	age time.Duration
}

func (l *aged) ChangesSince(ctx context.Context, epoch int64, limit int) ([]changes.Event, bool, error) {
	events, gap, err := l.fakeLog.ChangesSince(ctx, epoch, limit)
	for i := range events {
		events[i].Age = l.age
	}
	return events, gap, err
}

func TestMissedNotificationIsFoundWithinOnePoll(t *testing.T) {
	running(t, poll, func(t *testing.T, log *fakeLog, r *replica) {
		for range 5 {
			time.Sleep(poll / 3)
			log.commit(false, "a")
			time.Sleep(poll)
			r.wants(t, "after one interval", "a")
		}
	})
}

func TestOnlyNewEventsAreApplied(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := newFakeLog()
		log.commit(false, "before the start")
		r := newReplica(log, poll)
		r.start(t)
		time.Sleep(3 * poll)
		r.wants(t, "of the past")
		log.commit(true, "new")
		time.Sleep(3 * poll)
		r.wants(t, "of the present, once", "new")
		r.stop(t)
	})
}

func TestManyEventsAreAppliedInOrder(t *testing.T) {
	running(t, never, func(t *testing.T, log *fakeLog, r *replica) {
		want := make([]string, 1700) // more than are read at a time
		for i := range want {
			want[i] = fmt.Sprint(i)
		}
		log.commit(true, want...)
		if diff := cmp.Diff(want, r.seen()); diff != "" {
			t.Error(diff)
		}
		if me, _ := log.replica(self); me.Acked != int64(len(want)) {
			t.Errorf("acknowledged %d", me.Acked)
		}
	})
}

func TestLocalChangeHoldsAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newReplica(newFakeLog(), poll) // does not even run
		r.Apply(changes.Event{Kind: changes.KeyChanged, Subject: "mine"})
		if !slices.Equal(r.subjects, []string{"mine"}) {
			t.Errorf("%q when Apply has returned", r.subjects)
		}
	})
}

func TestVerdictsGoStaleWithoutTheLogAndFreshWithIt(t *testing.T) {
	for name, outage := range map[string]func(l *fakeLog, on bool){
		"failing": func(l *fakeLog, on bool) { l.set(func() { l.away = on }) },
		"frozen":  func(l *fakeLog, on bool) { l.set(func() { l.frozen = on }) },
	} {
		t.Run(name, func(t *testing.T) {
			running(t, poll, func(t *testing.T, log *fakeLog, r *replica) {
				time.Sleep(10 * staleness)
				synctest.Wait()
				if !r.Fresh(time.Now()) || r.Lag() > poll {
					t.Errorf("not fresh while the log is read; lag %v", r.Lag())
				}
				outage(log, true)
				begun := time.Now()
				time.Sleep(staleness - poll)
				synctest.Wait()
				if !r.Fresh(time.Now()) {
					t.Errorf("not fresh within the bound, after %v", time.Since(begun))
				}
				time.Sleep(poll + time.Nanosecond)
				synctest.Wait()
				if r.Fresh(time.Now()) {
					t.Errorf("fresh beyond the bound, after %v; lag %v", time.Since(begun), r.Lag())
				}
				time.Sleep(time.Hour)
				log.commit(false, "while away")
				r.wants(t, "while away")
				outage(log, false)
				time.Sleep(3 * time.Second) // a call that waits for a frozen server ends, and a poll comes
				r.wants(t, "back again", "while away")
				if !r.Fresh(time.Now()) {
					t.Errorf("not fresh again; lag %v", r.Lag())
				}
			})
		})
	}
}

func TestFreshnessCountsFromBeforeTheRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := newFakeLog()
		log.delay = 200 * time.Millisecond
		r := newReplica(log, poll)
		if r.Fresh(time.Now()) {
			t.Error("fresh before the start")
		}
		begun := time.Now()
		bound := func(what string) {
			for at, want := range map[time.Time]bool{
				begun: true, begun.Add(staleness): true, begun.Add(staleness + 1): false,
			} {
				if r.Fresh(at) != want {
					t.Errorf("%s: %v after the call: fresh %v", what, at.Sub(begun), !want)
				}
			}
		}
		if err := r.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		bound("start")
		ctx, cancel := context.WithCancel(t.Context())
		log.set(func() { log.deaf = true })
		go func() { r.ended <- r.Run(ctx) }()
		begun = time.Now().Add(poll)
		time.Sleep(poll + log.delay)
		synctest.Wait()
		bound("poll")
		cancel()
		<-r.ended
	})
}

func TestStartFailsWithoutTheLog(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := newFakeLog()
		log.away = true
		r := newReplica(log, poll)
		if err := r.Start(t.Context()); !errors.Is(err, errAway) {
			t.Errorf("error %v", err)
		}
		log.away, log.frozen = false, true
		if err := r.Start(t.Context()); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("error %v", err)
		}
	})
}

func TestGapDropsEverything(t *testing.T) {
	for name, tear := range map[string]func(l *fakeLog){
		"pruned":   func(l *fakeLog) { l.pruned = int64(len(l.events)) - 1 },
		"set back": func(l *fakeLog) { l.events = l.events[:2] },
	} {
		t.Run(name, func(t *testing.T) {
			running(t, poll, func(t *testing.T, log *fakeLog, r *replica) {
				log.commit(true, "a", "b", "c", "d")
				r.wants(t, "before", "a", "b", "c", "d")
				if r.resetCount() != 0 {
					t.Fatal("reset without a gap")
				}
				log.set(func() { log.away = true })
				log.commit(false, "e", "f", "g")
				log.set(func() { tear(log); log.away = false })
				time.Sleep(poll)
				r.wants(t, "over the gap")
				if n := r.resetCount(); n != 1 || !strings.Contains(r.written.String(), "every cached verdict is dropped") {
					t.Errorf("%d resets, log: %s", n, r.written)
				}
				log.commit(true, "after")
				r.wants(t, "after the gap", "after")
				time.Sleep(time.Minute)
				if n := r.resetCount(); n != 1 {
					t.Errorf("%d resets of one gap", n)
				}
			})
		})
	}
}

func TestHeartbeatSaysHowFarTheReplicaCame(t *testing.T) {
	running(t, poll, func(t *testing.T, log *fakeLog, r *replica) {
		log.commit(true, "a", "b")
		if me, _ := log.replica(self); me.Acked != 2 {
			t.Errorf("acknowledged %d at once", me.Acked)
		}
		_, before, _ := log.counts()
		time.Sleep(time.Minute)
		_, beats, _ := log.counts()
		beats = beats[len(before):]
		if len(beats) < 20 || len(beats) > 31 {
			t.Errorf("%d heartbeats in a quiet minute", len(beats))
		}
		for i := 1; i < len(beats); i++ {
			if gap := beats[i].Sub(beats[i-1]); gap > 2*time.Second+poll {
				t.Errorf("%v between heartbeats", gap)
			}
		}
	})
}

func TestReplicaSignsOff(t *testing.T) {
	running(t, poll, func(t *testing.T, log *fakeLog, r *replica) {
		if _, known := log.replica(self); !known {
			t.Error("not signed on")
		}
		r.stop(t)
		if _, known := log.replica(self); known {
			t.Error("not signed off")
		}
		r.start(t)
	})
	// Signing off must not keep the process from ending.
	running(t, poll, func(_ *testing.T, log *fakeLog, _ *replica) { log.set(func() { log.frozen = true }) })
}

func TestOutageIsLoggedOnce(t *testing.T) {
	running(t, poll, func(t *testing.T, log *fakeLog, r *replica) {
		for range 2 {
			log.set(func() { log.away = true })
			time.Sleep(10 * time.Minute)
			log.set(func() { log.away = false })
			time.Sleep(10 * time.Minute)
		}
		synctest.Wait()
		text := r.written.String()
		if begun, over := strings.Count(text, "cannot be read"), strings.Count(text, "is read again"); begun != 2 || over != 2 {
			t.Errorf("%d beginnings and %d ends of two outages in the log:\n%s", begun, over, text)
		}
	})
}

func TestLostConnectionIsMadeAgainWithPauses(t *testing.T) {
	running(t, never, func(t *testing.T, log *fakeLog, r *replica) {
		log.set(func() { log.deaf = true })
		log.disconnect()
		time.Sleep(time.Hour)
		_, _, dials := log.counts()
		dials = dials[1:]
		// 250 ms, doubled to 5 s, each from half to one and a half of it.
		if n := time.Hour / time.Duration(len(dials)); n < 2500*time.Millisecond || n > 7500*time.Millisecond {
			t.Errorf("%d attempts in an hour", len(dials))
		}
		for i := 1; i < len(dials); i++ {
			if pause := dials[i].Sub(dials[i-1]); pause < 125*time.Millisecond || pause > 7500*time.Millisecond {
				t.Errorf("attempt %d comes after %v", i, pause)
			}
		}
		log.commit(true, "unheard")
		r.wants(t, "deaf")
		log.set(func() { log.deaf = false })
		time.Sleep(8 * time.Second)
		r.wants(t, "what happened meanwhile", "unheard")

		time.Sleep(time.Minute) // a good connection makes the next pause short again
		log.disconnect()
		log.commit(true, "between")
		time.Sleep(375 * time.Millisecond)
		r.wants(t, "after a short pause", "between")
	})
}

func TestNudgesCoalesce(t *testing.T) {
	running(t, never, func(t *testing.T, log *fakeLog, r *replica) {
		log.set(func() { log.frozen = true })
		log.commit(true, "a")
		synctest.Wait() // one read waits for the frozen server
		for range 1000 {
			log.commit(true)
		}
		before, _, _ := log.counts()
		log.set(func() { log.frozen = false })
		time.Sleep(time.Minute)
		r.wants(t, "late", "a")
		if after, _, _ := log.counts(); after-before > 2 {
			t.Errorf("%d reads for notifications that came during one", after-before)
		}
	})
}

func TestReceiptIsCompleteWhenEveryLiveReplicaHasAcknowledged(t *testing.T) {
	running(t, poll, func(t *testing.T, log *fakeLog, r *replica) {
		log.commit(false, "a") // no notification: a receipt does not wait for the next poll of its own replica
		if err := log.Beat(t.Context(), "other", 0); err != nil {
			t.Fatal(err)
		}
		go func() {
			time.Sleep(300 * time.Millisecond)
			_ = log.Beat(t.Context(), "other", 1)
		}()
		receipt, err := r.Await(t.Context(), 1, 5*time.Second)
		if err != nil || !receipt.Complete || receipt.Silent != 0 || len(receipt.Replicas) != 2 {
			t.Fatalf("%+v, %v", receipt, err)
		}
		for _, ack := range receipt.Replicas {
			want := int64(300)
			if ack.Replica == self {
				want = 0
			}
			if !ack.Acknowledged || ack.Milliseconds < want || ack.Milliseconds > want+20 {
				t.Errorf("%+v", ack)
			}
		}
		if ms := receipt.Milliseconds; ms < 300 || ms > 320 {
			t.Errorf("complete after %d ms", ms)
		}
	})
}

func TestReceiptTimesOutWithWhatIsKnown(t *testing.T) {
	running(t, poll, func(t *testing.T, log *fakeLog, r *replica) {
		log.commit(true, "a")
		if err := log.Beat(t.Context(), "stuck", 0); err != nil {
			t.Fatal(err)
		}
		begun := time.Now()
		receipt, err := r.Await(t.Context(), 1, time.Second)
		if err != nil || receipt.Complete || time.Since(begun) != time.Second {
			t.Errorf("%+v, %v after %v", receipt, err, time.Since(begun))
		}
		want := map[string]bool{self: true, "stuck": false}
		got := map[string]bool{}
		for _, ack := range receipt.Replicas {
			got[ack.Replica] = ack.Acknowledged
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Error(diff)
		}
	})
}

func TestReceiptCountsSilentReplicas(t *testing.T) {
	running(t, poll, func(t *testing.T, log *fakeLog, r *replica) {
		if err := log.Beat(t.Context(), "silent", 0); err != nil {
			t.Fatal(err)
		}
		time.Sleep(7 * time.Second)
		log.commit(true, "a")
		receipt, err := r.Await(t.Context(), 1, time.Second)
		if err != nil || !receipt.Complete || receipt.Silent != 1 || len(receipt.Replicas) != 1 {
			t.Errorf("%+v, %v", receipt, err)
		}
		time.Sleep(staleness) // beyond it, its verdicts hold no longer
		if receipt, err = r.Await(t.Context(), 1, time.Second); err != nil || !receipt.Complete || receipt.Silent != 0 {
			t.Errorf("%+v, %v", receipt, err)
		}
	})
}

func TestReceiptOfEpochZeroWaitsForAllThereIs(t *testing.T) {
	running(t, poll, func(t *testing.T, log *fakeLog, r *replica) {
		log.commit(true, "revoked a moment ago")
		if err := log.Beat(t.Context(), "stuck", 0); err != nil {
			t.Fatal(err)
		}
		if receipt, err := r.Await(t.Context(), 0, time.Second); err != nil || receipt.Complete {
			t.Errorf("%+v, %v", receipt, err)
		}
	})
}

func TestReceiptNeedsTheRegistry(t *testing.T) {
	running(t, poll, func(t *testing.T, log *fakeLog, r *replica) {
		log.set(func() { log.away = true })
		for _, epoch := range []int64{0, 1} {
			if receipt, err := r.Await(t.Context(), epoch, time.Second); !errors.Is(err, errAway) {
				t.Errorf("%+v, %v", receipt, err)
			}
		}
		log.set(func() { log.away = false })
		log.commit(true, "a")
		_ = log.Beat(t.Context(), "stuck", 0)
		go func() {
			time.Sleep(100 * time.Millisecond)
			log.set(func() { log.frozen = true })
		}()
		receipt, err := r.Await(t.Context(), 1, time.Second)
		if err != nil || receipt.Complete || len(receipt.Replicas) != 2 {
			t.Errorf("what was known is lost: %+v, %v", receipt, err)
		}
		log.set(func() { log.frozen = false })
	})
}

func TestFollowerIsSafeForConcurrentUse(t *testing.T) {
	running(t, time.Millisecond, func(t *testing.T, log *fakeLog, r *replica) {
		var group sync.WaitGroup
		for i := range 8 {
			group.Go(func() {
				for j := range 50 {
					log.commit(j%2 == 0, fmt.Sprint(i, j))
					r.Apply(changes.Event{Kind: changes.UserChanged, Subject: "local"})
					_, _, _ = r.Fresh(time.Now()), r.Lag(), j
					if _, err := r.Await(t.Context(), int64(j), 10*time.Millisecond); err != nil {
						t.Error(err)
					}
				}
			})
		}
		group.Wait()
		time.Sleep(time.Second)
		if n := len(slices.DeleteFunc(r.seen(), func(s string) bool { return s == "local" })); n != 400 {
			t.Errorf("%d events of 400", n)
		}
	})
}
