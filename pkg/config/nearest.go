package config

import "strings"

// maxSuggest bounds the length of a name for which a suggestion is searched, in
// bytes: the cost is quadratic, and no option has a longer name.
const maxSuggest = 64

// nearest returns the candidate that a person most likely meant by name, or "".
// Close in spelling counts first; otherwise the same last word in another
// section counts, if it is there just once.
func nearest(name string, candidates []string) string {
	if len(name) > maxSuggest {
		return ""
	}
	best, bestDistance := "", max(2, len(name)/4)+1
	var elsewhere []string
	for _, c := range candidates {
		if d := distance(name, c); d < bestDistance {
			best, bestDistance = c, d
		}
		if lastWord(c) == lastWord(name) {
			elsewhere = append(elsewhere, c)
		}
	}
	if best == "" && len(elsewhere) == 1 {
		return elsewhere[0]
	}
	return best
}

func lastWord(path string) string { return path[strings.LastIndexByte(path, '.')+1:] }

// distance is the number of bytes to insert, delete, replace or swap with their
// neighbour to make b of a (optimal string alignment).
func distance(a, b string) int {
	before, last := make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range last {
		last[j] = j
	}
	for i := 1; i <= len(a); i++ {
		row := make([]int, len(b)+1)
		row[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			row[j] = min(last[j]+1, row[j-1]+1, last[j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				row[j] = min(row[j], before[j-2]+1)
			}
		}
		before, last = last, row
	}
	return last[len(b)]
}

// suggest is the question that ends a message about an unknown name, or "".
func suggest(name string, candidates []string) string {
	if c := nearest(name, candidates); c != "" {
		return ", did you mean " + c + "?"
	}
	return ""
}
