// Package precedence puts routes of Kubernetes into a gateway document so that each
// request gets the one that the Gateway API means. It knows what of a match comes first
// there and in the document, and nothing else of either.
//
// The document and the Gateway API agree on most of what comes first: the more
// specific host, an exact path, the longer prefix. They differ in two points, which
// are made up for here with routes of their own:
//
//   - With the same host and path, the Gateway API puts a match of the method before
//     one of header fields, and those before query parameters; the document puts
//     more conditions before fewer. Where both hold, a route with the conditions of
//     both leads to the one that the Gateway API means.
//   - A path with routes for some methods alone is, in the document, closed for others;
//     in the Gateway API a less specific path gets them. Those routes are repeated at
//     the path.
//
// Of two that want the same requests, the older object wins, as the specification of
// the Gateway API says; an Ingress is treated alike.
package precedence

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/keywarden/keywarden/pkg/spec"
	"github.com/keywarden/keywarden/pkg/spec/check"
)

// rule is a route at one host.
type rule struct {
	from   *Claim
	path   spec.PathMatch
	method string // "" is every one
	// headers and query are the conditions, those that were put together included.
	headers, query []spec.ValueMatch
	key            string // the same for the same conditions in any order
	rank           int    // in the order of the Gateway API, within a host and path
	made           bool   // it was not in the object like this
}

// cell is the rules of one host and path.
type cell struct {
	path  spec.PathMatch
	own   []rule         // of the objects, in the order of the Gateway API
	rules []rule         // with those that make up for differences
	taken map[string]int // where the rule is for what requests
}

// maxCell bounds the rules of a cell that are made up for. Beyond it, the order is that
// of the document.
const maxCell = 64

// Claim is a route that wants its requests.
type Claim struct {
	Name  []string // the parts of its name, which no other claim has
	Route spec.Route
	Hosts []string // in the place of those of the route; "" is every host
}

// Resolve makes the routes of a document. Of two claims for the same requests, the
// earlier one counts.
func Resolve(claims []Claim) []spec.Route {
	hosts := map[string][]rule{}
	for i := range claims {
		c := &claims[i]
		m := &c.Route.Match
		methods := m.Methods
		if len(methods) == 0 {
			methods = []string{""}
		}
		key := conditions(m.Headers, m.Query)
		for _, h := range c.Hosts {
			for _, method := range methods {
				hosts[h] = append(hosts[h], rule{from: c, path: m.Path, method: method, headers: m.Headers, query: m.Query, key: key})
			}
		}
	}
	out := assembly{index: map[string]int{}}
	wide := map[string]*place{}
	for _, host := range bySpecificity(hosts) {
		p := ofHost(hosts[host], wider(host, wide))
		if host == "" || host[0] == '*' {
			wide[host] = p
		}
		for _, c := range p.cells {
			for _, r := range c.rules {
				out.add(host, r)
			}
		}
	}
	return out.routes
}

// bySpecificity lists hosts, of which a later one is not covered by an earlier: every
// host, wildcards, names.
func bySpecificity[T any](hosts map[string]T) []string {
	class := func(host string) int {
		switch {
		case host == "":
			return 0
		case host[0] == '*':
			return 1
		}
		return 2
	}
	return slices.SortedFunc(maps.Keys(hosts), func(a, b string) int {
		return cmp.Or(cmp.Compare(class(a), class(b)), cmp.Compare(len(a), len(b)), strings.Compare(a, b))
	})
}

// place is the cells of a host.
type place struct {
	cells  []*cell
	byPath map[spec.PathMatch]*cell
	left   int // how many rules may still be looked at to be repeated
}

// Bounds of what is repeated at one host: so many rules for each of its own, and some for
// a host that has few. Beyond them nothing is, and methods without a route of their own
// are refused there: objects of strangers must neither multiply nor get these requests.
const (
	repeatsOfOne  = 4
	repeatsOfHost = 64
)

// wider are the hosts that cover a host, the most specific first.
func wider(host string, wide map[string]*place) []*place {
	var out []*place
	rest := strings.TrimPrefix(host, "*.")
	for found := host != ""; found; {
		if _, rest, found = strings.Cut(rest, "."); found && wide["*."+rest] != nil {
			out = append(out, wide["*."+rest])
		}
	}
	if every := wide[""]; every != nil {
		out = append(out, every)
	}
	return out
}

// ofHost is the rules of a host as the document needs them, by path.
func ofHost(rules []rule, wider []*place) *place {
	p := &place{byPath: map[spec.PathMatch]*cell{}}
	for _, r := range rules {
		c := p.byPath[r.path]
		if c == nil {
			c = &cell{path: r.path, taken: map[string]int{}}
			p.byPath[r.path] = c
			p.cells = append(p.cells, c)
		}
		c.rules = append(c.rules, r)
	}
	// Of regular expressions, the document tries the first; longer ones come before.
	slices.SortStableFunc(p.cells, func(a, b *cell) int {
		return cmp.Or(cmp.Compare(len(a.path.Exact), len(b.path.Exact)), cmp.Compare(len(a.path.Prefix), len(b.path.Prefix)),
			cmp.Compare(len(b.path.Regex), len(a.path.Regex)))
	})
	for _, c := range p.cells {
		c.order()
	}
	budget := repeatsOfHost + repeatsOfOne*len(rules)
	if !p.open(wider, budget) && !p.open(nil, budget) {
		p.reset()
	}
	for _, c := range p.cells {
		c.combine()
	}
	return p
}

