package front

import (
	"bytes"
	"net/http"
	"net/textproto"
	"net/url"

	"github.com/keywarden/keywarden/pkg/reqctx"
)

// inlineFields is how many values of fields have their place in the exchange.
const inlineFields = 16

// exchange is a request and its answer. Everything whose number is known beforehand is
// in it, so that it costs one allocation; it is never used for another request, since a
// handler may have kept any part of it.
type exchange struct {
	request  http.Request
	context  requestContext
	carrier  reqctx.Carrier // of what the handlers find out about the request
	url      url.URL
	values   [inlineFields]string
	body     body
	response response
}

// fill makes r the request of the head h, which b begins with. It reports false when
// net/http would refuse the target.
func (x *exchange) fill(r *http.Request, h *head, b []byte) bool {
	text := string(b[:h.length]) // what follows are slices of it
	target := text[h.target.from:h.target.to]
	if !x.setURL(target) {
		return false
	}
	r.Method, r.RequestURI, r.URL = h.method, target, &x.url
	r.Proto, r.ProtoMajor, r.ProtoMinor = "HTTP/1.1", 1, 1
	r.Host = text[h.host.from:h.host.to]
	r.Header = x.header(h, text)
	r.ContentLength = int64(h.body)
	r.Body = http.NoBody
	r.Close = h.close
	return true
}

// header makes the header. As in net/http it is without Host.
func (x *exchange) header(h *head, text string) http.Header {
	values := x.values[:]
	if h.count > len(values) {
		values = make([]string, h.count)
	}
	header := make(http.Header, h.count-1)
	for i, f := range h.fields[:h.count] {
		if f.value == h.host {
			continue
		}
		name := canonical(text[f.name.from:f.name.to])
		values[i] = text[f.value.from:f.value.to]
		if before, ok := header[name]; ok {
			header[name] = append(before, values[i])
			continue
		}
		header[name] = values[i : i+1 : i+1] // what is appended goes elsewhere
	}
	return header
}

// canonical is [textproto.CanonicalMIMEHeaderKey], without an allocation for names that
// clients write in small letters and that it does not know.
func canonical(name string) string {
	switch name {
	case "baggage":
		return "Baggage"
	case "forwarded":
		return "Forwarded"
	case "idempotency-key":
		return "Idempotency-Key"
	case "priority":
		return "Priority"
	case "sec-fetch-dest":
		return "Sec-Fetch-Dest"
	case "sec-fetch-mode":
		return "Sec-Fetch-Mode"
	case "sec-fetch-site":
		return "Sec-Fetch-Site"
	case "traceparent":
		return "Traceparent"
	case "tracestate":
		return "Tracestate"
	case "x-api-key", "X-API-Key":
		return "X-Api-Key"
	case "x-forwarded-host":
		return "X-Forwarded-Host"
	case "x-forwarded-proto":
		return "X-Forwarded-Proto"
	case "x-real-ip":
		return "X-Real-Ip"
	case "x-request-id":
		return "X-Request-Id"
	}
	return textproto.CanonicalMIMEHeaderKey(name)
}

// setURL sets what [url.ParseRequestURI] makes of target, which is in origin form. Where
// each byte of the path means itself, that is known without it.
func (x *exchange) setURL(target string) bool {
	end := 0
	for end < len(target) && classes[target[end]]&inPath != 0 {
		end++
	}
	switch {
	case end == len(target):
		x.url.Path = target
		return true
	case target[end] == '?':
		x.url.Path = target[:end]
		x.url.RawQuery = target[end+1:]
		if x.url.RawQuery == "" {
			x.url.ForceQuery = true
		}
		return true
	}
	u, err := url.ParseRequestURI(target)
	if err != nil {
		return false
	}
	x.url = *u
	return true
}

// leading is how many line ends, CR or LF, b begins with.
func leading(b []byte) int {
	n := 0
	for n < len(b) && (b[n] == '\r' || b[n] == '\n') {
		n++
	}
	return n
}

// endsLine reports whether b has the end of a line.
func endsLine(b []byte) bool { return bytes.IndexByte(b, '\n') >= 0 }
