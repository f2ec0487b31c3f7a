package gateway

import (
	"net/http"
	"slices"
	"strings"

	"github.com/keywarden/keywarden/pkg/gateway/policy"
	"github.com/keywarden/keywarden/pkg/gateway/policy/cors"
)

// preflight returns what the preflight requests for a route of these methods take:
// the route as far as the policy that answers them, which comes before
// authentication, since browsers send no credential with them (Fetch standard,
// CORS-preflight fetch). It is nil when no policy does.
//
// No preflight request gets to the service of a route that is not for OPTIONS, not
// even where the policy has a condition that does not hold.
func (c *compiler) preflight(rt *route, methods []string) *route {
	i := slices.IndexFunc(rt.steps, func(u policy.Rule) bool { return u.Name == cors.Name && u.Mode == policy.Enforce })
	if i < 0 {
		return nil
	}
	if rt.steps[i].When != nil && (len(methods) == 0 || slices.Contains(methods, http.MethodOptions)) {
		return rt
	}
	refusal := ErrMethod.WithAllow(strings.Join(methods, ", "))
	end := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { policy.Refuse(w, r, "", refusal) })
	steps := slices.Clip(rt.steps[:i+1])
	return &route{name: rt.name, end: end, steps: steps, handler: policy.Chain(end, c.gateway.observer, steps...)}
}
