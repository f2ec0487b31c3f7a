package http1

import (
	"context"
	"net/http"

	"github.com/keywarden/keywarden/pkg/header"
)

// Listed is a [Caller] that may have the header of its request as a list, which is
// quicker to make than a map.
type Listed interface {
	// Fields is what is sent in place of the header of the request; nil where that is it.
	Fields() header.List

	// Header is the same as a map, for those who need one.
	Header() http.Header
}

// Taker is a [Caller] that may have the header of the answer as a list.
type Taker interface {
	// Take is given the header of the final answer, which is the taker's to change. The
	// response that [Client.RoundTrip] returns is without it then, unless Take
	// returns false.
	Take(fields header.List) bool

	// Taken is what Take was given last.
	Taken() header.List
}

// FieldOf is the first value of a field of an answer, whose name is in canonical form,
// whether the answer has a header or its caller has taken that.
func FieldOf(resp *http.Response, name string) string {
	if resp.Header != nil {
		return resp.Header.Get(name)
	}
	if t, ok := resp.Request.Context().Value(InterimKey{}).(Taker); ok {
		return t.Taken().Get(name)
	}
	return ""
}

// listed is the list in a context, nil where there is none.
func listed(ctx context.Context) header.List {
	if c, ok := ctx.Value(InterimKey{}).(Listed); ok {
		return c.Fields()
	}
	return nil
}

// Unlist gives a request whose header is a list the header that [http.Transport] needs.
func Unlist(r *http.Request) {
	if c, ok := r.Context().Value(InterimKey{}).(Listed); ok && c.Fields() != nil {
		r.Header = c.Header()
	}
}

// appendFields is appendHeader for a list.
func appendFields(b []byte, fields header.List) ([]byte, bool) {
	for i := range fields {
		f := &fields[i]
		if f.Name == fieldContentLength || !sendable(f.Name) || !plainValue(f.Value) {
			return b, false
		}
		b = appendField(b, f.Name, f.Value)
	}
	return b, true
}
