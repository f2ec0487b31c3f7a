// Package auth lets only authenticated callers pass. It decides nothing about
// credentials: that is the Authenticator's, the same one that guards the
// platform's own API.
package auth

import (
	"errors"
	"net/http"

	"github.com/keywarden/keywarden/pkg/access"
	"github.com/keywarden/keywarden/pkg/gateway/policy"
	"github.com/keywarden/keywarden/pkg/reqctx"
)

// Authenticator finds out who makes a request. Its errors are problems, ready to
// be answered.
type Authenticator interface {
	Authenticate(r *http.Request, accept access.Methods) (*access.Principal, error)
}

// New makes the step. The caller's principal goes on in the request's context,
// and its ids to the access log.
func New(a Authenticator, accept access.Methods) (policy.Middleware, error) {
	if a == nil {
		return nil, errors.New("there is no authenticator")
	}
	if accept == 0 {
		return nil, errors.New("no way to authenticate is accepted")
	}
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			principal, err := a.Authenticate(r, accept)
			if err != nil {
				policy.Refuse(w, r, err)
				return
			}
			if principal == nil {
				policy.Refuse(w, r, errNoPrincipal)
				return
			}
			ctx := r.Context()
			info := reqctx.From(ctx)
			info.Subject, info.KeyID = principal.UserID, principal.KeyID
			next.ServeHTTP(w, r.WithContext(access.WithPrincipal(ctx, principal)))
		})
	}, nil
}

// errNoPrincipal is a broken Authenticator; it must not open the route.
var errNoPrincipal = errors.New("the authenticator returned neither a principal nor an error")
