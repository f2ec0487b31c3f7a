package verdict

import (
	"context"
	"errors"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const id = "id"

func newCache[V comparable](t testing.TB, size int) *Cache[V] {
	t.Helper()
	c, err := New[V](size, time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// found is a load that finds v.
func found[V any](v V) func(context.Context) (V, error) {
	return func(context.Context) (V, error) { return v, nil }
}

// flight is a load that runs until it is told what it found.
type flight struct {
	began  chan struct{}
	finds  chan string
	result chan string
}

// fly begins a load of id and waits until it runs.
func fly(t *testing.T, c *Cache[string]) *flight {
	t.Helper()
	f := &flight{began: make(chan struct{}), finds: make(chan string), result: make(chan string, 1)}
	go func() {
		v, err := c.Load(t.Context(), id, func(context.Context) (string, error) {
			close(f.began)
			return <-f.finds, nil
		})
		if err != nil {
			v = err.Error()
		}
		f.result <- v
	}()
	<-f.began
	return f
}

// land ends the load with v and returns what its caller got.
func (f *flight) land(v string) string {
	f.finds <- v
	return <-f.result
}

func (c *Cache[V]) wantNothing(t *testing.T) {
	t.Helper()
	if v, ok := c.Get(id); ok {
		t.Errorf("%v is cached", v)
	}
}

func (c *Cache[V]) want(t *testing.T, want V) {
	t.Helper()
	if v, ok := c.Get(id); !ok || v != want {
		t.Errorf("cached is %v, %v; want %v", v, ok, want)
	}
}

func TestLoadCachesWhatItFinds(t *testing.T) {
	c := newCache[string](t, 10)
	c.wantNothing(t)
	v, err := c.Load(t.Context(), id, found("a"))
	if err != nil || v != "a" {
		t.Fatal(v, err)
	}
	c.want(t, "a")
	c.Invalidate(id)
	c.wantNothing(t)
}

func TestErrorsAreNotCached(t *testing.T) {
	c := newCache[string](t, 10)
	broken := errors.New("broken")
	v, err := c.Load(t.Context(), id, func(context.Context) (string, error) { return "half", broken })
	if !errors.Is(err, broken) {
		t.Errorf("got %q, %v", v, err)
	}
	c.wantNothing(t)
}

// invalidations are all the ways to forget id.
var invalidations = map[string]func(*Cache[string]){
	"Invalidate":   func(c *Cache[string]) { c.Invalidate(id) },
	"InvalidateIf": func(c *Cache[string]) { c.InvalidateIf(func(string) bool { return false }) },
	"Clear":        func(c *Cache[string]) { c.Clear() },
}

func TestInvalidationDuringALoadWins(t *testing.T) {
	for name, invalidate := range invalidations {
		t.Run(name, func(t *testing.T) {
			c := newCache[string](t, 10)
			f := fly(t, c)
			invalidate(c)
			if got := f.land("overtaken"); got != "overtaken" {
				t.Errorf("the caller from before got %q", got)
			}
			c.wantNothing(t)
		})
	}
}

func TestCallersAfterAnInvalidationDoNotJoinAnOlderFlight(t *testing.T) {
	for name, invalidate := range invalidations {
		t.Run(name, func(t *testing.T) {
			c := newCache[string](t, 10)
			old := fly(t, c)
			invalidate(c)
			fresh := fly(t, c) // would wait here for ever if it joined
			if got := fresh.land("fresh"); got != "fresh" {
				t.Errorf("got %q", got)
			}
			c.want(t, "fresh")
			if got := old.land("overtaken"); got != "overtaken" {
				t.Errorf("got %q", got)
			}
			c.want(t, "fresh") // the older flight neither replaces nor removes it
		})
	}
}

func TestCallersShareARunningLoad(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCache[string](t, 10)
		var loads atomic.Int32
		release := make(chan struct{})
		var callers sync.WaitGroup
		for range 100 {
			callers.Go(func() {
				v, err := c.Load(t.Context(), id, func(context.Context) (string, error) {
					loads.Add(1)
					<-release
					return "a", nil
				})
				if err != nil || v != "a" {
					t.Errorf("got %q, %v", v, err)
				}
			})
		}
		synctest.Wait() // all of them wait
		close(release)
		callers.Wait()
		if n := loads.Load(); n != 1 {
			t.Errorf("%d loads", n)
		}
	})
}

func TestLoadsOfDifferentIdentifiersDoNotWaitForEachOther(t *testing.T) {
	c := newCache[string](t, 10)
	f := fly(t, c)
	if v, err := c.Load(t.Context(), "another", found("b")); err != nil || v != "b" {
		t.Errorf("got %q, %v", v, err)
	}
	f.land("a")
}

// The caller who began it may leave; the others still get their finding.
func TestLoadOutlivesItsFirstCaller(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCache[string](t, 10)
		ctx, leave := context.WithCancel(t.Context())
		release := make(chan struct{})
		var callers sync.WaitGroup
		callers.Go(func() {
			_, err := c.Load(ctx, id, func(ctx context.Context) (string, error) {
				<-release
				return "a", ctx.Err()
			})
			if !errors.Is(err, context.Canceled) {
				t.Errorf("the first caller got %v", err)
			}
		})
		synctest.Wait()
		callers.Go(func() {
			v, err := c.Load(t.Context(), id, found("not called"))
			if err != nil || v != "a" {
				t.Errorf("the second caller got %q, %v", v, err)
			}
		})
		synctest.Wait()
		leave()
		synctest.Wait()
		close(release)
		callers.Wait()
		c.want(t, "a")
	})
}

func TestLoadEndsAtItsTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, err := New[string](10, 500*time.Millisecond)
		if err != nil {
			t.Fatal(err)
		}
		began := time.Now() // of the bubble
		_, err = c.Load(t.Context(), id, func(ctx context.Context) (string, error) {
			<-ctx.Done()
			return "", ctx.Err()
		})
		if !errors.Is(err, context.DeadlineExceeded) || time.Since(began) != 500*time.Millisecond {
			t.Errorf("got %v after %v", err, time.Since(began))
		}
		c.wantNothing(t)
	})
}

func TestInvalidateIfForgetsExactlyWhatMatches(t *testing.T) {
	c := newCache[int](t, 1000)
	for i := range 100 {
		if _, err := c.Load(t.Context(), strconv.Itoa(i), found(i)); err != nil {
			t.Fatal(err)
		}
	}
	c.InvalidateIf(func(v int) bool { return v%3 == 0 })
	for i := range 100 {
		v, ok := c.Get(strconv.Itoa(i))
		if want := i%3 != 0; ok != want || ok && v != i {
			t.Errorf("%d: %d, %v", i, v, ok)
		}
	}
	c.Clear()
	if c.entries.CleanUp(); c.Len() != 0 {
		t.Errorf("%d entries after Clear", c.Len())
	}
}

func TestReplaceNeverBringsBackWhatWasInvalidated(t *testing.T) {
	c := newCache[string](t, 10)
	if c.Replace(id, "", "new") {
		t.Error("nothing was replaced")
	}
	c.wantNothing(t)
	for name, invalidate := range map[string]func(){
		"Invalidate":   func() { c.Invalidate(id) },
		"InvalidateIf": func() { c.InvalidateIf(func(string) bool { return true }) },
		"Clear":        c.Clear,
	} {
		if _, err := c.Load(t.Context(), id, found("old")); err != nil {
			t.Fatal(err)
		}
		invalidate()
		if c.Replace(id, "old", "new") {
			t.Errorf("replaced after %s", name)
		}
		c.wantNothing(t)
	}
}

func TestReplaceLeavesANewerFinding(t *testing.T) {
	c := newCache[string](t, 10)
	if _, err := c.Load(t.Context(), id, found("newer")); err != nil {
		t.Fatal(err)
	}
	if c.Replace(id, "old", "new") {
		t.Error("replaced what is not there")
	}
	c.want(t, "newer")
	if !c.Replace(id, "newer", "newest") {
		t.Error("not replaced")
	}
	c.want(t, "newest")
}

func TestKeepLosesAgainstAnInvalidation(t *testing.T) {
	c := newCache[string](t, 10)
	began := c.Generation(id)
	c.Keep(id, "a", began)
	c.want(t, "a")
	for name, invalidate := range invalidations {
		began := c.Generation(id)
		invalidate(c)
		c.Invalidate(id)
		c.Keep(id, "overtaken", began)
		if _, ok := c.Get(id); ok {
			t.Errorf("kept after %s", name)
		}
	}
}

