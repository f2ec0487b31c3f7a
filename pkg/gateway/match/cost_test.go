package match_test

import (
	"fmt"
	"testing"
	"time"
)

// TestMatchCostDoesNotGrowWithTheRoutes compares the fastest of many short runs,
// taken in turn: other work on the machine makes a run slower and never faster, so
// the fastest one is the program's own.
func TestMatchCostDoesNotGrowWithTheRoutes(t *testing.T) {
	const (
		rounds  = 60
		lookups = 2_000
		bound   = 1.5
	)
	sizes := [2]int{10, 10_000}
	var run [2]func() time.Duration
	for i, n := range sizes {
		x := routes(t, n)
		host, path := fmt.Sprintf("host%d.test", (n-1)%10), fmt.Sprintf("/api/v%d/items/42", n-1)
		lookup := func() {
			if !x.Lookup(host, path, "GET", nil).Found {
				t.Fatal("not found")
			}
		}
		if allocs := testing.AllocsPerRun(100, lookup); allocs != 0 {
			t.Errorf("%d routes: %v allocations for a look-up", n, allocs)
		}
		run[i] = func() time.Duration {
			began := time.Now()
			for range lookups {
				lookup()
			}
			return time.Since(began)
		}
	}
	fastest := [2]time.Duration{time.Hour, time.Hour}
	for range rounds {
		for i := range sizes {
			fastest[i] = min(fastest[i], run[i]())
		}
	}
	ratio := float64(fastest[1]) / float64(fastest[0])
	t.Logf("%d routes %v, %d routes %v for each look-up: %.2f times", sizes[0], fastest[0]/lookups, sizes[1], fastest[1]/lookups, ratio)
	if ratio > bound {
		t.Errorf("a look-up among %d routes costs %.2f times one among %d, want at most %v", sizes[1], ratio, sizes[0], bound)
	}
}
