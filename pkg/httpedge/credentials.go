package httpedge

import (
	"regexp"
	"strings"
)

// credentialShapes are what credentials of this platform look like, whatever the
// configured prefix of keys is: API keys, of which the beginning is public and
// says which one to revoke; refresh tokens; and JSON web tokens.
var credentialShapes = regexp.MustCompile(
	`(_(?:live|test)_[0-9A-Za-z]{12})[0-9A-Za-z]{8,}` +
		`|(kwr_)[0-9A-Za-z_-]{8,}` +
		`|(eyJ)[0-9A-Za-z_-]+\.[0-9A-Za-z_-]+(?:\.[0-9A-Za-z_-]*)?`)

// WithoutCredentials is what a client chose, such as a path, a host or its User-Agent,
// without the secret part of credentials that somebody put there: a key where the id of
// one belongs. Who cuts the text off does it afterwards.
func WithoutCredentials(text string) string {
	if strings.IndexByte(text, '_') < 0 && strings.IndexByte(text, 'J') < 0 {
		return text // which has none of the signs below
	}
	for _, sign := range [...]string{"_live_", "_test_", "kwr_", "eyJ"} {
		if strings.Contains(text, sign) {
			return credentialShapes.ReplaceAllString(text, "${1}${2}${3}[redacted]")
		}
	}
	return text
}
