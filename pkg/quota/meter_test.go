package quota_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/keywarden/keywarden/pkg/changes"
	"github.com/keywarden/keywarden/pkg/quota"
	"github.com/keywarden/keywarden/pkg/quota/quotatest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// world is a ledger and a clock that only the test moves.
type world struct {
	t      testing.TB
	now    time.Time
	ledger *quotatest.Memory
}

func newWorld(t testing.TB) *world {
	w := &world{t: t, now: time.Date(2026, 5, 4, 10, 0, 0, 0, time.UTC)}
	w.ledger = quotatest.NewMemory(func() time.Time { return w.now })
	return w
}

// replica is what one replica has leased.
func (w *world) replica(subjects int) *quota.Meters {
	w.t.Helper()
	ms, err := quota.NewMeters(quota.Options{
		Ledger: w.ledger, Subjects: subjects, Timeout: time.Second, Replicas: func() int { return 4 },
		Logger: slog.New(slog.DiscardHandler), Now: func() time.Time { return w.now },
	})
	if err != nil {
		w.t.Fatal(err)
	}
	return ms
}

func (w *world) meter(ms *quota.Meters, limit int64) *quota.Meter {
	w.t.Helper()
	m, err := ms.Meter(quota.Quota{Name: "daily", Limit: limit, Period: quota.Period{Unit: quota.Day}}, "route", "key")
	if err != nil {
		w.t.Fatal(err)
	}
	return m
}

// account is what the ledger has of the subject.
func (w *world) account(subject string) quota.Account {
	w.t.Helper()
	id := quota.Identity{Quota: "daily", Scope: "route", Period: "day UTC", Kind: "key", Subject: subject}.ID()
	a, err := w.ledger.QuotaAccount(w.t.Context(), id)
	if err != nil {
		w.t.Fatal(err)
	}
	return a
}

func (w *world) take(m *quota.Meter, subject string, cost int64) (quota.Reservation, quota.Decision) {
	w.t.Helper()
	r, d, err := m.Reserve(w.t.Context(), subject, cost)
	if err != nil {
		w.t.Fatal(err)
	}
	return r, d
}

func TestLedgerInMemoryKeepsItsPromises(t *testing.T) {
	quotatest.Conformance(t, quotatest.NewMemory(time.Now))
}

func TestExactlyTheLimitPasses(t *testing.T) {
	w := newWorld(t)
	m := w.meter(w.replica(100), 1000)
	for i := range int64(1000) {
		if _, d := w.take(m, "key", 1); !d.Allowed || d.Remaining != 999-i || d.Limit != 1000 {
			t.Fatalf("request %d: %+v", i, d)
		}
	}
	_, d := w.take(m, "key", 1)
	if d.Allowed || d.Remaining != 0 || d.Reset != 14*time.Hour || d.TooCostly {
		t.Errorf("over the limit: %+v", d)
	}
	if _, d := w.take(m, "other", 1); !d.Allowed {
		t.Error("another subject is refused")
	}
	if _, d := w.take(m, "other", 1001); d.Allowed || !d.TooCostly {
		t.Errorf("more than the limit: %+v", d)
	}
	w.now = w.now.Add(14 * time.Hour)
	if _, d := w.take(m, "key", 1); !d.Allowed || d.Remaining != 999 {
		t.Errorf("the next day: %+v", d)
	}
}

func TestDecisionsAreCounted(t *testing.T) {
	w := newWorld(t)
	ms := w.replica(1000)
	m := w.meter(ms, 2)
	for range 5 {
		w.take(m, "a", 1)
	}
	w.ledger.Down = true
	for range 4 {
		if _, _, err := m.Reserve(t.Context(), "b", 1); !errors.Is(err, quota.ErrUnavailable) {
			t.Errorf("without the ledger: %v", err)
		}
	}
	s := ms.Stats()
	if s.Granted != 2 || s.Refused != 3 || s.Unknown != 4 || s.Failed != 1 {
		t.Errorf("%d granted, %d refused, %d unknown, %d calls failed", s.Granted, s.Refused, s.Unknown, s.Failed)
	}
}

