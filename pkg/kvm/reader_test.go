package kvm_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/keywarden/keywarden/pkg/changes"
	"github.com/keywarden/keywarden/pkg/kvm"
	"github.com/keywarden/keywarden/pkg/seal"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// clock is moved by hand.
type clock struct{ nanos atomic.Int64 }

func newClock() *clock {
	c := &clock{}
	c.nanos.Store(time.Date(2026, 5, 4, 10, 0, 0, 0, time.UTC).UnixNano())
	return c
}

func (c *clock) now() time.Time        { return time.Unix(0, c.nanos.Load()) }
func (c *clock) add(d time.Duration)   { c.nanos.Add(int64(d)) }
func (m *memory) fail(err error)       { m.mu.Lock(); m.down = err; m.mu.Unlock() }
func (m *memory) questions() int       { m.mu.Lock(); defer m.mu.Unlock(); return m.asked }
func (m *memory) during(before func()) { m.mu.Lock(); m.before = before; m.mu.Unlock() }

const maxStale = 5 * time.Minute

func newReader(t testing.TB, m *memory, ring *seal.Keyring, c *clock) *kvm.Reader {
	t.Helper()
	r, err := kvm.NewReader(kvm.ReaderOptions{
		Source: m, Ring: ring, Environment: "default", Entries: 1000, Timeout: time.Minute, MaxStale: maxStale, Now: c.now,
	})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// site is a service and a reader of one replica, connected by events.
type site struct {
	*memory
	*kvm.Service
	*kvm.Reader
	*clock
	t testing.TB
}

func newSite(t testing.TB) *site {
	ring := newRing(t, seal.NewMasterKey())
	s := &site{memory: newMemory(), clock: newClock(), t: t}
	s.Reader = newReader(t, s.memory, ring, s.clock)
	s.Service = newService(s.memory, ring, s.Apply, &bytes.Buffer{})
	return s
}

func (s *site) want(name, value string) {
	s.t.Helper()
	got, err := s.Reader.Secret(s.t.Context(), name)
	if err != nil || got.Reveal() != value {
		s.t.Fatalf("%s is %q, %v, want %q", name, got.Reveal(), err, value)
	}
}

func (s *site) wantError(name string, is error) {
	s.t.Helper()
	got, err := s.Reader.Secret(s.t.Context(), name)
	if !got.Empty() || !errors.Is(err, is) || strings.Contains(fmt.Sprintf("%v %+v", err, err), "canary") {
		s.t.Fatalf("%s is %q, %v, want %v", name, got.Reveal(), err, is)
	}
}

func TestKnownSecretsCostNoQuestion(t *testing.T) {
	s := newSite(t)
	put(t, s.Service, "default", "db", canary)
	put(t, s.Service, "other", "far", canary)
	for range 10 {
		s.want("db", canary)
		s.wantError("none", kvm.ErrNotFound)
		s.wantError("far", kvm.ErrNotFound) // it is in another environment
	}
	if n := s.questions(); n != 3 {
		t.Errorf("%d questions, want 3", n)
	}
	s.add(kvm.Refresh)
	s.want("db", canary)
	if n := s.questions(); n != 4 {
		t.Errorf("%d questions after a while, want 4", n)
	}
	ctx := t.Context()
	if n := testing.AllocsPerRun(100, func() { _, _ = s.Reader.Secret(ctx, "db") }); n > 0 {
		t.Errorf("%v allocations", n)
	}
}

func TestEventsDropWhatIsKnown(t *testing.T) {
	s := newSite(t)
	put(t, s.Service, "default", "db", "1")
	s.want("db", "1")
	put(t, s.Service, "default", "db", "2")
	s.want("db", "2")
	if err := s.Delete(t.Context(), "default", "db"); err != nil {
		t.Fatal(err)
	}
	s.wantError("db", kvm.ErrNotFound)
	put(t, s.Service, "default", "db", "3") // also that there was none is forgotten
	s.want("db", "3")

	asked := s.questions()
	s.Apply(changes.Event{Kind: changes.SecretChanged, Subject: "other/db"})
	s.Apply(changes.Event{Kind: changes.QuotaChanged, Subject: "default/db"})
	s.want("db", "3")
	if s.questions() != asked {
		t.Error("an event about something else has dropped it")
	}
	s.Reset()
	s.want("db", "3")
	if s.questions() != asked+1 {
		t.Error("a reset has dropped nothing")
	}
}

// A value that was read before a change, and arrives after it, is not kept.
func TestOvertakenReadsAreNotKept(t *testing.T) {
	s := newSite(t)
	put(t, s.Service, "default", "db", "1")
	var once sync.Once
	s.during(func() { once.Do(func() { put(t, s.Service, "default", "db", "2") }) })
	_, _ = s.Reader.Secret(t.Context(), "db")
	s.want("db", "2")
}

var errAway = errors.New("the database is away")

func TestStaleValuesServeForABoundedTime(t *testing.T) {
	s := newSite(t)
	put(t, s.Service, "default", "db", canary)
	s.want("db", canary)
	s.fail(errAway)
	asked := s.questions()
	for range 59 { // to one step before the bound
		s.add(maxStale / 60)
		for range 10 {
			s.want("db", canary)
		}
	}
	if n := s.questions() - asked; n == 0 || n > int(maxStale/(5*time.Second)) {
		t.Errorf("%d questions while the database is away", n)
	}
	s.wantError("unread", errAway)
	s.add(maxStale / 60)
	s.wantError("db", errAway)
	s.fail(nil)
	s.want("db", canary)
}

func TestDroppedValuesAreNotUsedWhileTheDatabaseIsAway(t *testing.T) {
	s := newSite(t)
	put(t, s.Service, "default", "db", canary)
	s.want("db", canary)
	s.fail(errAway)
	s.Apply(changes.Event{Kind: changes.SecretChanged, Subject: "default/db"})
	s.wantError("db", errAway)
}

func TestDeletionIsNoticedWithoutAnEvent(t *testing.T) {
	s := newSite(t)
	put(t, s.Service, "default", "db", canary)
	s.want("db", canary)
	delete(s.rows, "default/db")
	s.want("db", canary)
	s.add(kvm.Refresh)
	s.wantError("db", kvm.ErrNotFound)
	s.wantError("db", kvm.ErrNotFound)
}

// A row in place of another one, or an old value with a new version, does not open.
func TestMovedRowsDoNotOpen(t *testing.T) {
	s := newSite(t)
	put(t, s.Service, "default", "mine", "canary of mine")
	put(t, s.Service, "default", "theirs", "canary of theirs")
	put(t, s.Service, "other", "mine", "canary of another environment")
	mine := s.rows["default/mine"]
	for name, row := range map[string]kvm.Row{
		"another secret":         s.rows["default/theirs"],
		"another environment":    s.rows["other/mine"],
		"only the sealed value":  {Entry: mine.Entry, Sealed: s.rows["default/theirs"].Sealed},
		"another version":        {Entry: kvm.Entry{Environment: "default", Name: "mine", Version: 2, KeyID: mine.KeyID}, Sealed: mine.Sealed},
		"nothing":                {Entry: mine.Entry},
		"plaintext in its place": {Entry: mine.Entry, Sealed: []byte("canary of somebody")},
	} {
		s.rows["default/mine"] = row
		s.Reset()
		t.Run(name, func(t *testing.T) { (&site{Reader: s.Reader, t: t}).wantError("mine", seal.ErrTampered) })
	}
	s.rows["default/mine"] = mine
	s.want("mine", "canary of mine")

	// A value that is known is not used any more when the row was tampered with.
	s.rows["default/mine"] = s.rows["default/theirs"]
	s.add(kvm.Refresh)
	s.wantError("mine", seal.ErrTampered)
	s.wantError("mine", seal.ErrTampered)
}

// During a rotation one replica has the new master key, and another one does not.
func TestRotationHasNoDowntime(t *testing.T) {
	old, current := seal.NewMasterKey(), seal.NewMasterKey()
	m, c := newMemory(), newClock()
	put(t, newService(m, newRing(t, old), func(changes.Event) {}, &bytes.Buffer{}), "default", "db", canary)
	rotated := newSite(t)
	rotated.memory, rotated.Reader = m, newReader(t, m, newRing(t, current, old), c)
	rotated.want("db", canary)

	behind := &site{memory: m, Reader: newReader(t, m, newRing(t, old), c), t: t}
	behind.want("db", canary)
	prepared := &site{memory: m, Reader: newReader(t, m, newRing(t, old, current), c), t: t}
	n, err := newService(m, newRing(t, current, old), func(changes.Event) {}, &bytes.Buffer{}).Reseal(t.Context())
	if n != 1 || err != nil {
		t.Fatal(n, err)
	}
	prepared.want("db", canary)
	rotated.Reset()
	rotated.want("db", canary)
	c.add(kvm.Refresh)
	behind.want("db", canary) // what it has read is what it still is
	c.add(maxStale)
	behind.wantError("db", seal.ErrUnknownKey)
}

func TestManyAskTheSourceOnce(t *testing.T) {
	s := newSite(t)
	put(t, s.Service, "default", "db", canary)
	release := make(chan struct{})
	s.during(func() { <-release })
	var callers sync.WaitGroup
	var begun atomic.Int64
	for range 64 {
		callers.Go(func() {
			begun.Add(1)
			if got, err := s.Reader.Secret(t.Context(), "db"); err != nil || got.Reveal() != canary {
				t.Errorf("%v", err)
			}
		})
	}
	for begun.Load() < 64 || s.questions() == 0 {
		time.Sleep(time.Millisecond)
	}
	close(release)
	callers.Wait()
	if n := s.questions(); n != 1 {
		t.Errorf("%d questions, want 1", n)
	}
}

func TestCallersLeaveWhenTheyWish(t *testing.T) {
	s := newSite(t)
	put(t, s.Service, "default", "db", canary)
	release := make(chan struct{})
	defer close(release)
	s.during(func() { <-release })
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.Reader.Secret(ctx, "db"); !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
}

// Whoever asks during changes gets a value of that time, and at the end the last one.
func TestConcurrentChangesAndReads(t *testing.T) {
	s := newSite(t)
	put(t, s.Service, "default", "db", "v0")
	var group sync.WaitGroup
	for range 4 {
		group.Go(func() {
			for range 500 {
				got, err := s.Reader.Secret(t.Context(), "db")
				if err != nil || !strings.HasPrefix(got.Reveal(), "v") {
					t.Errorf("%q, %v", got.Reveal(), err)
					return
				}
			}
		})
	}
	for i := range 200 {
		put(t, s.Service, "default", "db", fmt.Sprint("v", i+1))
		s.want("db", fmt.Sprint("v", i+1))
	}
	group.Wait()
	s.want("db", "v200")
}

func TestReadersNeedBounds(t *testing.T) {
	good := kvm.ReaderOptions{Source: newMemory(), Ring: newRing(t, seal.NewMasterKey()), Environment: "default", Entries: 1, Timeout: time.Second, MaxStale: kvm.Refresh, Now: time.Now}
	if _, err := kvm.NewReader(good); err != nil {
		t.Error(err)
	}
	for _, spoil := range []func(*kvm.ReaderOptions){
		func(o *kvm.ReaderOptions) { o.Entries = 0 },
		func(o *kvm.ReaderOptions) { o.MaxStale = kvm.Refresh - 1 },
		func(o *kvm.ReaderOptions) { o.Environment = "" },
		func(o *kvm.ReaderOptions) { o.Environment = "a/b" },
	} {
		o := good
		spoil(&o)
		if _, err := kvm.NewReader(o); err == nil {
			t.Errorf("%+v is taken", o)
		}
	}
}

func BenchmarkKnownSecret(b *testing.B) {
	s := newSite(b)
	put(b, s.Service, "default", "db", canary)
	ctx := b.Context()
	b.ReportAllocs()
	for b.Loop() {
		if _, err := s.Reader.Secret(ctx, "db"); err != nil {
			b.Fatal(err)
		}
	}
}
