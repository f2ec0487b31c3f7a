package config

import (
	"strings"

	known "github.com/keywarden/keywarden/pkg/nearest"
)

// maxSuggest bounds the length of a name for which a suggestion is searched, in
// bytes; no option has a longer name.
const maxSuggest = 64

// nearest returns the option that a person most likely meant by name, or "".
// Close in spelling counts first; otherwise the same last word in another
// section counts, if it is there just once.
func nearest(name string, candidates []string) string {
	if best := known.Name(name, candidates); best != "" || len(name) > maxSuggest {
		return best
	}
	var elsewhere []string
	for _, c := range candidates {
		if lastWord(c) == lastWord(name) {
			elsewhere = append(elsewhere, c)
		}
	}
	if len(elsewhere) == 1 {
		return elsewhere[0]
	}
	return ""
}

func lastWord(path string) string { return path[strings.LastIndexByte(path, '.')+1:] }

// suggest is the question that ends a message about an unknown name, or "".
func suggest(name string, candidates []string) string {
	if c := nearest(name, candidates); c != "" {
		return ", did you mean " + c + "?"
	}
	return ""
}
