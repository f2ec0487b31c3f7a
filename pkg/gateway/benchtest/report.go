package main

import (
	"fmt"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/keywarden/keywarden/pkg/loadtest"
)

// Markers between which the table stands in a Markdown file.
const (
	markBegin = "<!-- bench: begin, written by make bench -->\n"
	markEnd   = "<!-- bench: end -->\n"
)

// report is the table, with what one needs to know to read it.
func report(subjects []*subject, s settings) string {
	var bare *subject
	for _, one := range subjects {
		if one.name == nameBare {
			bare = one
		}
	}
	var b strings.Builder
	_, _ = fmt.Fprintf(&b, "%s, %s, %s, %d processors; %d rounds of %v, %d connections, answers of %d bytes.\n\n", time.Now().UTC().Format(time.DateOnly),
		runtime.Version(), loadtest.Processor(), runtime.NumCPU(), s.rounds, s.window, s.connections, answerBytes)
	b.WriteString("| what | CPU µs per request, median (least to most) | times the bare proxy, median (least to most) | requests per second |\n")
	b.WriteString("| --- | --- | --- | --- |\n")
	for _, one := range subjects {
		ratio := ""
		if bare != nil {
			ratio = spread(ratios(one.cost, bare.cost), 2)
		}
		_, _ = fmt.Fprintf(&b, "| %s | %s | %s | %.0f |\n", one.name, spread(one.cost, 1), ratio, median(one.rate))
	}
	return b.String()
}

// ratios compares round by round: only what ran side by side can be compared.
func ratios(of, to []float64) []float64 {
	list := make([]float64, min(len(of), len(to)))
	for i := range list {
		list[i] = of[i] / to[i]
	}
	return list
}

func spread(list []float64, decimals int) string {
	return fmt.Sprintf("%.*f (%.*f to %.*f)", decimals, median(list), decimals, slices.Min(list), decimals, slices.Max(list))
}

// median is the middle one, or the mean of the two in the middle.
func median(list []float64) float64 {
	sorted := slices.Sorted(slices.Values(list))
	n := len(sorted)
	if n%2 == 1 {
		return sorted[n/2]
	}
	return (sorted[n/2-1] + sorted[n/2]) / 2
}
