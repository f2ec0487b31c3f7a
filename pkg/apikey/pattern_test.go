package apikey

import (
	"regexp"
	"testing"
)

func TestPatternMatchesWhatIsMinted(t *testing.T) {
	pattern := regexp.MustCompile("^" + Pattern("kw") + "$")
	for range 500 {
		for _, env := range []Environment{Live, Test} {
			key := newKey("kw", env, newID()).Reveal()
			if !pattern.MatchString(key) {
				t.Fatal("a minted key does not match")
			}
			if pattern.MatchString(key+"0") || pattern.MatchString(key[1:]) || pattern.MatchString(key[:len(key)-1]) {
				t.Fatal("more or less than a key matches")
			}
		}
	}
}