func TestAWarmDecisionAsksNobody(t *testing.T) {
	w := newWorld(t)
	m := w.meter(w.replica(100), 1_000_000)
	for range 100_000 {
		if _, d := w.take(m, "key", 1); !d.Allowed {
			t.Fatal("refused")
		}
	}
	if asked := w.ledger.Asked(); asked > 40 {
		t.Errorf("the ledger was asked %d times for 100000 requests", asked)
	}
}

func TestAFloodOfRefusalsAsksSeldom(t *testing.T) {
	w := newWorld(t)
	m := w.meter(w.replica(100), 10)
	for range 10_000 {
		w.take(m, "key", 1)
	}
	if asked := w.ledger.Asked(); asked > 12 {
		t.Errorf("the ledger was asked %d times", asked)
	}
}

func TestWhatDidNotReachTheServiceIsGivenBack(t *testing.T) {
	w := newWorld(t)
	ms := w.replica(100)
	m := w.meter(ms, 10)
	for range 100 {
		r, d := w.take(m, "key", 4)
		if !d.Allowed {
			t.Fatal("refused")
		}
		r.Cancel(t.Context())
		r.Cancel(t.Context()) // only the first counts
	}
	r, _ := w.take(m, "key", 8)
	r.Settle(t.Context(), 3)
	if _, d := w.take(m, "key", 7); !d.Allowed || d.Remaining != 0 {
		t.Errorf("after a request of 3: %+v", d)
	}
	ms.Close(t.Context())
	if a := w.account("key"); a.Used != 10 {
		t.Errorf("used %d", a.Used)
	}
}

func TestMoreThanReservedIsBookedToTheLimitAndNotBeyond(t *testing.T) {
	w := newWorld(t)
	m := w.meter(w.replica(100), 10)
	r, _ := w.take(m, "key", 1)
	r.Settle(t.Context(), 6)
	if a := w.account("key"); a.Used != 6 {
		t.Errorf("used %d, want 6", a.Used)
	}
	r, d := w.take(m, "key", 1)
	if !d.Allowed {
		t.Fatal("refused")
	}
	r.Settle(t.Context(), 1_000_000_000_000_000)
	if a := w.account("key"); a.Used != 10 {
		t.Errorf("used %d, want 10", a.Used)
	}
	if _, d := w.take(m, "key", 1); d.Allowed {
		t.Error("more than the limit passes")
	}
}

func TestASilentReplicaGivesBackWhatItHolds(t *testing.T) {
	w := newWorld(t)
	ms := w.replica(100)
	m := w.meter(ms, 1000)
	for range 20 {
		w.take(m, "key", 1)
	}
	if a := w.account("key"); a.Used <= 20 {
		t.Fatalf("used %d: nothing is leased", a.Used)
	}
	w.now = w.now.Add(11 * time.Second)
	ms.Tidy(t.Context())
	if a := w.account("key"); a.Used != 20 {
		t.Errorf("used %d, want 20", a.Used)
	}
	if s := ms.Stats(); s.Subjects != 0 || s.Leased != 0 || s.Lost != 0 {
		t.Errorf("it still holds %+v", s)
	}
}

func TestADyingReplicaGivesBackWhatItHolds(t *testing.T) {
	w := newWorld(t)
	ms := w.replica(100)
	m := w.meter(ms, 10_000)
	for i := range 600 {
		for range 5 {
			w.take(m, fmt.Sprint("key ", i), 1)
		}
	}
	ms.Close(t.Context())
	for i := range 600 {
		if a := w.account(fmt.Sprint("key ", i)); a.Used != 5 {
			t.Fatalf("key %d: used %d, want 5", i, a.Used)
		}
	}
	if _, d := w.take(m, "key 1", 1); !d.Allowed || w.account("key 1").Used != 6 {
		t.Error("a late request is not booked by itself")
	}
}