// reset takes back what was repeated.
func (p *place) reset() {
	p.cells = slices.DeleteFunc(p.cells, func(c *cell) bool {
		if len(c.own) == 0 {
			delete(p.byPath, c.path)
			return true
		}
		c.rules, c.taken = slices.Clone(c.own), map[string]int{}
		for i := range c.rules {
			c.taken[c.rules[i].slot()] = i
		}
		return false
	})
}

// open makes up for closed cells; false when that takes more than the budget.
func (p *place) open(wider []*place, budget int) bool {
	p.reset()
	p.left = budget
	closed := map[spec.PathMatch]bool{}
	for _, c := range p.cells {
		if c.closed() {
			closed[c.path] = true
		}
	}
	if len(closed) == 0 {
		return true
	}
	isClosed := func(path spec.PathMatch) bool { return closed[path] }
	// Empty cells for the paths of wider hosts that lie within a closed path of this one,
	// which would keep their requests from them.
	for _, w := range wider {
		for _, c := range w.cells {
			if p.left--; p.left < 0 {
				return false
			}
			if len(c.own) > 0 && p.byPath[c.path] == nil && slices.ContainsFunc(covering(c.path), isClosed) {
				empty := &cell{path: c.path, taken: map[string]int{}}
				p.byPath[c.path] = empty
				p.cells = append(p.cells, empty)
			}
		}
	}
	for _, c := range p.cells {
		if (closed[c.path] || slices.ContainsFunc(covering(c.path), isClosed)) && !p.openCell(c, wider) {
			return false
		}
	}
	return true
}

// covering are the paths of which requests for a path are requests, too, the most
// specific first: the prefixes, without the path itself.
func covering(path spec.PathMatch) []spec.PathMatch {
	at := path.Exact
	if at == "" {
		at = parent(path.Prefix)
	}
	var out []spec.PathMatch
	for ; at != ""; at = parent(at) {
		out = append(out, spec.PathMatch{Prefix: at})
	}
	return out
}

// parent is the path without its last segment; "" of the root, and of no path.
func parent(path string) string {
	if path == "/" || path == "" {
		return ""
	}
	return cmp.Or(path[:max(0, strings.LastIndexByte(path, '/'))], "/")
}

// openCell repeats less specific rules behind those that are there, in their order, for
// the methods that the cell has none for: of the same host, then of wider ones.
func (p *place) openCell(c *cell, wider []*place) bool {
	less := covering(c.path)
	for i, of := range append([]*place{p}, wider...) {
		paths := less
		if i > 0 {
			paths = append([]spec.PathMatch{c.path}, less...)
		}
		for _, path := range paths {
			if c.complete() {
				return true
			}
			d := of.byPath[path]
			if d == nil {
				continue
			}
			if p.left -= len(d.own); p.left < 0 {
				return false
			}
			c.inherit(d)
		}
	}
	return true
}

// order sorts the rules as the Gateway API does and drops those that want what an
// earlier one has.
func (c *cell) order() {
	slices.SortStableFunc(c.rules, func(a, b rule) int { // they are in the order of their objects
		return cmp.Or(boolean(b.method != "", a.method != ""), cmp.Compare(len(b.headers), len(a.headers)), cmp.Compare(len(b.query), len(a.query)))
	})
	all := c.rules
	c.rules = nil
	for _, r := range all {
		r.rank = len(c.rules)
		c.add(r)
	}
	c.own = slices.Clone(c.rules)
}

// add adds a rule, unless there is one of a better rank for the same requests; one of a
// worse rank would never get any, and is replaced. It reports whether anything changed.
func (c *cell) add(r rule) bool {
	at, taken := c.taken[r.slot()]
	switch {
	case !taken:
		c.taken[r.slot()] = len(c.rules)
		c.rules = append(c.rules, r)
	case c.rules[at].rank <= r.rank:
		return false
	default:
		c.rules[at] = r
	}
	return true
}

func boolean(a, b bool) int {
	switch {
	case a == b:
		return 0
	case a:
		return 1
	}
	return -1
}

// complete reports whether every request for the path has a rule.
func (c *cell) complete() bool {
	return slices.ContainsFunc(c.rules, func(r rule) bool { return r.method == "" && len(r.headers)+len(r.query) == 0 })
}

// closed reports whether the document would refuse methods for which there is no rule.
func (c *cell) closed() bool {
	return !c.complete() && slices.ContainsFunc(c.rules, func(r rule) bool { return r.method != "" })
}

// inherit repeats the own rules of a less specific cell, behind those that are there.
func (c *cell) inherit(from *cell) {
	rank := 0
	for _, r := range c.rules {
		rank = max(rank, r.rank+1)
	}
	for _, r := range from.own {
		r.path, r.rank, r.made = c.path, rank+r.rank, true
		c.add(r)
	}
}

