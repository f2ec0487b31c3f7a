package proxy

import (
	"net/http"
	"net/textproto"
	"net/url"
	"strings"

	"github.com/keywarden/keywarden/pkg/header"
)

// ordinary says why a request takes the ordinary way, by [httputil.ReverseProxy] and
// [http.Transport]. Empty is the short one, [Service.relay], which exchanges the same
// bytes with less work: for HTTP/1.1 without TLS at the service's end, and for nothing
// that goes on in both directions at a time.
func (s *Service) ordinary(r *http.Request) string {
	switch h := r.Header; {
	case !s.plain():
		return "the service speaks HTTP/2, or has not shown yet that it does not"
	case len(h["Upgrade"]) > 0:
		return "it asks for another protocol"
	case len(h["Expect"]) > 0:
		return "it waits for 100 Continue"
	case len(h["Te"]) > 0:
		return "it has the field TE"
	case r.ContentLength < 0 || len(r.TransferEncoding) > 0 || len(r.Trailer) > 0:
		return "the length of its body is unknown"
	case !plainConnection(h["Connection"]):
		return "it names fields in Connection"
	}
	return ""
}

// Ordinary says why a request of the route would take the ordinary way to its service, and
// is empty when it would take the short one. It has no side effect.
func (rt *Route) Ordinary(r *http.Request) string { return rt.service.ordinary(r) }

// plainConnection reports whether the field says nothing but whether the connection of
// the client is kept.
func plainConnection(values []string) bool {
	for _, v := range values {
		if !strings.EqualFold(v, "keep-alive") && !strings.EqualFold(v, "close") {
			return false
		}
	}
	return true
}

// hopByHop reports whether a field, whose name is in canonical form, is about one
// connection (RFC 9110 section 7.6.1, and two older names).
func hopByHop(name string) bool {
	switch name {
	case "Connection", "Proxy-Connection", "Keep-Alive", "Proxy-Authenticate", "Proxy-Authorization", "Te", "Trailer", "Transfer-Encoding", "Upgrade":
		return true
	}
	return false
}

// relay exchanges a request that is not ordinary for the service's answer. Like the
// ordinary way it panics with [http.ErrAbortHandler] when the answer breaks off.
func (s *Service) relay(w http.ResponseWriter, out *http.Request, x *exchange) {
	in := out.Header
	x.url = url.URL{Path: x.path, RawPath: x.rawPath, RawQuery: out.URL.RawQuery, ForceQuery: out.URL.ForceQuery}
	out.URL, out.Close = &x.url, false
	if out.ContentLength == 0 {
		out.Body = nil
	}
	x.sent = true
	space := s.proxy.fields.Get()
	if x.fields = s.list(space[:0], out, x); x.fields != nil {
		out.Header = nil
	} else {
		s.clothe(out, in, x)
	}
	res, err := x.send(out)
	s.proxy.fields.Put(space, len(x.fields))
	x.fields = nil
	if err != nil {
		x.fail(w, out, err)
		return
	}
	if res.Header != nil { // it was the ordinary way after all
		removeHopByHop(res.Header)
	}
	if err := x.accept(res); err != nil {
		_ = res.Body.Close()
		x.fail(w, out, err)
		return
	}
	s.answer(w, res, x)
}

// clothe gives the outbound request the header that is due, as a map.
func (s *Service) clothe(out *http.Request, in http.Header, x *exchange) {
	out.Header = make(http.Header, len(in)+extraFields)
	for name, values := range in {
		if !hopByHop(name) && name != "Content-Length" {
			out.Header[name] = values[:len(values):len(values)]
		}
	}
	s.dress(out, in, x)
	if out.Header["User-Agent"] == nil {
		out.Header["User-Agent"] = noUserAgent() // else a transport says its own
	}
}

// Fields implements [http1.Listed].
func (x *exchange) Fields() header.List { return x.fields }

// Header implements [http1.Listed].
func (x *exchange) Header() http.Header {
	h := x.fields.Map()
	if h["User-Agent"] == nil {
		h["User-Agent"] = noUserAgent()
	}
	return h
}

// Take implements [http1.Taker].
func (x *exchange) Take(fields header.List) bool {
	x.answered = fields
	return x.short
}

// Taken implements [http1.Taker].
func (x *exchange) Taken() header.List { return x.answered }

// extraFields are about as many as the gateway adds to a request.
const extraFields = 12

func noUserAgent() []string { return []string{""} }

// removeHopByHop removes what a service says about its connection.
func removeHopByHop(h http.Header) {
	for _, value := range h["Connection"] {
		for name := range strings.SplitSeq(value, ",") {
			if name = textproto.TrimString(name); name != "" {
				h.Del(name)
			}
		}
	}
	for name := range h {
		if hopByHop(name) {
			delete(h, name)
		}
	}
}

// answer passes on the answer.
func (s *Service) answer(w http.ResponseWriter, res *http.Response, x *exchange) {
	h := w.Header()
	if res.Header != nil {
		join(h, res.Header)
	} else if sink, ok := w.(header.Sink); !ok || !sink.AddFields(x.answered) {
		x.answered.AddTo(h)
	}
	announced := len(res.Trailer)
	if announced > 0 {
		names := make([]string, 0, announced)
		for name := range res.Trailer {
			names = append(names, name)
		}
		h.Add("Trailer", strings.Join(names, ", "))
	}
	w.WriteHeader(res.StatusCode)
	if err := s.passOn(w, res, x.lasting); err != nil {
		_ = res.Body.Close()
		if x.client.Value(http.ServerContextKey) == nil {
			return // nobody would recover
		}
		panic(http.ErrAbortHandler)
	}
	_ = res.Body.Close()
	if len(res.Trailer) == 0 {
		return
	}
	_ = http.NewResponseController(w).Flush() // chunked, even when all of it is here
	if len(res.Trailer) == announced {
		join(h, res.Trailer)
		return
	}
	for name, values := range res.Trailer {
		for _, v := range values {
			h.Add(http.TrailerPrefix+name, v)
		}
	}
}

// join adds fields to those that are there. Their values are not copied.
func join(h, more http.Header) {
	for name, values := range more {
		if before, ok := h[name]; ok {
			values = append(before[:len(before):len(before)], values...)
		}
		h[name] = values
	}
}

// passOn passes on the body of the answer. What has no length, or lasts, is so as it comes.
func (s *Service) passOn(w http.ResponseWriter, res *http.Response, lasting bool) error {
	if res.Body == http.NoBody {
		return nil
	}
	return s.proxy.bodies.Copy(w, res.Body, res.ContentLength < 0 || lasting)
}

// send sends the request to the backend, with the credential of the service if it has
// one.
func (x *exchange) send(out *http.Request) (*http.Response, error) {
	if x.route.service.credential != nil {
		return x.present(out)
	}
	return x.route.service.backend.Load().Send(&x.forward, out)
}

// plain reports whether every target of the service can be asked in the short way.
func (s *Service) plain() bool { return !s.proxy.ordinary && s.backend.Load().Plain() }

// Interim passes on an interim answer. It implements [http1.Interim].
func (x *exchange) Interim(status int, header http.Header) {
	removeHopByHop(header)
	x.keepHeader()
	h := x.w.Header()
	join(h, header)
	x.w.WriteHeader(status)
	clear(h) // they are not those of the answer; see [exchange.restoreHeader]
}
