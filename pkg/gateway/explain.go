package gateway

import (
	"context"
	"net/http"
	"net/netip"
	"net/url"
	"strings"

	"github.com/keywarden/keywarden/pkg/access"
	"github.com/keywarden/keywarden/pkg/canonical"
	"github.com/keywarden/keywarden/pkg/gateway/policy"
	"github.com/keywarden/keywarden/pkg/problem"
	"github.com/keywarden/keywarden/pkg/reqctx"
)

// Description is a request that is not made.
type Description struct {
	Method        string
	URL           *url.URL // scheme and host may be empty
	Header        http.Header
	ContentLength int64             // bytes; -1: unknown
	Client        netip.Addr        // the caller's address
	Principal     *access.Principal // nil: anonymous
}

// Explanation is what would become of a described request.
type Explanation struct {
	Refusal  *problem.Error // nil: the request would reach the end of its route
	Route    string         // empty: there is none
	Service  string         // empty: the route has an answer of its own, or none
	Why      string         // how the service was chosen, when there is a choice
	Ordinary string         // why the service would be asked by net/http's own transport; empty: it would not
	Policies []PolicyVerdict
}

// PolicyVerdict is what one policy of the route says. All are asked, also those
// after one that refuses.
type PolicyVerdict struct {
	Policy  string
	Shadow  bool   // a refusal would be counted, and the request would pass
	When    string // the condition, if there is one
	Verdict policy.Verdict
	Refusal *problem.Error // with the verdict Refuses
}

// chooser is the end of a route that leads to one of several services. Choose has
// no side effect.
type chooser interface {
	Choose(r *http.Request) (service, why string)
}

// relayed is the end of a route that leads to one service.
type relayed interface {
	Ordinary(r *http.Request) (why string)
}

// checker is the end of a route that refuses some requests. Check has no side
// effect.
type checker interface {
	Check(r *http.Request) error
}

// Explain tells what would become of a request by the current snapshot. No
// service is asked, nothing is counted, and no credential is needed: who would
// call is part of the description.
func (g *Gateway) Explain(ctx context.Context, d Description) Explanation {
	info := &reqctx.Info{Client: d.Client, Scheme: d.URL.Scheme}
	ctx = reqctx.With(ctx, info)
	ctx = access.WithPrincipal(ctx, d.Principal) // who asks for the explanation is not who would call
	if d.Principal != nil {
		info.Subject, info.KeyID = d.Principal.UserID, d.Principal.KeyID
	}
	target := *d.URL
	target.Scheme, target.Host = "", ""
	r := (&http.Request{
		Method: d.Method, URL: &target, Host: d.URL.Host, Header: d.Header, ContentLength: d.ContentLength,
		Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, RequestURI: target.RequestURI(), Body: http.NoBody,
	}).WithContext(ctx)
	host, r, slash, err := canonical.RequestWithSlashes(r)
	if err != nil {
		return Explanation{Refusal: problem.From(err)}
	}
	info.Host, info.EncodedSlash = host, slash
	found, refusal := g.live.Load().find(r, info)
	if refusal != nil {
		return Explanation{Refusal: refusal}
	}
	info.Route, info.Service = found.name, found.service
	return found.explain(r)
}

func (rt *route) explain(r *http.Request) Explanation {
	e := Explanation{Route: rt.name, Service: rt.service, Policies: make([]PolicyVerdict, len(rt.steps))}
	for i, rule := range rt.steps {
		v := PolicyVerdict{Policy: rule.Name, Shadow: rule.Mode == policy.Shadow, When: rule.Text}
		var err error
		if v.Verdict, err = rule.Explain(r); err != nil {
			v.Refusal = problem.From(err)
			if !v.Shadow && e.Refusal == nil {
				e.Refusal = v.Refusal
			}
		}
		e.Policies[i] = v
	}
	if end, ok := rt.end.(chooser); ok {
		e.Service, e.Why = end.Choose(r)
	}
	if end, ok := rt.end.(relayed); ok {
		e.Ordinary = end.Ordinary(r)
	}
	if end, ok := rt.end.(checker); ok && e.Refusal == nil {
		if err := end.Check(r); err != nil {
			e.Refusal = problem.From(err)
		}
	}
	return e
}

// PolicyOrder returns the policies of a route in the order in which they are
// asked, as of the current snapshot. ok is false when there is no such route, or
// when the document whose digest begins with document is not served any more.
func (g *Gateway) PolicyOrder(route, document string) (names []string, ok bool) {
	s := g.live.Load()
	found := s.byName[route]
	if found == nil || !strings.HasPrefix(s.digest.String(), document) {
		return nil, false
	}
	for _, rule := range found.steps {
		names = append(names, rule.Name)
	}
	return names, true
}
