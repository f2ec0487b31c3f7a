package gateway

import (
	"net/http"

	"github.com/keywarden/keywarden/pkg/gateway/policy"
)

// Recheck looks at the files of services, as the gateway does from time to time.
func (g *Gateway) Recheck() { g.recheck() }

// EndWith has every route of the document in force end with h, behind the policies
// that it has. Nothing may be served meanwhile.
func (g *Gateway) EndWith(h http.Handler) {
	for _, r := range g.live.Load().byName {
		r.end, r.handler = h, policy.Chain(h, g.observer, r.steps...)
	}
}
