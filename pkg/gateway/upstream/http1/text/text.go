// Package text says what the parts of a header may consist of (RFC 9110 sections 5.1, 5.5
// and 5.6.2).
package text

import "net/textproto"

// The tokens of RFC 9110 section 5.6.2, a bit for each character below 128.
const (
	tokensLow  = 0x03ff6cfa00000000 // ! # $ % & ' * + - . 0-9
	tokensHigh = 0x57ffffffc7fffffe // A-Z ^ _ ` a-z | ~
)

func isToken(c byte) bool {
	if c < 64 {
		return tokensLow>>c&1 != 0
	}
	return c < 128 && tokensHigh>>(c-64)&1 != 0
}

// IsToken reports whether name is the name of a field.
func IsToken(name string) bool {
	for i := range len(name) {
		if !isToken(name[i]) {
			return false
		}
	}
	return name != ""
}

// Canonical is a name in canonical form, empty when it is none. One that is in that
// form already, as nearly all are, is not copied.
func Canonical(name string) string {
	first, canonical := true, true
	for i := range len(name) {
		c := name[i]
		switch {
		case !isToken(c):
			return ""
		case first && 'a' <= c && c <= 'z', !first && 'A' <= c && c <= 'Z':
			canonical = false
		}
		first = c == '-'
	}
	if canonical {
		return name
	}
	return textproto.CanonicalMIMEHeaderKey(name)
}

// IsPlain reports whether a text has no control characters but tabs: some of them end
// a line, or a text, for somebody. It looks at eight bytes at a time.
func IsPlain(s string) bool {
	const ones, tops = 0x0101010101010101, 0x8080808080808080
	for ; len(s) >= 8; s = s[8:] {
		x := uint64(s[0]) | uint64(s[1])<<8 | uint64(s[2])<<16 | uint64(s[3])<<24 |
			uint64(s[4])<<32 | uint64(s[5])<<40 | uint64(s[6])<<48 | uint64(s[7])<<56
		del := x ^ 0x7f*ones
		// A borrow may point at a byte above one that is found, never miss one.
		if ((x-' '*ones)&^x|(del-ones)&^del)&tops != 0 && !plainBytes(s[:8]) {
			return false
		}
	}
	return plainBytes(s)
}

func plainBytes(s string) bool {
	for i := range len(s) {
		if c := s[i]; c < ' ' && c != '\t' || c == 0x7f {
			return false
		}
	}
	return true
}
