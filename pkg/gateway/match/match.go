// Package match finds the route of a request. It owns the index: built once from
// all rules, never changed, with a cost per lookup that depends on the length of
// the path and not on the number of rules. It does not know what a route is, and
// it compares canonical hosts and decoded canonical paths only.
//
// The most specific rule wins: a rule that names the host before one for every
// host, an exact path before a prefix, a longer prefix before a shorter one, a
// rule that names the method before one for every method. A path is decided
// before the method: when the most specific path has no rule for the method, a
// less specific path does not step in, because it may be open where the other
// is not.
package match

import (
	"fmt"
	"slices"
	"strings"
)

// Rule is one line of the index.
type Rule[T any] struct {
	Hosts   []string // empty: every host
	Path    string   // decoded, canonical
	Exact   bool     // otherwise Path is a prefix of whole segments
	Methods []string // empty: every method that no other rule of this path names
	Value   T
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
	hosts map[string]*paths[T]
	any   paths[T]
}

// New builds the index. Two rules for the same host, path and method are an
// error.
func New[T any](rules []Rule[T]) (*Index[T], error) {
	x := &Index[T]{hosts: map[string]*paths[T]{}}
	for _, r := range rules {
		if len(r.Hosts) == 0 {
			if err := x.any.entry(r).add(r); err != nil {
				return nil, err
			}
		}
		for _, host := range r.Hosts {
			if x.hosts[host] == nil {
				x.hosts[host] = &paths[T]{}
			}
			if err := x.hosts[host].entry(r).add(r); err != nil {
				return nil, fmt.Errorf("host %s: %w", host, err)
			}
		}
	}
	return x, nil
}

// Lookup finds the rule for a request. It does not allocate.
func (x *Index[T]) Lookup(host, path, method string) Result[T] {
	var found *entry[T]
	if named := x.hosts[host]; named != nil {
		found = named.find(path)
	}
	if found == nil {
		found = x.any.find(path)
	}
	if found == nil {
		return Result[T]{}
	}
	return found.method(method)
}

// paths is the rules of one host.
type paths[T any] struct {
	exact    map[string]*entry[T]
	prefixes node[T]
}

// node is a segment of the tree of prefixes.
type node[T any] struct {
	children map[string]*node[T]
	entry    *entry[T] // the prefix that ends here, if one does
}

// find returns the entry with the most specific path, or nil.
func (p *paths[T]) find(path string) *entry[T] {
	if e := p.exact[path]; e != nil {
		return e
	}
	n := &p.prefixes
	best := n.entry
	for rest := strings.TrimPrefix(path, "/"); rest != ""; {
		var segment string
		segment, rest, _ = strings.Cut(rest, "/")
		if n = n.children[segment]; n == nil {
			break
		}
		if n.entry != nil {
			best = n.entry
		}
	}
	return best
}

// entry returns the place of r's path, which it makes when it has to.
func (p *paths[T]) entry(r Rule[T]) *entry[T] {
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
			n.children[segment] = &node[T]{}
		}
		n = n.children[segment]
	}
	if n.entry == nil {
		n.entry = &entry[T]{}
	}
	return n.entry
}

// entry is the rules of one host and path. Few methods have a rule of their own,
// so a list is faster than a map.
type entry[T any] struct {
	named []namedMethod[T] // sorted
	rest  *T               // the rule for every other method
	allow string
}

type namedMethod[T any] struct {
	name  string
	value T
}

func (e *entry[T]) method(method string) Result[T] {
	for i := range e.named {
		if e.named[i].name == method {
			return Result[T]{Value: e.named[i].value, Found: true}
		}
	}
	if e.rest != nil {
		return Result[T]{Value: *e.rest, Found: true}
	}
	return Result[T]{Allow: e.allow}
}

func (e *entry[T]) add(r Rule[T]) error {
	if len(r.Methods) == 0 {
		if e.rest != nil {
			return fmt.Errorf("path %s: two rules for every method", r.Path)
		}
		e.rest = &r.Value
	}
	for _, m := range r.Methods {
		at, taken := slices.BinarySearchFunc(e.named, m, func(n namedMethod[T], m string) int {
			return strings.Compare(n.name, m)
		})
		if taken {
			return fmt.Errorf("path %s: two rules for method %s", r.Path, m)
		}
		e.named = slices.Insert(e.named, at, namedMethod[T]{name: m, value: r.Value})
	}
	names := make([]string, len(e.named))
	for i := range e.named {
		names[i] = e.named[i].name
	}
	e.allow = strings.Join(names, ", ")
	return nil
}
