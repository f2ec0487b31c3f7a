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

// withoutCredentials is path without the secret part of credentials that
// somebody took for a part of it, such as a key where the id of one belongs.
func withoutCredentials(path string) string {
	for _, sign := range []string{"_live_", "_test_", "kwr_", "eyJ"} {
		if strings.Contains(path, sign) {
			return credentialShapes.ReplaceAllString(path, "${1}${2}${3}[redacted]")
		}
	}
	return path
}
