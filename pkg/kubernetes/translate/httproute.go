package translate

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/keywarden/keywarden/pkg/kubernetes/object"
	"github.com/keywarden/keywarden/pkg/kubernetes/precedence"
	"github.com/keywarden/keywarden/pkg/spec/services"
)

// Reasons of the condition Accepted of routes.
const (
	reasonNotAllowed = "NotAllowedByListeners"
	reasonNoHostname = "NoMatchingListenerHostname"
	reasonNoParent   = "NoMatchingParent"
)

// attachment is what became of a route at one parent.
type attachment struct {
	ref       object.ParentRef
	accepted  condition
	hosts     []string
	listeners []*listener
}

// httpRoute translates a route, if one of its parents is ours.
func (j *job) httpRoute(r *object.HTTPRoute, known map[string]*gateway) {
	var parents []attachment
	for _, ref := range r.Spec.ParentRefs {
		if value(ref.Group, gatewayGroup) != gatewayGroup || value(ref.Kind, KindGateway) != KindGateway {
			continue
		}
		if g := known[value(ref.Namespace, r.Metadata.Namespace)+"/"+ref.Name]; g != nil {
			parents = append(parents, j.attach(r, ref, g))
		}
	}
	if len(parents) == 0 && !slices.ContainsFunc(r.Status.Parents, func(p object.ParentStatus) bool { return p.ControllerName == j.Controller }) {
		return // somebody else's
	}
	of := owner{KindHTTPRoute, &r.Metadata}
	var hosts []string
	var at []*listener
	for i := range parents {
		hosts, at = append(hosts, parents[i].hosts...), append(at, parents[i].listeners...)
	}
	slices.Sort(hosts)
	drafts, dangling, err := j.httpRules(r, slices.Compact(hosts), at)
	var claims []claim
	if err == nil && len(hosts) > 0 {
		claims, err = j.validate(of, drafts)
	}
	if err == nil {
		j.claims = append(j.claims, claims...)
		for _, l := range uniqueListeners(at) {
			l.attached++
		}
	}
	j.httpRouteStatus(r, parents, err, dangling)
}

func uniqueListeners(list []*listener) []*listener {
	var out []*listener
	for _, l := range list {
		if !slices.Contains(out, l) {
			out = append(out, l)
		}
	}
	return out
}

// attach finds the listeners of a parent that a route is at, and the hosts that it has
// there.
func (j *job) attach(r *object.HTTPRoute, ref object.ParentRef, g *gateway) attachment {
	a := attachment{ref: ref}
	named, allowed := false, false
	for _, l := range g.listeners {
		if ref.SectionName != nil && *ref.SectionName != l.Name || ref.Port != nil && *ref.Port != l.Port {
			continue
		}
		named = true
		if !l.usable() || !j.allows(g, l, r.Metadata.Namespace) {
			continue
		}
		allowed = true
		if hosts := intersect(l.Hostname, r.Spec.Hostnames); len(hosts) > 0 {
			a.hosts, a.listeners = append(a.hosts, hosts...), append(a.listeners, l)
		}
	}
	switch {
	case !named:
		a.accepted = condition{conditionAccepted, false, reasonNoParent, "the Gateway has no listener of this name and port"}
	case !allowed:
		a.accepted = condition{conditionAccepted, false, reasonNotAllowed, "no listener that is valid allows this route, by its kind and its namespace"}
	case len(a.hosts) == 0:
		a.accepted = condition{conditionAccepted, false, reasonNoHostname, "no listener has a hostname in common with the route"}
	default:
		a.accepted = condition{conditionAccepted, true, reasonAccepted, "The route is served."}
	}
	return a
}

