package dialect_test

import (
	"testing"

	"github.com/keywarden/keywarden/pkg/openapi/dialect"
)

func TestPatternsOfECMAScriptMeanTheSame(t *testing.T) {
	for _, c := range []struct {
		pattern, text string
		matches       bool
	}{
		{`^[\u00e0-\u00ff]+$`, "é", true},
		{`^[\u00e0-\u00ff]+$`, "e", false},
		{`^\\u0041$`, `\u0041`, true},
		{`^\/a\-b$`, "/a-b", true},
	} {
		p, err := dialect.CompilePattern(c.pattern)
		if err != nil || p.MatchString(c.text) != c.matches {
			t.Errorf("%s, %s: %v", c.pattern, c.text, err)
		}
	}
	if _, err := dialect.CompilePattern(`^(?!a)`); err == nil {
		t.Error("looking ahead is accepted")
	}
}
