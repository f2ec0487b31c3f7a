package header

import (
	"net/http"
	"strings"
	"sync"
)

// Field is a header field with one value.
type Field struct {
	Name  string // in canonical form
	Value string
}

// List is a header as a list of its fields, in their order. It is quicker to make, to go
// through and to send than an [http.Header], and slower to search.
type List []Field

// Get is the first value of a field, whose name is in canonical form; "" without one.
func (l List) Get(name string) string {
	for i := range l {
		if l[i].Name == name {
			return l[i].Value
		}
	}
	return ""
}

// Tokens calls each with the elements of the field of that name, which are separated by
// commas, without the blanks around them, until each returns false.
func (l List) Tokens(name string, each func(token string) bool) {
	for i := range l {
		if l[i].Name != name {
			continue
		}
		for token := range strings.SplitSeq(l[i].Value, ",") {
			if token = strings.Trim(token, " \t"); token != "" && !each(token) {
				return
			}
		}
	}
}

// Map is l as a map.
func (l List) Map() http.Header {
	h := make(http.Header, len(l))
	l.AddTo(h)
	return h
}

// AddTo adds the fields to h, behind those that are there.
func (l List) AddTo(h http.Header) {
	values := make([]string, len(l))
	for i, f := range l {
		values[i] = f.Value
		if before, ok := h[f.Name]; ok {
			h[f.Name] = append(before[:len(before):len(before)], f.Value)
			continue
		}
		h[f.Name] = values[i : i+1 : i+1]
	}
}

// Sink is an [http.ResponseWriter] that can take fields of the answer as a list.
type Sink interface {
	// AddFields takes fields for the header that is written next, behind those of
	// Header, where nobody finds them, and reports false when it cannot: they have to
	// be added to Header then. Names are tokens in canonical form, none of them is about
	// the connection or a transfer coding, and values have no control characters. The
	// list is not changed any more.
	AddFields(l List) bool
}

// Pool has space for lists that live no longer than a request. It is safe for concurrent use;
// its zero value is ready.
type Pool struct{ pool sync.Pool }

// usual is for about how many fields there is room.
const usual = 24

// Get returns space that holds nothing.
func (p *Pool) Get() *[usual]Field {
	if space, ok := p.pool.Get().(*[usual]Field); ok {
		return space
	}
	return new([usual]Field)
}

// Put takes space back, of which the first n have been used: what they say belongs to a
// request.
func (p *Pool) Put(space *[usual]Field, n int) {
	clear(space[:min(n, usual)])
	p.pool.Put(space)
}
