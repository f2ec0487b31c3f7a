// Package kvmname says how secrets and their environments may be called. It is
// apart from the secrets themselves, so that what only reads names, such as the
// check of a template, needs nothing else.
package kvmname

import "strings"

// MaxName and MaxEnvironment bound names, in bytes.
const (
	MaxName        = 64
	MaxEnvironment = 32
)

// DefaultEnvironment is where secrets are that are said to be nowhere else.
const DefaultEnvironment = "default"

// Rule is what the words below are made of, for messages.
const Rule = "letters, digits, '.', '_' and '-', with a letter or digit at the beginning"

// IsName reports whether s can be the name of a secret.
func IsName(s string) bool { return len(s) <= MaxName && isWord(s) }

// IsEnvironment reports whether s can be the name of an environment.
func IsEnvironment(s string) bool { return len(s) <= MaxEnvironment && isWord(s) }

// isWord never holds of a text with a slash: names are put together with one, and
// stay apart.
func isWord(s string) bool {
	for i := range len(s) {
		c := s[i]
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9':
		case i > 0 && strings.IndexByte("._-", c) >= 0:
		default:
			return false
		}
	}
	return s != ""
}
