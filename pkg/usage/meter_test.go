package usage

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

const testReplica = "01890a5d-ac96-774b-bcce-b302099a8057"

func newTestMeter(s Store, c *clock, cells int) *Meter {
	return NewMeter(Options{Store: s, Replica: testReplica, MaxCells: cells, Now: c.now, Logger: slog.New(slog.DiscardHandler)})
}

func TestCellHoldsWhatWasCounted(t *testing.T) {
	store, c := newMemory(), newClock()
	m := newTestMeter(store, c, 0)
	e := Event{
		At: c.now(), UserID: "u", KeyID: "k", App: "a", Route: "orders", Status: 404,
		RequestBytes: 10, ResponseBytes: 100, Duration: 20 * time.Millisecond,
	}
	m.Record(e)
	e.Duration = time.Millisecond
	m.Record(e)
	for _, other := range []func(e *Event){
		func(e *Event) { e.UserID = "" }, func(e *Event) { e.KeyID = "" }, func(e *Event) { e.App = "" }, func(e *Event) { e.Route = "" },
		func(e *Event) { e.Status = 500 }, func(e *Event) { e.Status = 0 }, func(e *Event) { e.UserID, e.KeyID = e.KeyID, e.UserID },
		func(e *Event) { e.At = e.At.Add(time.Minute) },
	} {
		f := e
		other(&f)
		m.Record(f)
	}
	if err := m.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	if len(store.cells) != 9 {
		t.Errorf("%d cells", len(store.cells))
	}
	want := Cell{
		Number: 1, Minute: time.Date(2030, 1, 31, 12, 0, 0, 0, time.UTC), Route: "orders", UserID: "u", KeyID: "k", App: "a", Class: 4,
		Requests: 2, RequestBytes: 20, ResponseBytes: 200,
		Latency: Histogram{Buckets: []uint16{BucketOf(time.Millisecond), BucketOf(20 * time.Millisecond)}, Counts: []int64{1, 1}},
	}
	if diff := cmp.Diff(want, store.cells[cellID{testReplica, 1, want.Minute}]); diff != "" {
		t.Error(diff)
	}
}

func TestStatusesHaveTheirClass(t *testing.T) {
	for status, want := range map[int]Class{0: 0, 99: 0, 101: 1, 200: 2, 304: 3, 404: 4, 599: 5, 600: 0, -1: 0, 1 << 20: 0} {
		if got := classOf(status); got != want {
			t.Errorf("%d is of class %d", status, got)
		}
	}
}

// Whatever becomes of flushes, and of the clock, the store ends with every request
// exactly once, and the memory with nothing.
func TestEveryRequestIsStoredOnce(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		store, c := newMemory(), newClock()
		m := newTestMeter(store, c, 0)
		want := map[string]int64{}
		t.Repeat(map[string]func(*rapid.T){
			"request": func(t *rapid.T) {
				e := Event{
					At: c.now(), Route: rapid.SampledFrom([]string{"", "a", "b"}).Draw(t, "route"),
					UserID: rapid.SampledFrom([]string{"", "u", "v"}).Draw(t, "user"), KeyID: rapid.SampledFrom([]string{"", "k"}).Draw(t, "key"),
					Status: rapid.SampledFrom([]int{0, 200, 503}).Draw(t, "status"), RequestBytes: 1, ResponseBytes: 2,
				}
				if rapid.Bool().Draw(t, "late") { // told by a goroutine that was slow
					e.At = e.At.Add(-time.Second)
				}
				m.Record(e)
				want[fmt.Sprint(e.Route, "|", e.UserID, "|", e.KeyID, "|", e.Status/100)]++
			},
			"time":     func(t *rapid.T) { c.add(time.Duration(rapid.IntRange(1, 90).Draw(t, "seconds")) * time.Second) },
			"set back": func(t *rapid.T) { c.add(-time.Duration(rapid.IntRange(1, 200).Draw(t, "seconds")) * time.Second) },
			"flush":    func(t *rapid.T) { must(t, m.Flush(context.Background())) },
			"store is away": func(*rapid.T) {
				store.set(errAway, nil)
				_ = m.Flush(context.Background())
				store.set(nil, nil)
			},
			"answer is lost": func(*rapid.T) {
				store.set(nil, errAway)
				_ = m.Flush(context.Background())
				store.set(nil, nil)
			},
			"late copy": func(t *rapid.T) {
				if len(store.flushes) > 0 {
					old := rapid.SampledFrom(store.flushes).Draw(t, "flush")
					must(t, store.WriteUsage(context.Background(), old))
				}
			},
		})
		c.add(time.Hour)
		must(t, m.Flush(context.Background()))
		got := map[string]int64{}
		for _, cell := range store.cells {
			got[fmt.Sprint(cell.Route, "|", cell.UserID, "|", cell.KeyID, "|", cell.Class)] += cell.Requests
			if cell.RequestBytes != cell.Requests || cell.ResponseBytes != 2*cell.Requests {
				t.Fatalf("bytes of %+v", cell)
			}
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Fatal(diff)
		}
		if s := m.Stats(); s.Cells != 0 || s.Dropped != 0 || s.Folded != 0 {
			t.Fatalf("%+v when everything is stored", s)
		}
	})
}