func TestCacheIsBounded(t *testing.T) {
	const size = 100
	c := newCache[int](t, size)
	for i := range 20 * size {
		if _, err := c.Load(t.Context(), strconv.Itoa(i), found(i)); err != nil {
			t.Fatal(err)
		}
	}
	c.entries.CleanUp()
	if n := c.Len(); n > size || n < size/2 {
		t.Errorf("%d entries in a cache of %d", n, size)
	}
}

func TestUnboundedCachesAreRefused(t *testing.T) {
	for _, size := range []int{0, -1} {
		if c, err := New[int](size, time.Second); err == nil || c != nil {
			t.Errorf("a cache of %d entries was made", size)
		}
	}
}

func TestGetDoesNotAllocate(t *testing.T) {
	c := newCache[*int](t, 1000)
	if _, err := c.Load(t.Context(), id, found(new(int))); err != nil {
		t.Fatal(err)
	}
	for name, asked := range map[string]string{"hit": id, "miss": "unknown"} {
		if n := testing.AllocsPerRun(1000, func() { c.Get(asked) }); n != 0 {
			t.Errorf("a %s makes %v allocations", name, n)
		}
	}
}

// A database and its replica's cache: each round commits a version and then
// invalidates. From then on no reader may get an older one, not for a moment.
func TestNobodyGetsAnOlderFindingAfterAnInvalidation(t *testing.T) {
	for name, invalidate := range map[string]func(*Cache[*int64]){
		"Invalidate":   func(c *Cache[*int64]) { c.Invalidate(id) },
		"InvalidateIf": func(c *Cache[*int64]) { c.InvalidateIf(func(*int64) bool { return true }) },
		"Clear":        func(c *Cache[*int64]) { c.Clear() },
	} {
		t.Run(name, func(t *testing.T) {
			c := newCache[*int64](t, 10)
			var committed, invalidated, loads atomic.Int64
			var stop atomic.Bool
			var readers sync.WaitGroup
			check := func(how string, v *int64, least int64) {
				if *v < least {
					t.Errorf("%s gave version %d after %d was invalidated", how, *v, least)
					stop.Store(true)
				}
			}
			for range 4 {
				readers.Go(func() {
					for !stop.Load() {
						least := invalidated.Load()
						if v, ok := c.Get(id); ok {
							check("Get", v, least)
							next := *v
							c.Replace(id, v, &next)
						}
						least = invalidated.Load()
						v, err := c.Load(t.Context(), id, func(context.Context) (*int64, error) {
							now := committed.Load()
							return &now, nil
						})
						if err != nil {
							t.Error(err)
							return
						}
						check("Load", v, least)
						loads.Add(1)
					}
				})
			}
			for range 2000 {
				if stop.Load() {
					break
				}
				v := committed.Add(1)
				invalidate(c)
				invalidated.Store(v)
				for some := loads.Load() + v%4; loads.Load() < some && !stop.Load(); {
					runtime.Gosched() // so that loads begin before, during and after
				}
			}
			stop.Store(true)
			readers.Wait()
		})
	}
}

func BenchmarkGet(b *testing.B) {
	c := newCache[*int](b, 1000)
	if _, err := c.Load(b.Context(), id, found(new(int))); err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if _, ok := c.Get(id); !ok {
				b.Fail()
			}
		}
	})
}

// What a change of a user costs when the cache is full.
func BenchmarkInvalidateIf(b *testing.B) {
	c := newCache[int](b, 100_000)
	for i := range 100_000 {
		c.Keep(strconv.Itoa(i), i, c.Generation(strconv.Itoa(i)))
	}
	for b.Loop() {
		c.InvalidateIf(func(v int) bool { return v < 0 })
	}
}

func TestNothingIsKeptButTheIdentifier(t *testing.T) {
	const requests, size = 64, 1 << 20
	c := newCache[int](t, 1000)
	before := heapInUse()
	for i := range requests {
		whole := strings.Repeat(strconv.Itoa(i%10), size) // a part of which is the identifier
		c.Keep(whole[:8]+strconv.Itoa(i), i, c.Generation(whole[:8]+strconv.Itoa(i)))
		c.Keep(whole[i:i+8], i, c.Generation(whole[i:i+8]))
	}
	if more := heapInUse() - before; more > requests*size/8 {
		t.Errorf("%d bytes are kept for %d identifiers", more, c.Len())
	}
}

// heapInUse is what is in use after a collection, in bytes.
func heapInUse() int64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}
