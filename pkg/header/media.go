package header

import (
	"mime"
	"slices"
	"strings"
)

// MediaType returns what is named by a value of Content-Type: type and subtype in
// lower case, without parameters (RFC 9110 section 8.3.1). ok is false for a value
// that is malformed, parameters included: another reader could see another type in
// it.
func MediaType(value string) (name string, ok bool) {
	if isMediaType(value) { // as most are
		return value, true
	}
	before, _, parameters := strings.Cut(value, ";")
	before = strings.Trim(before, " \t")
	for i := range len(before) { // some letters beyond ASCII become others in lower case
		if before[i] >= 0x80 {
			return "", false
		}
	}
	if name = strings.ToLower(before); !isMediaType(name) {
		return "", false
	}
	if parameters {
		if _, _, err := mime.ParseMediaType(value); err != nil {
			return "", false
		}
	}
	return name, true
}

// isMediaType reports whether s is type/subtype in lower case, each a token.
func isMediaType(s string) bool {
	slash := strings.IndexByte(s, '/')
	if slash < 1 || !IsName(s[:slash]) || !IsName(s[slash+1:]) {
		return false
	}
	for i := range len(s) {
		if 'A' <= s[i] && s[i] <= 'Z' {
			return false
		}
	}
	return true
}

// InMediaRanges reports whether a media type, as [MediaType] returns it, is in one
// of the ranges: type/subtype or type/*, in lower case and without parameters.
func InMediaRanges(ranges []string, name string) bool {
	return slices.ContainsFunc(ranges, func(r string) bool {
		if family, ok := strings.CutSuffix(r, "*"); ok {
			return strings.HasPrefix(name, family)
		}
		return r == name
	})
}
