package spec

import (
	"fmt"
	"slices"
	"strings"

	"github.com/keywarden/keywarden/pkg/nearest"
	"github.com/keywarden/keywarden/pkg/spec/check"
	"github.com/keywarden/keywarden/pkg/strictyaml"
)

// Validate returns nil when d keeps every rule, otherwise a *[Violations] with all
// that is wrong. Positions are known only to [Parse].
func (d Document) Validate() error {
	found := d.violations()
	return found.Report("")
}

func (d Document) violations() strictyaml.Collector {
	v := &validator{services: make(map[string]bool, len(d.Services))}
	if d.Version != Version {
		v.Fail("version", "must be %d", Version)
	}
	if d.Defaults != nil {
		d.Defaults.Validate("defaults", &v.Checker)
	}
	sets := make(check.Firsts, len(d.PolicySets))
	for i := range d.PolicySets {
		path := check.Index("policy_sets", i)
		d.PolicySets[i].validate(path, v)
		sets.Unique(&v.Checker, path+".name", d.PolicySets[i].Name)
		v.sets = append(v.sets, d.PolicySets[i].Name)
	}
	for i := range d.Services {
		name := d.Services[i].Name
		if !v.services[name] {
			v.services[name] = true
			v.serviceNames = append(v.serviceNames, name)
		}
	}
	names := make(check.Firsts, len(d.Services))
	for i := range d.Services {
		path := check.Index("services", i)
		d.Services[i].Validate(path, &v.Checker)
		names.Unique(&v.Checker, path+".name", d.Services[i].Name)
	}
	apis := v.apis(d.APIs)
	names = make(check.Firsts, len(d.Routes))
	for i := range d.Routes {
		path := check.Index("routes", i)
		d.Routes[i].validate(path, v)
		names.Unique(&v.Checker, path+".name", d.Routes[i].Name)
		d.validateCache(path+".cache", &d.Routes[i], v)
		d.validateOperation(path, &d.Routes[i], apis, v)
	}
	v.conflicts(d.Routes)
	return v.Collector
}

// validateCache refuses to keep the answers of a route that leads to one of several
// services: what one has answered would be given to callers of another.
func (d *Document) validateCache(path string, r *Route, v *validator) {
	effective := d.Effective(r)
	if effective.Cache != nil && (r.Split != nil || r.Versions != nil) {
		v.Fail(path, "cannot be given together with split or versions; say cache: {mode: \"off\"}, or make a route for each service")
	}
}

// validator collects violations.
type validator struct {
	check.Checker
	services     map[string]bool
	serviceNames []string // in document order, for suggestions
	sets         []string // names of policy sets
}

func (v *validator) serviceName(path, name string) {
	switch {
	case name == "":
		v.Required(path)
	case v.services[name]:
	case v.Full():
		v.Fail(path, "no service has this name")
	default:
		v.Fail(path, "no service is named %s%s", check.Quote(name), nearest.Question(name, v.serviceNames))
	}
}

// conflicts refuses routes of which two would match the same request equally
// well: same host, path, method, conditions and priority. Paths are compared as
// requests are, decoded: two that differ as they are written can be one.
func (v *validator) conflicts(routes []Route) {
	type claim struct {
		host, method, conditions string
		path                     PathMatch // decoded
		priority                 int
	}
	claims := make(map[claim]int, len(routes)) // to the first route that makes it
	for i := range routes {
		m := &routes[i].Match
		path, err := m.Path.decoded()
		if err != nil {
			continue // its path is reported already
		}
		conditions := m.conditions()
	route:
		for _, host := range orAny(m.Hosts) {
			for _, method := range orAny(m.Methods) {
				c := claim{host, method, conditions, path, routes[i].Priority}
				if first, taken := claims[c]; taken {
					if first != i {
						v.conflict(routes, i, first)
					}
					break route
				}
				claims[c] = i
			}
		}
	}
}

// conflict reports that the route at i matches what the one at first does.
func (v *validator) conflict(routes []Route, i, first int) {
	at, of := check.Index("routes", i)+".match", check.Index("routes", first)+".match"
	path, other := &routes[i].Match.Path, &routes[first].Match.Path
	if *path == *other {
		v.Conflict(at, "matches the same requests as another route", of)
		return
	}
	decoded, _ := path.decoded()
	v.Conflict(at+".path."+path.field(), fmt.Sprintf("matches the same requests as route %s: decoded, %s and %s are one path, %s",
		check.Quote(routes[first].Name), check.Quote(path.Exact+path.Prefix), check.Quote(other.Exact+other.Prefix),
		check.Quote(decoded.Exact+decoded.Prefix)), of+".path."+other.field())
}

// conditions is the same for the same demands in any order.
func (m *Match) conditions() string {
	var list []string
	for _, c := range m.Headers {
		list = append(list, fmt.Sprintf("header %q", c))
	}
	for _, c := range m.Query {
		list = append(list, fmt.Sprintf("query %q", c))
	}
	slices.Sort(list)
	return strings.Join(list, " ")
}

// orAny stands for "every one" with an empty string.
func orAny(list []string) []string {
	if len(list) == 0 {
		return []string{""}
	}
	return list
}
