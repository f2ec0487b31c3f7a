package openapi

import (
	"bytes"
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/keywarden/keywarden/pkg/strictyaml"
)

// Kind says what became of an operation.
type Kind string

// What can become of an operation.
const (
	Added   Kind = "added"
	Removed Kind = "removed"
	Changed Kind = "changed"
)

// Change is one difference between two descriptions of an API.
type Change struct {
	Kind Kind `json:"kind"`

	// Operation is method and path, as in "GET /v1/pets/{id}".
	Operation string `json:"operation"`

	// Detail says what changed, for a person; empty for a whole operation.
	Detail string `json:"detail,omitempty"`

	// Breaking is for what makes a request fail that was good before, or lets a client
	// get what it did not expect.
	Breaking bool `json:"breaking"`
}

// Compare lists what is different in b, in the order of paths and methods. Schemas
// are compared by the types of parameters alone.
func Compare(a, b *Document) []Change {
	before, after := a.byShape(), b.byShape()
	var list []Change
	for key, op := range before {
		if _, kept := after[key]; !kept {
			list = append(list, Change{Kind: Removed, Operation: a.title(op), Breaking: true})
		}
	}
	for key, op := range after {
		old, known := before[key]
		if !known {
			list = append(list, Change{Kind: Added, Operation: b.title(op)})
			continue
		}
		c := comparison{title: b.title(op)}
		c.operation(a, b, old, op)
		list = append(list, c.list...)
	}
	slices.SortStableFunc(list, func(x, y Change) int {
		methodX, pathX, _ := strings.Cut(x.Operation, " ")
		methodY, pathY, _ := strings.Cut(y.Operation, " ")
		return cmp.Or(strings.Compare(pathX, pathY), strings.Compare(methodX, methodY))
	})
	return list
}

// Breaking reports whether one of the changes is.
func Breaking(list []Change) bool {
	return slices.ContainsFunc(list, func(c Change) bool { return c.Breaking })
}

// byShape are the operations by what they match.
func (d *Document) byShape() map[string]*Operation {
	m := make(map[string]*Operation, len(d.Operations))
	for i := range d.Operations {
		op := &d.Operations[i]
		m[op.Method+" "+d.baseOf(op)+op.Path.Shape()] = op
	}
	return m
}

func (d *Document) baseOf(op *Operation) string {
	if op.Server != nil {
		return op.Server.Base
	}
	return d.Server.Base
}

func (d *Document) title(op *Operation) string {
	return op.Method + " " + d.baseOf(op) + op.Path.String()
}

// comparison gathers what is different in one operation.
type comparison struct {
	title string
	list  []Change
}

func (c *comparison) add(breaking bool, format string, args ...any) {
	c.list = append(c.list, Change{Kind: Changed, Operation: c.title, Detail: fmt.Sprintf(format, args...), Breaking: breaking})
}

func (c *comparison) operation(a, b *Document, x, y *Operation) {
	c.parameters(x, y)
	c.body(x.Body, y.Body)
	c.responses(x.Responses, y.Responses)
	if !admits(b.alternatives(y), a.alternatives(x)) {
		c.add(true, "security is stricter")
	} else if !admits(a.alternatives(x), b.alternatives(y)) {
		c.add(false, "security is looser")
	}
	if x.Deprecated != y.Deprecated {
		c.add(false, "deprecated is %t", y.Deprecated)
	}
	if x.ID != y.ID {
		c.add(false, "operationId was %s, is %s: the route gets another name", strictyaml.Quote(x.ID), strictyaml.Quote(y.ID))
	}
	for _, name := range operationExtensions() {
		if !bytes.Equal(a.extension(x, name), b.extension(y, name)) {
			c.add(false, "%s is another", name)
		}
	}
}

