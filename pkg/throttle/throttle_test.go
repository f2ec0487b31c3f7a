package throttle

import (
	"context"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"
	"pgregory.net/rapid"

	"github.com/keywarden/keywarden/pkg/ratelimit"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var epoch = time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC)

// clock is a clock that tests set.
type clock struct{ nanos atomic.Int64 }

func newClock() *clock {
	c := &clock{}
	c.nanos.Store(epoch.UnixNano())
	return c
}

func (c *clock) now() time.Time          { return time.Unix(0, c.nanos.Load()) }
func (c *clock) advance(d time.Duration) { c.nanos.Add(int64(d)) }

func newLimiter(t testing.TB, burst int, interval time.Duration) (*Limiter, *clock) {
	t.Helper()
	c := newClock()
	l, err := New(burst, interval, c.now)
	if err != nil {
		t.Fatal(err)
	}
	return l, c
}

// bucket is the plain idea of a limiter: a bucket that drips full. Its content is
// kept as the time that it took to drip in, so that it is exact.
type bucket struct {
	full, interval, level time.Duration
	at                    time.Time
}

func (b *bucket) drip(now time.Time) {
	b.level = min(b.full, b.level+now.Sub(b.at))
	b.at = now
}

func (b *bucket) take(now time.Time) time.Duration {
	b.drip(now)
	if b.level < b.interval {
		return b.interval - b.level
	}
	b.level -= b.interval
	return 0
}

func (b *bucket) refund(now time.Time) {
	b.drip(now)
	b.level = min(b.full, b.level+b.interval)
}

func TestLimiterIsExactlyABucket(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		burst := rapid.IntRange(1, 5).Draw(t, "burst")
		interval := time.Millisecond + time.Duration(rapid.Int64Range(0, 1000).Draw(t, "interval"))
		c := newClock()
		l, err := New(burst, interval, c.now)
		if err != nil {
			t.Fatal(err)
		}
		subjects := []string{"a", "b", strings.Repeat("long", 1000)}
		model := map[string]*bucket{}
		for _, s := range subjects {
			full := time.Duration(burst) * interval
			model[s] = &bucket{full: full, interval: interval, level: full, at: epoch}
		}
		subject := rapid.SampledFrom(subjects)
		t.Repeat(map[string]func(*rapid.T){
			"take": func(t *rapid.T) {
				s := subject.Draw(t, "subject")
				got, want := l.Take(s), model[s].take(c.now())
				if got != want {
					t.Fatalf("Take(%.5s) = %d, the bucket says %d", s, got, want)
				}
			},
			"refund": func(t *rapid.T) {
				s := subject.Draw(t, "subject")
				l.Refund(s)
				model[s].refund(c.now())
			},
			"forget": func(t *rapid.T) {
				s := subject.Draw(t, "subject")
				l.Forget(s)
				model[s].level = model[s].full
			},
			"time passes": func(t *rapid.T) {
				c.advance(time.Duration(rapid.Int64Range(1, 3*int64(interval)).Draw(t, "nanoseconds")))
			},
		})
	})
}

func TestBurstIsAdmittedAndThenOnePerInterval(t *testing.T) {
	l, c := newLimiter(t, 3, time.Second)
	for i := range 3 {
		if wait := l.Take("a"); wait != 0 {
			t.Fatalf("attempt %d waits %v", i, wait)
		}
	}
	for range 3 { // refused attempts use nothing
		if wait := l.Take("a"); wait != time.Second {
			t.Fatalf("waits %v", wait)
		}
	}
	if wait := l.Take("b"); wait != 0 {
		t.Fatalf("another subject waits %v", wait)
	}
	c.advance(time.Second - 1)
	if wait := l.Take("a"); wait != 1 {
		t.Fatalf("waits %v a nanosecond too early", wait)
	}
	c.advance(1)
	if wait := l.Take("a"); wait != 0 {
		t.Fatalf("waits %v after the interval", wait)
	}
	if wait := l.Take("a"); wait != time.Second {
		t.Fatalf("waits %v: two were given back", wait)
	}
}

func TestWaitIsExactlyUntilTheNextAttempt(t *testing.T) {
	l, c := newLimiter(t, 2, 7*time.Second)
	l.Take("a")
	c.advance(3 * time.Second)
	l.Take("a")
	wait := l.Take("a")
	c.advance(wait - 1)
	if l.Take("a") == 0 {
		t.Error("admitted before the wait was over")
	}
	c.advance(1)
	if l.Take("a") != 0 {
		t.Error("refused after the wait was over")
	}
}

func TestRefundGivesBackOneAttemptAndNeverMoreThanTheBurst(t *testing.T) {
	l, _ := newLimiter(t, 2, time.Minute)
	l.Take("a")
	l.Take("a")
	l.Refund("a")
	if l.Take("a") != 0 || l.Take("a") == 0 {
		t.Error("a refund is not one attempt")
	}
	for range 10 {
		l.Refund("b")
	}
	admitted := 0
	for l.Take("b") == 0 {
		admitted++
	}
	if admitted != 2 {
		t.Errorf("after refunds a bucket of 2 admits %d", admitted)
	}
}

