// Package lookalike recognises, in a text that somebody sends, what looks like an API key
// or an access token of this platform. Whether it is a good one is not its business.
package lookalike

import (
	"encoding/base64"
	"encoding/json"
	"strings"
)

// Lengths between which the random part of a key is recognised, in characters: 50
// when it is complete, fewer when the end was lost in copying.
const (
	minKeyTail = 40
	maxKeyTail = 60
)

// Key reports whether somewhere in value is what looks like an API key of
// this platform, whatever its configured prefix is: _live_ or _test_ and a long
// run of letters and digits.
func Key(value string) bool {
	for rest := value; ; {
		at := strings.IndexByte(rest, '_')
		if at < 0 {
			return false
		}
		rest = rest[at:]
		if tail, ok := cutEnvironment(rest); ok {
			n := 0
			for n < len(tail) && base62(tail[n]) {
				n++
			}
			if n >= minKeyTail && n <= maxKeyTail {
				return true
			}
		}
		rest = rest[1:]
	}
}

// base62 reports whether c is a letter or a digit.
func base62(c byte) bool {
	return '0' <= c && c <= '9' || 'A' <= c && c <= 'Z' || 'a' <= c && c <= 'z'
}

func cutEnvironment(s string) (tail string, ok bool) {
	if tail, ok = strings.CutPrefix(s, "_live_"); ok {
		return tail, true
	}
	return strings.CutPrefix(s, "_test_")
}

// maxTokenBytes bounds what is decoded of a word that may be a token.
const maxTokenBytes = 8 << 10

// Token reports whether one of the words of value says of itself to be a
// token of issuer. Whether it is a good one does not matter.
func Token(value, issuer string) bool {
	if issuer == "" {
		return false
	}
	for word := range strings.FieldsFuncSeq(value, func(r rune) bool { return strings.ContainsRune(" \t,;=\"", r) }) {
		_, rest, _ := strings.Cut(word, ".")
		payload, _, ok := strings.Cut(rest, ".")
		if !ok || len(payload) > maxTokenBytes {
			continue
		}
		text, err := base64.RawURLEncoding.DecodeString(payload)
		var claims struct {
			Issuer string `json:"iss"`
		}
		if err == nil && json.Unmarshal(text, &claims) == nil && claims.Issuer == issuer {
			return true
		}
	}
	return false
}
