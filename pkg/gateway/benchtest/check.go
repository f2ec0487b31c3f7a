package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"strings"
)

// check is the short run for a build: the gateway with everything on, beside its
// counterpart. It fails on a ratio and on a count, never on a time, and not because
// other programs use the machine: see [verdict].
func check(ctx context.Context, s settings, out, progress io.Writer) (err error) {
	t, err := newSite(ctx, s)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, t.close()) }()
	rival, err := t.rival(policyAll)
	if err != nil {
		return err
	}
	other := get(nameRivalAll, rival, pathAll+item, false)
	one := &table{title: "The short run", per: "request", rows: []*row{other}, alloc: true}
	for _, without := range waysOf(s) {
		p, err := t.gateway(ctx, gateway{log: true, traces: true, netHTTP: without})
		if err != nil {
			return err
		}
		one.rows = append(one.rows, get(nameAll+suffixOf(without), p, pathAll+item, false).besides(other))
	}
	for range 2 { // what seems to fail gets as many rounds again, and all of them count
		if err := one.run(ctx, s, progress); err != nil {
			return err
		}
		if err = verdict(one, s); err == nil {
			break
		}
	}
	_, _ = io.WriteString(out, one.text())
	return err
}

// verdict is an error when a row is beyond a bound, and the noise of the machine is no
// explanation. Noise makes single ratios better or worse, the median of a few of them
// as well; but a program that keeps to the bound is beyond it in no more than half of
// the rounds, in the long run, however noisy they are. So that is what is tested (the
// sign test): how probable it is that half would give as many as were seen. A median
// beyond the bound that does not fail shows in the table. Allocations hardly vary; the
// least counts all the same.
func verdict(t *table, s settings) error {
	var wrong []string
	for _, r := range t.rows {
		if r.beside == nil {
			continue
		}
		list := ratios(r.cost, r.beside.cost)
		if n := beyond(list, s.most); chance(n, len(list)) < doubt {
			wrong = append(wrong, fmt.Sprintf("%q takes %.2f times the CPU time of %q, beyond the bound of %.2f in %d of %d rounds",
				r.name, median(list), r.beside.name, s.most, n, len(list)))
		}
		if s.allocations > 0 && len(r.allocations) > 0 {
			if least := slices.Min(r.allocations); least > s.allocations {
				wrong = append(wrong, fmt.Sprintf("%q takes %.1f heap allocations per request, the bound is %.1f", r.name, least, s.allocations))
			}
		}
	}
	if len(wrong) == 0 {
		return nil
	}
	return fmt.Errorf("a proxied request has become dearer: %s\n%s", strings.Join(wrong, "; "), advice)
}

// doubt is how improbable a result must be to count as no chance.
const doubt = 0.001

// minCheckRounds is the least number of rounds of which any result is that improbable.
const minCheckRounds = 10

// beyond is how many of the list are beyond the bound.
func beyond(list []float64, bound float64) (n int) {
	for _, v := range list {
		if v > bound {
			n++
		}
	}
	return n
}

// chance is the probability that a fair coin falls on heads at least k times of n.
func chance(k, n int) float64 {
	sum, term := 0.0, math.Pow(0.5, float64(n)) // term is that of i heads
	for i := range n + 1 {
		if i >= k {
			sum += term
		}
		term *= float64(n-i) / float64(i+1)
	}
	return sum
}

// advice is what to do about it.
const advice = `What to do: look at what the last change added to each request. A profile shows where the time goes:
  make bench BENCH_FLAGS='-parts saturation -rounds 4 -only "` + nameAll + `" -profile cpu.pb' && go tool pprof -top cpu.pb
Allocations show in the benchmarks of the packages on the path of a request:
  go test -run '^$' -bench . -benchmem ./pkg/gateway/... ./pkg/httpedge/... ./pkg/apikey/...
Where the cost is wanted, raise the bound in the Makefile (BENCH_CHECK_FLAGS), and say why.`
