package redis_test

import (
	"context"
	"sync/atomic"
	"testing"
	"time"

	"github.com/keywarden/keywarden/pkg/httpcache"
	"github.com/keywarden/keywarden/pkg/httpcache/httpcachetest"
	"github.com/keywarden/keywarden/pkg/seal"
	"github.com/keywarden/keywarden/pkg/store/redis"
	"github.com/keywarden/keywarden/pkg/store/redis/redistest"
)

// clock is a clock that tests turn.
type clock struct{ at atomic.Int64 }

func (c *clock) now() time.Time          { return time.Unix(1_700_000_000, c.at.Load()) }
func (c *clock) advance(d time.Duration) { c.at.Add(int64(d)) }

func openCache(t testing.TB, s *redis.Store, now func() time.Time, failed func(error)) *redis.Cache {
	t.Helper()
	c, err := redis.NewCache(s, redis.CacheOptions{MaxValue: 1 << 20, Timeout: 2 * time.Second, Now: now, Failed: failed})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func quiet(error) {}

// markOf is the mark of a store that is there.
func markOf(t testing.TB, c *redis.Cache) httpcache.Mark {
	t.Helper()
	for range 2 {
		if _, m := c.Get(t.Context(), httpcachetest.Key(0)); m.Known {
			return m
		}
	}
	t.Fatal("the cache does not answer")
	return httpcache.Mark{}
}

func TestCacheKeepsThePromisesOfStores(t *testing.T) {
	httpcachetest.Conformance(t, openCache(t, open(t, redistest.Start(t)), time.Now, quiet))
}

func TestCacheIsSharedByReplicas(t *testing.T) {
	server := redistest.Start(t)
	a, b := openCache(t, open(t, server), time.Now, quiet), openCache(t, open(t, server), time.Now, quiet)
	a.Put(t.Context(), httpcachetest.Key(1), httpcachetest.Object("x"), time.Minute, markOf(t, a))
	markOf(t, b)
	if o, _ := b.Get(t.Context(), httpcachetest.Key(1)); o == nil || string(o.Body) != "x" {
		t.Fatalf("the other replica gets %+v", o)
	}
	if err := a.Purge(t.Context(), httpcache.Purge{Kind: httpcache.PurgeRoute, Value: "orders"}); err != nil {
		t.Fatal(err)
	}
	if o, _ := b.Get(t.Context(), httpcachetest.Key(1)); o != nil {
		t.Error("the other replica gives what was purged")
	}
	before := markOf(t, b)
	b.Put(t.Context(), httpcachetest.Key(2), httpcachetest.Object("x"), time.Minute, before)
	a.Forget(t.Context(), httpcachetest.Key(2).Resource)
	if o, _ := b.Get(t.Context(), httpcachetest.Key(2)); o != nil {
		t.Error("the other replica gives what was forgotten")
	}
}

func TestCachedAnswersDoNotStayForever(t *testing.T) {
	server := redistest.Start(t)
	c := openCache(t, open(t, server), time.Now, quiet)
	c.Put(t.Context(), httpcachetest.Key(1), httpcachetest.Object("x"), time.Minute, markOf(t, c))
	keys, err := server.Client.Keys(t.Context(), "test:c:0*").Result()
	if err != nil || len(keys) != 1 {
		t.Fatalf("keys %v, %v", keys, err)
	}
	if left := server.Client.PTTL(t.Context(), keys[0]).Val(); left <= 0 || left > time.Minute {
		t.Errorf("the answer lives for %s", left)
	}
}

// TestWhatRedisLosesIsNoAnswer holds also that no old answer comes back with a
// restored copy of a part of the data.
func TestWhatRedisLosesIsNoAnswer(t *testing.T) {
	server := redistest.Start(t)
	c := openCache(t, open(t, server), time.Now, quiet)
	c.Put(t.Context(), httpcachetest.Key(1), httpcachetest.Object("x"), time.Minute, markOf(t, c))
	server.Client.Del(t.Context(), "test:c:{log}") // evicted
	for range 3 {
		if o, _ := c.Get(t.Context(), httpcachetest.Key(1)); o != nil {
			t.Fatal("an answer is given, though nobody knows what was purged")
		}
	}
	server.Client.FlushAll(t.Context())
	c.Put(t.Context(), httpcachetest.Key(2), httpcachetest.Object("x"), time.Minute, markOf(t, c))
	if o, _ := c.Get(t.Context(), httpcachetest.Key(2)); o == nil {
		t.Error("after the loss nothing is kept any more")
	}
	for _, junk := range []string{"", "x", "\x01\xff\xff\xff\xff", string(make([]byte, 2<<20))} {
		keys := server.Client.Keys(t.Context(), "test:c:02*").Val()
		server.Client.Set(t.Context(), keys[0], junk, 0)
		if o, _ := c.Get(t.Context(), httpcachetest.Key(2)); o != nil {
			t.Errorf("junk of %d bytes is an answer", len(junk))
		}
	}
}

func TestLargeAnswersAreNotKept(t *testing.T) {
	c := openCache(t, open(t, redistest.Start(t)), time.Now, quiet)
	c.Put(t.Context(), httpcachetest.Key(1), httpcachetest.Object(string(make([]byte, 1<<20))), time.Minute, markOf(t, c))
	if o, _ := c.Get(t.Context(), httpcachetest.Key(1)); o != nil {
		t.Error("it is there")
	}
}

func TestWithoutRedisNothingIsKeptAndNobodyWaits(t *testing.T) {
	server := redistest.Start(t)
	var failures atomic.Int32
	var hands clock
	c := openCache(t, open(t, server), hands.now, func(error) { failures.Add(1) })
	mark := markOf(t, c)
	c.Put(t.Context(), httpcachetest.Key(1), httpcachetest.Object("x"), time.Minute, mark)
	server.Stop()
	for range 100 {
		if o, m := c.Get(t.Context(), httpcachetest.Key(1)); o != nil || m.Known {
			t.Fatal("there is an answer without a server")
		}
		c.Put(t.Context(), httpcachetest.Key(1), httpcachetest.Object("x"), time.Minute, mark)
	}
	if n := failures.Load(); n != 1 {
		t.Errorf("Redis was asked %d times within a pause, want 1", n)
	}
	hands.advance(2 * time.Second)
	c.Get(t.Context(), httpcachetest.Key(1))
	if n := failures.Load(); n != 2 {
		t.Errorf("after the pause Redis was asked %d times, want 2", n)
	}
}

// TestAPurgeWithoutRedisIsMadeUpFor cuts one replica off, purges there, and lets it
// come back: at no time does it give what was purged.
func TestAPurgeWithoutRedisIsMadeUpFor(t *testing.T) {
	server := redistest.Start(t)
	var hands clock
	c := openCache(t, open(t, server), hands.now, quiet)
	c.Put(t.Context(), httpcachetest.Key(1), httpcachetest.Object("x"), time.Minute, markOf(t, c))
	if err := server.Client.Do(t.Context(), "CLIENT", "PAUSE", 3_600_000, "WRITE").Err(); err != nil { // writes hang
		t.Fatal(err)
	}
	late, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	slow, err := redis.NewCache(open(t, server), redis.CacheOptions{MaxValue: 1 << 20, Timeout: 20 * time.Millisecond, Now: hands.now, Failed: quiet})
	if err != nil {
		t.Fatal(err)
	}
	if err := slow.Purge(late, httpcache.Purge{Kind: httpcache.PurgeRoute, Value: "orders"}); err == nil {
		t.Fatal("the purge succeeded without Redis")
	}
	slow.Forget(late, 7)
	server.Client.ClientUnpause(t.Context())
	if o, _ := slow.Get(t.Context(), httpcachetest.Key(1)); o != nil {
		t.Error("what is to be purged is given")
	}
	hands.advance(2 * time.Second)
	for range 3 {
		if o, _ := slow.Get(t.Context(), httpcachetest.Key(1)); o != nil {
			t.Error("what was purged is given")
		}
	}
	if o, _ := c.Get(t.Context(), httpcachetest.Key(1)); o != nil {
		t.Error("another replica gives what was purged")
	}
	slow.Put(t.Context(), httpcachetest.Key(2), httpcachetest.Object("x"), time.Minute, markOf(t, slow))
	if o, _ := slow.Get(t.Context(), httpcachetest.Key(2)); o == nil {
		t.Error("the replica does not come back")
	}
}

func TestUnknownAddressesAreNoCache(t *testing.T) {
	s, err := redis.Open(redis.Options{URL: seal.NewSecret("redis://127.0.0.1:1/0"), Prefix: "test:", Timeout: 50 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	c := openCache(t, s, time.Now, quiet)
	if o, m := c.Get(t.Context(), httpcachetest.Key(1)); o != nil || m.Known {
		t.Errorf("got %v, %v", o, m)
	}
}

func BenchmarkCacheGet(b *testing.B) {
	c := openCache(b, open(b, redistest.Start(b)), time.Now, quiet)
	c.Put(b.Context(), httpcachetest.Key(1), httpcachetest.Object(string(make([]byte, 1000))), time.Hour, markOf(b, c))
	b.ReportAllocs()
	for b.Loop() {
		if o, _ := c.Get(b.Context(), httpcachetest.Key(1)); o == nil {
			b.Fatal("gone")
		}
	}
}
