package proxy

import (
	"encoding/base64"
	"encoding/json"
	"net/http"
	"strings"
)

// removeCredentials keeps the caller's credential from the service. On a route
// that authenticates, Authorization was for the gateway. On another it is between
// client and service, unless it holds a key or an access token of this platform
// by mistake: whoever has that may act for the user.
func removeCredentials(h http.Header, authenticated bool, issuer string) {
	if authenticated {
		delete(h, "Authorization")
		return
	}
	for _, v := range h["Authorization"] {
		if holdsKey(v) || holdsToken(v, issuer) {
			delete(h, "Authorization")
			return
		}
	}
}

// Lengths between which the random part of a key is recognised, in characters: 50
// when it is complete, fewer when the end was lost in copying.
const (
	minKeyTail = 40
	maxKeyTail = 60
)

// holdsKey reports whether somewhere in value is what looks like an API key of
// this platform, whatever its configured prefix is: _live_ or _test_ and a long
// run of letters and digits.
func holdsKey(value string) bool {
	for rest := value; ; {
		at := strings.IndexByte(rest, '_')
		if at < 0 {
			return false
		}
		rest = rest[at:]
		if tail, ok := cutEnvironment(rest); ok {
			n := 0
			for n < len(tail) && fold(tail[n]) != '-' {
				n++
			}
			if n >= minKeyTail && n <= maxKeyTail {
				return true
			}
		}
		rest = rest[1:]
	}
}

func cutEnvironment(s string) (tail string, ok bool) {
	if tail, ok = strings.CutPrefix(s, "_live_"); ok {
		return tail, true
	}
	return strings.CutPrefix(s, "_test_")
}

// maxTokenBytes bounds what is decoded of a word that may be a token.
const maxTokenBytes = 8 << 10

// holdsToken reports whether one of the words of value says of itself to be a
// token of issuer. Whether it is a good one does not matter.
func holdsToken(value, issuer string) bool {
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
