package redis_test

import (
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/keywarden/keywarden/pkg/ratelimit"
	"github.com/keywarden/keywarden/pkg/ratelimit/ratelimittest"
	"github.com/keywarden/keywarden/pkg/seal"
	"github.com/keywarden/keywarden/pkg/store/redis"
	"github.com/keywarden/keywarden/pkg/store/redis/redistest"
)

func open(t testing.TB, server *redistest.Server) *redis.Store {
	t.Helper()
	s, err := redis.Open(redis.Options{URL: server.URL, Prefix: "test:", Timeout: 2 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

func TestStoreKeepsThePromisesOfSharedCounters(t *testing.T) {
	ratelimittest.Conformance(t, open(t, redistest.Start(t)))
}

func TestAClusterKeepsThePromisesOfSharedCounters(t *testing.T) {
	s, err := redis.Open(redis.Options{URL: redistest.StartCluster(t).URL, Cluster: true, Prefix: "test:", Timeout: 2 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	ratelimittest.Conformance(t, s)
}

func TestAnySubjectCanBeCounted(t *testing.T) {
	server := redistest.Start(t)
	s := open(t, server)
	l := ratelimit.Limit{Quota: 1, Window: time.Hour, Burst: 1}
	for _, key := range []string{"", "}", "{}", "a}b", "a\x00b", "a\x00c", "\xff\xfe", "a\r\nb", strings.Repeat("long", 100_000)} {
		for i, want := range []int64{1, 0} {
			if g, err := s.Reserve(t.Context(), key, l, 1, 1); err != nil || g.Units != want {
				t.Errorf("%.10q, request %d: %+v, %v", key, i, g, err)
			}
		}
	}
	for _, key := range server.Client.Keys(t.Context(), "*").Val() {
		if len(key) > 200 {
			t.Errorf("a key has %d bytes", len(key))
		}
	}
}

func TestAClockThatIsSetBackGivesNothingAndLocksNobodyOut(t *testing.T) {
	server := redistest.Start(t)
	s := open(t, server)
	day := time.Now().Add(24 * time.Hour)
	for kept, l := range map[string]ratelimit.Limit{
		strconv.FormatInt(day.UnixMicro(), 10):                                {Quota: 10, Window: time.Hour, Burst: 10},
		strconv.FormatInt(day.Unix()/int64(time.Hour.Seconds()), 10) + " 6 4": {Quota: 10, Window: time.Hour, Algorithm: ratelimit.SlidingWindow},
	} {
		if err := server.Client.Set(t.Context(), "test:rl:{k}", kept, 0).Err(); err != nil {
			t.Fatal(err)
		}
		for range 2 {
			g, err := s.Reserve(t.Context(), "k", l, 1, 1)
			if err != nil || g.Units != 0 || g.Decision.RetryAfter > 2*l.Window {
				t.Errorf("%+v: %+v, %v", l, g, err)
			}
		}
		server.Client.FlushAll(t.Context())
	}
}

// REL-08 and REL-09 with a real server: one that hangs holds nobody up once that is
// known, one that is gone fails nobody, and one that is back is used.
func TestLimitsGoOnWithoutRedis(t *testing.T) {
	server := redistest.Start(t)
	s := open(t, server)
	failures := make(chan error, 100)
	guard := ratelimit.NewGuard(ratelimit.GuardOptions{
		Store: s, Timeout: 500 * time.Millisecond, Failed: func(err error) { failures <- err }, Now: time.Now,
	})
	t.Cleanup(guard.Close)
	o := ratelimit.SharedOptions{
		Name: "l", Limit: ratelimit.Limit{Quota: 1000, Window: time.Hour, Burst: 1000}, Guard: guard, Subjects: 1000,
		Replicas: func() int { return 2 }, Now: time.Now,
	}
	strict, err := ratelimit.NewStrict(o)
	if err != nil {
		t.Fatal(err)
	}
	take := func(want bool) {
		t.Helper()
		if d, alone := strict.Take(t.Context(), "s", 1); alone != want || !d.Allowed {
			t.Errorf("%+v, alone: %t", d, alone)
		}
	}
	take(false)
	// The server answers nobody until it is told to go on.
	server.Pause()
	for range 100 {
		take(true)
	}
	if n := len(failures); n == 0 || n > 5 {
		t.Errorf("%d failures are told", n)
	}
	server.Resume()
	for deadline := time.Now().Add(20 * time.Second); guard.Broken(); time.Sleep(10 * time.Millisecond) {
		if strict.Take(t.Context(), "s", 1); time.Now().After(deadline) {
			t.Fatal("the server is back, and is not asked")
		}
	}
	take(false)
	server.Stop()
	for range 100 {
		take(true)
	}
}

func TestCountersDoNotStayForever(t *testing.T) {
	server := redistest.Start(t)
	s := open(t, server)
	for _, algorithm := range []ratelimit.Algorithm{ratelimit.GCRA, ratelimit.SlidingWindow} {
		l := ratelimit.Limit{Quota: 10, Window: time.Minute, Burst: 10, Algorithm: algorithm}
		if _, err := s.Reserve(t.Context(), "k", l, 1, 1); err != nil {
			t.Fatal(err)
		}
		keys, err := server.Client.Keys(t.Context(), "*").Result()
		if err != nil || len(keys) != 1 {
			t.Fatalf("keys %v, %v", keys, err)
		}
		if left := server.Client.PTTL(t.Context(), keys[0]).Val(); left <= 0 || left > 2*time.Minute {
			t.Errorf("algorithm %d: the key lives for %s", algorithm, left)
		}
		server.Client.FlushAll(t.Context())
	}
}

func TestAServerThatIsGoneIsAnErrorAndOneThatIsBackIsUsed(t *testing.T) {
	server := redistest.Start(t)
	s := open(t, server)
	l := ratelimit.Limit{Quota: 10, Window: time.Minute, Burst: 10}
	if _, err := s.Reserve(t.Context(), "k", l, 1, 1); err != nil {
		t.Fatal(err)
	}
	server.Stop()
	if _, err := s.Reserve(t.Context(), "k", l, 1, 1); err == nil {
		t.Error("there was an answer without a server")
	}
}

func TestThePasswordIsNotInTheErrorOfABadURL(t *testing.T) {
	_, err := redis.Open(redis.Options{URL: seal.NewSecret("http://user:hunter2@x")})
	if err == nil || strings.Contains(err.Error(), "hunter2") {
		t.Errorf("got %v", err)
	}
}

func BenchmarkReserve(b *testing.B) {
	s := open(b, redistest.Start(b))
	l := ratelimit.Limit{Quota: 1_000_000, Window: time.Minute, Burst: 1_000_000}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := s.Reserve(b.Context(), "k", l, 1, 1); err != nil {
			b.Fatal(err)
		}
	}
}

// A strict decision is one round trip.
func BenchmarkStrict(b *testing.B) {
	guard := ratelimit.NewGuard(ratelimit.GuardOptions{
		Store: open(b, redistest.Start(b)), Timeout: time.Second, Failed: func(err error) { b.Error(err) }, Now: time.Now,
	})
	b.Cleanup(guard.Close)
	strict, err := ratelimit.NewStrict(ratelimit.SharedOptions{
		Name: "l", Limit: ratelimit.Limit{Quota: 1_000_000_000, Window: time.Minute, Burst: 1_000_000_000}, Guard: guard,
		Subjects: 1000, Replicas: func() int { return 1 }, Now: time.Now,
	})
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		strict.Take(b.Context(), "018f2c5e-0000-7000-8000-100000000000", 1)
	}
}
