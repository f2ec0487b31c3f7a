package http1

import (
	"context"
	"net/http"
)

// Field is a header field of a request: a name in canonical form and one value.
type Field struct{ Name, Value string }

// Listed is a [Caller] that may have the header of its request as a list, which is
// quicker to make than a map.
type Listed interface {
	// Fields is what is sent in place of the header of the request; nil where that is it.
	Fields() []Field

	// Header is the same as a map, for those who need one.
	Header() http.Header
}

// listed is the list in a context, nil where there is none.
func listed(ctx context.Context) []Field {
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
func appendFields(b []byte, fields []Field) ([]byte, bool) {
	for i := range fields {
		f := &fields[i]
		if f.Name == fieldContentLength || !sendable(f.Name) || !plainValue(f.Value) {
			return b, false
		}
		b = appendField(b, f.Name, f.Value)
	}
	return b, true
}