func must(t interface{ Fatal(args ...any) }, err error) {
	if err != nil {
		t.Fatal(err)
	}
}

// However many are different, and however long the store is away, memory is bounded,
// the sums of each route stay right while there is room, and the rest is told.
func TestMemoryIsBoundedAndWhatIsLostIsTold(t *testing.T) {
	const cells = 800
	store, c := newMemory(), newClock()
	store.set(errAway, nil)
	m := newTestMeter(store, c, cells)
	routes := []string{"a", "b"}
	var sent int64
	for minute := range 400 {
		for i := range 50 {
			m.Record(Event{At: c.now(), UserID: fmt.Sprint(minute, i), Route: routes[i%2], Status: 200})
			sent++
		}
		if m.Flush(t.Context()) == nil {
			t.Fatal("a store that is away took something")
		}
		if n := m.Stats().Cells; n > cells {
			t.Fatalf("%d cells", n)
		}
		c.add(time.Minute)
	}
	s := m.Stats()
	if s.Cells != cells || s.Folded == 0 || s.Dropped == 0 || s.Failed != 400 {
		t.Errorf("%+v", s)
	}
	store.set(nil, nil)
	must(t, m.Flush(t.Context()))
	if got := store.requests(nil); got != sent-s.Dropped {
		t.Errorf("%d stored of %d, %d dropped", got, sent, s.Dropped)
	}
	if got := store.requests(func(c Cell) bool { return c.UserID == Folded && c.KeyID == Folded && c.App == Folded }); got != s.Folded {
		t.Errorf("%d stored without a user, %d folded", got, s.Folded)
	}
	if a, b := store.requests(func(c Cell) bool { return c.Route == "a" }), store.requests(func(c Cell) bool { return c.Route == "b" }); a != b {
		t.Errorf("%d of a and %d of b", a, b)
	}
	c.add(time.Minute)
	must(t, m.Flush(t.Context()))
	if n := m.Stats().Cells; n != 0 {
		t.Errorf("%d cells are left", n)
	}
	m.Record(Event{At: c.now(), UserID: "u", Route: "a", Status: 200})
	if now := m.Stats(); now.Folded != s.Folded || now.Dropped != s.Dropped {
		t.Error("there is no room after the outage")
	}
}

// A store may have put the minutes of an hour together by then.
func TestStoreIsGivenNoMinuteThatIsTooOld(t *testing.T) {
	store, c := newMemory(), newClock()
	store.set(errAway, nil)
	m := newTestMeter(store, c, 0)
	for range 10 {
		m.Record(Event{At: c.now(), Route: "a", Status: 200})
		_ = m.Flush(t.Context())
		c.add(time.Hour)
	}
	store.set(nil, nil)
	must(t, m.Flush(t.Context()))
	if got, s := store.requests(nil), m.Stats(); got != 7 || s.Dropped != 3 || s.Cells != 0 {
		t.Errorf("%d stored, %+v", got, s)
	}
}

// A process that is killed loses what came after its last flush, and nothing else.
func TestKilledMeterLosesOneInterval(t *testing.T) {
	store, c := newMemory(), newClock()
	m := newTestMeter(store, c, 0)
	for second := range 100 {
		for range second {
			m.Record(Event{At: c.now(), UserID: "u", Route: "a", Status: 200})
		}
		c.add(time.Second)
		if second < 99 {
			must(t, m.Flush(t.Context()))
		}
	}
	if got := store.requests(nil); got != 98*99/2 { // all but the 99 of the last second
		t.Errorf("%d stored", got)
	}
}

