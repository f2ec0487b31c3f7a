package template

import (
	"errors"
	"net/http"

	"github.com/keywarden/keywarden/pkg/access"
	"github.com/keywarden/keywarden/pkg/header"
	"github.com/keywarden/keywarden/pkg/reqctx"
)

// What is wrong with the argument of a function.
var (
	errNoField    = errors.New("this cannot be the name of a header field")
	errCredential = errors.New("what may hold a credential is never shown; the caller is in principal")
	errReserved   = errors.New("this field is set by the gateway alone, and what a client sends as such is dropped")
)

// builtin are the functions that always exist.
func builtin() []Function {
	return []Function{
		{Name: "request.header", Argument: "a header field", Make: headerField},
		{Name: "request.query", Argument: "a query parameter", Make: queryParameter},
		simple("request.method", func(dst []byte, r *http.Request) []byte { return append(dst, r.Method...) }),
		simple("request.path", func(dst []byte, r *http.Request) []byte { return append(dst, r.URL.Path...) }),
		fact("request.host", func(i *reqctx.Info) string { return i.Host }),
		fact("request.scheme", func(i *reqctx.Info) string { return i.Scheme }),
		fact("request.id", func(i *reqctx.Info) string { return i.ID }),
		simple("request.client", client),
		fact("route", func(i *reqctx.Info) string { return i.Route }),
		fact("service", func(i *reqctx.Info) string { return i.Service }),
		caller("principal.user_id", func(p *access.Principal) string { return p.UserID }),
		caller("principal.kind", func(p *access.Principal) string { return string(p.Kind) }),
		caller("principal.role", func(p *access.Principal) string { return string(p.Role) }),
		caller("principal.key_id", func(p *access.Principal) string { return p.KeyID }),
		caller("principal.key_name", func(p *access.Principal) string { return p.KeyName }),
		{Name: "principal.scopes", Principal: true, Make: func(string) (Value, error) { return scopes, nil }},
	}
}

func simple(name string, v Value) Function {
	return Function{Name: name, Make: func(string) (Value, error) { return v, nil }}
}

// fact is something that the request's facts tell.
func fact(name string, of func(*reqctx.Info) string) Function {
	return simple(name, func(dst []byte, r *http.Request) []byte { return append(dst, of(reqctx.From(r.Context()))...) })
}

// caller is something that the principal tells; of an anonymous request, nothing.
func caller(name string, of func(*access.Principal) string) Function {
	f := simple(name, func(dst []byte, r *http.Request) []byte {
		if p := access.PrincipalFrom(r.Context()); p != nil {
			dst = append(dst, of(p)...)
		}
		return dst
	})
	f.Principal = true
	return f
}

func client(dst []byte, r *http.Request) []byte {
	if ip := reqctx.From(r.Context()).Client; ip.IsValid() {
		dst = ip.AppendTo(dst)
	}
	return dst
}

// scopes are separated by spaces, as OAuth has them.
func scopes(dst []byte, r *http.Request) []byte {
	p := access.PrincipalFrom(r.Context())
	if p == nil {
		return dst
	}
	for i, s := range p.Scopes {
		if i > 0 {
			dst = append(dst, ' ')
		}
		dst = append(dst, s...)
	}
	return dst
}

// headerField is the first value of a field.
func headerField(name string) (Value, error) {
	switch {
	case header.Credential(name):
		return nil, errCredential
	case !header.IsName(name):
		return nil, errNoField
	case header.Reserved(name):
		return nil, errReserved
	}
	name = http.CanonicalHeaderKey(name)
	return func(dst []byte, r *http.Request) []byte {
		if list := r.Header[name]; len(list) > 0 {
			dst = append(dst, list[0]...)
		}
		return dst
	}, nil
}

// queryParameter is the first value of a parameter.
func queryParameter(name string) (Value, error) {
	if header.Credential(name) {
		return nil, errCredential
	}
	return func(dst []byte, r *http.Request) []byte {
		value, _ := header.Query(r.URL.RawQuery, name)
		return append(dst, value...)
	}, nil
}
