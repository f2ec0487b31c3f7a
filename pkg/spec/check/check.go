// Package check is the rules that values of the gateway document keep, whatever
// they are part of: names, words, bounds, paths, expressions, header fields. What is
// wrong is collected with its place in the document.
package check

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/keywarden/keywarden/pkg/nearest"
	"github.com/keywarden/keywarden/pkg/spec/quantity"
	"github.com/keywarden/keywarden/pkg/strictyaml"
)

// Checker collects violations. The zero value is ready for use; it is not safe for
// concurrent use.
type Checker struct {
	strictyaml.Collector
	expressions map[string]compiled
}

// MaxName bounds the names of services and routes, which become labels of
// metrics, in bytes.
const MaxName = 63

// MaxTimeout bounds every timeout of the document.
const MaxTimeout = quantity.Duration(24 * time.Hour)

func (v *Checker) Fail(path, format string, args ...any) {
	v.Add(strictyaml.Violation{Place: strictyaml.Place{Path: path}, Detail: fmt.Sprintf(format, args...)})
}

func (v *Checker) Conflict(path, detail, with string) {
	v.Add(strictyaml.Violation{Place: strictyaml.Place{Path: path}, Detail: detail, Related: strictyaml.Place{Path: with}})
}

func (v *Checker) Required(path string) { v.Fail(path, "is required") }

// Name checks the name of an object whose path is given.
func (v *Checker) Name(object, name string) {
	switch {
	case name == "":
		v.Required(object + ".name")
	case !IsName(name):
		v.Fail(object+".name", "must consist of at most %d letters, digits, dots, hyphens and underscores, and begin with a letter or digit", MaxName)
	}
}

func IsName(s string) bool {
	for i := range len(s) {
		switch c := s[i]; {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9':
		case i > 0 && (c == '.' || c == '-' || c == '_'):
		default:
			return false
		}
	}
	return s != "" && len(s) <= MaxName
}

func (v *Checker) Timeout(path string, d quantity.Duration) {
	if d <= 0 || d > MaxTimeout {
		v.Fail(path, "must be above 0 and at most %s", time.Duration(MaxTimeout))
	}
}

// OptionalTimeout is timeout, where 0 is for none.
func (v *Checker) OptionalTimeout(path string, d quantity.Duration) {
	if d != 0 {
		v.Timeout(path, d)
	}
}

// Firsts remembers by which object something was taken first.
type Firsts map[string]string

// Unique refuses a name that another object has.
func (f Firsts) Unique(v *Checker, path, name string) {
	if name == "" {
		return
	}
	if first, taken := f[name]; taken {
		v.Conflict(path, "the name is taken", first)
		return
	}
	f[name] = path
}

// Between checks a number, both bounds included.
func (v *Checker) Between(path string, n, from, to int) {
	if n < from || n > to {
		v.Fail(path, "must be from %d to %d", from, to)
	}
}

// OneOf checks a word and reports whether it is good.
func (v *Checker) OneOf(path, word string, words ...string) bool {
	if slices.Contains(words, word) {
		return true
	}
	if word == "" {
		v.Required(path)
		return false
	}
	v.Fail(path, "must be one of %s%s", strings.Join(words, ", "), nearest.Question(word, words))
	return false
}

// IsToken reports whether s is a token (RFC 9110 section 5.6.2) that a field or
// cookie can have as its name; underscores never reach a service.
func IsToken(s string) bool {
	for i := range len(s) {
		switch c := s[i]; {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == '-', c == '.', c == '_':
		default:
			return false
		}
	}
	return s != "" && len(s) <= 128
}

// Share checks a part of the whole; zero is for "not at all".
func (v *Checker) Share(path string, x float64, zero bool) {
	if x > 0 && x <= 1 || x == 0 && zero {
		return
	}
	if zero {
		v.Fail(path, "must be from 0 to 1")
		return
	}
	v.Fail(path, "must be above 0 and at most 1")
}

// Distinct checks a list of words: not empty when it is there, none twice, each
// of the form that is described.
func (v *Checker) Distinct(path string, list []string, most int, form string, good func(string) bool) {
	if list != nil && len(list) == 0 {
		v.Fail(path, "must name at least one; or remove it")
	}
	if len(list) > most {
		v.Fail(path, "must not name more than %d", most)
		return
	}
	for i, word := range list {
		switch {
		case !good(word):
			v.Fail(Index(path, i), "must be %s", form)
		case slices.Contains(list[:i], word):
			v.Fail(Index(path, i), "is named twice")
		}
	}
}

// Lower is s in lower case, ASCII only.
func Lower(s string) string {
	b := []byte(s)
	for i, c := range b {
		if 'A' <= c && c <= 'Z' {
			b[i] = c + 'a' - 'A'
		}
	}
	return string(b)
}

func Index(path string, i int) string { return strictyaml.Index(path, i) }

func Quote(value string) string { return strictyaml.Quote(value) }

// ErrText is an error whose text is a detail.
type ErrText string

func (e ErrText) Error() string { return string(e) }