// parameters compares those of requests. Names of path parameters tell nothing
// apart: what counts is their place.
func (c *comparison) parameters(x, y *Operation) {
	key := func(op *Operation, p Parameter) string {
		if p.In != "path" {
			return p.In + " " + p.Name
		}
		return fmt.Sprint("path ", slices.Index(op.Path.Parameters(), p.Name))
	}
	before := map[string]Parameter{}
	for _, p := range x.Parameters {
		before[key(x, p)] = p
	}
	for _, p := range y.Parameters {
		name := strictyaml.Quote(p.Name) + " in " + p.In
		old, known := before[key(y, p)]
		delete(before, key(y, p))
		switch {
		case !known && p.In == "path":
		case !known && p.Required:
			c.add(true, "the parameter %s is new and required", name)
		case !known:
			c.add(false, "the parameter %s is new", name)
		case p.Required && !old.Required:
			c.add(true, "the parameter %s has become required", name)
		case !p.Required && old.Required:
			c.add(false, "the parameter %s is no longer required", name)
		}
		if known && p.Type != old.Type {
			c.add(p.Type != "" && (old.Type != "integer" || p.Type != "number"), "the parameter %s was %s, is %s", name, orAny(old.Type), orAny(p.Type))
		}
	}
	for _, p := range x.Parameters {
		if _, gone := before[key(x, p)]; gone && p.In != "path" {
			c.add(false, "the parameter %s in %s is gone", strictyaml.Quote(p.Name), p.In)
		}
	}
}

func orAny(kind string) string {
	if kind == "" {
		return "of any type"
	}
	return kind
}

func (c *comparison) body(x, y *Body) {
	switch {
	case x == nil && y == nil:
	case x == nil:
		c.add(y.Required, "a body is taken%s", map[bool]string{true: ", and required"}[y.Required])
	case y == nil:
		c.add(true, "no body is taken any more")
	default:
		if y.Required && !x.Required {
			c.add(true, "the body has become required")
		}
		c.mediaTypes("the request", x.MediaTypes, y.MediaTypes)
	}
}

func (c *comparison) responses(x, y []Response) {
	find := func(list []Response, status string) *Response {
		if i := slices.IndexFunc(list, func(r Response) bool { return r.Status == status }); i >= 0 {
			return &list[i]
		}
		return nil
	}
	for _, old := range x {
		success := strings.HasPrefix(old.Status, "2")
		switch now := find(y, old.Status); {
		case now == nil:
			c.add(success, "the response %s is gone", old.Status)
		case success:
			c.mediaTypes("the response "+old.Status, old.MediaTypes, now.MediaTypes)
		}
	}
	for _, r := range y {
		if find(x, r.Status) == nil {
			c.add(false, "the response %s is new", r.Status)
		}
	}
}

func (c *comparison) mediaTypes(of string, x, y []string) {
	for _, kind := range x {
		if !slices.Contains(y, kind) {
			c.add(true, "%s has no %s any more", of, strictyaml.Quote(kind))
		}
	}
	for _, kind := range y {
		if !slices.Contains(x, kind) {
			c.add(false, "%s has %s, too", of, strictyaml.Quote(kind))
		}
	}
}

// alternatives are the sets of which a caller needs one: words for schemes, by what
// they are and not by their names, and for scopes.
func (d *Document) alternatives(op *Operation) [][]string {
	security := op.Security
	if security == nil {
		security = d.Security
	}
	switch {
	case security == nil:
		return [][]string{{"what the gateway asks for"}}
	case len(security.Any) == 0:
		return [][]string{{}}
	}
	var list [][]string
	for _, requirement := range security.Any {
		words := []string{}
		for _, need := range requirement.All {
			s := d.Schemes[need.Scheme]
			scheme := strings.Join([]string{s.Type, s.In, s.Key, s.HTTP}, " ")
			words = append(words, scheme)
			for _, scope := range need.Scopes {
				words = append(words, scheme+" "+scope)
			}
		}
		list = append(list, words)
	}
	return list
}

// admits reports whether whoever satisfies one of from satisfies one of list.
func admits(list, from [][]string) bool {
	for _, had := range from {
		if !slices.ContainsFunc(list, func(needed []string) bool {
			return !slices.ContainsFunc(needed, func(word string) bool { return !slices.Contains(had, word) })
		}) {
			return false
		}
	}
	return true
}

// extension is the text of the extension that counts for an operation; nil for
// none.
func (d *Document) extension(op *Operation, name string) []byte {
	list := slices.Concat(op.Policies, d.Policies)
	if op.Service != nil {
		list = append(list, *op.Service)
	} else if d.Service != nil {
		list = append(list, *d.Service)
	}
	for _, e := range list {
		if e.Name == name {
			text, err := e.YAML()
			if err != nil {
				return []byte(err.Error())
			}
			return text
		}
	}
	return nil
}
