// Package httpedge is what every request passes on its way to a handler and
// back, whichever half of the platform answers it: request id and client
// address, trace span, metrics, access log, and recovery from panics. It is
// plain net/http middleware to be put around the engine in the order
//
//	RequestInfo( Observe( Recover( engine ) ) )
//
// so that a panic is answered before it is counted and logged. It decides
// nothing about a request: it neither authenticates nor routes nor limits, and
// it does not canonicalise host or path.
package httpedge

import (
	"net/http"
	"net/netip"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/keywarden/keywarden/pkg/reqctx"
)

// HeaderRequestID names the request id on request and answer.
const HeaderRequestID = "X-Request-Id"

// maxRequestIDBytes bounds an id that somebody else made.
const maxRequestIDBytes = 64

// RequestInfo makes the request's [reqctx.Info]: id, client address, scheme and
// start. The answer carries the id in X-Request-Id.
//
// Peers inside trusted are proxies of ours. Only what they say about a request
// counts: X-Request-Id, X-Forwarded-For and X-Forwarded-Proto of anybody else
// are ignored, and with no trusted peers so are everybody's.
func RequestInfo(trusted []netip.Prefix) func(http.Handler) http.Handler {
	proxies := newProxies(trusted)
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			info := proxies.describe(r)
			w.Header()[HeaderRequestID] = []string{info.ID}
			next.ServeHTTP(w, r.WithContext(reqctx.With(r.Context(), info)))
		})
	}
}

func (p proxies) describe(r *http.Request) *reqctx.Info {
	info := &reqctx.Info{Start: time.Now(), Client: peerAddress(r.RemoteAddr), Scheme: "http"}
	if r.TLS != nil {
		info.Scheme = "https"
	}
	if p.contain(info.Client) {
		info.ID = forwardedID(r.Header)
		info.Client = p.client(info.Client, r.Header["X-Forwarded-For"])
		if scheme := forwardedScheme(r.Header); scheme != "" {
			info.Scheme = scheme
		}
	}
	if info.ID == "" {
		info.ID = uuid.Must(uuid.NewV7()).String() // fails only when the machine has no randomness
	}
	return info
}

// forwardedID is the id a trusted proxy gave the request, empty when it is
// missing, given twice, or not something to put into logs and headers.
func forwardedID(h http.Header) string {
	ids := h[HeaderRequestID]
	if len(ids) != 1 || !validRequestID(ids[0]) {
		return ""
	}
	return ids[0]
}

// validRequestID reports whether id matches ^[A-Za-z0-9._-]{1,64}$.
func validRequestID(id string) bool {
	if id == "" || len(id) > maxRequestIDBytes {
		return false
	}
	for i := range len(id) {
		c := id[i]
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == '.', c == '_', c == '-':
		default:
			return false
		}
	}
	return true
}

// forwardedScheme is what a trusted proxy said the client used. A list, or
// anything that is no scheme of HTTP, says nothing.
func forwardedScheme(h http.Header) string {
	values := h["X-Forwarded-Proto"]
	if len(values) != 1 {
		return ""
	}
	if scheme := strings.ToLower(values[0]); scheme == "http" || scheme == "https" {
		return scheme
	}
	return ""
}
