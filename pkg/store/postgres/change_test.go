package postgres

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/keywarden/keywarden/pkg/access"
	"github.com/keywarden/keywarden/pkg/changes"
)

func TestReaderMissesNoEventOfAStorm(t *testing.T) {
	w := newWorld(t)
	const writers, each = 8, 40
	w.user(access.RoleUser)
	from, err := w.ChangeHead(t.Context())
	w.must(err)
	var want []changes.Event
	var mu sync.Mutex
	written := make(chan struct{})
	go func() {
		defer close(written)
		for _, err := range together(times(writers, func(i int) error {
			for j := range each {
				u := newUser(access.RoleUser)
				if err := w.InsertUser(t.Context(), u, "hash", noted("test", u.ID)); err != nil {
					return err
				}
				subject := fmt.Sprint(i, "/", j)
				epoch, err := w.Change(t.Context(), noted("test", subject), nil)
				if err != nil {
					return err
				}
				mu.Lock()
				want = append(want, changes.Event{Epoch: epoch, Kind: changes.UserChanged, Subject: subject})
				mu.Unlock()
			}
			return nil
		})...) {
			if err != nil {
				t.Error(err)
			}
		}
	}()

	read := func(limit int, done func() bool) (all []changes.Event) {
		for last := from; ; {
			finished := done() // before the read, so that the last read is after the last write
			events, gap, err := w.ChangesSince(t.Context(), last, limit)
			if err != nil || gap || len(events) > limit {
				t.Errorf("%d events, gap %v, %v", len(events), gap, err)
				return all
			}
			for _, e := range events {
				if e.Epoch != last+1 {
					t.Errorf("epoch %d after %d", e.Epoch, last)
				}
				last, e.Age = e.Epoch, 0 // it is of the moment of reading
				all = append(all, e)
			}
			if finished && len(events) < limit {
				return all
			}
		}
	}
	writing := func() bool {
		select {
		case <-written:
			return true
		default:
			return false
		}
	}
	got := read(7, writing)
	if again := read(1000, func() bool { return true }); !slices.Equal(got, again) {
		t.Error("a reader during the storm saw something else than one after it")
	}
	slices.SortFunc(want, func(a, b changes.Event) int { return int(a.Epoch - b.Epoch) })
	if len(got) != 2*writers*each {
		t.Errorf("%d events of %d", len(got), 2*writers*each)
	}
	for _, e := range want {
		if got[e.Epoch-from-1] != e {
			t.Errorf("%+v was read as %+v", e, got[e.Epoch-from-1])
		}
	}
}

func TestEventIsVisibleWithWhatItAnnounces(t *testing.T) {
	w := newWorld(t)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for range 60 {
			u := newUser(access.RoleUser)
			if err := w.InsertUser(t.Context(), u, "hash", noted("test", u.ID)); err != nil {
				t.Error(err)
			}
		}
	}()
	for last, running := int64(0), true; running; {
		select {
		case <-done:
			running = false
		default:
		}
		events, _, err := w.ChangesSince(t.Context(), last, 100)
		w.must(err)
		for _, e := range events {
			if _, err := w.User(t.Context(), e.Subject); err != nil {
				t.Errorf("epoch %d: %v", e.Epoch, err)
			}
			last = e.Epoch
		}
	}
}

