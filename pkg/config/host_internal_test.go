package config

import (
	"strings"
	"testing"
)

func TestNamesHaveTheirBounds(t *testing.T) {
	label := strings.Repeat("a", maxLabelLength)
	for host, want := range map[string]bool{
		"a": true, "a.b-c.d_e": true, "_x.a": true, "127.0.0.1": true, "::1": true, label: true, label + "." + label: true,
		"": false, "-a": false, "a-": false, "a..b": false, ".a": false, "a.": false, "A": false, "a b": false, label + "a": false, "x." + label + "a.y": false,
		strings.Repeat("a.", 126) + "a": true, strings.Repeat("a.", 127) + "a": false,
	} {
		if got := validHost(host); got != want {
			t.Errorf("host %q: %v, want %v", host, got, want)
		}
	}
	for word, want := range map[string]bool{
		strings.Repeat("!", maxWordLength): true, strings.Repeat("!", maxWordLength+1): false, "~": true, "a b": false, "é": false,
	} {
		if got := checkFormat("word", word) == nil; got != want {
			t.Errorf("word %q: %v, want %v", word, got, want)
		}
	}
}
