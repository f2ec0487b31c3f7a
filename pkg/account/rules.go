package account

import (
	_ "embed"
	"fmt"
	"net/mail"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/net/idna"
	"golang.org/x/text/unicode/norm"
)

// Bounds of input, in characters unless they say bytes.
const (
	MaxPasswordLength = 256
	MaxPasswordBytes  = 12 * MaxPasswordLength // a decomposed character takes up to 12 bytes
	MaxNameLength     = 100
	maxEmailBytes     = 254 // RFC 5321 section 4.5.3.1.3, less the angle brackets
)

// commonPasswords are frequent passwords of past breaches, lower case, one a
// line, sorted.
//
//go:embed common_passwords.txt
var commonPasswords string

// domains reads a domain as browsers and mail programs do (UTS 46), and refuses
// what DNS cannot hold.
var domains = idna.New(idna.MapForLookup(), idna.BidiRule(), idna.StrictDomainName(true), idna.VerifyDNSLength(true))

// CanonicalEmail is the one spelling under which an address is stored and looked
// up: compatibility-normalised (NFKC), trimmed, lower case, the domain in its
// ASCII form. An address that is not valid comes back as it can be, as valid
// Unicode text.
func CanonicalEmail(email string) string {
	if len(email) > 4*maxEmailBytes {
		return strings.ToValidUTF8(email[:4*maxEmailBytes], "") // too long in any spelling; do not normalise megabytes
	}
	// Normalised twice: some letters compose with their accent only in lower case.
	email = strings.ToLower(norm.NFKC.String(strings.ToValidUTF8(email, string(utf8.RuneError))))
	email = strings.TrimSpace(norm.NFKC.String(email))
	at := strings.LastIndexByte(email, '@')
	if at < 0 {
		return email
	}
	if domain, err := domains.ToASCII(email[at+1:]); err == nil {
		return email[:at+1] + domain
	}
	return email
}

// checkEmail returns what is wrong with a canonical address, or "".
func checkEmail(email string) string {
	const malformed = "must be an e-mail address like name@example.com"
	switch {
	case email == "":
		return "is required"
	case len(email) > maxEmailBytes:
		return fmt.Sprintf("must be at most %d bytes", maxEmailBytes)
	case strings.Count(email, "@") != 1 || strings.ContainsFunc(email, invisible) || strings.ContainsAny(email, `"<>()[]\,;: `):
		return malformed
	}
	local, domain, _ := strings.Cut(email, "@")
	parsed, err := mail.ParseAddress(email)
	if err != nil || parsed.Address != email || len(local) > 64 || !strings.Contains(domain, ".") {
		return malformed
	}
	if _, err := domains.ToASCII(domain); err != nil {
		return malformed
	}
	return ""
}

// invisible characters can make two different texts look the same.
func invisible(r rune) bool {
	const brailleBlank = '\u2800' // a symbol by category
	return r == utf8.RuneError || unicode.Is(unicode.C, r) || unicode.Is(unicode.Z, r) && r != ' ' ||
		unicode.Is(unicode.Other_Default_Ignorable_Code_Point, r) || r == brailleBlank
}

// cleanName returns the name as it is stored, or what is wrong with it.
func cleanName(name string) (clean, detail string) {
	if len(name) > 12*MaxNameLength {
		return "", fmt.Sprintf("must be at most %d characters", MaxNameLength)
	}
	if !utf8.ValidString(name) || strings.ContainsFunc(name, invisible) {
		return "", "must not contain control or invisible characters"
	}
	clean = strings.TrimSpace(norm.NFC.String(name))
	if utf8.RuneCountInString(clean) > MaxNameLength {
		return "", fmt.Sprintf("must be at most %d characters", MaxNameLength)
	}
	return clean, ""
}

// checkPassword returns what is wrong with a new password, or "". There are no
// rules of composition (NIST SP 800-63B): length, and not easily guessed.
func (s *Service) checkPassword(password, email, name string) string {
	if len(password) > MaxPasswordBytes {
		return fmt.Sprintf("must be at most %d characters", MaxPasswordLength)
	}
	normal := norm.NFKC.String(password)
	length := utf8.RuneCountInString(normal)
	switch {
	case password == "":
		return "is required"
	case !utf8.ValidString(password):
		return "must be valid Unicode text"
	case length < s.PasswordMinLength:
		return fmt.Sprintf("must be at least %d characters; a few words in a row are easy to remember", s.PasswordMinLength)
	case length > MaxPasswordLength:
		return fmt.Sprintf("must be at most %d characters", MaxPasswordLength)
	case guessable(strings.ToLower(normal), email, name):
		return "is too easy to guess: it is a common password, a simple pattern, or made of your name or address"
	}
	return ""
}

// guessable reports whether a lower-case password is what attackers try first.
func guessable(password, email, name string) bool {
	if distinct(password) < 5 || sequential(password) {
		return true
	}
	core := strings.TrimFunc(password, func(r rune) bool { return !unicode.IsLetter(r) })
	local, _, _ := strings.Cut(email, "@")
	for _, word := range []string{local, email, strings.ToLower(name), "keywarden"} {
		if len(word) >= 4 && (core == word || password == word || core == word+word) {
			return true
		}
	}
	for _, candidate := range []string{password, core, unleet(core), unleet(password)} {
		if common(candidate) || halvesCommon(candidate) {
			return true
		}
	}
	return false
}

// common reports whether word is on the list of common passwords.
func common(word string) bool {
	if len(word) < 4 {
		return false
	}
	// The list is sorted, so a binary search over byte offsets finds the line.
	lo, hi := 0, len(commonPasswords)
	for lo < hi {
		mid := (lo + hi) / 2
		start := strings.LastIndexByte(commonPasswords[:mid], '\n') + 1
		end := len(commonPasswords)
		if i := strings.IndexByte(commonPasswords[start:], '\n'); i >= 0 {
			end = start + i
		}
		switch line := commonPasswords[start:end]; {
		case line == word:
			return true
		case line < word:
			lo = end + 1
		default:
			hi = start
		}
	}
	return false
}

// halvesCommon finds a common password written twice.
func halvesCommon(word string) bool {
	half := len(word) / 2
	return len(word)%2 == 0 && word[:half] == word[half:] && common(word[:half])
}

var leet = strings.NewReplacer("0", "o", "1", "i", "3", "e", "4", "a", "5", "s", "7", "t", "@", "a", "$", "s", "!", "i")

// unleet undoes the usual replacements of letters.
func unleet(word string) string { return leet.Replace(word) }

func distinct(s string) int {
	runes := []rune(s)
	slices.Sort(runes)
	return len(slices.Compact(runes))
}

// sequential reports whether nearly every character follows from the one before
// by the same small step, as in "abcdefghijkl", "123456789012" or "aaaabbbbcccc".
func sequential(s string) bool {
	runes := []rune(s)
	steps := 0
	for i := 1; i < len(runes); i++ {
		if d := runes[i] - runes[i-1]; d >= -1 && d <= 1 || d == 9 || d == -9 {
			steps++
		}
	}
	return steps >= len(runes)-2
}
