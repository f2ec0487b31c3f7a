package ratelimit_test

import (
	"fmt"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/keywarden/keywarden/pkg/ratelimit"
)

var epoch = time.Unix(1_800_000_000, 0)

func at(d time.Duration) time.Time { return epoch.Add(d) }

// drawLimit draws a limit that can be counted.
func drawLimit(t *rapid.T) ratelimit.Limit {
	l := ratelimit.Limit{
		Quota:     rapid.Int64Range(1, 1000).Draw(t, "quota"),
		Window:    time.Duration(rapid.Int64Range(1, 60_000).Draw(t, "window")) * time.Millisecond,
		Algorithm: rapid.SampledFrom([]ratelimit.Algorithm{ratelimit.GCRA, ratelimit.SlidingWindow}).Draw(t, "algorithm"),
	}
	l.Burst = rapid.Int64Range(1, l.Quota).Draw(t, "burst")
	return l
}

func TestGCRAGivesTheBurstAtOnceAndThenOneByOne(t *testing.T) {
	l := ratelimit.Limit{Quota: 10, Window: time.Second, Burst: 3}
	var s ratelimit.State
	for i, c := range []struct {
		at   time.Duration
		want ratelimit.Decision
	}{
		{0, ratelimit.Decision{Allowed: true, Limit: 3, Remaining: 2, ResetAfter: 100 * time.Millisecond}},
		{0, ratelimit.Decision{Allowed: true, Limit: 3, Remaining: 1, ResetAfter: 200 * time.Millisecond}},
		{0, ratelimit.Decision{Allowed: true, Limit: 3, Remaining: 0, ResetAfter: 300 * time.Millisecond}},
		{0, ratelimit.Decision{Limit: 3, RetryAfter: 100 * time.Millisecond, ResetAfter: 300 * time.Millisecond}},
		{99 * time.Millisecond, ratelimit.Decision{Limit: 3, RetryAfter: time.Millisecond, ResetAfter: 201 * time.Millisecond}},
		{100 * time.Millisecond, ratelimit.Decision{Allowed: true, Limit: 3, ResetAfter: 300 * time.Millisecond}},
		{10 * time.Second, ratelimit.Decision{Allowed: true, Limit: 3, Remaining: 2, ResetAfter: 100 * time.Millisecond}},
	} {
		if diff := cmp.Diff(c.want, l.Take(&s, at(c.at), 1)); diff != "" {
			t.Errorf("request %d: %s", i, diff)
		}
	}
}

func TestSpikeArrestIsSmoothed(t *testing.T) {
	l, err := ratelimit.ParseSpike("30pm")
	if err != nil {
		t.Fatal(err)
	}
	var s ratelimit.State
	allowed := 0
	for ms := range 60_000 / 10 {
		if l.Take(&s, at(time.Duration(ms)*10*time.Millisecond), 1).Allowed {
			if ms%200 != 0 {
				t.Fatalf("allowed at %d ms, want one each two seconds", ms*10)
			}
			allowed++
		}
	}
	if allowed != 30 {
		t.Errorf("%d were allowed in a minute", allowed)
	}
	for _, text := range []string{"", "30", "pm", "0pm", "-1pm", "+1pm", "1.5pm", "30xm", "30 pm", "30pmpm", "9999999999ps", "030pm"} {
		if l, err := ratelimit.ParseSpike(text); err == nil {
			t.Errorf("%q is %+v", text, l)
		}
	}
}

// A weighed message passes a spike arrest as any other does, and then takes as long
// as so many.
func TestSpikeArrestWeighsMessages(t *testing.T) {
	l := ratelimit.Limit{Quota: 30, Window: time.Minute, Burst: 1}
	var s ratelimit.State
	for i, c := range []struct {
		at      time.Duration
		cost    int64
		allowed bool
		retry   time.Duration
	}{
		{0, 10, true, 0},
		{2 * time.Second, 1, false, 18 * time.Second},
		{20*time.Second - 1, 10, false, 1},
		{20 * time.Second, 31, false, 0}, // more than there is in a window
		{20 * time.Second, 30, true, 0},
		{79 * time.Second, 1, false, time.Second},
		{80 * time.Second, 1, true, 0},
	} {
		if d := l.Take(&s, at(c.at), c.cost); d.Allowed != c.allowed || d.RetryAfter != c.retry || d.Remaining != 0 && c.cost <= 30 {
			t.Errorf("message %d: %+v", i, d)
		}
	}
}

