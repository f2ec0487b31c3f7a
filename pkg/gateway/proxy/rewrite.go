package proxy

import (
	"context"
	"encoding/hex"
	"net/http"
	"net/http/httputil"
	"slices"
	"strings"

	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"

	"github.com/keywarden/keywarden/pkg/access"
	"github.com/keywarden/keywarden/pkg/header"
	"github.com/keywarden/keywarden/pkg/reqctx"
)

// Fields that tell the service who calls and from where. Nobody but the gateway
// can set them.
const (
	headerForwardedFor    = "X-Forwarded-For"
	headerForwardedProto  = "X-Forwarded-Proto"
	headerForwardedHost   = "X-Forwarded-Host"
	headerForwardedPrefix = "X-Forwarded-Prefix" // what was stripped from the path
	headerRequestID       = "X-Request-Id"
	headerMirrored        = "X-Mirrored" // "1": a copy of a request, whose answer nobody sees

	headerConsumer       = "X-Consumer"        // id of the user
	headerConsumerKind   = "X-Consumer-Kind"   // "user", "key" or "certificate"
	headerConsumerRole   = "X-Consumer-Role"   // role of the user
	headerConsumerScopes = "X-Consumer-Scopes" // separated by spaces
	headerConsumerKey    = "X-Consumer-Key"    // id of the API key, if one was used
	headerConsumerName   = "X-Consumer-Name"   // name in the certificate, if one was used
)

// rewrite makes the outbound request. The hop-by-hop fields, and those that the
// client named in Connection, are gone already, so that nothing the client says
// can remove what is set here.
func (s *Service) rewrite(pr *httputil.ProxyRequest) {
	in, out := pr.In, pr.Out
	x := exchangeFrom(in.Context())
	x.sent = true

	out.URL.Path, out.URL.RawPath = x.path, x.rawPath
	out.URL.RawQuery = in.URL.RawQuery // as it came: nothing here decides on it
	out.Trailer = nil                  // fields that no step has seen

	trailers := out.Header["Te"] // "trailers" or nothing: the reverse proxy has seen to that
	s.dress(out, in.Header, x)
	if in.ProtoMajor >= 2 && trailers != nil {
		out.Header["Te"] = trailers // gRPC servers refuse calls without it; trailers of answers do pass
	}
	restrictUpgrade(out.Header)
}

// dress removes from an outbound request what the service is not told, and adds what
// it is. received is the header that came.
func (s *Service) dress(out *http.Request, received http.Header, x *exchange) {
	h, ctx := out.Header, out.Context()
	principal := x.caller(ctx)
	keep := s.keepsAuthorization(x, principal, received)
	for name := range h {
		if s.hides(name, keep) {
			delete(h, name)
		}
	}
	var space [maxSaid]header.Field
	said := s.say(space[:0], x, principal, ctx, received, out.Host)
	values := make([]string, len(said))
	for i, f := range said {
		values[i] = f.Value
		h[f.Name] = values[i : i+1 : i+1]
	}
	unseal(h, x.info.Sealed, x.route.mirrored)
}

// list appends the header of the outbound request to fields, without a map for it; nil when
// it has to be one.
func (s *Service) list(fields header.List, out *http.Request, x *exchange) header.List {
	if s.credential != nil || len(x.info.Sealed) > 0 {
		return nil
	}
	in, ctx := out.Header, out.Context()
	principal := x.caller(ctx)
	keep := s.keepsAuthorization(x, principal, in)
	for name, values := range in {
		if hopByHop(name) || name == "Content-Length" || s.hides(name, keep) {
			continue
		}
		for _, v := range values {
			fields = append(fields, header.Field{Name: name, Value: v})
		}
	}
	return s.say(fields, x, principal, ctx, in, out.Host)
}

// hides reports whether a field of the client, whose name is in canonical form, is not
// for the service: what only the gateway may set, what would make the service see
// another request than the one that was decided on, and what a stranger says of traces.
// Their flag would make the service record what nobody here has chosen, and baggage is
// data of its own.
func (s *Service) hides(name string, keepAuthorization bool) bool {
	switch name {
	case "Authorization":
		return !keepAuthorization
	case "Baggage", headerLoop:
		return true
	}
	return header.Reserved(name) || slices.Contains(s.proxy.traceFields, name)
}

// maxSaid is about the most that the gateway says of a request.
const maxSaid = 16

// say appends what the gateway tells the service of a request. Fields without a value are
// not told; each replaces those of its name.
func (s *Service) say(fields header.List, x *exchange, p *access.Principal, ctx context.Context, received http.Header, host string) header.List {
	add := func(name, value string) {
		if value != "" {
			fields = append(fields, header.Field{Name: name, Value: value})
		}
	}
	add(headerForwardedFor, x.info.ClientText())
	add(headerForwardedProto, x.info.Scheme)
	add(headerForwardedHost, host)
	if x.route.add == "" {
		add(headerForwardedPrefix, x.route.strip)
	}
	add(headerRequestID, x.info.ID)
	if p != nil {
		add(headerConsumer, p.UserID)
		add(headerConsumerKind, string(p.Kind))
		add(headerConsumerRole, string(p.Role))
		add(headerConsumerScopes, strings.Join(p.Scopes, " "))
		add(headerConsumerKey, p.KeyID)
		if p.Kind == access.KindCertificate { // that of a key is any text of its owner
			add(headerConsumerName, p.KeyName)
		}
	}
	if x.route.mirrored {
		add(headerMirrored, "1")
	} else {
		add("Authorization", x.info.Authorization.Reveal())
	}
	add(headerLoop, s.proxy.passed(received))
	switch {
	case x.info.TraceID != [16]byte{}:
		add("Traceparent", unrecorded(x.info))
	case trace.SpanContextFromContext(ctx).IsValid():
		carrier := propagation.HeaderCarrier{}
		s.proxy.propagator.Inject(ctx, carrier)
		for name, values := range carrier {
			add(name, values[0])
		}
	}
	return fields
}

// unrecorded is what the service is told of a trace that nobody records: it is one,
// so that what the service logs can be found, and has not the flag to record it (W3C
// Trace Context section 3.2).
func unrecorded(info *reqctx.Info) string {
	var space [55]byte
	b := append(space[:0], "00-"...)
	b = hex.AppendEncode(b, info.TraceID[:])
	b = append(b, '-')
	b = hex.AppendEncode(b, info.SpanID[:])
	return string(append(b, "-00"...))
}

// caller is who calls, where the route asks for it; nil is nobody it knows.
func (x *exchange) caller(ctx context.Context) *access.Principal {
	if x.route.authenticated || x.route.optional {
		return access.PrincipalFrom(ctx)
	}
	return nil
}

// unseal puts the values of sealed fields where what may be shown of them is. A copy
// of a request is for another service, to which they are nobody's business.
func unseal(h http.Header, sealed []reqctx.SealedField, mirrored bool) {
	for _, s := range sealed {
		if mirrored {
			delete(h, s.Name)
			continue
		}
		values := slices.Clone(h[s.Name])
		for at := len(values) - 1; at >= 0; at-- { // the client's own come first
			if values[at] == s.Shown {
				values[at] = s.Value.Reveal()
				h[s.Name] = values
				break
			}
		}
	}
}

// restrictUpgrade lets WebSockets through and nothing else: inside of another
// protocol, such as h2c, requests would pass that no route has seen.
func restrictUpgrade(h http.Header) {
	if !strings.EqualFold(h.Get("Upgrade"), "websocket") {
		delete(h, "Upgrade")
		delete(h, "Connection")
	}
}
