package proxy

import (
	"net/http"

	"github.com/keywarden/keywarden/pkg/access"
	"github.com/keywarden/keywarden/pkg/gateway/forward"
	"github.com/keywarden/keywarden/pkg/gateway/proxy/lookalike"
	"github.com/keywarden/keywarden/pkg/gateway/upstream/http1"
)

// keepsAuthorization reports whether the service is told the Authorization of the
// caller. On a route that authenticates it was for the gateway, a service that the
// gateway shows a credential of its own gets none of the caller's, and a copy of a
// request has none. On another it is between client and service, unless it holds a key
// or an access token of this platform by mistake: whoever has that may act for the user.
func (s *Service) keepsAuthorization(x *exchange, caller *access.Principal, received http.Header) bool {
	if x.route.authenticated || caller != nil || s.credential != nil || x.route.mirrored || !x.info.Authorization.Empty() {
		return false
	}
	for _, v := range received["Authorization"] {
		if lookalike.Key(v) || lookalike.Token(v, s.proxy.issuer) {
			return false
		}
	}
	return true
}

// present sends the request with the credential of the service, which is put there
// at last: nothing that looks at the request before sees it.
//
// When the service does not accept it and another can be had by now, a request that
// may be repeated (RFC 9110 section 9.2.2) is, once.
func (x *exchange) present(out *http.Request) (*http.Response, error) {
	s, caller := x.route.service, x.caller(out.Context())
	presented, err := s.credential.Apply(out, caller)
	if err != nil {
		return nil, err
	}
	answer, err := s.backend.Load().Send(&x.forward, out)
	if err != nil || answer.StatusCode != http.StatusUnauthorized || http1.FieldOf(answer, "Www-Authenticate") == "" {
		return answer, err
	}
	repeatable := forward.Repeatable(out)
	if !s.credential.Renew(out.Context(), presented, repeatable) || !repeatable {
		return answer, nil
	}
	// What was sent may still be in the hands of its transport.
	again := out.Clone(out.Context())
	if _, err := s.credential.Apply(again, caller); err != nil {
		return answer, nil //nolint:nilerr // the first answer stands
	}
	_ = answer.Body.Close()
	x.forward.End(false)
	x.forward = forward.Exchange{Hash: x.forward.Hash, Host: x.forward.Host}
	return s.backend.Load().Send(&x.forward, again)
}
