// Package pathrewrite makes the path that a service sees of that which a route has
// matched with an expression. It owns the rules that keep the new one canonical; it
// knows neither routes nor services.
package pathrewrite

import (
	"errors"
	"net/url"
	"regexp"
	"strings"

	"github.com/keywarden/keywarden/pkg/canonical"
	"github.com/keywarden/keywarden/pkg/problem"
)

// What a request is told whose path the route cannot rewrite.
var (
	ErrNoMatch = problem.Define(problem.NotFound, "gateway.rewrite_no_match",
		"The path of the request does not have the form that its route rewrites.")
	ErrRefused = problem.Define(problem.Invalid, "gateway.rewrite_refused",
		"The path that this request would have at the service is not acceptable.")
)

// Rewrite makes a new path from what the groups of an expression match in the old
// one. It is immutable.
type Rewrite struct {
	expression *regexp.Regexp
	pieces     []Piece
}

// Piece is a part of the new path: an escaped text, or, when that is empty,
// what a group has matched.
type Piece struct {
	Text  string
	Group int
}

// New makes a rewrite. The expression matches whole decoded paths; the
// first piece is a text that begins with a slash.
func New(expression *regexp.Regexp, pieces []Piece) (*Rewrite, error) {
	if expression == nil || len(pieces) == 0 || !strings.HasPrefix(pieces[0].Text, "/") {
		return nil, errors.New("a rewrite needs an expression and a path that begins with a slash")
	}
	for _, p := range pieces {
		if p.Text == "" && (p.Group < 0 || p.Group > expression.NumSubexp()) {
			return nil, errors.New("a rewrite names a group that its expression does not have")
		}
	}
	return &Rewrite{expression: expression, pieces: pieces}, nil
}

// Apply returns the new path in its escaped form, which is canonical.
//
// What groups match is taken from the path as it was escaped, so that %2C stays
// %2C. The whole is checked again, because parts of good paths can make a bad one:
// a group that is empty leaves a double slash, one that is a dot a dot segment.
func (w *Rewrite) Apply(u *url.URL) (string, error) {
	groups := w.expression.FindStringSubmatchIndex(u.Path)
	if groups == nil {
		return "", ErrNoMatch
	}
	received, slashes := canonical.Escaped(u), 0
	var b strings.Builder
	for _, p := range w.pieces {
		text := p.Text
		if text == "" {
			var ok bool
			if text, ok = escapedPart(received, groups[2*p.Group], groups[2*p.Group+1]); !ok {
				return "", ErrRefused.With(errPartOfSlash)
			}
			slashes += canonical.CountSlashes(text)
		}
		if b.Len()+len(text) > canonical.MaxTarget {
			return "", ErrRefused
		}
		b.WriteString(text)
	}
	// The pieces can bring encoded slashes along, and never make one.
	_, again, err := canonical.PathWithSlashes(b.String())
	if err != nil || again != b.String() || canonical.CountSlashes(again) != slashes {
		return "", ErrRefused.With(err)
	}
	return b.String(), nil
}

// errPartOfSlash is why a path is not rewritten of which a group matches one or two
// of the three characters that stand for an encoded slash.
var errPartOfSlash = errors.New("a group of the expression ends within an encoded slash")

// escapedPart is the part of an escaped path that stands for the bytes from from to
// to of the decoded one; not ok when one of them is within an encoded slash. A group
// that took no part in the match has negative bounds and matches nothing.
func escapedPart(escaped string, from, to int) (part string, ok bool) {
	if from < 0 {
		return "", true
	}
	if strings.IndexByte(escaped, '%') < 0 {
		return escaped[from:to], true
	}
	start, ok := skipBytes(escaped, from)
	if !ok {
		return "", false
	}
	length, ok := skipBytes(escaped[start:], to-from)
	return escaped[start : start+length], ok
}

// skipBytes is the length of what stands for n decoded bytes at the start of s; not
// ok when they end within an encoded slash, which stands for as many as it has.
func skipBytes(s string, n int) (at int, ok bool) {
	for n > 0 {
		switch {
		case s[at] != '%':
			at, n = at+1, n-1
		case s[at+1] == '2' && s[at+2]|0x20 == 'f':
			at, n = at+3, n-len(canonical.EncodedSlash)
		default:
			at, n = at+3, n-1
		}
	}
	return at, n == 0
}
