package check

import (
	"regexp"
	regexpsyntax "regexp/syntax"
	"slices"
	"strings"
)

// maxWord bounds a name that another system has given, in bytes.
const maxWord = 256

// Word checks a name that another system has given.
func (v *Checker) Word(path, text string, required bool) {
	switch {
	case text == "" && required:
		v.Required(path)
	case len(text) > maxWord:
		v.Fail(path, "must not be longer than %d bytes", maxWord)
	case strings.ContainsFunc(text, func(r rune) bool { return r < ' ' || r == 0x7f }):
		v.Fail(path, "must not have control characters")
	}
}

// IsLabel reports whether s is letters, digits and hyphens between two of them
// (RFC 1123 section 2.1), in lower case.
func IsLabel(s string) bool {
	for i := range len(s) {
		switch c := s[i]; {
		case 'a' <= c && c <= 'z', '0' <= c && c <= '9':
		case c == '-' && i > 0 && i < len(s)-1:
		default:
			return false
		}
	}
	return s != "" && len(s) <= 63
}

// IsDNSName reports whether s is a name in lower case, with the underscores that
// services have (RFC 2782); a dot at the end makes it absolute.
func IsDNSName(s string) bool {
	if len(s) > 253 {
		return false
	}
	for label := range strings.SplitSeq(strings.TrimSuffix(s, "."), ".") {
		if !IsLabel(strings.TrimPrefix(label, "_")) {
			return false
		}
	}
	return true
}
func (v *Checker) Methods(path string, methods []string) {
	for i, method := range methods {
		switch {
		case method == "CONNECT" || method == "TRACE" || method == "TRACK":
			v.Fail(Index(path, i), "is never forwarded")
		case !isMethod(method):
			v.Fail(Index(path, i), "must be a request method in capital letters, such as GET")
		case slices.Contains(methods[:i], method):
			v.Fail(Index(path, i), "is named twice")
		}
	}
}

// isMethod accepts less than a token of RFC 9110: methods are case-sensitive and
// all registered ones consist of capital letters and hyphens.
func isMethod(s string) bool {
	for i := range len(s) {
		if (s[i] < 'A' || s[i] > 'Z') && s[i] != '-' {
			return false
		}
	}
	return s != "" && len(s) <= 32
}

// MaxRegex bounds a regular expression, in bytes.
const MaxRegex = 1000

// Regex checks a regular expression.
func (v *Checker) Regex(path, text string) {
	if len(text) > MaxRegex {
		v.Fail(path, "must be at most %d bytes", MaxRegex)
		return
	}
	if _, err := Regexp(text); err != nil {
		v.Fail(path, "must be a regular expression (RE2): %s", err.Error())
	}
}

// Regexp compiles a regular expression of the document, which matches whole
// values.
func Regexp(text string) (*regexp.Regexp, error) {
	if _, err := regexpsyntax.Parse(text, regexpsyntax.Perl); err != nil {
		return nil, err // alone, so that no bracket of ours is in the message
	}
	return regexp.Compile("^(?:" + text + ")$")
}

// IsRegex is regex that reports whether the expression is good.
func (v *Checker) IsRegex(path, text string) bool {
	v.Regex(path, text)
	_, err := Regexp(text)
	return err == nil && len(text) <= MaxRegex
}
