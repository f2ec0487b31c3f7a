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
	"encoding/binary"
	"math/rand/v2"
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
			ctx, info := reqctx.New(r.Context())
			proxies.describe(info, r)
			id := info.Values(1)
			id[0] = info.ID
			w.Header()[HeaderRequestID] = id
			if ctx != r.Context() {
				r = r.WithContext(ctx)
			}
			next.ServeHTTP(w, r)
		})
	}
}

// describe fills in info, which is empty but for the client of a server that has set it.
func (p proxies) describe(info *reqctx.Info, r *http.Request) {
	info.Start, info.Scheme = time.Now(), "http"
	if !info.Client.IsValid() { // or the server knows it, of the connection
		info.SetClient(reqctx.PeerAddress(r.RemoteAddr))
	}
	if r.TLS != nil {
		info.Scheme = "https"
	}
	if p.contain(info.Client) {
		info.ID = forwardedID(r.Header)
		if client := p.client(info.Client, r.Header["X-Forwarded-For"]); client != info.Client {
			info.SetClient(client, "")
		}
		if scheme := forwardedScheme(r.Header); scheme != "" {
			info.Scheme = scheme
		}
	}
	if info.ID == "" {
		info.ID = newRequestID(info.Start)
	}
}

// newRequestID makes a UUID of version 7 (RFC 9562 section 5.7): ids of later requests sort
// behind those of earlier ones. Within a millisecond their order is chance.
func newRequestID(now time.Time) string {
	var id uuid.UUID
	// What is drawn only has to be different: nobody is let in by an id.
	binary.NativeEndian.PutUint64(id[8:], rand.Uint64())         //nolint:gosec // see above
	binary.NativeEndian.PutUint16(id[6:], uint16(rand.Uint32())) //nolint:gosec // see above
	ms := now.UnixMilli()
	for i := range 6 {
		id[i] = byte(ms >> (40 - 8*i))
	}
	id[6] = id[6]&0x0f | 0x70
	id[8] = id[8]&0x3f | 0x80
	return id.String()
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
