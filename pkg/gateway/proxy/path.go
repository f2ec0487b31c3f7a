package proxy

import (
	"errors"
	"net/http"
	"net/url"
	"regexp"
	"strings"

	"github.com/keywarden/keywarden/pkg/canonical"
	"github.com/keywarden/keywarden/pkg/problem"
)

// What a request is told whose path the route cannot rewrite.
var (
	ErrNoRewrite = problem.Define(problem.NotFound, "gateway.rewrite_no_match",
		"The path of the request does not have the form that its route rewrites.")
	ErrRewrite = problem.Define(problem.Invalid, "gateway.rewrite_refused",
		"The path that this request would have at the service is not acceptable.")
)

// Rewrite makes a new path from what the groups of an expression match in the old
// one. It is immutable.
type Rewrite struct {
	expression *regexp.Regexp
	pieces     []PathPiece
}

// PathPiece is a part of the new path: an escaped text, or, when that is empty,
// what a group has matched.
type PathPiece struct {
	Text  string
	Group int
}

// NewRewrite makes a rewrite. The expression matches whole decoded paths; the
// first piece is a text that begins with a slash.
func NewRewrite(expression *regexp.Regexp, pieces []PathPiece) (*Rewrite, error) {
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

// apply returns the new path in its escaped form, which is canonical.
//
// What groups match is taken from the path as it was escaped, so that %2C stays
// %2C. The whole is checked again, because parts of good paths can make a bad one:
// a group that is empty leaves a double slash, one that is a dot a dot segment.
func (w *Rewrite) apply(u *url.URL) (string, error) {
	groups := w.expression.FindStringSubmatchIndex(u.Path)
	if groups == nil {
		return "", ErrNoRewrite
	}
	received := u.EscapedPath()
	var b strings.Builder
	for _, p := range w.pieces {
		text := p.Text
		if text == "" {
			text = escapedPart(received, len(u.Path), groups[2*p.Group], groups[2*p.Group+1])
		}
		if b.Len()+len(text) > canonical.MaxTarget {
			return "", ErrRewrite
		}
		b.WriteString(text)
	}
	if _, again, err := canonical.Path(b.String()); err != nil || again != b.String() {
		return "", ErrRewrite.With(err)
	}
	return b.String(), nil
}

// escapedPart is the part of an escaped path that decodes to the bytes from from
// to to of the decoded one, whose length is decoded. A group that took no part in
// the match has negative bounds and matches nothing.
func escapedPart(escaped string, decoded, from, to int) string {
	if from < 0 {
		return ""
	}
	if len(escaped) == decoded {
		return escaped[from:to]
	}
	start := skipBytes(escaped, from)
	return escaped[start : start+skipBytes(escaped[start:], to-from)]
}

// skipBytes is the length of what decodes to n bytes at the start of s.
func skipBytes(s string, n int) int {
	at := 0
	for ; n > 0; n-- {
		if s[at] == '%' {
			at += 2
		}
		at++
	}
	return at
}

// errNotCanonical cannot happen: routes match canonical paths by their prefix.
var errNotCanonical = errors.New("the path does not begin with the prefix that is to be stripped")

// Check tells why the route would refuse a canonical request by itself; nil when
// it would not.
func (rt *Route) Check(r *http.Request) error {
	_, err := rt.outboundPath(r.URL)
	return err
}

// outboundPath works out the escaped path that the service sees. What stripping
// and rewriting leave is held to be canonical as it stands: otherwise the service
// would see another path than the one that was matched. It always stands below
// the base of the service.
func (rt *Route) outboundPath(u *url.URL) (string, error) {
	escaped := u.EscapedPath()
	switch {
	case rt.rewrite != nil:
		rewritten, err := rt.rewrite.apply(u)
		if err != nil {
			return "", err
		}
		escaped = rewritten
	case rt.strip != "":
		rest, ok := strings.CutPrefix(u.Path, rt.strip)
		if !ok || rest != "" && rest[0] != '/' {
			return "", errNotCanonical
		}
		escaped = skipSegments(escaped, rt.stripSegments)
		if rest == "" {
			escaped = ""
		} else if decoded, again, err := canonical.Path(escaped); err != nil || decoded != rest || again != escaped {
			return "", canonical.ErrPath.With(err)
		}
	}
	escaped = rt.service.base + rt.add + escaped
	if escaped == "" {
		escaped = "/"
	}
	return escaped, nil
}

// setPath works out the path of the outbound URL.
func (x *exchange) setPath(u *url.URL) error {
	escaped, err := x.route.outboundPath(u)
	if err != nil {
		return err
	}
	path, err := url.PathUnescape(escaped)
	if err != nil {
		return canonical.ErrPath.With(err)
	}
	x.path = path
	if path != escaped {
		x.rawPath = escaped
	}
	return nil
}

// skipSegments drops the first n segments of an escaped path.
func skipSegments(escaped string, n int) string {
	for ; n > 0 && escaped != ""; n-- {
		next := strings.IndexByte(escaped[1:], '/')
		if next < 0 {
			return ""
		}
		escaped = escaped[1+next:]
	}
	return escaped
}
