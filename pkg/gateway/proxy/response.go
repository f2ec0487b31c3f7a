package proxy

import (
	"fmt"
	"mime"
	"net/http"
	"slices"
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
	if x.lasting = isStream(res); x.lasting {
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
	x.restoreHeader()
	said := x.w.Header()
	if res.Header == nil {
		x.answered = forClient(x.answered, said)
		return nil
	}
	for name := range res.Header {
		if ownWord(name) || onceOnly(name) && said[name] != nil {
			delete(res.Header, name)
		}
	}
	return nil
}

// forClient removes from the header of an answer what is not for the client; said is what
// the route says. The list is changed.
func forClient(fields header.List, said http.Header) header.List {
	var named []string // in Connection, which makes a field one about the connection
	fields.Tokens("Connection", func(name string) bool {
		named = append(named, http.CanonicalHeaderKey(name))
		return true
	})
	return slices.DeleteFunc(fields, func(f header.Field) bool {
		return ownWord(f.Name) || hopByHop(f.Name) || onceOnly(f.Name) && said[f.Name] != nil || slices.Contains(named, f.Name)
	})
}

// ownWord reports whether a field of an answer is not for the client whatever it says: the
// id of the request, which is in the response already, and an address of the service, which
// is not one of the gateway.
func ownWord(name string) bool { return name == headerRequestID || name == "Alt-Svc" }

// onceOnly reports whether a field may be there only once: where the route has said it,
// the service's is dropped.
func onceOnly(name string) bool {
	switch name {
	case "Deprecation", "Sunset", "Ratelimit", "Ratelimit-Policy", "X-Ratelimit-Limit", "X-Ratelimit-Remaining", "X-Ratelimit-Reset":
		return true
	}
	return false
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
	text := http1.FieldOf(res, "Content-Type")
	if len(text) < len(events) || !strings.EqualFold(text[:len(events)], events) {
		return false // nearly always: parsing costs more than all else here
	}
	kind, _, err := mime.ParseMediaType(text)
	return err == nil && kind == events
}
