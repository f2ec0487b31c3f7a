package proxy

import (
	"encoding/base64"
	"encoding/json"
	"net/http"
	"strings"

	"github.com/keywarden/keywarden/pkg/gateway/forward"
)

// removeCredentials keeps the caller's credential from the service. On a route
// that authenticates, Authorization was for the gateway, and a service that the
// gateway shows a credential of its own gets none of the caller's. On another it is between
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

// present sends the request with the credential of the service, which is put there
// at last: nothing that looks at the request before sees it.
//
// When the service does not accept it and another can be had by now, a request that
// may be repeated (RFC 9110 section 9.2.2) is, once.
func (x *exchange) present(out *http.Request) (*http.Response, error) {
	s, caller := x.route.service, x.caller(out.Context())
	presented, err := s.credential.Apply(out, caller)
	if err != nil {
		return nil, err
	}
	answer, err := s.backend.Load().Send(&x.forward, out)
	if err != nil || answer.StatusCode != http.StatusUnauthorized || answer.Header["Www-Authenticate"] == nil {
		return answer, err
	}
	repeatable := forward.Repeatable(out)
	if !s.credential.Renew(out.Context(), presented, repeatable) || !repeatable {
		return answer, nil
	}
	// What was sent may still be in the hands of its transport.
	again := out.Clone(out.Context())
	if _, err := s.credential.Apply(again, caller); err != nil {
		return answer, nil //nolint:nilerr // the first answer stands
	}
	_ = answer.Body.Close()
	x.forward.End(false)
	x.forward = forward.Exchange{Hash: x.forward.Hash, Host: x.forward.Host}
	return s.backend.Load().Send(&x.forward, again)
}
