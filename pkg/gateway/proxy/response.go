package proxy

import (
	"fmt"
	"mime"
	"net/http"
	"strings"
	"time"

	"github.com/keywarden/keywarden/pkg/gateway/upstream/http1"
	"github.com/keywarden/keywarden/pkg/header"
)

// accept checks what the service has answered and removes what is not for the
// client. An error makes [exchange.fail] answer instead.
func (x *exchange) accept(res *http.Response) error {
	if err := checkStatus(res); err != nil {
		return err
	}
	x.record(res.StatusCode, "")
	if isStream(res) {
		x.info.Stream = time.Now()
		if x.timer != nil {
			x.timer.Stop()
		}
		if bounded, ok := res.Body.(http1.Bounded); ok {
			bounded.SetBounds(time.Time{}, 0)
		}
		x.watchStanding(res, x.in)
	}
	x.watchAnswer(res)
	delete(res.Header, headerRequestID) // ours is in the response already
	delete(res.Header, "Alt-Svc")       // an address of the service, not of the gateway
	x.restoreHeader()
	x.overrule(res.Header)
	return nil
}

// overrule removes from the service's answer the fields that may be there only
// once, where the route has said them already.
func (x *exchange) overrule(h http.Header) {
	said := x.w.Header()
	for _, name := range [...]string{
		"Deprecation", "Sunset", "Ratelimit", "Ratelimit-Policy", "X-Ratelimit-Limit", "X-Ratelimit-Remaining", "X-Ratelimit-Reset",
	} {
		if _, ours := said[name]; ours {
			delete(h, name)
		}
	}
}

// dropTrailers removes from the trailers of an answer the fields that say how a
// message is framed or read. They may not be there (RFC 9110 section 6.5.1), and who
// merges trailers into the header would read another message.
func dropTrailers(trailers http.Header) {
	for name := range trailers {
		switch name {
		case "Content-Encoding", "Content-Type", "Content-Range":
			delete(trailers, name)
		default:
			if header.HopByHop(name) {
				delete(trailers, name)
			}
		}
	}
}

// checkStatus refuses a status that cannot be answered, and a switch to another
// protocol than the client has asked for: inside of the tunnel that would open,
// the gateway sees nothing any more.
func checkStatus(res *http.Response) error {
	if res.StatusCode < 100 {
		return fmt.Errorf("the service answered with status %d", res.StatusCode)
	}
	if res.StatusCode != http.StatusSwitchingProtocols {
		return nil
	}
	asked, got := res.Request.Header.Get("Upgrade"), res.Header.Get("Upgrade")
	if asked == "" || !strings.EqualFold(asked, got) {
		return fmt.Errorf("the service switched to protocol %q, asked for was %q", got, asked)
	}
	return nil
}

// isStream reports whether a response is meant to last.
func isStream(res *http.Response) bool {
	if res.StatusCode == http.StatusSwitchingProtocols {
		return true
	}
	const events = "text/event-stream"
	text := res.Header.Get("Content-Type")
	if len(text) < len(events) || !strings.EqualFold(text[:len(events)], events) {
		return false // nearly always: parsing costs more than all else here
	}
	kind, _, err := mime.ParseMediaType(text)
	return err == nil && kind == events
}
