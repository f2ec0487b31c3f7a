package match

import (
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// Source is where a condition looks.
type Source uint8

// The sources.
const (
	Header Source = iota
	Query
)

// Condition is a demand on a header field or query parameter. It holds when one of
// its values is Value or matches Pattern; with neither, when it is there at all.
type Condition struct {
	Source  Source
	Name    string // of a header in its canonical form
	Value   string
	Pattern *regexp.Regexp // matches the whole value
	Present bool           // no demand on the value
}

// hold reports whether all conditions hold for r.
func hold(conditions []Condition, r *http.Request) bool {
	for i := range conditions {
		if r == nil || !conditions[i].holds(r) {
			return false
		}
	}
	return true
}

func (c *Condition) holds(r *http.Request) bool {
	values := r.Header[c.Name]
	if c.Source == Query {
		values = r.URL.Query()[c.Name]
	}
	if c.Present {
		return len(values) > 0
	}
	for _, v := range values {
		if c.Pattern != nil && c.Pattern.MatchString(v) || c.Pattern == nil && v == c.Value {
			return true
		}
	}
	return false
}

// keyOf is the same for the same conditions in any order.
func keyOf(conditions []Condition) string {
	keys := make([]string, len(conditions))
	for i, c := range conditions {
		value := "=" + c.Value
		switch {
		case c.Present:
			value = "*"
		case c.Pattern != nil:
			value = "~" + c.Pattern.String()
		}
		keys[i] = strconv.Itoa(int(c.Source)) + strconv.Quote(c.Name) + strconv.Quote(value)
	}
	slices.Sort(keys)
	return strings.Join(keys, " ")
}
