package httpapi

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/gin-gonic/gin"

	"github.com/keywarden/keywarden/pkg/problem"
)

// Bounds of a page.
const (
	DefaultLimit = 50
	MaxLimit     = 200
)

// Page is one page of a list.
type Page[T any] struct {
	Items      []T    `json:"items"`
	NextCursor string `json:"next_cursor,omitempty"` // absent on the last page
}

// Cursors makes and reads cursors: where the next page of a list begins, with a
// tag (HMAC-SHA256, 128 bits) so that only a cursor that was given out, for the
// same list and the same filter, is accepted.
type Cursors struct{ key []byte }

// NewCursors makes cursors under key.
func NewCursors(key []byte) Cursors { return Cursors{key: key} }

const tagSize = 16

// Encode makes the cursor of a list that continues after position.
func (c Cursors) Encode(list, position string) string {
	return base64.RawURLEncoding.EncodeToString(append(c.tag(list, position), position...))
}

// Decode returns the position of a cursor that Encode made for the same list.
func (c Cursors) Decode(list, cursor string) (position string, err error) {
	const longest = 256
	raw, err := base64.RawURLEncoding.Strict().DecodeString(cursor)
	if err != nil || len(raw) <= tagSize || len(cursor) > longest || strings.ContainsAny(cursor, "\r\n") {
		return "", errCursor
	}
	position = string(raw[tagSize:])
	if !hmac.Equal(raw[:tagSize], c.tag(list, position)) {
		return "", errCursor
	}
	return position, nil
}

var errCursor = problem.ErrInvalid.WithField("cursor", "is not a cursor of this list; start again without one")

func (c Cursors) tag(list, position string) []byte {
	m := hmac.New(sha256.New, c.key)
	m.Write([]byte(strconv.Itoa(len(list)) + ":" + list + position))
	return m.Sum(nil)[:tagSize]
}

// Query is the checked query string of a list.
type Query struct {
	Limit  int
	After  string // position to continue after; empty for the beginning
	values map[string]string
	list   string
	c      Cursors
}

// Get returns a filter.
func (q *Query) Get(name string) string { return q.values[name] }

// ListQuery reads limit, cursor and the filters that are allowed; anything else
// in the query string is an error that names it. name and the filters are bound
// into cursors.
func (c Cursors) ListQuery(g *gin.Context, name string, filters ...string) (*Query, error) {
	q := &Query{Limit: DefaultLimit, values: map[string]string{}, list: url.QueryEscape(name), c: c}
	var fields []problem.Field
	given, err := url.ParseQuery(g.Request.URL.RawQuery)
	if err != nil {
		return nil, problem.ErrInvalid.WithDetail("The query string is malformed.").With(err)
	}
	names := make([]string, 0, len(given))
	for name := range given {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		values := given[name]
		switch {
		case name != "limit" && name != "cursor" && !slices.Contains(filters, name):
			fields = append(fields, problem.Field{Field: clipName(name), Detail: "is not a parameter of this list"})
		case len(values) > 1:
			fields = append(fields, problem.Field{Field: name, Detail: "is given twice"})
		case name == "limit":
			n, err := strconv.Atoi(values[0])
			if err != nil || n < 1 || n > MaxLimit {
				fields = append(fields, problem.Field{Field: name, Detail: "must be a whole number from 1 to " + strconv.Itoa(MaxLimit)})
			}
			q.Limit = n
		case name != "cursor":
			q.values[name] = values[0]
			q.list += "&" + name + "=" + url.QueryEscape(values[0])
		}
		if len(fields) == maxNotes {
			break
		}
	}
	if len(fields) > 0 {
		return nil, problem.ErrInvalid.WithFields(fields)
	}
	if cursor := given.Get("cursor"); cursor != "" {
		after, err := c.Decode(q.list, cursor)
		if err != nil {
			return nil, err
		}
		q.After = after
	}
	return q, nil
}

// NewPage makes a page of what was found when one more than q.Limit was asked
// for; position names an item.
func NewPage[S, T any](q *Query, found []S, position func(S) string, show func(S) T) Page[T] {
	page := Page[T]{Items: make([]T, 0, min(len(found), q.Limit))}
	if len(found) > q.Limit {
		found = found[:q.Limit]
		page.NextCursor = q.c.Encode(q.list, position(found[q.Limit-1]))
	}
	for _, item := range found {
		page.Items = append(page.Items, show(item))
	}
	return page
}