// combine adds the rules for requests that fulfil two, where the document would give
// them to the wrong one: to that with more conditions.
func (c *cell) combine() {
	for changed := true; changed && len(c.rules) < maxCell; {
		changed = false
		for i := 0; i < len(c.rules) && len(c.rules) < maxCell; i++ {
			for k := 0; k < i && len(c.rules) < maxCell; k++ {
				first, second := c.rules[i], c.rules[k]
				if first.rank > second.rank {
					first, second = second, first
				}
				changed = c.both(first, second) || changed
			}
		}
	}
}

// both adds the rule for requests that fulfil first and second, of which the Gateway API
// means the first; it reports whether there was none.
func (c *cell) both(first, second rule) bool {
	if !ahead(&second, &first) || first.method != "" && second.method != "" && first.method != second.method {
		return false
	}
	headers, ok1 := union(first.headers, second.headers)
	query, ok2 := union(first.query, second.query)
	if !ok1 || !ok2 {
		return false
	}
	r := first
	r.headers, r.query, r.key, r.made = headers, query, conditions(headers, query), true
	if r.method == "" {
		r.method = second.method
	}
	return c.add(r)
}

// ahead reports whether the document may look at r before s: where it has more
// conditions, or as many others, or the same and a method.
func ahead(r, s *rule) bool {
	of, than := len(r.headers)+len(r.query), len(s.headers)+len(s.query)
	return of > than || of == than && (r.key != s.key || r.method != "" && s.method == "")
}

// maxConditions is what the document allows.
const maxConditions = 16

// union is the conditions of both; false when no request can be expected to fulfil
// them.
func union(a, b []spec.ValueMatch) ([]spec.ValueMatch, bool) {
	out := slices.Clone(a)
	for _, m := range b {
		at := slices.IndexFunc(out, func(n spec.ValueMatch) bool { return n == m })
		if at >= 0 {
			continue
		}
		for _, n := range a {
			if n.Name == m.Name && n.Value != "" && m.Value != "" {
				return nil, false // two values of one field
			}
		}
		out = append(out, m)
	}
	return out, len(out) <= maxConditions
}

// slot tells what requests the rule wants, apart from host and path.
func (r *rule) slot() string { return r.method + " " + r.key }

// conditions are the same for the same demands in any order.
func conditions(headers, query []spec.ValueMatch) string {
	var list []string
	for _, c := range headers {
		list = append(list, fmt.Sprintf("header %q", c))
	}
	for _, c := range query {
		list = append(list, fmt.Sprintf("query %q", c))
	}
	slices.Sort(list)
	return strings.Join(list, " ")
}

// assembly puts rules of several hosts together that are one route.
type assembly struct {
	routes []spec.Route
	index  map[string]int // by name
}

// add puts a rule into the document: into the route that is the same for another
// host, or as a route of its own.
func (a *assembly) add(host string, r rule) {
	m := &r.from.Route.Match
	var suffix []string
	if r.made {
		sum := sha256.Sum256([]byte(r.slot() + fmt.Sprint(r.path)))
		suffix = []string{hex.EncodeToString(sum[:4])} // two of one object's own rules
	} else if len(m.Methods) > 1 {
		suffix = []string{r.method}
	}
	if host == "" && (r.made || len(r.from.Hosts) > 1) { // every host is not one of several
		suffix = append(suffix, "any")
	}
	name := Name(slices.Concat(r.from.Name, suffix)...)
	if i, there := a.index[name]; there {
		a.routes[i].Match.Hosts = append(a.routes[i].Match.Hosts, host)
		return
	}
	route := r.from.Route
	route.Name = name
	route.Match = spec.Match{Path: r.path, Headers: r.headers, Query: r.query}
	if r.method != "" {
		route.Match.Methods = []string{r.method}
	}
	if host != "" {
		route.Match.Hosts = []string{host}
	}
	a.index[name] = len(a.routes)
	a.routes = append(a.routes, route)
}

// Covers reports whether every host that b stands for is one of a's.
func Covers(a, b string) bool {
	suffix, wild := strings.CutPrefix(a, "*")
	return a == b || wild && strings.HasSuffix(strings.TrimPrefix(b, "*"), suffix) && len(b) > len(suffix)
}

// Name joins the parts of a name of the document; one that is too long, or that has
// what names of Kubernetes never have, ends in a sum of the whole.
func Name(parts ...string) string {
	name := strings.Join(parts, ".")
	if check.IsName(name) {
		return name
	}
	sum := sha256.Sum256([]byte(name))
	safe := strings.Map(func(r rune) rune {
		if check.IsName("x" + string(r)) {
			return r
		}
		return '-'
	}, name)
	const digits = 20 // 80 bits: nobody finds a name that gets the sum of somebody else's
	return strings.TrimLeft(safe[:min(len(safe), check.MaxName-digits-1)], ".-_") + "-" + hex.EncodeToString(sum[:digits/2])
}