func TestRunEndsAndReturns(t *testing.T) {
	w := newWorld(t)
	ms := w.replica(64)
	m := w.meter(ms, 100)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- ms.Run(ctx) }()
	held := make([]quota.Reservation, 0, 50)
	for range 50 {
		r, _ := w.take(m, "key", 1)
		held = append(held, r)
	}
	for i := range held {
		held[i].Cancel(t.Context()) // far more than a block
	}
	for deadline := time.Now().Add(time.Minute); w.account("key").Used > 3; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("in vain: units beyond a block are returned")
		}
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestKilledReplicaLosesAtMostABlock(t *testing.T) {
	w := newWorld(t)
	const limit = 4000
	m := w.meter(w.replica(100), limit)
	passed := 0
	for range 3000 {
		if _, d := w.take(m, "key", 1); d.Allowed {
			passed++
		}
		if lost := w.account("key").Used - int64(passed); lost > limit/40 {
			t.Fatalf("%d units would be lost, more than a fortieth of %d", lost, limit)
		}
	}
}

func TestRotationKeepsTheAccount(t *testing.T) {
	// A key keeps its id when its secret is rotated, and the id is the subject.
	w := newWorld(t)
	before, after := w.meter(w.replica(100), 10), w.meter(w.replica(100), 10)
	for range 7 {
		w.take(before, "key", 1)
	}
	passed := 0
	for range 10 {
		if _, d := w.take(after, "key", 1); d.Allowed {
			passed++
		}
	}
	if passed != 3 {
		t.Errorf("%d requests pass after the rotation, want 3", passed)
	}
}

func TestWithoutTheLedgerWhatIsLeasedMayBeUsed(t *testing.T) {
	w := newWorld(t)
	m := w.meter(w.replica(100), 10_000)
	for range 50 {
		w.take(m, "key", 1)
	}
	w.ledger.Down = true
	booked := w.account("key").Used
	passed := int64(50)
	for range 1000 {
		if _, _, err := m.Reserve(t.Context(), "key", 1); err == nil {
			passed++
		} else if !errors.Is(err, quota.ErrUnavailable) {
			t.Fatal(err)
		}
	}
	if passed != booked || passed == 50 {
		t.Errorf("%d requests passed, %d were booked", passed, booked)
	}
	if _, _, err := m.Reserve(t.Context(), "stranger", 1); !errors.Is(err, quota.ErrUnavailable) {
		t.Errorf("a subject without a lease: %v", err)
	}
	if asked := w.ledger.Asked(); asked > 15 {
		t.Errorf("a ledger that is down was asked %d times", asked)
	}
	w.ledger.Down = false
	w.now = w.now.Add(time.Second)
	if _, d := w.take(m, "key", 1); !d.Allowed {
		t.Error("refused after the outage")
	}
}

func TestAnOpenQuotaPassesWithoutTheLedgerAndBooksLater(t *testing.T) {
	w := newWorld(t)
	ms := w.replica(100)
	m, err := ms.Meter(quota.Quota{Name: "daily", Limit: 10, Period: quota.Period{Unit: quota.Day}, Open: true}, "route", "key")
	if err != nil {
		t.Fatal(err)
	}
	w.ledger.Down = true
	for i := range 4 {
		r, d := w.take(m, "key", 1)
		if !d.Allowed || !d.Unmetered {
			t.Fatalf("request %d: %+v", i, d)
		}
		if i == 0 {
			r.Cancel(t.Context()) // makes no units of what was never booked
		}
	}
	w.ledger.Down = false
	w.now = w.now.Add(2 * time.Second)
	ms.Tidy(t.Context())
	if a := w.account("key"); a.Used != 3 {
		t.Errorf("used %d, want 3", a.Used)
	}
	if s := ms.Stats(); s.Unmetered != 4 {
		t.Errorf("%+v", s)
	}
}

