package balance_test

import (
	"fmt"
	"math"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/keywarden/keywarden/pkg/gateway/balance"
)

var now = time.Unix(1_700_000_000, 0)

func targets(weights ...int) []balance.Target {
	var list []balance.Target
	for i, w := range weights {
		list = append(list, balance.Target{State: balance.NewState(fmt.Sprintf("http://10.0.0.%d:80", i+1)), Weight: w})
	}
	return list
}

func newBalancer(t testing.TB, o balance.Options, list []balance.Target) *balance.Balancer {
	t.Helper()
	b, err := balance.New(o, list)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// picks counts how often each target is chosen, without anything in flight.
func picks(t testing.TB, b *balance.Balancer, n int, hash func(i int) uint64) map[string]int {
	t.Helper()
	count := map[string]int{}
	for i := range n {
		h := uint64(0)
		if hash != nil {
			h = hash(i)
		}
		target, ok := b.Pick(now, h, nil)
		if !ok {
			t.Fatal("nothing picked")
		}
		count[target.Name()]++
	}
	return count
}

func TestEachPolicyGivesTargetsTheirShare(t *testing.T) {
	const n = 60_000
	byHash := func(i int) uint64 { return balance.Hash(fmt.Sprint("client ", i)) }
	for _, tt := range []struct {
		policy  balance.Policy
		weights []int
		shares  []float64
	}{
		{balance.RoundRobin, []int{1, 1, 1}, []float64{1. / 3, 1. / 3, 1. / 3}},
		{balance.WeightedRoundRobin, []int{1, 2, 3}, []float64{1. / 6, 2. / 6, 3. / 6}},
		{balance.Random, []int{1, 2, 3}, []float64{1. / 6, 2. / 6, 3. / 6}},
		{balance.LeastConnections, []int{1, 1, 1}, []float64{1. / 3, 1. / 3, 1. / 3}},
		{balance.PowerOfTwo, []int{1, 1, 1}, []float64{1. / 3, 1. / 3, 1. / 3}},
		{balance.ConsistentHash, []int{1, 2, 3}, []float64{1. / 6, 2. / 6, 3. / 6}},
	} {
		t.Run(string(tt.policy), func(t *testing.T) {
			list := targets(tt.weights...)
			count := picks(t, newBalancer(t, balance.Options{Policy: tt.policy}, list), n, byHash)
			for i, share := range tt.shares {
				got := float64(count[list[i].Name()]) / n
				if math.Abs(got-share) > 0.02 {
					t.Errorf("target %d gets %.3f of the requests, want %.3f", i, got, share)
				}
			}
		})
	}
}

func TestWeightedRoundRobinSpreadsTheTurnsOfAHeavyTarget(t *testing.T) {
	list := targets(5, 1, 1)
	b := newBalancer(t, balance.Options{Policy: balance.WeightedRoundRobin}, list)
	inARow := 0
	for range 70 {
		target, _ := b.Pick(now, 0, nil)
		if target.Name() != list[0].Name() {
			inARow = 0
			continue
		}
		if inARow++; inARow > 4 {
			t.Fatalf("the heavy target is chosen %d times in a row", inARow)
		}
	}
}

func TestNoPolicyPicksATargetThatIsDownOrEjectedOrExcluded(t *testing.T) {
	for _, policy := range balance.Policies() {
		t.Run(string(policy), func(t *testing.T) {
			list := targets(1, 1, 1, 1)
			list[0].SetDown(true, now)
			list[1].Eject(now.Add(time.Second))
			b := newBalancer(t, balance.Options{Policy: policy}, list)
			for i := range 1000 {
				target, ok := b.Pick(now, balance.Hash(fmt.Sprint(i)), func(s *balance.State) bool { return s == list[2].State })
				if !ok || target.State != list[3].State {
					t.Fatalf("picked %v, want the only one left", target)
				}
			}
		})
	}
}

func TestWhenNoneIsAvailableOneIsTriedAnyway(t *testing.T) {
	list := targets(1, 1)
	for _, target := range list {
		target.SetDown(true, now)
	}
	if _, ok := newBalancer(t, balance.Options{}, list).Pick(now, 0, nil); !ok {
		t.Error("nothing picked")
	}
	all := func(*balance.State) bool { return true }
	if target, ok := newBalancer(t, balance.Options{}, list).Pick(now, 0, all); ok {
		t.Errorf("picked %s although all are excluded", target.Name())
	}
}

func TestTiersAreUsedInTheirOrder(t *testing.T) {
	list := targets(1, 1, 1, 1)
	list[0].Priority, list[0].Zone = 0, "b"
	list[1].Priority, list[1].Zone = 0, "a"
	list[2].Priority, list[2].Zone = 1, "a"
	list[3].Priority, list[3].Zone = 1, "b"
	b := newBalancer(t, balance.Options{Zone: "a"}, list)
	for _, want := range []int{1, 0, 2, 3} { // own zone first, then the other zone, then the next priority
		for range 20 {
			if target, _ := b.Pick(now, 0, nil); target.State != list[want].State {
				t.Fatalf("picked %s, want target %d", target.Name(), want)
			}
		}
		list[want].SetDown(true, now)
	}
}

func TestConsistentHashMovesOnlyTheShareOfTheTargetThatGoes(t *testing.T) {
	list := targets(1, 1, 1, 1, 1)
	before := newBalancer(t, balance.Options{Policy: balance.ConsistentHash}, list)
	after := newBalancer(t, balance.Options{Policy: balance.ConsistentHash}, list[:4])
	for i := range 10_000 {
		h := balance.Hash(fmt.Sprint("client ", i))
		was, _ := before.Pick(now, h, nil)
		is, _ := after.Pick(now, h, nil)
		if was.State != is.State && was.State != list[4].State {
			t.Fatalf("a client moved from %s to %s", was.Name(), is.Name())
		}
	}
}

func TestConsistentHashPassesOnWhatOverloadsATarget(t *testing.T) {
	list := targets(1, 1, 1)
	b := newBalancer(t, balance.Options{Policy: balance.ConsistentHash}, list)
	h := balance.Hash("the one hot key")
	for range 300 {
		target, _ := b.Pick(now, h, nil)
		target.Begin()
	}
	for _, target := range list {
		if n := target.InFlight(); n > 130 {
			t.Errorf("%s has %d of 300 exchanges of one key, want at most 1.25 times the average", target.Name(), n)
		}
	}
}

func TestLeastConnectionsAvoidsTheBusy(t *testing.T) {
	list := targets(1, 1)
	for range 5 {
		list[0].Begin()
	}
	count := picks(t, newBalancer(t, balance.Options{Policy: balance.LeastConnections}, list), 100, nil)
	if count[list[0].Name()] != 0 {
		t.Errorf("the busy one is chosen %d times", count[list[0].Name()])
	}
}

func TestPowerOfTwoAvoidsTheSlow(t *testing.T) {
	list := targets(1, 1, 1)
	for _, target := range list {
		target.Observe(time.Millisecond)
	}
	for range 50 {
		list[0].Observe(time.Second)
	}
	count := picks(t, newBalancer(t, balance.Options{Policy: balance.PowerOfTwo}, list), 10_000, nil)
	if got := count[list[0].Name()]; got != 0 {
		t.Errorf("the slow one is chosen %d times of 10000, want never: one of two is always faster", got)
	}
}

func TestATargetThatCameBackStartsSlowly(t *testing.T) {
	for _, policy := range []balance.Policy{balance.RoundRobin, balance.WeightedRoundRobin, balance.Random} {
		t.Run(string(policy), func(t *testing.T) {
			list := targets(1, 1)
			list[0].SetDown(true, now)
			list[0].SetDown(false, now)
			b := newBalancer(t, balance.Options{Policy: policy, SlowStart: 10 * time.Second}, list)
			share := func(at time.Time) float64 {
				n := 0
				for range 10_000 {
					if target, _ := b.Pick(at, 0, nil); target.State == list[0].State {
						n++
					}
				}
				return float64(n) / 10_000
			}
			early, late := share(now.Add(time.Second)), share(now.Add(10*time.Second))
			if early > 0.15 || early < 0.02 {
				t.Errorf("after a tenth of the time it takes %.3f of the requests, want about a tenth of its share", early)
			}
			if math.Abs(late-0.5) > 0.03 {
				t.Errorf("in the end it takes %.3f, want half", late)
			}
		})
	}
}

// Whatever is down, ejected or excluded, a pick is never excluded, and is
// available when any candidate is.
func TestPickPrefersWhatIsAvailable(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(1, 8).Draw(t, "targets")
		var list []balance.Target
		excluded := map[*balance.State]bool{}
		possible, available := false, false
		for i := range n {
			s := balance.NewState(fmt.Sprint(i))
			if rapid.Bool().Draw(t, "down") {
				s.SetDown(true, now)
			}
			if rapid.Bool().Draw(t, "ejected") {
				s.Eject(now.Add(time.Second))
			}
			excluded[s] = rapid.Bool().Draw(t, "excluded")
			possible = possible || !excluded[s]
			available = available || !excluded[s] && s.Available(now)
			list = append(list, balance.Target{State: s, Weight: rapid.IntRange(1, 5).Draw(t, "weight"), Priority: rapid.IntRange(0, 2).Draw(t, "priority")})
		}
		b, err := balance.New(balance.Options{
			Policy:    rapid.SampledFrom(balance.Policies()).Draw(t, "policy"),
			SlowStart: time.Duration(rapid.IntRange(0, 5).Draw(t, "slow start")) * time.Second,
		}, list)
		if err != nil {
			t.Fatal(err)
		}
		for range 10 {
			target, ok := b.Pick(now, rapid.Uint64().Draw(t, "hash"), func(s *balance.State) bool { return excluded[s] })
			switch {
			case ok != possible:
				t.Fatalf("picked %t, want %t", ok, possible)
			case ok && excluded[target.State]:
				t.Fatal("picked an excluded one")
			case ok && available && !target.Available(now):
				t.Fatal("picked one that is not available while another was")
			}
		}
	})
}

