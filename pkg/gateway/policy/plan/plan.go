// Package plan lets the keys of apps through to the routes of the products that the
// app is subscribed to, under the limits of its plan, and to no other. What the app is
// subscribed to comes with the caller (access.Grant), so that nobody is asked, and a
// plan that is changed counts with the next request. The counting and what the answer
// says are those of the policies "rate_limit" and "quota"; the subject is the
// subscription, over all routes of the product.
//
// It is no policy of the document: a route that accepts keys of apps has it, whatever
// the document says, after "auth", and it is never in shadow mode.
package plan

import (
	"maps"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/keywarden/keywarden/pkg/access"
	"github.com/keywarden/keywarden/pkg/gateway/policy"
	policyquota "github.com/keywarden/keywarden/pkg/gateway/policy/quota"
	policylimit "github.com/keywarden/keywarden/pkg/gateway/policy/ratelimit"
	"github.com/keywarden/keywarden/pkg/problem"
	"github.com/keywarden/keywarden/pkg/reqctx"
)

// Name is the name of the step, beside those of the document's policies.
const Name = "plan"

// RateName is the name of a plan's rate limit in the fields of answers; that of its
// quota is catalog.QuotaName.
const RateName = "plan-rate"

// Errors of this step.
var (
	ErrNotSubscribed = problem.Define(problem.Forbidden, "catalog.not_subscribed",
		"The app of this API key is not subscribed to a product that opens this route.")
	ErrSuspended = problem.Define(problem.Forbidden, "catalog.app_suspended",
		"The app of this API key is suspended.")
	ErrAppsOnly = problem.Define(problem.Forbidden, "catalog.apps_only",
		"This route is part of a product: it opens for API keys of apps that are subscribed to it.")
	ErrUnknown = problem.Define(problem.Unavailable, "catalog.unavailable",
		"It cannot be looked up right now whether this route opens for the caller. Try again shortly.").WithRetryAfter(2 * time.Second)
	ErrTerms = problem.Define(problem.Internal, "catalog.plan_unusable",
		"The limits of the plan cannot be counted.")
)

// Products is what is known of all products; catalog.Directory is one. It is asked for
// every request whose caller is no app, and must not block.
type Products interface {
	// AppsOnly reports whether a product keeps the route to the keys of apps; known is
	// false when that cannot be said.
	AppsOnly(route string) (only, known bool)

	// Opening is the names of the products that developers may know to open the route.
	Opening(route string) []string
}

// Plans makes the steps of routes. One lives as long as the process: what it counts
// goes on from one document to the next. It is safe for concurrent use.
type Plans struct {
	products Products
	limits   *limits
	now      func() time.Time
}

// Options are what [Plans] are made of. All fields are required.
type Options struct {
	Products Products
	Counters Counters
	Meters   Meters
	Now      func() time.Time
}

// New makes Plans.
func New(o Options) *Plans {
	return &Plans{products: o.Products, limits: newLimits(o.Counters, o.Meters), now: o.Now}
}

// Reach says whether a caller may reach a route, as far as products are concerned: nil
// is yes. No caller at all may: a route that wants one has said so before. It is also
// for streams, whose callers are looked at again while they last.
func (ps *Plans) Reach(route string, p *access.Principal) error {
	switch {
	case p == nil:
		return nil
	case p.App == "":
		return ps.withoutApp(route)
	case p.Grant.For(route) == nil:
		return ps.refusal(route, p.Grant)
	}
	return nil
}

// withoutApp is what becomes of callers who have shown another credential than the key
// of an app.
func (ps *Plans) withoutApp(route string) error {
	switch only, known := ps.products.AppsOnly(route); {
	case !known:
		return ErrUnknown
	case only:
		return ps.with(ErrAppsOnly, route)
	}
	return nil
}

// refusal says why a grant does not open a route.
func (ps *Plans) refusal(route string, g *access.Grant) error {
	if g.Suspended() {
		return ErrSuspended
	}
	return ps.with(ErrNotSubscribed, route)
}

