package credential

import (
	"net/http"
	"net/url"
	"strings"

	"github.com/keywarden/keywarden/pkg/header"
	"github.com/keywarden/keywarden/pkg/seal"
)

// removeField removes every spelling of a field: also those that a server which
// turns names into variables would take for it.
func removeField(h http.Header, field string) {
	delete(h, field)
	for name := range h {
		if header.Same(name, field) {
			delete(h, name)
		}
	}
}

// withParameter returns a query with one value under name. Everything else stays as
// it was sent.
func withParameter(query, name string, value seal.Secret) string {
	rest := withoutParameter(query, name)
	if value.Empty() {
		return rest
	}
	if rest != "" {
		rest += "&"
	}
	return rest + url.QueryEscape(name) + "=" + url.QueryEscape(value.Reveal())
}

// withoutParameter takes a parameter out of a query, in all spellings that some
// server reads as it. A piece whose name cannot be decoded goes too: servers do not
// agree on what it is.
func withoutParameter(query, name string) string {
	clean := true
	for piece := range pieces(query) {
		clean = clean && !means(piece, name)
	}
	if clean {
		return query
	}
	var kept strings.Builder
	between := ";" // what is kept was apart for all servers when there is one & between
	for piece, separator := range pieces(query) {
		if separator == "&" {
			between = separator
		}
		if means(piece, name) {
			continue
		}
		if kept.Len() > 0 {
			kept.WriteString(between)
		}
		kept.WriteString(piece)
		between = ";"
	}
	return kept.String()
}

// pieces are the parameters of a query, each with the separator before it. Some
// servers take a semicolon for one.
func pieces(query string) func(yield func(piece, separator string) bool) {
	return func(yield func(piece, separator string) bool) {
		separator := "&"
		for query != "" {
			end := strings.IndexAny(query, "&;")
			if end < 0 {
				yield(query, separator)
				return
			}
			if !yield(query[:end], separator) {
				return
			}
			separator, query = query[end:end+1], query[end+1:]
		}
	}
}

// means reports whether a piece of a query may be the parameter to some server.
// PHP makes one name of a.b, a b and a_b, and takes a[x] for a part of a; others
// ignore case. Servers that end a name at a NUL or drop spaces around it exist, too.
func means(piece, name string) bool {
	key, _, _ := strings.Cut(piece, "=")
	key, err := url.QueryUnescape(key)
	if err != nil {
		return true
	}
	key, _, _ = strings.Cut(key, "\x00")
	key, _, _ = strings.Cut(key, "[")
	return header.Same(strings.TrimSpace(key), name)
}
