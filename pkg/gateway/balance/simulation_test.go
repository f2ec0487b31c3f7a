package balance_test

import (
	"container/heap"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/keywarden/keywarden/pkg/gateway/balance"
)

// completion is a request that will be answered.
type completion struct {
	at      time.Time
	took    time.Duration
	target  balance.Target
	counted bool
}

type completions []completion

func (c completions) Len() int           { return len(c) }
func (c completions) Less(i, j int) bool { return c[i].at.Before(c[j].at) }
func (c completions) Swap(i, j int)      { c[i], c[j] = c[j], c[i] }
func (c *completions) Push(x any)        { *c = append(*c, x.(completion)) }
func (c *completions) Pop() any {
	last := len(*c) - 1
	x := (*c)[last]
	*c = (*c)[:last]
	return x
}

// simulate sends requests at random times to three targets that each work on a
// few at a time, one of them twenty times slower, and returns what a request took
// at the 50th and the 99th percentile. No clock and no network take part.
func simulate(t *testing.T, policy balance.Policy) (median, p99 time.Duration) {
	t.Helper()
	const (
		requests = 30_000
		warm     = 1_000                // are not counted
		workers  = 8                    // of each target
		between  = 6 * time.Millisecond // the slow one can do its third of that
	)
	random := rand.New(rand.NewPCG(1, 2))
	list := targets(1, 1, 1)
	service := map[string]time.Duration{
		list[0].Name(): 5 * time.Millisecond, list[1].Name(): 5 * time.Millisecond, list[2].Name(): 100 * time.Millisecond,
	}
	free := map[string][]time.Time{} // when each worker is free
	for _, target := range list {
		free[target.Name()] = make([]time.Time, workers)
	}
	b := newBalancer(t, balance.Options{Policy: policy}, list)
	var pending completions
	var took []time.Duration
	settle := func(until time.Time) {
		for len(pending) > 0 && !pending[0].at.After(until) {
			c := heap.Pop(&pending).(completion)
			c.target.End()
			c.target.Observe(c.took)
			if c.counted {
				took = append(took, c.took)
			}
		}
	}
	at := now
	for i := range requests {
		at = at.Add(time.Duration(random.ExpFloat64() * float64(between)))
		settle(at)
		target, ok := b.Pick(at, 0, nil)
		if !ok {
			t.Fatal("nothing picked")
		}
		target.Begin()
		lines := free[target.Name()]
		first := 0
		for j := range lines {
			if lines[j].Before(lines[first]) {
				first = j
			}
		}
		begun := at
		if lines[first].After(at) {
			begun = lines[first]
		}
		end := begun.Add(time.Duration((0.5 + random.Float64()) * float64(service[target.Name()])))
		lines[first] = end
		heap.Push(&pending, completion{at: end, took: end.Sub(at), target: target, counted: i >= warm})
	}
	settle(at.Add(24 * time.Hour))
	slices.Sort(took)
	return took[len(took)/2], took[len(took)*99/100]
}

func TestPowerOfTwoBeatsRoundRobinWithOneSlowTarget(t *testing.T) {
	median, slow := simulate(t, balance.RoundRobin)
	t.Logf("round_robin: median %v, 99th percentile %v", median, slow)
	median, fast := simulate(t, balance.PowerOfTwo)
	t.Logf("power_of_two: median %v, 99th percentile %v", median, fast)
	const better = 4 // times; in fact it is far more
	if fast*better > slow {
		t.Errorf("power_of_two takes %v at the 99th percentile, round_robin %v", fast, slow)
	}
}
