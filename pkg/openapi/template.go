package openapi

import (
	"errors"
	"regexp"
	"strings"

	"github.com/keywarden/keywarden/pkg/canonical"
)

// Template is a path with places for parameters, such as /pets/{id}.
type Template struct {
	text   string
	pieces []piece
	exact  string // canonical escaped, without parameters
}

// piece is a text in its decoded form, or a parameter.
type piece struct {
	text, parameter string
}

// Errors of templates, for a person.
var (
	errSlash    = errors.New("must begin with a slash")
	errBraces   = errors.New("has a brace without its other half")
	errNameless = errors.New("has a parameter without a name")
	errWildcard = errors.New("has a parameter that stands for several segments, such as {name=**}; OpenAPI has none: write one path for each number of segments")
	errQuery    = errors.New("has a query or a fragment; parameters of the query belong to parameters")
	errTwice    = errors.New("names a parameter twice")
)

// ParseTemplate reads a template.
func ParseTemplate(text string) (Template, error) {
	t := Template{text: text}
	switch {
	case !strings.HasPrefix(text, "/"):
		return t, errSlash
	case strings.ContainsAny(text, "?#"):
		return t, errQuery
	}
	var sample strings.Builder // with a letter for each parameter
	seen := map[string]bool{}
	for rest := text; rest != ""; {
		literal, after, found := strings.Cut(rest, "{")
		if strings.Contains(literal, "}") {
			return t, errBraces
		}
		if literal != "" {
			decoded, err := decode(literal)
			if err != nil {
				return t, err
			}
			t.pieces = append(t.pieces, piece{text: decoded})
			sample.WriteString(literal)
		}
		if !found {
			break
		}
		name, remains, closed := strings.Cut(after, "}")
		switch {
		case !closed || strings.Contains(name, "{"):
			return t, errBraces
		case name == "":
			return t, errNameless
		case strings.ContainsAny(name, "*=/"):
			return t, errWildcard
		case seen[name]:
			return t, errTwice
		}
		seen[name] = true
		t.pieces = append(t.pieces, piece{parameter: name})
		sample.WriteByte('x')
		rest = remains
	}
	_, escaped, err := canonical.Path(sample.String())
	if err != nil {
		return t, unacceptable(err)
	}
	if len(seen) == 0 {
		t.exact = escaped
	}
	return t, nil
}

// decode is the decoded form of a part of a path. It has a segment put before it,
// so that a part like "." is not taken for a segment of its own.
func decode(part string) (string, error) {
	const before = "/x"
	decoded, _, err := canonical.Path(before + part)
	if err != nil {
		return "", unacceptable(err)
	}
	return strings.TrimPrefix(decoded, before), nil
}

func unacceptable(err error) error {
	var reason canonical.Reason
	if errors.As(err, &reason) {
		return errors.New("is not an acceptable path: " + string(reason))
	}
	return err
}

// String is the template as it was written.
func (t Template) String() string { return t.text }

// Exact is the canonical escaped path of a template without parameters, otherwise
// "".
func (t Template) Exact() string { return t.exact }

// Parameters are the names in the template.
func (t Template) Parameters() []string {
	var names []string
	for _, p := range t.pieces {
		if p.parameter != "" {
			names = append(names, p.parameter)
		}
	}
	return names
}

// Regex is a regular expression (RE2) over the decoded path, without its first
// slash. A parameter is a segment or the rest of one, never empty and never more.
func (t Template) Regex() string {
	var b strings.Builder
	for _, p := range t.pieces {
		if p.parameter != "" {
			b.WriteString("[^/]+")
			continue
		}
		b.WriteString(regexp.QuoteMeta(p.text))
	}
	return strings.TrimPrefix(b.String(), "/")
}

// Shape is the same for templates that match the same paths: parameters without
// their names.
func (t Template) Shape() string {
	var b strings.Builder
	for _, p := range t.pieces {
		if p.parameter != "" {
			b.WriteString("{}")
			continue
		}
		b.WriteString(p.text)
	}
	return b.String()
}

// Order sorts the concrete before the general: of templates that can match the same
// path the one whose first different segment is a text comes first, before one in
// which only a part is, and that before a parameter alone.
func (t Template) Order() string {
	var b strings.Builder
	for segment := range strings.SplitSeq(t.Shape(), "/") {
		switch {
		case !strings.Contains(segment, "{}"):
			b.WriteByte('0')
		case segment != "{}":
			b.WriteByte('1')
		default:
			b.WriteByte('2')
		}
		b.WriteString(segment + "\x00")
	}
	return b.String()
}
