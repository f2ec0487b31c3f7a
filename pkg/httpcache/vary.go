package httpcache

import (
	"net/http"
	"slices"
	"strings"
)

// varyOf are the fields of the request that an answer goes by, sorted, in canonical
// form; false when no other request can have the same answer (RFC 9111 section
// 4.1). An answer in a coding goes by Accept-Encoding, even if it does not say so.
func varyOf(h http.Header) (names []string, ok bool) {
	add := func(name string) {
		if name = http.CanonicalHeaderKey(name); name != "" && !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	for _, line := range h["Vary"] {
		for name := range strings.SplitSeq(line, ",") {
			name = strings.TrimSpace(name)
			if name == "*" {
				return nil, false
			}
			add(name)
		}
	}
	if len(h["Content-Encoding"]) > 0 {
		add("Accept-Encoding")
	}
	slices.Sort(names)
	return names, len(names) <= maxVary
}

// AppendVariant appends to b what a request says in the fields, so that two
// requests get the same bytes only when these are the same, but for space around
// the items of lists and for how they are spread over lines.
func AppendVariant(b []byte, names []string, h http.Header) []byte {
	for _, name := range names {
		b = append(append(b, name...), 0)
		lines := h[name]
		if lines == nil {
			b = append(b, 1) // not there is not empty
		}
		for i, line := range lines {
			if i > 0 {
				b = append(b, ',')
			}
			b = appendItems(b, line)
		}
		b = append(b, 0)
	}
	return b
}

func appendItems(b []byte, line string) []byte {
	for {
		item, rest, _ := cutItem(line)
		b = append(b, strings.Trim(item, " \t")...)
		if len(item) == len(line) {
			return b
		}
		b = append(b, ',')
		line = rest
	}
}
