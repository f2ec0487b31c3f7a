// Package nearest finds the known name that a mistyped one was probably meant to
// be, for messages about unknown options, fields and names.
package nearest

import "strings"

// Bounds of the search, whose cost is the product of all three: names longer
// than maxName bytes and lists longer than maxKnown get no suggestion.
const (
	maxName  = 64
	maxKnown = 1000
)

// Name is the known name that is closest to name in spelling, whatever the case,
// or "" when none is close: more than two edits, or a quarter of the name.
func Name(name string, known []string) string {
	if len(name) > maxName || len(known) > maxKnown {
		return ""
	}
	folded := strings.ToLower(name)
	best, bestDistance := "", max(2, len(name)/4)+1
	for _, k := range known {
		if d := distance(folded, strings.ToLower(k)); d < bestDistance {
			best, bestDistance = k, d
		}
	}
	return best
}

// Question ends a message about an unknown name with the one that was probably
// meant, or with nothing.
func Question(name string, known []string) string {
	if k := Name(name, known); k != "" {
		return ", did you mean " + k + "?"
	}
	return ""
}

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
