package spec

import "strings"

// maxSuggest bounds the length of a name for which a suggestion is searched, in
// bytes: the cost is quadratic.
const maxSuggest = 64

// maxCandidates bounds the names that are compared, for the same reason.
const maxCandidates = 1000

// suggest ends a message about an unknown name with the one that was probably
// meant, whatever its case, or with nothing.
func suggest(name string, known []string) string {
	if len(name) > maxSuggest || len(known) > maxCandidates {
		return ""
	}
	best, bestDistance := "", max(2, len(name)/4)+1
	for _, k := range known {
		if d := distance(strings.ToLower(name), strings.ToLower(k)); d < bestDistance {
			best, bestDistance = k, d
		}
	}
	if best == "" {
		return ""
	}
	return ", did you mean " + best + "?"
}

// distance is the number of bytes to insert, delete or replace to make b of a
// (Levenshtein).
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost = 1 + min(diagonal, row[j], row[j+1])
			}
			diagonal, row[j+1] = row[j+1], cost
		}
	}
	return row[len(b)]
}