func TestGapIsSeenByThoseWhoMissedSomething(t *testing.T) {
	w := newWorld(t)
	for range 4 {
		w.user(access.RoleUser)
	}
	gap := func(epoch int64) bool {
		events, gap, err := w.ChangesSince(t.Context(), epoch, 10)
		w.must(err)
		if gap {
			return true
		}
		if int64(len(events)) != 4-epoch {
			t.Errorf("%d events after %d", len(events), epoch)
		}
		return false
	}
	w.exec(`UPDATE change_log SET at = at - interval '2 hours' WHERE epoch <= 2`)
	w.must(w.Sweep(t.Context(), now()))
	if n := w.number(`SELECT pruned FROM ledger`); n != 2 {
		t.Errorf("pruned through %d", n)
	}
	for epoch, want := range map[int64]bool{
		0: true, 1: true, // events 1 and 2 are gone
		2: false, 3: false, 4: false,
		5: true, // the log was set back by a restore
	} {
		if got := gap(epoch); got != want {
			t.Errorf("gap after epoch %d: %v", epoch, got)
		}
	}
	w.exec(`UPDATE change_log SET at = at - interval '2 hours'`)
	w.must(w.Sweep(t.Context(), now()))
	w.must(w.Sweep(t.Context(), now()))
	if gap(3) != true || gap(4) != false {
		t.Error("of an empty log only its end is no gap")
	}
	if head, err := w.ChangeHead(t.Context()); head != 4 || err != nil {
		t.Errorf("head %d, %v", head, err)
	}
}

// follow runs a follower of the store and returns it with what it applies.
func (w *world) follow(poll time.Duration) (f *changes.Follower, applied chan changes.Event, reset chan struct{}) {
	w.t.Helper()
	f = changes.NewFollower(changes.Options{
		Log: w.Store, Registry: w.Store, ReplicaID: newID(), PollInterval: poll, MaxStaleness: time.Hour,
		Logger: slog.New(slog.DiscardHandler), Now: time.Now,
	})
	applied, reset = make(chan changes.Event, 1000), make(chan struct{}, 10)
	f.Subscribe(func(e changes.Event) { applied <- e }, func() { reset <- struct{}{} })
	w.must(f.Start(w.t.Context()))
	<-reset // what was cached before
	ctx, cancel := context.WithCancel(w.t.Context())
	stopped := make(chan error)
	go func() { stopped <- f.Run(ctx) }()
	w.t.Cleanup(func() {
		cancel()
		if err := <-stopped; err != nil {
			w.t.Error(err)
		}
	})
	return f, applied, reset
}

// await is the next that arrives.
func await[T any](t *testing.T, c <-chan T) (v T) {
	t.Helper()
	select {
	case v = <-c:
	case <-time.After(patience):
		t.Fatal("nothing arrives")
	}
	return v
}

// never is a poll interval that no test lives through.
const never = time.Hour

func (w *world) listeners() int64 {
	return w.number(`SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND query = 'LISTEN ` + channel + `'`)
}

func TestNotificationWakesTheFollower(t *testing.T) {
	w := newWorld(t)
	_, applied, _ := w.follow(never)
	eventually(t, "the follower listens", func() bool { return w.listeners() == 1 })
	for i := range 3 {
		u := w.user(access.RoleUser)
		if e := await(t, applied); e.Subject != u.ID || e.Epoch != int64(i+1) {
			t.Errorf("%+v", e)
		}
	}
}

func TestFollowerSurvivesTheEndOfItsConnection(t *testing.T) {
	w := newWorld(t)
	_, applied, reset := w.follow(never)
	for range 2 {
		eventually(t, "the follower listens", func() bool { return w.listeners() == 1 })
		w.exec(`SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query = 'LISTEN ` + channel + `' AND datname = current_database()`)
		u := w.user(access.RoleUser) // while nobody listens
		if e := await(t, applied); e.Subject != u.ID {
			t.Errorf("%+v", e)
		}
	}
	if len(reset) > 0 {
		t.Error("nothing was missed")
	}
}

func TestListeningEndsWithItsConnection(t *testing.T) {
	w := newWorld(t)
	woken, ended := make(chan struct{}, 10), make(chan error)
	go func() { ended <- w.ListenChanges(t.Context(), func() { woken <- struct{}{} }) }()
	await(t, woken) // listening has begun
	w.exec(`SELECT pg_notify('another_channel', '')`)
	w.user(access.RoleUser)
	await(t, woken)
	w.must(w.RecordAudit(t.Context(), noted("test", "").Audit)) // no event, no notification
	w.exec(`SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query = 'LISTEN ` + channel + `' AND datname = current_database()`)
	check(t, "ListenChanges", "", await(t, ended), ErrUnavailable)
	if len(woken) > 0 {
		t.Error("woken without an event")
	}
}

