package gateway

import (
	"net/http"
	"time"

	"github.com/keywarden/keywarden/pkg/access"
	"github.com/keywarden/keywarden/pkg/decision"
	"github.com/keywarden/keywarden/pkg/problem"
	"github.com/keywarden/keywarden/pkg/reqctx"
)

// digestDigits is how many digits of a document's digest tell it from another in
// a decision.
const digestDigits = 12

// decide counts a refusal and returns the id under which its caller can ask for
// an explanation. It is the reqctx.Info.Decide of every request.
func (g *Gateway) decide(r *http.Request, p *problem.Error) string {
	info := reqctx.From(r.Context())
	g.observer.refusedBy(r, info)
	if g.decisions == nil {
		return ""
	}
	d := decision.Decision{
		RequestID: info.ID, Route: info.Route, Policy: info.Policy, Code: p.Code, Detail: p.Detail,
		RetryAfter: int64((p.RetryAfter + time.Second - 1) / time.Second),
	}
	if digest := g.live.Load().digest.String(); digest != "" {
		d.Document = digest[:digestDigits]
	}
	if info.Client.IsValid() {
		d.Client = info.Client.String()
	}
	if caller := access.PrincipalFrom(r.Context()); caller != nil {
		d.UserID, d.KeyID = caller.UserID, caller.KeyID
	}
	return g.decisions.Seal(d)
}
