// Package ratelimittest holds every store of shared counters to the same promises.
// Only tests import it.
package ratelimittest

import (
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/keywarden/keywarden/pkg/ratelimit"
)

// Conformance runs the promises against a store, whose keys nobody else uses.
func Conformance(t *testing.T, s ratelimit.Store) {
	t.Helper()
	for name, l := range map[string]ratelimit.Limit{
		"gcra":           {Quota: 100, Window: 24 * time.Hour, Burst: 100},
		"sliding window": {Quota: 100, Window: 24 * time.Hour, Burst: 1, Algorithm: ratelimit.SlidingWindow},
	} {
		t.Run(name, func(t *testing.T) {
			c := &conformance{store: s, limit: l, name: t.Name()}
			t.Run("it grants what there is, and the least or nothing", c.grants)
			t.Run("a refusal takes nothing and says when", c.refuses)
			t.Run("what can never be had is refused for good", c.never)
			t.Run("concurrent callers get exactly the limit", c.exact)
			t.Run("keys do not share", c.separate)
			t.Run("a look takes nothing", c.look)
			t.Run("it counts as the limit does", c.same)
			t.Run("units come back", c.comeBack)
		})
	}
}

type conformance struct {
	store ratelimit.Store
	limit ratelimit.Limit
	name  string
}

func (c *conformance) reserve(t *testing.T, key string, least, want int64) ratelimit.Grant {
	t.Helper()
	g, err := c.store.Reserve(t.Context(), c.name+key, c.limit, least, want)
	if err != nil {
		t.Fatal(err)
	}
	if g.Decision.Allowed != (g.Units >= least) || !g.Decision.Allowed && g.Units != 0 || g.Decision.Limit != c.limit.Most() || g.Decision.Remaining < 0 {
		t.Fatalf("the grant %+v makes no sense", g)
	}
	return g
}

func (c *conformance) grants(t *testing.T) {
	for i, step := range []struct{ least, want, units, remaining int64 }{
		{1, 1, 1, 99}, {1, 60, 60, 39}, {5, 1, 5, 34}, {1, 1000, 34, 0}, {1, 1, 0, 0},
	} {
		if g := c.reserve(t, "grants", step.least, step.want); g.Units != step.units || g.Decision.Remaining != step.remaining {
			t.Errorf("step %d: granted %d, %d remain; want %d, %d", i, g.Units, g.Decision.Remaining, step.units, step.remaining)
		}
	}
}

func (c *conformance) refuses(t *testing.T) {
	c.reserve(t, "refuses", 95, 95)
	for range 3 {
		g := c.reserve(t, "refuses", 10, 10)
		if g.Units != 0 || g.Decision.Remaining != 5 || g.Decision.RetryAfter <= 0 || g.Decision.RetryAfter > 2*c.limit.Window {
			t.Errorf("refused with %+v", g)
		}
	}
	if g := c.reserve(t, "refuses", 5, 5); g.Units != 5 {
		t.Errorf("the refusals took something: %+v", g)
	}
}

func (c *conformance) never(t *testing.T) {
	if g := c.reserve(t, "never", 101, 101); g.Units != 0 || g.Decision.RetryAfter != 0 {
		t.Errorf("got %+v", g)
	}
}

func (c *conformance) exact(t *testing.T) {
	var units atomic.Int64
	var group sync.WaitGroup
	for worker := range 8 {
		group.Go(func() {
			for range 40 {
				g, err := c.store.Reserve(t.Context(), c.name+"exact", c.limit, 1, int64(worker%3+1))
				if err != nil {
					t.Error(err)
					return
				}
				units.Add(g.Units)
			}
		})
	}
	group.Wait()
	if units.Load() != c.limit.Quota {
		t.Errorf("%d units were granted, want %d", units.Load(), c.limit.Quota)
	}
}

func (c *conformance) separate(t *testing.T) {
	for i := range 3 {
		if g := c.reserve(t, fmt.Sprintf("separate {%d}", i), 100, 100); g.Units != 100 {
			t.Errorf("key %d: %+v", i, g)
		}
	}
}

func (c *conformance) look(t *testing.T) {
	for _, taken := range []int64{0, 60, 40} {
		if taken > 0 {
			c.reserve(t, "look", taken, taken)
		}
		before := c.reserve(t, "look", 0, 0)
		if again := c.reserve(t, "look", 0, 0); again.Units != 0 || again.Decision.Remaining != before.Decision.Remaining {
			t.Errorf("a look saw %+v, the next %+v", before, again)
		}
	}
}

// same compares the store to the arithmetic, over a time so short that nothing
// comes back.
func (c *conformance) same(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	now, slack := time.Now(), time.Minute
	if into := time.Duration(now.UnixNano()) % c.limit.Window; c.limit.Window-into < slack {
		t.Skip("a window is about to end")
	}
	limit := c.limit
	for round := range 30 {
		key := fmt.Sprintf("same %d", round)
		if round >= 20 {
			limit.Burst = 1 // smoothed
		}
		var state ratelimit.State
		for range 12 {
			least, want := random.Int64N(40), random.Int64N(60)
			expected := limit.Reserve(&state, now, least, want)
			g, err := c.store.Reserve(t.Context(), c.name+key, limit, least, want)
			if err != nil {
				t.Fatal(err)
			}
			if g.Units != expected.Units || g.Decision.Allowed != expected.Decision.Allowed || g.Decision.Remaining != expected.Decision.Remaining ||
				(g.Decision.RetryAfter-expected.Decision.RetryAfter).Abs() > slack {
				t.Fatalf("%d to %d units: granted %+v, want %+v", least, want, g, expected)
			}
		}
	}
}

func (c *conformance) comeBack(t *testing.T) {
	short := c.limit
	short.Window = 200 * time.Millisecond
	deadline := time.Now().Add(30 * time.Second)
	granted := int64(0)
	for granted < 3*short.Quota {
		g, err := c.store.Reserve(t.Context(), c.name+"comeBack", short, 1, 10)
		if err != nil {
			t.Fatal(err)
		}
		if granted += g.Units; time.Now().After(deadline) {
			t.Fatalf("only %d units were granted", granted)
		}
	}
}