func FuzzParseSpike(f *testing.F) {
	for _, text := range []string{"30pm", "10ps", "1ph", "", "p", "99999999999999999999ps"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		if l, err := ratelimit.ParseSpike(text); err == nil && (l.Validate() != nil || l.Burst != 1) {
			t.Fatalf("%q is %+v", text, l)
		}
	})
}

// However requests come, no interval holds more than the limit promises: for GCRA
// the burst and what has come back since, for the sliding window twice the quota
// in any two windows.
func TestNoIntervalHoldsMoreThanTheLimitPromises(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		l := drawLimit(t)
		var s ratelimit.State
		type taken struct {
			at   time.Duration
			cost int64
		}
		var all []taken
		now := time.Duration(0)
		for range rapid.IntRange(1, 60).Draw(t, "requests") {
			now += time.Duration(rapid.Int64Range(0, int64(l.Window)/4).Draw(t, "pause"))
			cost := rapid.Int64Range(1, max(1, l.Quota/3)).Draw(t, "cost")
			if l.Take(&s, at(now), cost).Allowed {
				all = append(all, taken{now, cost})
			}
		}
		for i := range all {
			sum := int64(0)
			for _, u := range all[i:] {
				sum += u.cost
				span := u.at - all[i].at
				most := l.Burst + int64(float64(l.Quota)*float64(span)/float64(l.Window))
				if l.Burst == 1 {
					most += all[i].cost + u.cost - 1 // which passed as one, and came before what came after it
				}
				if l.Algorithm == ratelimit.SlidingWindow {
					most = l.Quota * (2 + int64(span/l.Window))
				}
				if sum > most+1 { // for the fraction
					t.Fatalf("%d units in %s, at most %d are promised by %+v", sum, span, most, l)
				}
			}
		}
	})
}

// A refusal takes nothing, and who waits as long as it says is served.
func TestWhoWaitsAsToldIsServed(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		l := drawLimit(t)
		var s ratelimit.State
		now := time.Duration(rapid.Int64Range(0, int64(l.Window)).Draw(t, "begin"))
		for range rapid.IntRange(1, 40).Draw(t, "requests") {
			now += time.Duration(rapid.Int64Range(0, int64(l.Window)/8).Draw(t, "pause"))
			cost := rapid.Int64Range(1, max(1, l.Quota/2)).Draw(t, "cost")
			before := s
			d := l.Take(&s, at(now), cost)
			most := l.Quota
			if l.Algorithm == ratelimit.GCRA {
				most = l.Burst
			}
			if d.Remaining < 0 || d.Remaining > most || d.ResetAfter < 0 || d.Limit != most {
				t.Fatalf("the decision %+v of %+v makes no sense", d, l)
			}
			if d.Allowed {
				continue
			}
			if peeked := l.Peek(&before, at(now)); peeked.Remaining != d.Remaining {
				t.Fatalf("a refusal took something: %d remained, then %d", peeked.Remaining, d.Remaining)
			}
			if cost > l.Largest() {
				if d.RetryAfter != 0 {
					t.Fatalf("what can never be had is promised in %s", d.RetryAfter)
				}
				continue
			}
			again := s
			if d.RetryAfter <= 0 || !l.Take(&again, at(now+d.RetryAfter+1), cost).Allowed {
				t.Fatalf("who waits %s for %d of %+v is refused again", d.RetryAfter, cost, l)
			}
		}
	})
}

func TestAClockThatStepsBackGivesNothing(t *testing.T) {
	for _, algorithm := range []ratelimit.Algorithm{ratelimit.GCRA, ratelimit.SlidingWindow} {
		l := ratelimit.Limit{Quota: 5, Window: time.Minute, Burst: 5, Algorithm: algorithm}
		var s ratelimit.State
		for range 5 {
			l.Take(&s, at(0), 1)
		}
		for _, back := range []time.Duration{-time.Second, -time.Hour} {
			if l.Take(&s, at(back), 1).Allowed {
				t.Errorf("algorithm %d: allowed after a step of %s", algorithm, back)
			}
		}
	}
}