// intersect is the hosts that a listener and a route have in common; "" is every host.
func intersect(listener string, route []string) []string {
	listener = strings.ToLower(listener)
	if len(route) == 0 {
		return []string{listener}
	}
	var out []string
	for _, h := range route {
		h = strings.ToLower(h)
		switch {
		case listener == "" || precedence.Covers(listener, h):
			out = append(out, h)
		case precedence.Covers(h, listener):
			out = append(out, listener)
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// httpRouteStatus is the status of a route: what became of it at our parents, and
// what others have said of theirs.
func (j *job) httpRouteStatus(r *object.HTTPRoute, parents []attachment, refused error, dangling *unresolved) {
	want := object.RouteStatus{Parents: []object.ParentStatus{}}
	for _, p := range r.Status.Parents {
		if p.ControllerName != j.Controller {
			want.Parents = append(want.Parents, p)
		}
	}
	refs := condition{conditionResolvedRefs, true, reasonResolved, "All references are good."}
	if dangling != nil {
		refs = condition{conditionResolvedRefs, false, dangling.reason, dangling.message}
	}
	for _, a := range parents {
		accepted := a.accepted
		if refused != nil && accepted.holds {
			accepted = condition{conditionAccepted, false, reasonInvalid, refused.Error()}
		}
		var last []object.Condition
		for i := range r.Status.Parents {
			p := &r.Status.Parents[i]
			if p.ControllerName == j.Controller && sameParent(r.Metadata.Namespace, &p.ParentRef, &a.ref) {
				last = p.Conditions
			}
		}
		want.Parents = append(want.Parents, object.ParentStatus{
			ParentRef: a.ref, ControllerName: j.Controller, Conditions: j.conditions(last, r.Metadata.Generation, accepted, refs),
		})
		if !accepted.holds {
			j.refuse(KindHTTPRoute, &r.Metadata, accepted.reason, accepted.message)
		}
	}
	if dangling != nil {
		j.refuse(KindHTTPRoute, &r.Metadata, dangling.reason, dangling.message)
	}
	j.status(KindHTTPRoute, &r.Metadata, r.Status, want)
}

// httpRules makes the routes of all rules. dangling is a reference that leads nowhere:
// its requests are answered with 500.
func (j *job) httpRules(r *object.HTTPRoute, hosts []string, at []*listener) (drafts []draft, dangling *unresolved, err error) {
	policies, err := policiesOf(KindHTTPRoute, &r.Metadata)
	if err != nil {
		return nil, nil, err
	}
	rules := r.Spec.Rules
	if len(rules) == 0 {
		rules = []object.HTTPRouteRule{{}}
	}
	for i := range rules {
		end, missing, err := j.httpEnd(r.Metadata.Namespace, &rules[i], policies)
		if missing != nil {
			dangling = missing
		}
		if err != nil {
			return nil, dangling, fmt.Errorf("rule %d: %w", i, err)
		}
		matches := rules[i].Matches
		if len(matches) == 0 {
			matches = []object.HTTPRouteMatch{{}}
		}
		for k := range matches {
			more, err := end.drafts(&matches[k], hosts, at)
			if err != nil {
				return nil, dangling, fmt.Errorf("rule %d: %w", i, err)
			}
			for n := range more {
				// The last number tells the hosts of a redirect apart.
				more[n].rule, more[n].match = i, k+n*maxMatches
			}
			drafts = append(drafts, more...)
		}
	}
	return drafts, dangling, nil
}

// maxMatches bounds the matches of a rule, as the API server does.
const maxMatches = 128

// httpEnd is what becomes of the requests of a rule.
func (j *job) httpEnd(namespace string, rule *object.HTTPRouteRule, policies fields) (*end, *unresolved, error) {
	switch {
	case !absent(rule.Retry):
		return nil, nil, errors.New("retry is not supported")
	case !absent(rule.SessionPersistence):
		return nil, nil, errors.New("sessionPersistence is not supported")
	}
	e := &end{route: maps.Clone(policies)}
	patience, err := e.timeout(rule.Timeouts)
	if err != nil {
		return nil, nil, err
	}
	missing, err := j.filters(namespace, rule.Filters, e)
	if err != nil || e.redirect != nil {
		if e.redirect != nil && len(rule.BackendRefs) > 0 {
			err = cmp.Or(err, errors.New("a RequestRedirect cannot be together with backendRefs"))
		}
		return e, missing, err
	}
	dangling, err := j.backends(namespace, rule.BackendRefs, patience, e)
	if dangling == nil {
		dangling = missing
	}
	return e, dangling, err
}

// timeout sets the time of a rule; the shorter of the two counts, for all attempts
// together.
func (e *end) timeout(t *object.RouteTimeouts) (time.Duration, error) {
	var shortest time.Duration
	if t == nil {
		return 0, nil
	}
	for _, text := range []*string{t.Request, t.BackendRequest} {
		if text == nil {
			continue
		}
		d, err := time.ParseDuration(*text)
		if err != nil || d < 0 {
			return 0, fmt.Errorf("the timeout %.20q is no duration", *text)
		}
		if d > 0 && (shortest == 0 || d < shortest) {
			shortest = d
		}
	}
	if shortest > 0 {
		e.route["timeout"] = shortest.String()
	}
	return shortest, nil
}

// backends shares requests among the backends of a rule. A rule without any, or with
// those alone that are not there, is answered with 500, as the specification wants it.
func (j *job) backends(namespace string, refs []object.BackendRef, patience time.Duration, e *end) (dangling *unresolved, err error) {
	type share struct {
		backend
		weight int
	}
	var shares []share
	good, heaviest := 0, 0
	for i := range refs {
		ref := &refs[i]
		if len(ref.Filters) > 0 {
			return dangling, errors.New("filters of a backendRef are not supported: put them into the rule")
		}
		b, err := j.reference(namespace, &ref.Reference, patience)
		if err != nil {
			var missed *unresolved
			if !errors.As(err, &missed) {
				return dangling, err
			}
			dangling, b = missed, missing()
		} else {
			good += value(ref.Weight, 1)
		}
		weight := value(ref.Weight, 1)
		if at := slices.IndexFunc(shares, func(s share) bool { return s.name == b.name }); at >= 0 {
			shares[at].weight += weight
			weight = shares[at].weight
		} else {
			shares = append(shares, share{b, weight})
		}
		heaviest = max(heaviest, weight)
	}
	if good == 0 {
		e.respond(500, "No backend of this route can be asked.\n")
		return dangling, nil
	}
	if len(shares) == 1 {
		e.backends = append(e.backends, shares[0].backend)
		e.route["service"] = shares[0].name
	} else {
		var list []fields
		for _, s := range shares {
			e.backends = append(e.backends, s.backend)
			weight := s.weight
			if heaviest > services.MaxWeight && weight > 0 { // shares stay what they are, as far as that goes
				weight = max(1, weight*services.MaxWeight/heaviest)
			}
			list = append(list, fields{"service": s.name, "weight": weight})
		}
		e.route["split"] = fields{"services": list}
	}
	if e.route["upstream_host"] == nil {
		e.route["preserve_host"] = true
	}
	return dangling, nil
}
