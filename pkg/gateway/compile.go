package gateway

import (
	"fmt"
	"net/http"
	"net/netip"
	"time"

	"github.com/keywarden/keywarden/pkg/access"
	"github.com/keywarden/keywarden/pkg/canonical"
	"github.com/keywarden/keywarden/pkg/gateway/match"
	"github.com/keywarden/keywarden/pkg/gateway/policy"
	"github.com/keywarden/keywarden/pkg/gateway/policy/auth"
	"github.com/keywarden/keywarden/pkg/gateway/policy/bodylimit"
	"github.com/keywarden/keywarden/pkg/gateway/policy/ipallow"
	"github.com/keywarden/keywarden/pkg/gateway/proxy"
	"github.com/keywarden/keywarden/pkg/gateway/respond"
	"github.com/keywarden/keywarden/pkg/spec"
)

// snapshot is a document as it is served. It is immutable.
type snapshot struct {
	index    *match.Index[*route]
	backends map[string]*backend
	digest   spec.Digest
	applied  time.Time
	routes   int
	services int
}

// route is what the index leads to.
type route struct {
	name    string
	service string
	handler http.Handler // the whole chain
}

func emptySnapshot() *snapshot { return &snapshot{index: &match.Index[*route]{}} }

// compile builds the snapshot of a valid document. Nothing of it runs yet, and
// what runs is not touched.
func (g *Gateway) compile(doc spec.Document) (*snapshot, error) {
	next := &snapshot{
		backends: make(map[string]*backend, len(doc.Services)),
		routes:   len(doc.Routes),
		services: len(doc.Services),
	}
	before := g.live.Load().backends
	services := make(map[string]*proxy.Service, len(doc.Services))
	for i := range doc.Services {
		s := &doc.Services[i]
		b, err := g.backend(s, before[s.Name])
		if err != nil {
			return nil, fmt.Errorf("service %s: %w", s.Name, err)
		}
		next.backends[s.Name] = b
		services[s.Name] = b.proxy
	}
	rules := make([]match.Rule[*route], len(doc.Routes))
	for i := range doc.Routes {
		rule, err := g.rule(&doc.Routes[i], services)
		if err != nil {
			return nil, fmt.Errorf("route %s: %w", doc.Routes[i].Name, err)
		}
		rules[i] = rule
	}
	index, err := match.New(rules)
	if err != nil {
		return nil, err
	}
	next.index = index
	return next, nil
}

// rule compiles one route.
func (g *Gateway) rule(r *spec.Route, services map[string]*proxy.Service) (match.Rule[*route], error) {
	var none match.Rule[*route]
	path, err := decodedPath(r.Match.Path.Exact + r.Match.Path.Prefix)
	if err != nil {
		return none, err
	}
	steps, err := g.steps(r)
	if err != nil {
		return none, err
	}
	last, err := g.end(r, services)
	if err != nil {
		return none, err
	}
	rule := match.Rule[*route]{
		Hosts:    r.Match.Hosts,
		Path:     path,
		Exact:    r.Match.Path.Exact != "",
		Methods:  r.Match.Methods,
		Priority: r.Priority,
		Value:    &route{name: r.Name, service: r.Service, handler: policy.Chain(last, steps...)},
	}
	if r.Match.Path.Regex != "" {
		if rule.Pattern, err = spec.Regexp(r.Match.Path.Regex); err != nil {
			return none, err
		}
	}
	for _, list := range []struct {
		source match.Source
		values []spec.ValueMatch
	}{{match.Header, r.Match.Headers}, {match.Query, r.Match.Query}} {
		for _, m := range list.values {
			c := match.Condition{Source: list.source, Name: m.Name, Value: m.Value, Present: m.Value == "" && m.Regex == ""}
			if m.Regex != "" {
				if c.Pattern, err = spec.Regexp(m.Regex); err != nil {
					return none, err
				}
			}
			rule.Conditions = append(rule.Conditions, c)
		}
	}
	return rule, nil
}

// end is the last handler of a route: what becomes of a request that passed.
func (g *Gateway) end(r *spec.Route, services map[string]*proxy.Service) (http.Handler, error) {
	switch {
	case r.Redirect != nil:
		return respond.Redirect(respond.RedirectConfig{To: r.Redirect.To, Status: r.Redirect.Status, KeepPath: r.Redirect.KeepPath})
	case r.Respond != nil:
		return respond.Fixed(r.Respond.Status, r.Respond.ContentType, r.Respond.Body), nil
	}
	service := services[r.Service]
	if service == nil {
		return nil, fmt.Errorf("there is no service %q", r.Service)
	}
	strip, err := decodedPath(r.StripPrefix)
	if err != nil {
		return nil, err
	}
	return service.Route(proxy.RouteConfig{
		StripPrefix:   strip,
		Authenticated: authenticates(r),
		Timeout:       time.Duration(r.Timeout),
	}), nil
}

func decodedPath(escaped string) (string, error) {
	if escaped == "" {
		return "", nil
	}
	decoded, _, err := canonical.Path(escaped)
	return decoded, err
}

// steps builds the chain of a route in its fixed order: address, size, caller. A
// step that is not configured does not exist.
func (g *Gateway) steps(r *spec.Route) ([]policy.Middleware, error) {
	var steps []policy.Middleware
	add := func(name string, step policy.Middleware, err error) error {
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		steps = append(steps, step)
		return nil
	}
	if len(r.AllowIPs) > 0 {
		step, err := ipallow.New(prefixes(r.AllowIPs))
		if err := add("allow_ips", step, err); err != nil {
			return nil, err
		}
	}
	if limit := g.limitOf(r); limit > 0 {
		step, err := bodylimit.New(limit)
		if err := add("max_body", step, err); err != nil {
			return nil, err
		}
	}
	if authenticates(r) {
		step, err := auth.New(g.authenticator, methods(r.Auth.Methods))
		if err := add("auth", step, err); err != nil {
			return nil, err
		}
	}
	return steps, nil
}

// authenticates reports whether r needs to know its caller: unless it says that
// it does not.
func authenticates(r *spec.Route) bool { return r.Auth.Mode != spec.AuthNone }

func (g *Gateway) limitOf(r *spec.Route) int64 {
	if r.MaxBody > 0 {
		return int64(r.MaxBody)
	}
	return g.bodyLimit
}

func prefixes(networks []spec.Network) []netip.Prefix {
	list := make([]netip.Prefix, len(networks))
	for i, n := range networks {
		list[i] = n.Prefix()
	}
	return list
}

func methods(list []spec.AuthMethod) access.Methods {
	var set access.Methods
	for _, m := range list {
		switch m {
		case spec.AuthJWT:
			set |= access.MethodToken
		case spec.AuthKey:
			set |= access.MethodKey
		}
	}
	return set
}