// with names the products that would open a route, and that everybody may know.
func (ps *Plans) with(p *problem.Error, route string) *problem.Error {
	const most = 10
	names := ps.products.Opening(route)
	if len(names) == 0 {
		return p
	}
	more := ""
	if len(names) > most {
		names, more = names[:most], ", and others"
	}
	return p.WithDetail("%s It is opened by: %s%s.", p.Detail, strings.Join(names, ", "), more)
}

// Step makes the step of a route.
func (ps *Plans) Step(route string) policy.Step {
	return policy.Step{
		Apply: func(next http.Handler) http.Handler {
			return &gate{Plans: ps, route: route, next: next}
		},
		Preview: func(r *http.Request) error { return ps.Reach(route, access.PrincipalFrom(r.Context())) },
	}
}

// gate is the step before the rest of a route's chain.
type gate struct {
	*Plans
	route string
	next  http.Handler

	mu     sync.Mutex // of those who make a chain
	chains atomic.Pointer[chains]
}

// chains lead through the limits of plans to the rest of a route. They are immutable.
type chains struct {
	generation uint64 // of the limits that they were made with
	byTerms    map[access.Terms]http.Handler
}

// ServeHTTP implements [http.Handler].
func (g *gate) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	p := access.PrincipalFrom(r.Context())
	switch {
	case p == nil:
		g.next.ServeHTTP(w, r)
		return
	case p.App == "":
		if err := g.withoutApp(g.route); err != nil {
			policy.Refuse(w, r, Name, err)
			return
		}
		g.next.ServeHTTP(w, r)
		return
	}
	e := p.Grant.For(g.route)
	if e == nil {
		policy.Refuse(w, r, Name, g.refusal(g.route, p.Grant))
		return
	}
	reqctx.From(r.Context()).Product = e.Product
	chain, err := g.chain(e.Terms)
	if err != nil {
		policy.Refuse(w, r, Name, ErrTerms.With(err))
		return
	}
	chain.ServeHTTP(w, r)
}

// chain leads through the limits of a plan to the rest of the route.
func (g *gate) chain(t access.Terms) (http.Handler, error) {
	if h := g.known(t); h != nil {
		return h, nil
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if h := g.known(t); h != nil {
		return h, nil
	}
	limits, generation, err := g.limits.of(t)
	if err != nil {
		return nil, err
	}
	h, err := g.through(limits)
	if err != nil {
		return nil, err
	}
	next := &chains{generation: generation, byTerms: map[access.Terms]http.Handler{t: h}}
	const most = 256 // terms; chains keep nothing, and those that are still used are made again
	if before := g.chains.Load(); before != nil && before.generation == generation && len(before.byTerms) < most {
		maps.Copy(next.byTerms, before.byTerms)
	}
	g.chains.Store(next)
	return h, nil
}

// known is the chain that was made before, or nil.
func (g *gate) known(t access.Terms) http.Handler {
	c := g.chains.Load()
	if c == nil || c.generation != g.limits.generation.Load() {
		return nil
	}
	return c.byTerms[t]
}

// through puts the limits before the rest of the route, the rate first.
func (g *gate) through(l planLimits) (http.Handler, error) {
	next := g.next
	if l.meter != nil {
		step, err := policyquota.New([]policyquota.Quota{{Meter: l.meter, Subject: g.subject}}, g.now)
		if err != nil {
			return nil, err
		}
		next = step.Apply(next)
	}
	if l.counter != nil {
		step, err := policylimit.New([]policylimit.Limit{{Name: RateName, Counter: l.counter, Subject: g.subject}}, g.now)
		if err != nil {
			return nil, err
		}
		next = step.Apply(next)
	}
	return next, nil
}

// subject is the subscription by which the caller is here.
func (g *gate) subject(r *http.Request) (string, error) {
	if p := access.PrincipalFrom(r.Context()); p != nil {
		if e := p.Grant.For(g.route); e != nil {
			return e.Subscription, nil
		}
	}
	return "", errNoSubject
}
