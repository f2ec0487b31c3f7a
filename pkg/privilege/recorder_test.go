package privilege

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/keywarden/keywarden/pkg/access"
)

// memory keeps uses as a database does.
type memory struct {
	mu    sync.Mutex
	kept  map[pair]time.Time
	err   error
	some  int    // uses that are kept before it fails
	calls int    // with at least one use
	hook  func() // runs while a write is under way
}

func (m *memory) TouchKeyScopes(ctx context.Context, uses []Use) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.hook != nil {
		m.hook()
	}
	m.calls++
	for i, u := range uses {
		if m.err != nil && i == m.some {
			return m.err
		}
		if m.kept[pair{u.KeyID, u.Scope}].Before(u.Minute) {
			m.kept[pair{u.KeyID, u.Scope}] = u.Minute
		}
	}
	if m.err != nil {
		return m.err
	}
	return ctx.Err()
}

func newMemory() *memory { return &memory{kept: map[pair]time.Time{}} }

// clock is a time that tests set.
type clock struct{ nanos atomic.Int64 }

func (c *clock) now() time.Time      { return time.Unix(0, c.nanos.Load()).UTC() }
func (c *clock) add(d time.Duration) { c.nanos.Add(int64(d)) }

func newClock() *clock {
	c := &clock{}
	c.nanos.Store(time.Date(2030, 1, 1, 12, 0, 30, 0, time.UTC).UnixNano())
	return c
}

type fataler interface{ Fatal(args ...any) }

func newRecorder(t fataler, store Store, entries int, now func() time.Time) *Recorder {
	r, err := NewRecorder(Options{Store: store, Entries: entries, Now: now, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func key(id string) *access.Principal { return &access.Principal{Kind: access.KindKey, KeyID: id} }

func TestFlushNeverLosesTheLatestUse(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		store, clock := newMemory(), newClock()
		r := newRecorder(t, store, rapid.SampledFrom([]int{6, 1000}).Draw(t, "entries"), clock.now) // six are the pairs that there are
		want := map[pair]time.Time{}
		use := func() {
			p := pair{rapid.SampledFrom([]string{"k1", "k2", "k3"}).Draw(t, "key"), rapid.SampledFrom([]string{"a", "b:c"}).Draw(t, "scope")}
			r.Used(key(p.key), p.scope)
			if at := clock.now().Truncate(time.Minute); want[p].Before(at) {
				want[p] = at
			}
		}
		flush := func(err error, some int, hook func()) {
			store.err, store.some, store.hook = err, some, hook
			r.Flush(context.Background())
		}
		t.Repeat(map[string]func(*rapid.T){
			"use":      func(*rapid.T) { use() },
			"time":     func(t *rapid.T) { clock.add(time.Duration(rapid.IntRange(-90, 1000).Draw(t, "seconds")) * time.Second) },
			"flush":    func(*rapid.T) { flush(nil, 0, nil) },
			"fail":     func(t *rapid.T) { flush(errors.New("away"), rapid.IntRange(0, 6).Draw(t, "kept"), nil) },
			"use amid": func(*rapid.T) { flush(nil, 0, func() { clock.add(time.Minute); use() }) },
			"": func(t *rapid.T) {
				for p, at := range store.kept {
					if at.After(want[p]) {
						t.Fatalf("%v is said to be used at %v, and was at %v", p, at, want[p])
					}
				}
			},
		})
		flush(nil, 0, nil)
		if diff := cmp.Diff(want, store.kept, cmp.AllowUnexported(pair{})); diff != "" || r.Dropped() > 0 {
			t.Fatalf("%d dropped; last uses that differ:\n%s", r.Dropped(), diff)
		}
	})
}

func TestUsesThatMeetAFlushAreWritten(t *testing.T) {
	store, clock := newMemory(), newClock()
	r := newRecorder(t, store, 1000, clock.now)
	stop := make(chan struct{})
	var flushing, using sync.WaitGroup
	flushing.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
				r.Flush(t.Context())
				clock.add(7 * time.Minute) // so that what is written is soon forgotten
			}
		}
	})
	var last [4]time.Time
	for i := range last {
		using.Go(func() {
			for range 5000 {
				before := clock.now().Truncate(time.Minute)
				r.Used(key(fmt.Sprint(i)), "a")
				last[i] = before
			}
		})
	}
	using.Wait()
	close(stop)
	flushing.Wait()
	r.Flush(t.Context())
	for i, at := range last {
		if got := store.kept[pair{fmt.Sprint(i), "a"}]; got.Before(at) {
			t.Errorf("key %d was used at %v or later, and %v is known", i, at, got)
		}
	}
}

func TestOneUseAMinuteIsWrittenOnce(t *testing.T) {
	store, clock := newMemory(), newClock()
	r := newRecorder(t, store, 10, clock.now)
	for range 3 {
		r.Used(key("k"), "a")
		r.Flush(t.Context())
	}
	if store.calls != 1 {
		t.Errorf("written %d times", store.calls)
	}
}

