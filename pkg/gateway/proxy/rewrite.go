package proxy

import (
	"context"
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
	removeReserved(out.Header)
	ctx := out.Context()
	principal := x.caller(ctx)
	removeCredentials(out.Header, x.route.authenticated || principal != nil || s.credential != nil, s.proxy.issuer)

	f := fields{header: out.Header}
	x.setForwarding(&f, out.Host)
	setIdentity(&f, principal)
	f.set("Authorization", x.info.Authorization.Reveal())
	unseal(out.Header, x.info.Sealed, x.route.mirrored)
	if x.route.mirrored {
		delete(out.Header, "Authorization")
		f.set(headerMirrored, "1")
	}
	s.proxy.setLoop(out.Header, received)
	s.setTrace(ctx, out.Header)
}

// caller is who calls, where the route asks for it; nil is nobody it knows.
func (x *exchange) caller(ctx context.Context) *access.Principal {
	if x.route.authenticated || x.route.optional {
		return access.PrincipalFrom(ctx)
	}
	return nil
}

// setTrace replaces the client's trace context by that of this request, if there
// is one. A stranger's is not passed on even then: its flag would make the
// service record what nobody here has chosen, and baggage is data of its own.
func (s *Service) setTrace(ctx context.Context, h http.Header) {
	delete(h, "Baggage")
	for _, name := range s.proxy.propagator.Fields() {
		h.Del(name)
	}
	if trace.SpanContextFromContext(ctx).IsValid() {
		s.proxy.propagator.Inject(ctx, propagation.HeaderCarrier(h))
	}
}

func (x *exchange) setForwarding(f *fields, host string) {
	if x.info.Client.IsValid() {
		f.set(headerForwardedFor, x.info.Client.String())
	}
	f.set(headerForwardedProto, x.info.Scheme)
	f.set(headerForwardedHost, host)
	if x.route.add == "" {
		f.set(headerForwardedPrefix, x.route.strip)
	}
	f.set(headerRequestID, x.info.ID)
}

func setIdentity(f *fields, p *access.Principal) {
	if p == nil {
		return
	}
	f.set(headerConsumer, p.UserID)
	f.set(headerConsumerKind, string(p.Kind))
	f.set(headerConsumerRole, string(p.Role))
	f.set(headerConsumerScopes, strings.Join(p.Scopes, " "))
	f.set(headerConsumerKey, p.KeyID)
	if p.Kind == access.KindCertificate { // that of a key is any text of its owner
		f.set(headerConsumerName, p.KeyName)
	}
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

// fields sets header fields that share one allocation.
type fields struct {
	header http.Header
	space  []string
}

// set replaces the field unless value is empty. The name is in canonical form.
func (f *fields) set(name, value string) {
	if value == "" {
		return
	}
	if len(f.space) == cap(f.space) {
		f.space = make([]string, 0, 10)
	}
	f.space = append(f.space, value)
	end := len(f.space)
	f.header[name] = f.space[end-1 : end : end]
}

// removeReserved removes every spelling of the fields that only the gateway may
// set, and of those that would make the service see another request than the one
// that was decided on.
func removeReserved(h http.Header) {
	for name := range h {
		if header.Reserved(name) {
			delete(h, name)
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