func TestPickIsSafeForConcurrentUse(t *testing.T) {
	for _, policy := range balance.Policies() {
		list := targets(1, 2, 3)
		b := newBalancer(t, balance.Options{Policy: policy, SlowStart: time.Second}, list)
		var all sync.WaitGroup
		for g := range 8 {
			all.Go(func() {
				for i := range 500 {
					target, _ := b.Pick(now, uint64(g*i), nil)
					target.Begin()
					target.Observe(time.Duration(i))
					target.SetDown(i%7 == 0, now)
					target.End()
				}
			})
		}
		all.Wait()
		for _, target := range list {
			if target.InFlight() != 0 {
				t.Errorf("%s: %s has %d in flight in the end", policy, target.Name(), target.InFlight())
			}
		}
	}
}

func BenchmarkPick(b *testing.B) {
	for _, policy := range balance.Policies() {
		for _, n := range []int{3, 30} {
			b.Run(fmt.Sprintf("%s/%d", policy, n), func(b *testing.B) {
				weights := make([]int, n)
				for i := range weights {
					weights[i] = 1 + i%3
				}
				balancer := newBalancer(b, balance.Options{Policy: policy}, targets(weights...))
				b.ReportAllocs()
				for i := 0; b.Loop(); i++ {
					balancer.Pick(now, uint64(i), nil)
				}
			})
		}
	}
}