func TestListeningEndsWithItsContext(t *testing.T) {
	w := newWorld(t)
	ctx, cancel := context.WithCancel(t.Context())
	if err := w.ListenChanges(ctx, cancel); err == nil {
		t.Error("no error")
	}
	eventually(t, "the connection is closed", func() bool { return w.listeners() == 0 })
}

func TestFollowerRestartsAfterAGap(t *testing.T) {
	for name, tear := range map[string]string{
		"pruned":   `UPDATE ledger SET pruned = epoch`,
		"restored": `UPDATE ledger SET epoch = 1`,
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.user(access.RoleUser)
			w.user(access.RoleUser)
			f, applied, reset := w.follow(10 * time.Millisecond)
			eventually(t, "the follower listens", func() bool { return w.listeners() == 1 })
			// What happens is unseen: the events and the log change in one transaction.
			tx, err := w.pool.Begin(t.Context())
			w.must(err)
			for _, sql := range []string{
				`UPDATE ledger SET epoch = epoch + 5`, tear, `DELETE FROM change_log WHERE epoch > (SELECT epoch FROM ledger)`,
			} {
				_, err = tx.Exec(t.Context(), sql)
				w.must(err)
			}
			w.must(tx.Commit(t.Context()))
			await(t, reset)
			head, err := w.ChangeHead(t.Context())
			w.must(err)
			receipt, err := f.Await(t.Context(), 0, patience)
			if err != nil || !receipt.Complete || len(receipt.Replicas) != 1 {
				t.Errorf("%+v, %v", receipt, err)
			}
			u := w.user(access.RoleUser)
			if e := await(t, applied); e.Subject != u.ID || e.Epoch != head+1 {
				t.Errorf("%+v after %d", e, head)
			}
			if len(reset) > 0 {
				t.Error("reset again")
			}
		})
	}
}

func TestReceiptNamesEveryReplica(t *testing.T) {
	w := newWorld(t)
	one, _, _ := w.follow(never)
	_, _, _ = w.follow(never)
	k, _ := w.key(w.user(access.RoleUser))
	epoch, err := w.RevokeKey(t.Context(), k.ID, now(), noted("test", k.PublicID))
	w.must(err)
	receipt, err := one.Await(t.Context(), epoch, patience)
	if err != nil || !receipt.Complete || len(receipt.Replicas) != 2 || receipt.Silent != 0 {
		t.Errorf("%+v, %v", receipt, err)
	}
}

func TestReplicasAreThoseThatWereHeardOf(t *testing.T) {
	w := newWorld(t)
	ctx := t.Context()
	w.must(w.Beat(ctx, "a", 1))
	w.must(w.Beat(ctx, "b", 2))
	w.must(w.Beat(ctx, "a", 3))
	w.must(w.Beat(ctx, "gone", 9))
	w.must(w.Leave(ctx, "gone"))
	w.must(w.Leave(ctx, "unknown"))
	w.must(w.Beat(ctx, "old", 4))
	w.exec(`UPDATE replicas SET seen = now() - interval '1 hour' WHERE id = 'old'`)
	found, err := w.Replicas(ctx, 10*time.Minute)
	w.must(err)
	acked := map[string]int64{}
	for _, r := range found {
		acked[r.ID] = r.Acked
		if age := time.Since(r.Seen); age < 0 || age > patience {
			t.Errorf("%s was seen %v ago", r.ID, age)
		}
	}
	if diff := cmp.Diff(map[string]int64{"a": 3, "b": 2}, acked); diff != "" {
		t.Error(diff)
	}
	if found, err = w.Replicas(ctx, 2*time.Hour); len(found) != 3 || err != nil {
		t.Errorf("%v, %v", found, err)
	}
}