func TestConcurrentAttemptsAreNeverOverAdmitted(t *testing.T) {
	const burst, callers, each, rounds = 5000, 4, 4000, 20
	l, c := newLimiter(t, burst, time.Hour)
	count := func(subject string) int64 {
		var admitted atomic.Int64
		var all sync.WaitGroup
		for range callers {
			all.Go(func() {
				for range each {
					if l.Take(subject) == 0 {
						admitted.Add(1)
					}
				}
			})
		}
		all.Wait()
		return admitted.Load()
	}
	for i := range rounds {
		if n := count(strconv.Itoa(i)); n != burst {
			t.Errorf("%d of a burst of %d", n, burst)
		}
	}
	c.advance(7*time.Hour + 30*time.Minute)
	if n := count("0"); n != 7 {
		t.Errorf("%d after seven and a half intervals", n)
	}
}

func TestConcurrentAttemptsUnderAMovingClockAreNeverOverAdmitted(t *testing.T) {
	const burst, callers, each, interval, step = 5, 4, 5000, time.Millisecond, 7 * time.Microsecond
	l, c := newLimiter(t, burst, interval)
	var admitted atomic.Int64
	var all sync.WaitGroup
	for range callers {
		all.Go(func() {
			for range each {
				c.advance(step)
				if l.Take("a") == 0 {
					admitted.Add(1)
				}
			}
		})
	}
	all.Wait()
	const elapsed = (callers*each - 1) * step // since the first attempt
	if n := admitted.Load(); n > burst+int64(elapsed/interval) || n < burst {
		t.Errorf("%d admitted", n)
	}
}

func TestSubjectsAreBounded(t *testing.T) {
	l, _ := newLimiter(t, 1, time.Hour)
	for i := range maxSubjects + maxSubjects/4 {
		l.Take(strconv.Itoa(i))
	}
	if n := l.counter.(*inMemory).Len(); n > maxSubjects+64 {
		t.Errorf("%d subjects are remembered", n)
	}
}

// Whoever comes with many names must not push out the one that is guessed at.
func TestBusySubjectsStayThrottledInAFloodOfOthers(t *testing.T) {
	l, _ := newLimiter(t, 3, time.Hour)
	for range 10 {
		l.Take("guessed at")
	}
	for i := range maxSubjects + maxSubjects/4 {
		l.Take(strconv.Itoa(i))
		if i%1000 == 0 && l.Take("guessed at") == 0 {
			t.Fatalf("forgotten after %d others", i)
		}
	}
}

func TestLimitersThatCannotWorkAreRefused(t *testing.T) {
	for _, c := range []struct {
		burst    int
		interval time.Duration
	}{{0, time.Second}, {-1, time.Second}, {1, 0}, {1, -1}, {1, 25 * time.Hour}, {20_000, 24 * time.Hour}} {
		if l, err := New(c.burst, c.interval, time.Now); err == nil || l != nil {
			t.Errorf("%+v was accepted", c)
		}
	}
}

// shared is a counter that replicas share.
type shared struct {
	*inMemory
	alone bool
}

func (s shared) Take(ctx context.Context, subject string, cost int64) (ratelimit.Decision, bool) {
	d, _ := s.inMemory.Take(ctx, subject, cost)
	return d, s.alone
}

func TestReplicasThrottleTogether(t *testing.T) {
	bucket, err := Bucket(3, time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	counter, err := newInMemory(bucket, newClock().now)
	if err != nil {
		t.Fatal(err)
	}
	here, there := NewShared(shared{inMemory: counter}), NewShared(shared{inMemory: counter, alone: true})
	for i, l := range []*Limiter{here, there, here} {
		if wait := l.Take("a"); wait != 0 {
			t.Errorf("attempt %d waits %v", i, wait)
		}
	}
	if wait := there.Take("a"); wait != time.Minute {
		t.Errorf("one replica does not know of the attempts at the other: it waits %v", wait)
	}
	there.Refund("a")
	if here.Take("a") != 0 || here.Take("a") == 0 {
		t.Error("a refund is not one attempt")
	}
	there.Forget("a")
	if here.Take("a") != 0 || here.Take("a") == 0 {
		t.Error("what is forgotten of a shared bucket is not one attempt")
	}
}

func TestAddressesOfOneCallerAreOneSubject(t *testing.T) {
	for text, want := range map[string]string{
		"203.0.113.7":                "203.0.113.7",
		"203.0.113.8":                "203.0.113.8",
		"::ffff:203.0.113.7":         "203.0.113.7",
		"::ffff:203.0.113.7%eth0":    "203.0.113.7",
		"2001:db8:1:2::1":            "2001:db8:1:2::/64",
		"2001:db8:1:2:ffff::9":       "2001:db8:1:2::/64",
		"2001:db8:1:3::1":            "2001:db8:1:3::/64",
		"fe80::1%eth0":               "fe80::/64",
		"fe80::2%eth1":               "fe80::/64",
		"::1":                        "::/64",
		"2001:0db8:0001:0002:0::0:1": "2001:db8:1:2::/64",
	} {
		if got := Address(netip.MustParseAddr(text)); got != want {
			t.Errorf("%s is %s, want %s", text, got, want)
		}
	}
	if got := Address(netip.Addr{}); got == "" || got != Address(netip.Addr{}) {
		t.Errorf("an unknown address is %q", got)
	}
}

func BenchmarkTake(b *testing.B) {
	for _, name := range []string{"one subject", "many subjects"} {
		b.Run(name, func(b *testing.B) {
			l, err := New(5, time.Second, time.Now)
			if err != nil {
				b.Fatal(err)
			}
			var subjects [1 << 17]string
			for i := range subjects {
				if name == "many subjects" {
					subjects[i] = fmt.Sprintf("203.0.%d.%d", i>>8, i&255)
				}
			}
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				l.Take(subjects[i&(len(subjects)-1)])
			}
		})
	}
}
