package pathrewrite

import (
	"regexp"
	"testing"
)

func TestARewriteThatMakesNoPathIsRefused(t *testing.T) {
	expression := regexp.MustCompile("(a)")
	for name, pieces := range map[string][]Piece{
		"nothing":         nil,
		"no slash":        {{Text: "a"}},
		"a group first":   {{Group: 1}, {Text: "/"}},
		"no such group":   {{Text: "/"}, {Group: 2}},
		"a negative one":  {{Text: "/"}, {Group: -1}},
		"a relative path": {{Text: "../"}},
	} {
		if _, err := New(expression, pieces); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	if _, err := New(nil, []Piece{{Text: "/"}}); err == nil {
		t.Error("no expression: accepted")
	}
}