func TestAResetMakesLeasesVoid(t *testing.T) {
	w := newWorld(t)
	ms := w.replica(100)
	m := w.meter(ms, 1000)
	service := quota.NewService(w.ledger, ms.Apply)
	var r quota.Reservation
	for range 100 {
		r, _ = w.take(m, "key", 1)
	}
	if _, err := service.Reset(t.Context(), w.account("key").ID); err != nil {
		t.Fatal(err)
	}
	r.Cancel(t.Context()) // of before the reset
	passed := 0
	for range 2000 {
		if _, d := w.take(m, "key", 1); d.Allowed {
			passed++
		}
	}
	if passed != 1000 {
		t.Errorf("%d requests pass after the reset, want 1000", passed)
	}
}

func TestATopUpCountsAtOnce(t *testing.T) {
	w := newWorld(t)
	ms := w.replica(100)
	m := w.meter(ms, 10)
	for range 11 {
		w.take(m, "key", 1)
	}
	var told []changes.Event
	service := quota.NewService(w.ledger, func(e changes.Event) { told = append(told, e); ms.Apply(e) })
	id := w.account("key").ID
	if _, err := service.TopUp(t.Context(), id, 3); err != nil {
		t.Fatal(err)
	}
	passed := 0
	for range 11 {
		if _, d := w.take(m, "key", 1); d.Allowed {
			passed++
		}
	}
	if passed != 3 || len(told) != 1 || told[0] != (changes.Event{Kind: changes.QuotaChanged, Subject: id}) {
		t.Errorf("%d requests pass, told %v", passed, told)
	}
	w.now = w.now.Add(24 * time.Hour) // nothing is carried over
	a, err := service.TopUp(t.Context(), id, 5)
	if err != nil || a.Remaining() != 15 || a.Used != 0 || !a.Holds(w.now) {
		t.Errorf("before the first use of the next day: %+v, %v", a, err)
	}
}

func TestMemoryIsBoundedAndNothingIsGivenOutTwice(t *testing.T) {
	w := newWorld(t)
	ms := w.replica(64)
	m := w.meter(ms, 100)
	for round := range 3 {
		for i := range 1000 {
			if _, d := w.take(m, fmt.Sprint(i), 2); !d.Allowed {
				t.Fatalf("round %d: refused", round)
			}
		}
	}
	if s := ms.Stats(); s.Subjects > 64 {
		t.Errorf("%d subjects are remembered", s.Subjects)
	}
	ms.Close(t.Context())
	for i := range 1000 {
		if a := w.account(fmt.Sprint(i)); a.Used < 6 {
			t.Fatalf("subject %d: used %d, less than was given out", i, a.Used)
		}
	}
}

func TestConcurrentUse(t *testing.T) {
	w := newWorld(t)
	const limit = 5000
	var accepted atomic.Int64
	var group, keepers sync.WaitGroup
	ctx, cancel := context.WithCancel(t.Context())
	for range 3 {
		ms := w.replica(64)
		keepers.Go(func() { _ = ms.Run(ctx) })
		for n := range 4 {
			m := w.meter(ms, limit)
			group.Go(func() {
				for i := range 2000 {
					r, d, err := m.Reserve(ctx, "key", 2)
					if err != nil {
						t.Error(err)
						return
					}
					switch {
					case d.Allowed && i%3 == 0:
						r.Cancel(ctx)
					case d.Allowed:
						accepted.Add(2)
						r.Settle(ctx, 2)
					}
					if _, _, err := m.Reserve(ctx, fmt.Sprint("other ", n, i%200), 1); err != nil { // pushes others out
						t.Error(err)
						return
					}
					if i%100 == 0 {
						ms.Tidy(ctx)
						ms.Changed(w.account("key").ID)
						ms.Stats()
					}
				}
			})
		}
	}
	group.Wait()
	cancel()
	keepers.Wait()
	if used := w.account("key").Used; accepted.Load() > used || used > limit {
		t.Errorf("%d units passed, %d are booked of %d", accepted.Load(), used, limit)
	}
}