func TestMeterFlushesAtEveryIntervalAndAtTheEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := newMemory()
		var log bytes.Buffer
		m := NewMeter(Options{Store: store, Replica: testReplica, Now: time.Now, Logger: slog.New(slog.NewTextHandler(&log, nil))})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- m.Run(ctx) }()
		record := func() { m.Record(Event{At: time.Now(), Route: "a", Status: 200}) }
		for i := range 5 {
			record()
			time.Sleep(DefaultInterval + time.Millisecond)
			synctest.Wait()
			if got := store.requests(nil); got != int64(i+1) {
				t.Fatalf("%d stored after %d seconds", got, i+1)
			}
		}
		time.Sleep(time.Minute)
		if got := store.count(); got != 5 {
			t.Errorf("%d flushes, of which %d of nothing", got, got-5)
		}
		record()
		store.set(errAway, nil)
		time.Sleep(10 * time.Second)
		store.set(nil, nil)
		time.Sleep(2 * time.Second)
		record()
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		if got := store.requests(nil); got != 7 {
			t.Errorf("%d stored at the end", got)
		}
		if away, back := strings.Count(log.String(), "cannot be stored"), strings.Count(log.String(), "stored again"); away != 1 || back != 1 {
			t.Errorf("the log says %q", log.String())
		}
	})
}

// stuck answers when the context ends.
type stuck struct{}

// WriteUsage implements Store.
func (stuck) WriteUsage(ctx context.Context, _ Flush) error {
	<-ctx.Done()
	return ctx.Err()
}

func TestStuckStoreDoesNotHoldTheEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := NewMeter(Options{Store: stuck{}, Replica: testReplica, Now: time.Now, Logger: slog.New(slog.DiscardHandler)})
		m.Record(Event{At: time.Now()})
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		began := time.Now()
		must(t, m.Run(ctx))
		if took := time.Since(began); took > finalTimeout {
			t.Errorf("the end took %v", took)
		}
	})
}

func TestManyRecordWhileItFlushes(t *testing.T) {
	store, c := newMemory(), newClock()
	m := newTestMeter(store, c, 0)
	var workers, flusher sync.WaitGroup
	var stop atomic.Bool
	flusher.Go(func() {
		for i := 0; !stop.Load(); i++ {
			if i%3 == 0 {
				store.set(nil, errAway)
			}
			_ = m.Flush(t.Context())
			store.set(nil, nil)
			c.add(7 * time.Second)
		}
	})
	const each = 5000
	for w := range 8 {
		workers.Go(func() {
			for i := range each {
				m.Record(Event{At: c.now(), UserID: fmt.Sprint(i % 50), Route: fmt.Sprint(w % 2), Status: 200, Duration: time.Duration(i)})
			}
		})
	}
	workers.Wait()
	stop.Store(true)
	flusher.Wait()
	c.add(time.Hour)
	must(t, m.Flush(t.Context()))
	if got := store.requests(nil); got != 8*each {
		t.Errorf("%d of %d stored", got, 8*each)
	}
	if n := m.Stats().Cells; n != 0 {
		t.Errorf("%d cells are left", n)
	}
}

func TestBatchesAreBounded(t *testing.T) {
	store, c := newMemory(), newClock()
	m := newTestMeter(store, c, 0)
	const cells = 20_000
	for i := range cells {
		m.Record(Event{At: c.now(), UserID: fmt.Sprint(i), Status: 200})
	}
	must(t, m.Flush(t.Context()))
	if got := store.requests(nil); got != cells {
		t.Errorf("%d stored", got)
	}
	for i, f := range store.flushes {
		if len(f.Cells) > 2*batchCells || f.Number != int64(i+1) || f.Replica != testReplica {
			t.Errorf("flush %s %d has %d cells", f.Replica, f.Number, len(f.Cells))
		}
	}
}

