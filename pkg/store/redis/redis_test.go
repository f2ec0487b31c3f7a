package redis_test

import (
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
