package sample

import (
	"fmt"
	"net/http"
	"strings"
	"time"
)

// events is a stream of server-sent events, one at a time, to show that the
// gateway passes each on as it comes.
type events struct {
	interval time.Duration
	limit    int        // events, after which the stream ends
	count    func() int // what an event reports
}

// eventDeadline is how long a client may take to accept one event.
const eventDeadline = 10 * time.Second

// serve sends events until the limit is reached or the client leaves.
func (e events) serve(w http.ResponseWriter, r *http.Request) error {
	h := w.Header()
	h.Set("Content-Type", "text/event-stream")
	h.Set("Cache-Control", "no-store")
	if r.Method == http.MethodHead {
		return nil
	}
	conn := http.NewResponseController(w)
	tick := time.NewTicker(e.interval)
	defer tick.Stop()
	for n := 1; ; n++ {
		// The server's limit is for answers that end; a writer without a
		// connection has none to lift.
		_ = conn.SetWriteDeadline(time.Now().Add(eventDeadline + e.interval))
		_, err := fmt.Fprintf(w, "id: %d\nevent: tick\ndata: {\"n\":%d,\"users\":%d,\"time\":%q}\n\n",
			n, n, e.count(), time.Now().UTC().Format(time.RFC3339))
		if err != nil || conn.Flush() != nil || n == e.limit {
			return nil // the client left, or all is said
		}
		select {
		case <-tick.C:
		case <-r.Context().Done():
			return nil
		}
	}
}

// identity is what the gateway told this service about the caller.
type identity struct {
	Headers               map[string][]string `json:"headers"`
	AuthorizationReceived bool                `json:"authorization_received"`
	APIKeyReceived        bool                `json:"api_key_received"`
}

// whoami answers with the identity headers that arrived. Of the credentials it
// says only whether they did: a gateway should have kept them.
func whoami(w http.ResponseWriter, r *http.Request) error {
	got := identity{
		Headers:               map[string][]string{},
		AuthorizationReceived: r.Header.Values("Authorization") != nil,
		APIKeyReceived:        r.Header.Values("X-API-Key") != nil,
	}
	for name, values := range r.Header {
		if isIdentityHeader(name) {
			got.Headers[name] = values
		}
	}
	return writeJSON(w, http.StatusOK, got)
}

// isIdentityHeader reports whether name, in canonical form, may be repeated.
func isIdentityHeader(name string) bool {
	switch name {
	case "X-Request-Id", "X-Forwarded-For", "Traceparent", "X-Consumer":
		return true
	}
	return strings.HasPrefix(name, "X-Consumer-")
}
