// Package match finds the route of a request. It owns the index: built once from
// all rules, never changed, with a cost per lookup that depends on the length of
// the path and not on the number of rules, but for regular expressions, which are
// tried one by one. It does not know what a route is, and it compares canonical
// hosts and decoded canonical paths only.
//
// A higher priority wins. Within one priority the most specific rule wins: a rule
// that names the host before one with a wildcard, a longer wildcard before a
// shorter one, and both before one for every host; an exact path before a regular
// expression, that before a prefix, a longer prefix before a shorter one; more
// conditions before fewer, and of as many those that come first; a rule that names
// the method before one for every method. A path is decided before the method: when the most specific path has
// rules, but none for the method, a less specific path of the same priority does
// not step in, because it may be open where the other is not. A rule whose
// conditions do not hold is as if it were not there.
package match

import (
	"cmp"
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"strings"
)

// Rule is one line of the index.
type Rule[T any] struct {
	// Hosts are names, or names whose first label is "*", which stands for one or
	// more labels. Empty means every host.
	Hosts []string

	// Path is decoded and canonical: the whole path when Exact, otherwise a prefix
	// of whole segments. Pattern stands in its place when it is not nil, and
	// matches the whole path.
	Path    string
	Exact   bool
	Pattern *regexp.Regexp

	Methods    []string    // empty: every method that no other rule of this path names
	Conditions []Condition // all have to hold
	Priority   int
	Value      T
}

// Result is the outcome of a lookup.
type Result[T any] struct {
	Value T
	Found bool

	// Allow lists the methods of the path, as in the Allow header, when there is a
	// rule for the path but none for the method.
	Allow string
}

// Index is an immutable set of rules, safe for concurrent use. The zero value
// finds nothing.
type Index[T any] struct {
	levels []*level[T] // by priority, the highest first
}

// level is the rules of one priority.
type level[T any] struct {
	priority int
	hosts    map[string]*paths[T]
	suffixes map[string]*paths[T] // of wildcards, from the dot on
	any      paths[T]
}

// New builds the index. Two rules that match the same requests equally well are
// an error.
func New[T any](rules []Rule[T]) (*Index[T], error) {
	x := &Index[T]{}
	for _, r := range rules {
		l := x.level(r.Priority)
		if len(r.Hosts) == 0 {
			if err := l.any.entry(r).add(r); err != nil {
				return nil, err
			}
		}
		for _, host := range r.Hosts {
			if err := l.host(host).entry(r).add(r); err != nil {
				return nil, fmt.Errorf("host %s: %w", host, err)
			}
		}
	}
	return x, nil
}

// level returns the level of a priority, which it makes when it has to.
func (x *Index[T]) level(priority int) *level[T] {
	at, found := slices.BinarySearchFunc(x.levels, priority, func(l *level[T], p int) int { return cmp.Compare(p, l.priority) })
	if !found {
		x.levels = slices.Insert(x.levels, at, &level[T]{
			priority: priority, hosts: map[string]*paths[T]{}, suffixes: map[string]*paths[T]{},
		})
	}
	return x.levels[at]
}

// host returns the place of a host or wildcard, which it makes when it has to.
func (l *level[T]) host(host string) *paths[T] {
	places := l.hosts
	if suffix, wild := strings.CutPrefix(host, "*"); wild {
		places, host = l.suffixes, suffix
	}
	if places[host] == nil {
		places[host] = &paths[T]{}
	}
	return places[host]
}

// Lookup finds the rule for a request; r is for conditions, and without it none
// holds. It does not allocate, unless it has to look at the query.
func (x *Index[T]) Lookup(host, path, method string, r *http.Request) Result[T] {
	allow := ""
	for i := range x.levels {
		result, decided := x.levels[i].lookup(host, path, method, r)
		if result.Found {
			return result
		}
		if decided && allow == "" {
			allow = result.Allow
		}
	}
	return Result[T]{Allow: allow}
}

func (l *level[T]) lookup(host, path, method string, r *http.Request) (Result[T], bool) {
	if named := l.hosts[host]; named != nil {
		if result, decided := named.lookup(path, method, r); decided {
			return result, true
		}
	}
	if len(l.suffixes) > 0 {
		for rest := host; ; {
			dot := strings.IndexByte(rest, '.')
			if dot < 0 {
				break
			}
			if wild := l.suffixes[rest[dot:]]; wild != nil {
				if result, decided := wild.lookup(path, method, r); decided {
					return result, true
				}
			}
			rest = rest[dot+1:]
		}
	}
	return l.any.lookup(path, method, r)
}

// paths is the rules of one host.
type paths[T any] struct {
	exact    map[string]*entry[T]
	patterns []pattern[T] // in the order of the rules
	prefixes node[T]
}

type pattern[T any] struct {
	expression *regexp.Regexp
	entry      *entry[T]
}

// node is a segment of the tree of prefixes.
type node[T any] struct {
	children map[string]*node[T]
	parent   *node[T]
	entry    *entry[T] // the prefix that ends here, if one does
}

