// Package ipallow lets only clients from named networks pass.
package ipallow

import (
	"errors"
	"net/http"
	"net/netip"
	"slices"

	"github.com/keywarden/keywarden/pkg/gateway/policy"
	"github.com/keywarden/keywarden/pkg/problem"
	"github.com/keywarden/keywarden/pkg/reqctx"
)

// ErrDenied is the refusal. It does not say which networks would be allowed.
var ErrDenied = problem.Define(problem.Forbidden, "gateway.address_not_allowed",
	"This route may not be used from this address.")

// New makes the step. The client's address is reqctx.Info.Client, that is after
// trusted proxies; a request without one is refused.
func New(networks []netip.Prefix) (policy.Middleware, error) {
	if len(networks) == 0 {
		return nil, errors.New("no network is allowed")
	}
	if slices.ContainsFunc(networks, func(p netip.Prefix) bool { return !p.IsValid() }) {
		return nil, errors.New("a network is not valid")
	}
	networks = slices.Clone(networks)
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			client := reqctx.From(r.Context()).Client.Unmap()
			for _, n := range networks {
				if n.Contains(client) {
					next.ServeHTTP(w, r)
					return
				}
			}
			policy.Refuse(w, r, ErrDenied)
		})
	}, nil
}