func TestSubjectsThatCannotBeStoredAreHashed(t *testing.T) {
	w := newWorld(t)
	m := w.meter(w.replica(100), 1)
	long := strings.Repeat("x", 1000)
	for _, subject := range []string{long, long + "y", "a\x00b", "\xff", ""} {
		if _, d := w.take(m, subject, 1); !d.Allowed {
			t.Errorf("%.10q shares an account", subject)
		}
	}
	list, err := w.ledger.ListQuotaAccounts(t.Context(), quota.Filter{Limit: 10})
	if err != nil || len(list) != 5 {
		t.Fatal(list, err)
	}
	for _, a := range list {
		if len(a.Subject) > 128 || strings.Contains(a.Subject, "\x00") || strings.Contains(a.Subject, "\xff") {
			t.Errorf("%q is stored", a.Subject)
		}
	}
}

func TestQuotasThatCannotBeKeptAreRefused(t *testing.T) {
	ms := newWorld(t).replica(100)
	for _, q := range []quota.Quota{
		{Limit: 1}, {Name: "q"}, {Name: "q", Limit: -1}, {Name: "q", Limit: quota.MaxLimit + 1},
		{Name: "q", Limit: 1, Period: quota.Period{Unit: 5}}, {Name: strings.Repeat("q", 129), Limit: 1},
	} {
		if _, err := ms.Meter(q, "", "key"); err == nil {
			t.Errorf("%+v was accepted", q)
		}
	}
}

func BenchmarkReserveWarm(b *testing.B) {
	w := newWorld(b)
	ms, err := quota.NewMeters(quota.Options{
		Ledger: w.ledger, Subjects: 1_000_000, Timeout: time.Second, Replicas: func() int { return 1 },
		Logger: slog.New(slog.DiscardHandler), Now: time.Now,
	})
	if err != nil {
		b.Fatal(err)
	}
	m := w.meter(ms, quota.MaxLimit)
	subjects := make([]string, 100_000)
	for i := range subjects {
		subjects[i] = fmt.Sprintf("0198c1f4-0000-7000-8000-%012d", i)
	}
	for range 12 { // grows the blocks
		for _, s := range subjects[:1000] {
			_, _, _ = m.Reserve(b.Context(), s, 1000)
		}
	}
	b.ReportAllocs()
	i := 0
	for b.Loop() {
		r, _, err := m.Reserve(b.Context(), subjects[i%1000], 1)
		if err != nil {
			b.Fatal(err)
		}
		r.Settle(b.Context(), 1)
		i++
	}
}

func TestSubjectsOfOneHashAreCountedApart(t *testing.T) {
	w := newWorld(t)
	ms := w.replica(1000)
	first := w.meter(ms, 3)
	second, err := ms.Meter(quota.Quota{Name: "other", Limit: 5, Period: quota.Period{Unit: quota.Day}}, "route", "key")
	if err != nil {
		t.Fatal(err)
	}
	second.HashLike(first)
	count := func() (allowed [2]int) {
		for range 10 {
			for i, m := range []*quota.Meter{first, second} {
				if _, d := w.take(m, "s", 1); d.Allowed {
					allowed[i]++
				}
			}
		}
		return allowed
	}
	if got := count(); got != [2]int{3, 5} {
		t.Errorf("%v allowed, want 3 and 5", got)
	}
	// The first goes, and the second is where it was not looked for first.
	w.now = w.now.Add(time.Minute)
	w.take(second, "s", 1)
	ms.Tidy(t.Context())
	if got := count(); got != [2]int{} {
		t.Errorf("%v more allowed", got)
	}
}
