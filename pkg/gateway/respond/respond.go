// Package respond holds the ends of routes that need no service: a redirect and a
// fixed answer. Both come after the route's policies, authentication included.
package respond

import (
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"github.com/keywarden/keywarden/pkg/canonical"
)

// RedirectConfig says where clients are sent.
type RedirectConfig struct {
	To       string // URL, or path
	Status   int    // 301, 302, 303, 307 or 308
	KeepPath bool   // the path of the request is appended
}

// Redirect makes the handler. The target comes from the document alone, and never
// from the request's host: only path and query are taken from the request, whose
// path is canonical, so that it cannot name another host.
func Redirect(c RedirectConfig) (http.Handler, error) {
	u, err := url.Parse(c.To)
	if err != nil {
		return nil, err
	}
	base := strings.TrimSuffix(c.To, "/")
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		location := c.To
		if c.KeepPath {
			location = base + canonical.Escaped(r.URL)
		}
		if u.RawQuery == "" && u.Fragment == "" && r.URL.RawQuery != "" {
			location += "?" + r.URL.RawQuery
		}
		w.Header().Set("Location", location)
		w.Header().Set("Content-Length", "0")
		w.WriteHeader(c.Status)
	}), nil
}

// Fixed makes the handler of an answer that is always the same.
func Fixed(status int, contentType, body string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		h := w.Header()
		h.Set("X-Content-Type-Options", "nosniff")
		if status != http.StatusNoContent && status != http.StatusNotModified {
			h.Set("Content-Type", contentType)
			h.Set("Content-Length", strconv.Itoa(len(body)))
		}
		w.WriteHeader(status)
		_, _ = io.WriteString(w, body)
	})
}