func TestRecordAllocatesNothingWhenWarm(t *testing.T) {
	c := newClock()
	m := newTestMeter(newMemory(), c, 0)
	e := Event{At: c.now(), UserID: testReplica, KeyID: testReplica, Route: "orders-api", Status: 200, Duration: time.Millisecond}
	if n := testing.AllocsPerRun(1000, func() { m.Record(e) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkRecord(b *testing.B) {
	for _, subjects := range []int{1, 1000, 50_000} {
		events := func(c *clock) []Event {
			list := make([]Event, subjects)
			for i := range list {
				id := fmt.Sprintf("01890a5d-ac96-774b-bcce-%012d", i)
				list[i] = Event{At: c.now(), UserID: id, KeyID: id, Route: "orders-api", Status: 200}
			}
			return list
		}
		durations := make([]time.Duration, 64)
		for i := range durations {
			durations[i] = time.Duration(i*i) * 50 * time.Microsecond
		}
		b.Run(fmt.Sprint("subjects=", subjects), func(b *testing.B) {
			c := newClock()
			m := newTestMeter(newMemory(), c, 0)
			list := events(c)
			i := 0
			for range 64 * subjects { // warm: every bucket exists
				e := list[i%subjects]
				e.Duration = durations[i/subjects%64]
				m.Record(e)
				i++
			}
			b.ReportAllocs()
			for b.Loop() {
				e := list[i%subjects]
				e.Duration = durations[i/subjects%64]
				m.Record(e)
				i++
			}
		})
	}
	b.Run("parallel", func(b *testing.B) {
		c := newClock()
		m := newTestMeter(newMemory(), c, 0)
		e := Event{At: c.now(), UserID: testReplica, KeyID: testReplica, Route: "orders-api", Status: 200, Duration: time.Millisecond}
		b.ReportAllocs()
		b.RunParallel(func(pb *testing.PB) {
			for pb.Next() {
				m.Record(e)
			}
		})
	})
}

func BenchmarkFlush(b *testing.B) {
	c := newClock()
	m := newTestMeter(discard{}, c, 0)
	const cells = 10_000
	b.ReportAllocs()
	for b.Loop() {
		for i := range cells {
			m.Record(Event{At: c.now(), UserID: fmt.Sprint(i), Status: 200})
		}
		must(b, m.Flush(b.Context()))
	}
}

// discard takes everything and keeps nothing.
type discard struct{}

// WriteUsage implements Store.
func (discard) WriteUsage(context.Context, Flush) error { return nil }

func TestCellTellsWhatWasRefusedAndToWhom(t *testing.T) {
	store, c := newMemory(), newClock()
	m := newTestMeter(store, c, 0)
	e := Event{At: c.now(), Route: "orders", API: "shop", Product: "gold", Status: 401, Refusal: "auth.missing", Client: netip.MustParseAddr("192.0.2.77")}
	for _, change := range []func(e *Event){
		func(*Event) {},
		func(e *Event) { e.Client = netip.MustParseAddr("::ffff:192.0.2.1") }, // the same network
		func(e *Event) { e.Client = netip.MustParseAddr("2001:db8:1:2ff::1%eth0") },
		func(e *Event) { e.Client = netip.Addr{} },
		func(e *Event) { e.Refusal = "" },      // let through: no network is kept
		func(e *Event) { e.UserID = "u" },      // known
		func(e *Event) { e.KeyID = "k" },       // known
		func(e *Event) { e.API = "other" },     // hashes like the first
		func(e *Event) { e.Product = "other" }, // likewise
	} {
		f := e
		change(&f)
		m.Record(f)
	}
	must(t, m.Flush(t.Context()))
	got := map[string]int64{}
	for _, cell := range store.cells {
		got[strings.Join([]string{cell.API, cell.Product, cell.Refusal, cell.Client, cell.UserID, cell.KeyID}, " ")] += cell.Requests
	}
	want := map[string]int64{
		"shop gold auth.missing 192.0.2.0/24  ": 2, "shop gold auth.missing 2001:db8:1:200::/56  ": 1, "shop gold auth.missing   ": 1,
		"shop gold    ": 1, "shop gold auth.missing  u ": 1, "shop gold auth.missing   k": 1,
		"other gold auth.missing 192.0.2.0/24  ": 1, "shop other auth.missing 192.0.2.0/24  ": 1,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// Whoever has a million addresses gets few cells, and everybody else has room.
func TestNetworksAreFewHoweverManyKnock(t *testing.T) {
	store, c := newMemory(), newClock()
	m := newTestMeter(store, c, 0)
	const callers = 5000
	for range 2 { // minutes
		for i := range callers {
			m.Record(Event{At: c.now(), Route: "orders", Status: 401, Refusal: "auth.missing", Client: netip.AddrFrom4([4]byte{10, byte(i >> 8), byte(i), 1})})
		}
		must(t, m.Flush(t.Context()))
		c.add(time.Minute)
		must(t, m.Flush(t.Context()))
	}
	networks := map[string]bool{}
	for _, cell := range store.cells {
		networks[cell.Client] = true
	}
	if len(store.cells) != 2*(maxNetworks+1) || !networks[Folded] || store.requests(nil) != 2*callers {
		t.Errorf("%d cells of %d networks, %d requests", len(store.cells), len(networks), store.requests(nil))
	}
	if s := m.Stats(); s.Cells != 0 || s.Folded != 0 || s.Dropped != 0 || m.networks.Load() != 0 {
		t.Errorf("%+v, %d networks", s, m.networks.Load())
	}
}
