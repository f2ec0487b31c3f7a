package respwriter

import (
	"net/http"
	"strings"
)

// Vary tells caches that the answer depends on a field of the request, named in
// canonical form, unless it says so already (RFC 9110 section 12.5.5).
func Vary(h http.Header, name string) {
	for _, line := range h["Vary"] {
		for listed := range strings.SplitSeq(line, ",") {
			if listed = strings.TrimSpace(listed); listed == "*" || strings.EqualFold(listed, name) {
				return
			}
		}
	}
	h.Add("Vary", name)
}