// lookup tries the paths from the most specific on, until one decides.
func (p *paths[T]) lookup(path, method string, r *http.Request) (Result[T], bool) {
	if e := p.exact[path]; e != nil {
		if result, decided := e.choose(method, r); decided {
			return result, true
		}
	}
	for i := range p.patterns {
		if p.patterns[i].expression.MatchString(path) {
			if result, decided := p.patterns[i].entry.choose(method, r); decided {
				return result, true
			}
		}
	}
	at := &p.prefixes
	for rest := strings.TrimPrefix(path, "/"); rest != ""; {
		var segment string
		segment, rest, _ = strings.Cut(rest, "/")
		next := at.children[segment]
		if next == nil {
			break
		}
		at = next
	}
	for ; at != nil; at = at.parent {
		if at.entry == nil {
			continue
		}
		if result, decided := at.entry.choose(method, r); decided {
			return result, true
		}
	}
	return Result[T]{}, false
}

// entry returns the place of r's path, which it makes when it has to.
func (p *paths[T]) entry(r Rule[T]) *entry[T] {
	if r.Pattern != nil {
		for i := range p.patterns {
			if p.patterns[i].expression.String() == r.Pattern.String() {
				return p.patterns[i].entry
			}
		}
		e := &entry[T]{}
		p.patterns = append(p.patterns, pattern[T]{r.Pattern, e})
		return e
	}
	if r.Exact {
		if p.exact == nil {
			p.exact = map[string]*entry[T]{}
		}
		if p.exact[r.Path] == nil {
			p.exact[r.Path] = &entry[T]{}
		}
		return p.exact[r.Path]
	}
	n := &p.prefixes
	for segment := range strings.SplitSeq(strings.Trim(r.Path, "/"), "/") {
		if segment == "" { // the prefix "/"
			break
		}
		if n.children == nil {
			n.children = map[string]*node[T]{}
		}
		if n.children[segment] == nil {
			n.children[segment] = &node[T]{parent: n}
		}
		n = n.children[segment]
	}
	if n.entry == nil {
		n.entry = &entry[T]{}
	}
	return n.entry
}

// entry is the rules of one host and path, grouped by their conditions. Nearly
// always there is one group, that without conditions.
type entry[T any] struct {
	groups []group[T] // more conditions first
}

// group is the rules of an entry that have the same conditions.
type group[T any] struct {
	key        string
	conditions []Condition
	methods    methods[T]
}

// choose finds the rule of a request. It is decided when there is one, or when
// there are rules whose conditions hold, but none for the method.
func (e *entry[T]) choose(method string, r *http.Request) (result Result[T], decided bool) {
	for i := range e.groups {
		g := &e.groups[i]
		if !hold(g.conditions, r) {
			continue
		}
		found := g.methods.choose(method)
		if found.Found {
			return found, true
		}
		if !decided {
			result, decided = found, true
		}
	}
	return result, decided
}

func (e *entry[T]) add(r Rule[T]) error {
	key := keyOf(r.Conditions)
	at := slices.IndexFunc(e.groups, func(g group[T]) bool { return g.key == key })
	if at < 0 {
		e.groups = append(e.groups, group[T]{key: key, conditions: r.Conditions})
		slices.SortStableFunc(e.groups, func(a, b group[T]) int { return cmp.Compare(len(b.conditions), len(a.conditions)) })
		at = slices.IndexFunc(e.groups, func(g group[T]) bool { return g.key == key })
	}
	return e.groups[at].methods.add(r)
}

// methods is rules that differ by their methods. Few methods have a rule of their
// own, so a list is faster than a map.
type methods[T any] struct {
	named []namedMethod[T] // sorted
	rest  *T               // the rule for every other method
	allow string
}

type namedMethod[T any] struct {
	name  string
	value T
}

func (m *methods[T]) choose(method string) Result[T] {
	for i := range m.named {
		if m.named[i].name == method {
			return Result[T]{Value: m.named[i].value, Found: true}
		}
	}
	if m.rest != nil {
		return Result[T]{Value: *m.rest, Found: true}
	}
	return Result[T]{Allow: m.allow}
}

func (m *methods[T]) add(r Rule[T]) error {
	if len(r.Methods) == 0 {
		if m.rest != nil {
			return fmt.Errorf("path %s: two rules for every method", r.where())
		}
		m.rest = &r.Value
	}
	for _, name := range r.Methods {
		at, taken := slices.BinarySearchFunc(m.named, name, func(n namedMethod[T], name string) int {
			return strings.Compare(n.name, name)
		})
		if taken {
			return fmt.Errorf("path %s: two rules for method %s", r.where(), name)
		}
		m.named = slices.Insert(m.named, at, namedMethod[T]{name: name, value: r.Value})
	}
	names := make([]string, len(m.named))
	for i := range m.named {
		names[i] = m.named[i].name
	}
	m.allow = strings.Join(names, ", ")
	return nil
}

// where names the path of a rule in errors.
func (r Rule[T]) where() string {
	if r.Pattern != nil {
		return r.Pattern.String()
	}
	return r.Path
}
