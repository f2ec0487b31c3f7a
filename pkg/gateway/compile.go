package gateway

import (
	"fmt"
	"net/http"
	"time"

	"github.com/keywarden/keywarden/pkg/canonical"
	"github.com/keywarden/keywarden/pkg/gateway/chain"
	"github.com/keywarden/keywarden/pkg/gateway/contracts"
	"github.com/keywarden/keywarden/pkg/gateway/match"
	"github.com/keywarden/keywarden/pkg/gateway/policy"
	"github.com/keywarden/keywarden/pkg/gateway/proxy"
	"github.com/keywarden/keywarden/pkg/gateway/respond"
	"github.com/keywarden/keywarden/pkg/problem"
	"github.com/keywarden/keywarden/pkg/spec"
	"github.com/keywarden/keywarden/pkg/spec/check"
	"github.com/keywarden/keywarden/pkg/spec/policies"
)

// snapshot is a document as it is served. It is immutable.
type snapshot struct {
	index    *match.Index[*route]
	byName   map[string]*route
	backends map[string]*backend
	kept     *chain.Kept      // by the policies
	apis     *contracts.Kept  // what of descriptions was compiled
	unusable map[string]error // routes of which a part could not be made
	digest   spec.Digest
	applied  time.Time
	routes   int
	services int
}

// route is what the index leads to.
type route struct {
	name      string
	service   string
	handler   http.Handler // the whole chain
	end       http.Handler // its last link
	steps     []policy.Rule
	preflight *route // what preflight requests for it take; nil: they are requests like others
	slashes   bool   // it takes paths with encoded slashes
}

func emptySnapshot() *snapshot { return &snapshot{index: &match.Index[*route]{}} }

// compile builds the snapshot of a valid document. Nothing of it runs yet, and
// what runs is not touched.
func (g *Gateway) compile(doc spec.Document) (*snapshot, error) {
	next := &snapshot{
		byName:   make(map[string]*route, len(doc.Routes)),
		unusable: map[string]error{},
		backends: make(map[string]*backend, len(doc.Services)),
		routes:   len(doc.Routes),
		services: len(doc.Services),
	}
	before := g.live.Load()
	services := make(map[string]*proxy.Service, len(doc.Services))
	for i := range doc.Services {
		s := &doc.Services[i]
		b, err := g.backend(s, before.backends[s.Name])
		if err != nil {
			return nil, fmt.Errorf("service %s: %w", s.Name, err)
		}
		next.backends[s.Name] = b
		services[s.Name] = b.proxy
	}
	c := &compiler{gateway: g, doc: &doc, services: services, chains: g.chains.Document(before.kept), contracts: contracts.New(doc.APIs, before.apis), unusable: next.unusable}
	next.kept, next.apis = c.chains.Kept(), c.contracts.Kept()
	rules := make([]match.Rule[*route], len(doc.Routes))
	for i := range doc.Routes {
		rule, err := c.rule(&doc.Routes[i])
		if err != nil {
			return nil, fmt.Errorf("route %s: %w", doc.Routes[i].Name, err)
		}
		rules[i] = rule
		next.byName[rule.Value.name] = rule.Value
	}
	index, err := match.New(rules)
	if err != nil {
		return nil, err
	}
	next.index = index
	return next, nil
}

// compiler compiles the routes of a document.
type compiler struct {
	gateway  *Gateway
	doc      *spec.Document
	services map[string]*proxy.Service
	chains   *chain.Document

	contracts *contracts.Document

	unusable map[string]error // that of the snapshot
}

// rule compiles one route.
func (c *compiler) rule(r *spec.Route) (match.Rule[*route], error) {
	var none match.Rule[*route]
	path, err := decodedPath(r.Match.Path.Exact + r.Match.Path.Prefix)
	if err != nil {
		return none, err
	}
	operation, err := c.contracts.Operation(r.Operation)
	if err != nil {
		return c.withoutPart(r, path, err)
	}
	policies := c.doc.Effective(r)
	steps, err := c.chains.Rules(chain.Route{Name: r.Name, Service: r.Service, Flows: r.Flows, Operation: operation}, &policies)
	if err != nil {
		return c.withoutPart(r, path, err)
	}
	last, err := c.end(r, &policies)
	if err != nil {
		return none, err
	}
	value := &route{
		name: r.Name, service: r.Service, end: last, steps: steps,
		handler: policy.Chain(last, c.gateway.observer, steps...),
	}
	value.preflight = c.preflight(value, r.Match.Methods)
	return matched(r, path, value)
}

// withoutPart compiles a route of which a policy could not be made: a file that it
// names is gone. It refuses every request, and the rest of the document is served.
func (c *compiler) withoutPart(r *spec.Route, path string, reason error) (match.Rule[*route], error) {
	c.gateway.logger.Error("a route is not served: one of its policies could not be made", "route", r.Name, "error", reason)
	c.unusable[r.Name] = reason
	return matched(r, path, &route{name: r.Name, service: r.Service, end: refusing{}, handler: refusing{}})
}

// ErrRouteUnusable is the answer of a route of which a part could not be made.
var ErrRouteUnusable = problem.Define(problem.Unavailable, "gateway.route_unusable",
	"This route cannot be served right now: something that it needs is missing.").WithRetryAfter(10 * time.Second)

// refusing is the handler of an unusable route.
type refusing struct{}

// ServeHTTP implements [http.Handler].
func (refusing) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	policy.Refuse(w, r, "", ErrRouteUnusable)
}

// Check implements checker.
func (refusing) Check(*http.Request) error { return ErrRouteUnusable }

// matched is the rule of a route in the index.
func matched(r *spec.Route, path string, value *route) (match.Rule[*route], error) {
	var none match.Rule[*route]
	var err error
	value.slashes = r.AllowEncodedSlashes
	if value.preflight != nil {
		value.preflight.slashes = r.AllowEncodedSlashes
	}
	rule := match.Rule[*route]{
		Hosts:    r.Match.Hosts,
		Path:     path,
		Exact:    r.Match.Path.Exact != "",
		Methods:  r.Match.Methods,
		Priority: r.Priority,
		Value:    value,
	}
	if r.Match.Path.Regex != "" {
		if rule.Pattern, err = check.Regexp(r.Match.Path.Regex); err != nil {
			return none, err
		}
	}
	for _, list := range []struct {
		source match.Source
		values []spec.ValueMatch
	}{{match.Header, r.Match.Headers}, {match.Query, r.Match.Query}} {
		for _, m := range list.values {
			condition := match.Condition{Source: list.source, Name: m.Name, Value: m.Value, Present: m.Value == "" && m.Regex == ""}
			if m.Regex != "" {
				if condition.Pattern, err = check.Regexp(m.Regex); err != nil {
					return none, err
				}
			}
			rule.Conditions = append(rule.Conditions, condition)
		}
	}
	return rule, nil
}

// end is the last handler of a route: what becomes of a request that passed.
func (c *compiler) end(r *spec.Route, p *policies.Policies) (http.Handler, error) {
	switch {
	case r.Redirect != nil:
		return respond.Redirect(respond.RedirectConfig{To: r.Redirect.To, Status: r.Redirect.Status, KeepPath: r.Redirect.KeepPath})
	case r.Respond != nil:
		return respond.Fixed(r.Respond.Status, r.Respond.ContentType, r.Respond.Body), nil
	}
	return c.forwarding(r, p)
}

func decodedPath(escaped string) (string, error) {
	if escaped == "" {
		return "", nil
	}
	decoded, _, err := canonical.Path(escaped)
	return decoded, err
}
