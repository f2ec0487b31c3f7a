package main

import (
	"fmt"
	"slices"
)

// ratios compares round by round: only what ran side by side can be compared.
func ratios(of, to []float64) []float64 {
	list := make([]float64, min(len(of), len(to)))
	for i := range list {
		list[i] = of[i] / to[i]
	}
	return list
}

// spread is the median with the least and the most; nothing for nothing.
func spread(list []float64, decimals int) string {
	if len(list) == 0 {
		return ""
	}
	return fmt.Sprintf("%.*f (%.*f to %.*f)", decimals, median(list), decimals, slices.Min(list), decimals, slices.Max(list))
}

// median is the middle one, or the mean of the two in the middle. The list is not
// empty.
func median(list []float64) float64 {
	sorted := slices.Sorted(slices.Values(list))
	n := len(sorted)
	if n%2 == 1 {
		return sorted[n/2]
	}
	return (sorted[n/2-1] + sorted[n/2]) / 2
}