func TestRefundGivesBack(t *testing.T) {
	for _, algorithm := range []ratelimit.Algorithm{ratelimit.GCRA, ratelimit.SlidingWindow} {
		l, err := ratelimit.NewLimiter(ratelimit.Limit{Quota: 2, Window: time.Minute, Burst: 2, Algorithm: algorithm}, 1000)
		if err != nil {
			t.Fatal(err)
		}
		l.Take("a", epoch, 2)
		l.Refund("a", 1)
		l.Refund("stranger", 1)
		if !l.Take("a", epoch, 1).Allowed || l.Take("a", epoch, 1).Allowed {
			t.Errorf("algorithm %d: one unit given back is not one that can be had", algorithm)
		}
	}
}

func TestLimiterIsExactUnderConcurrency(t *testing.T) {
	l, err := ratelimit.NewLimiter(ratelimit.Limit{Quota: 1000, Window: time.Hour, Burst: 1000}, 1000)
	if err != nil {
		t.Fatal(err)
	}
	var allowed atomic.Int64
	var group sync.WaitGroup
	for range 8 {
		group.Go(func() {
			for range 500 {
				if l.Take("a", epoch, 1).Allowed {
					allowed.Add(1)
				}
			}
		})
	}
	group.Wait()
	if allowed.Load() != 1000 {
		t.Errorf("%d were allowed, want 1000", allowed.Load())
	}
}

func TestAFloodOfSubjectsIsBoundedAndFreesNobody(t *testing.T) {
	l, err := ratelimit.NewLimiter(ratelimit.Limit{Quota: 10, Window: time.Hour, Burst: 10}, 1024)
	if err != nil {
		t.Fatal(err)
	}
	l.Take("limited", epoch, 10)
	for i := range 100_000 {
		l.Take("flood "+strconv.Itoa(i), epoch, 1)
	}
	if n := l.Len(); n > 1024 {
		t.Errorf("%d subjects are remembered", n)
	}
	if l.Take("limited", epoch, 1).Allowed {
		t.Error("a flood of strangers freed the one at the limit")
	}
}

func TestValidateNamesWhatIsWrong(t *testing.T) {
	for _, l := range []ratelimit.Limit{
		{}, {Quota: 1}, {Quota: 1, Window: time.Second}, {Quota: 1, Window: 24 * time.Hour, Burst: 20_000},
		{Quota: ratelimit.MaxQuota + 1, Window: time.Second, Burst: 1}, {Quota: 1, Window: 25 * time.Hour, Burst: 1},
		{Quota: 1e9, Window: time.Millisecond, Burst: 1},
	} {
		if err := l.Validate(); err == nil {
			t.Errorf("%+v is accepted", l)
		}
		if _, err := ratelimit.NewLimiter(l, 1000); err == nil {
			t.Errorf("%+v is kept", l)
		}
	}
}

// The subjects are in memory in the order in which they come, as that of a request
// is at hand when its limit is asked; their states are not.
func BenchmarkTake(b *testing.B) {
	for name, algorithm := range map[string]ratelimit.Algorithm{"gcra": ratelimit.GCRA, "sliding_window": ratelimit.SlidingWindow} {
		for _, subjects := range []int{1, 1_000_000} {
			b.Run(fmt.Sprintf("%s/subjects=%d", name, subjects), func(b *testing.B) {
				l, err := ratelimit.NewLimiter(ratelimit.Limit{Quota: 1000, Window: time.Minute, Burst: 1000, Algorithm: algorithm}, subjects+500_000)
				if err != nil {
					b.Fatal(err)
				}
				names := make([]string, subjects)
				for i := range names {
					names[i] = "018f2c5e-0000-7000-8000-" + strconv.Itoa(100_000_000_000+i)
					l.Take(names[i], epoch, 1)
				}
				b.ReportAllocs()
				for i := 0; b.Loop(); i++ {
					l.Take(names[i%subjects], epoch.Add(time.Duration(i)*time.Millisecond), 1)
				}
				b.StopTimer()
				if l.Len() != subjects {
					b.Errorf("%d subjects are remembered, want %d", l.Len(), subjects)
				}
			})
		}
	}
}
