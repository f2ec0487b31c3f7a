package main

import (
	"math"
	"math/rand/v2"
	"strings"
	"testing"
)

func TestChanceIsThatOfACoin(t *testing.T) {
	for _, c := range []struct {
		k, n int
		want float64
	}{{0, 4, 1}, {4, 4, 1.0 / 16}, {3, 4, 5.0 / 16}, {12, 12, 1.0 / 4096}, {11, 12, 13.0 / 4096}, {5, 4, 0}} {
		if got := chance(c.k, c.n); math.Abs(got-c.want) > 1e-12 {
			t.Errorf("%d of %d: %v, want %v", c.k, c.n, got, c.want)
		}
	}
	if chance(minCheckRounds, minCheckRounds) >= doubt {
		t.Errorf("of %d rounds nothing can be told", minCheckRounds)
	}
}

// compared is a table of a row whose ratios are these.
func compared(list, allocations []float64) *table {
	other := &row{name: nameRivalAll}
	for range list {
		other.cost = append(other.cost, 1)
	}
	return &table{rows: []*row{other, (&row{name: nameAll, cost: list, allocations: allocations}).besides(other)}}
}

func repeat(v float64, n int) (list []float64) {
	for range n {
		list = append(list, v)
	}
	return list
}

func TestVerdictFailsOnlyBeyondDoubt(t *testing.T) {
	for name, c := range map[string]struct {
		ratios, allocations []float64
		says                string // "" for success
	}{
		"within the bound":             {repeat(0.5, 12), repeat(20, 1), ""},
		"beyond it in every round":     {repeat(0.7, 12), repeat(20, 1), "12 of 12 rounds"},
		"beyond it in most rounds":     {append(repeat(0.7, 8), repeat(0.5, 4)...), nil, ""},
		"beyond it in few rounds":      {append(repeat(0.5, 8), repeat(9, 4)...), nil, ""},
		"in 22 of 24 rounds":           {append(repeat(0.7, 22), 0.5, 0.5), nil, "22 of 24 rounds"},
		"allocations beyond it":        {repeat(0.5, 12), []float64{23, 22.5}, "22.5 heap allocations"},
		"allocations beyond it once":   {repeat(0.5, 12), []float64{23, 21}, ""},
		"allocations were not counted": {repeat(0.5, 12), nil, ""},
	} {
		err := verdict(compared(c.ratios, c.allocations), settings{most: 0.6, allocations: 22})
		switch {
		case (err == nil) != (c.says == ""):
			t.Errorf("%s: %v", name, err)
		case err != nil && (!strings.Contains(err.Error(), c.says) || !strings.Contains(err.Error(), "What to do")):
			t.Errorf("%s: says %q", name, err)
		}
	}
	if err := verdict(compared(repeat(0.5, 12), repeat(99, 1)), settings{most: 0.6}); err != nil {
		t.Errorf("without a bound of allocations: %v", err)
	}
}

// However noisy a machine is, a program just within the bound does not fail, and one
// that is far beyond it does.
func TestNoiseDoesNotFailTheCheck(t *testing.T) {
	const trials = 2000
	failures := func(ratio, noise float64) (n int) {
		random := rand.New(rand.NewPCG(1, 2))
		for range trials {
			var list []float64
			for range 12 {
				list = append(list, ratio*math.Exp(noise*random.NormFloat64()))
			}
			if verdict(compared(list, nil), settings{most: 1}) != nil {
				n++
			}
		}
		return n
	}
	for _, noise := range []float64{0.05, 0.2, 0.5} {
		if n := failures(0.95, noise); n > trials/1000 {
			t.Errorf("noise %v: %d of %d failed", noise, n, trials)
		}
	}
	if n := failures(1.5, 0.15); n < trials*9/10 {
		t.Errorf("only %d of %d failed that are half as dear again", n, trials)
	}
}