func TestUsesBeyondTheBoundAreCountedAndComeLater(t *testing.T) {
	store, clock := newMemory(), newClock()
	r := newRecorder(t, store, 3, clock.now)
	use := func() {
		for i := range 5 {
			r.Used(key(fmt.Sprint(i)), "a")
		}
	}
	use()
	if r.Dropped() != 2 {
		t.Fatalf("%d uses were dropped", r.Dropped())
	}
	store.err = errors.New("away")
	r.Flush(t.Context())
	use()
	if r.Dropped() != 4 {
		t.Fatalf("%d uses were dropped after a flush that failed", r.Dropped())
	}
	store.err = nil
	r.Flush(t.Context())
	for i := range 5 {
		r.Used(key(fmt.Sprint(4-i)), "a")
		r.Flush(t.Context())
	}
	if len(store.kept) != 5 || r.Dropped() != 4 || r.entries.Load() > 3 {
		t.Errorf("%d uses are known, %d were dropped, %d are remembered", len(store.kept), r.Dropped(), r.entries.Load())
	}
}

func TestIdleEntriesAreForgotten(t *testing.T) {
	store, clock := newMemory(), newClock()
	r := newRecorder(t, store, 100, clock.now)
	r.Used(key("k"), "a")
	r.Used(key("k"), "b")
	r.Flush(t.Context())
	clock.add((idle + 1) * time.Minute)
	r.Used(key("k"), "b")
	r.Flush(t.Context())
	if n := r.entries.Load(); n != 1 {
		t.Errorf("%d entries are remembered", n)
	}
}

func TestOnlyKeysAreRecorded(t *testing.T) {
	store := newMemory()
	r := newRecorder(t, store, 10, newClock().now)
	for _, p := range []*access.Principal{nil, {Kind: access.KindUser, UserID: "u"}, {Kind: access.KindCertificate, UserID: "sha256:0"}} {
		r.Used(p, "a")
		(*Recorder)(nil).Used(p, "a")
	}
	(*Recorder)(nil).Used(key("k"), "a")
	r.Flush(t.Context())
	if store.calls > 0 {
		t.Errorf("%d uses are known", len(store.kept))
	}
}

func TestRunWritesNowAndThenAndAtTheEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := newMemory()
		r := newRecorder(t, store, 10, time.Now)
		ctx, cancel := context.WithCancel(t.Context())
		var running sync.WaitGroup
		running.Go(func() {
			if err := r.Run(ctx); err != nil {
				t.Error(err)
			}
		})
		known := func(scope string) bool {
			store.mu.Lock()
			defer store.mu.Unlock()
			return !store.kept[pair{"k", scope}].IsZero()
		}
		r.Used(key("k"), "a")
		time.Sleep(flushInterval + time.Second)
		if synctest.Wait(); !known("a") {
			t.Error("a use is not written in time")
		}
		r.Used(key("k"), "b")
		cancel()
		running.Wait()
		if !known("b") {
			t.Error("the end loses a use")
		}
	})
}

func TestRepeatedUseDoesNotAllocate(t *testing.T) {
	r := newRecorder(t, newMemory(), 10, newClock().now)
	p := key("01890a5d-ac96-774b-bcce-b302099a8057")
	r.Used(p, "orders:read")
	if n := testing.AllocsPerRun(1000, func() { r.Used(p, "orders:read") }); n > 0 {
		t.Errorf("%v allocations", n)
	}
}

func TestRecorderNeedsItsOptions(t *testing.T) {
	whole := Options{Store: newMemory(), Entries: 1, Now: time.Now, Logger: slog.New(slog.DiscardHandler)}
	for i, less := range []func(*Options){
		func(o *Options) { o.Store = nil }, func(o *Options) { o.Entries = 0 }, func(o *Options) { o.Now = nil }, func(o *Options) { o.Logger = nil },
	} {
		o := whole
		less(&o)
		if _, err := NewRecorder(o); err == nil {
			t.Errorf("case %d is taken", i)
		}
	}
}

func BenchmarkUsed(b *testing.B) {
	for _, keys := range []int{1, 1000} {
		b.Run(fmt.Sprintf("%d keys", keys), func(b *testing.B) {
			r := newRecorder(b, newMemory(), 100_000, time.Now)
			list := make([]*access.Principal, keys)
			for i := range list {
				list[i] = key(fmt.Sprintf("01890a5d-ac96-774b-bcce-%012d", i))
				r.Used(list[i], "orders:read")
			}
			b.ReportAllocs()
			b.RunParallel(func(pb *testing.PB) {
				for i := 0; pb.Next(); i++ {
					r.Used(list[i%keys], "orders:read")
				}
			})
		})
	}
}
