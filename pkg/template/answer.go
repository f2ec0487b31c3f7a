package template

import (
	"encoding/json"
	"errors"
	"fmt"
	"html"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/keywarden/keywarden/pkg/header"
	"github.com/keywarden/keywarden/pkg/nearest"
)

// MaxAnswer bounds the text of an answer, in bytes.
const MaxAnswer = 16 << 10

// Facts are what the text of an answer can say of it. Nothing of them is the
// caller's own words, but for the id of a request that a trusted proxy has passed on.
type Facts struct {
	RequestID string
	Code      string // of the problem; empty for an answer of the service
	Status    string // such as 404
	Title     string // such as Not Found
	Route     string
}

// Answer is the compiled text of an answer, with values such as {{ request_id }}. It
// is immutable and safe for concurrent use.
type Answer struct {
	literals []string // one more than values
	values   []string // names
	escape   func(string) string
}

// answerValues are what can be named.
func answerValues() []string { return []string{"request_id", "code", "status", "title", "route"} }

func (f Facts) value(name string) string {
	switch name {
	case "request_id":
		return f.RequestID
	case "code":
		return f.Code
	case "status":
		return f.Status
	case "title":
		return f.Title
	default:
		return f.Route
	}
}

// ParseAnswer compiles the text of an answer of a media type, which says how values
// are escaped: as in the texts of JSON, as in HTML and XML, or not at all. JSON has to
// be JSON.
func ParseAnswer(mediaType, text string) (*Answer, error) {
	if len(text) > MaxAnswer {
		return nil, fmt.Errorf("is longer than %d bytes", MaxAnswer)
	}
	if !utf8.ValidString(text) {
		return nil, errors.New("is not valid UTF-8")
	}
	kind, ok := header.MediaType(mediaType)
	if !ok {
		return nil, errors.New("has no media type")
	}
	a := &Answer{escape: func(s string) string { return s }}
	isJSON := kind == "application/json" || strings.HasSuffix(kind, "+json")
	switch {
	case isJSON:
		a.escape = escapeJSON
	case kind == "text/html", kind == "text/xml", kind == "application/xml", strings.HasSuffix(kind, "+xml"):
		a.escape = html.EscapeString
	}
	if err := a.parse(text); err != nil {
		return nil, err
	}
	if isJSON && !json.Valid(a.Append(nil, Facts{"1", "1", "1", "1", "1"})) {
		return nil, errors.New("is not JSON")
	}
	return a, nil
}

func (a *Answer) parse(text string) error {
	for {
		before, after, found := strings.Cut(text, "{{")
		a.literals = append(a.literals, before)
		if !found {
			return nil
		}
		name, rest, closed := strings.Cut(after, "}}")
		name = strings.TrimSpace(name)
		switch {
		case !closed:
			return errors.New("has an action that is not closed with }}")
		case !slices.Contains(answerValues(), name):
			return fmt.Errorf("names a value that there is not; there are %s%s", strings.Join(answerValues(), ", "), nearest.Question(name, answerValues()))
		case len(a.values) == maxActions:
			return fmt.Errorf("has more than %d actions", maxActions)
		}
		a.values = append(a.values, name)
		text = rest
	}
}

// Append appends the text for these facts to dst.
func (a *Answer) Append(dst []byte, f Facts) []byte {
	for i, name := range a.values {
		dst = append(dst, a.literals[i]...)
		dst = append(dst, a.escape(f.value(name))...)
	}
	return append(dst, a.literals[len(a.literals)-1]...)
}

// escapeJSON is s as within a text of JSON, fit for a script of a page, too.
func escapeJSON(s string) string {
	text, _ := json.Marshal(s) // cannot fail for a text
	return string(text[1 : len(text)-1])
}
