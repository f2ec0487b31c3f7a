package openapi

import (
	"fmt"
	"net/url"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v4"

	"github.com/keywarden/keywarden/pkg/strictyaml"
)

// Bounds of what is read.
const (
	maxOperations = 10_000
	maxParameters = 256
	maxAlternates = 64 // of security, and needs of one
	maxNotes      = 1000
	maxHops       = 32 // from reference to reference

	// maxWork bounds the entries and items that are read. References and aliases let
	// the same ones be read from many places.
	maxWork = 10_000_000

	maxPath  = 1000 // bytes of a path in messages
	largeMap = 16   // entries from which on a mapping is searched by an index
)

// reader reads one description, and collects what is wrong with it.
type reader struct {
	root  *yaml.Node
	wrong strictyaml.Collector
	notes []Violation
	work  int
	index index
	dead  map[*yaml.Node]bool // references of which it is said that they are wrong
}

// index finds the entries of large mappings. A mapping is put into it when it is
// searched first.
type index map[*yaml.Node]map[string]*yaml.Node

// at is a place in the document.
type at struct {
	path string
	node *yaml.Node // never an alias; nil where there is nothing

	index index // nil where nothing is looked up
}

func (a at) place() Place {
	p := Place{Path: a.path}
	if a.node != nil {
		p.Line, p.Column = a.node.Line, a.node.Column
	}
	return p
}

// there reports whether there is something.
func (a at) there() bool { return a.node != nil }

// field is the value of a name in a mapping.
func (a at) field(name string) at {
	child := at{path: join(a.path, name), index: a.index}
	if a.node == nil || a.node.Kind != yaml.MappingNode {
		return child
	}
	if a.index != nil && len(a.node.Content) > 2*largeMap {
		if n := a.index.of(a.node)[name]; n != nil {
			child.node = resolved(n)
		}
		return child
	}
	for i := 0; i+1 < len(a.node.Content); i += 2 {
		if a.node.Content[i].Value == name {
			child.node = resolved(a.node.Content[i+1])
			break
		}
	}
	return child
}

// of is the entries of a mapping; of several with the same name the first.
func (x index) of(n *yaml.Node) map[string]*yaml.Node {
	if x[n] == nil {
		x[n] = make(map[string]*yaml.Node, len(n.Content)/2)
		for i := 0; i+1 < len(n.Content); i += 2 {
			if name := n.Content[i].Value; x[n][name] == nil {
				x[n][name] = n.Content[i+1]
			}
		}
	}
	return x[n]
}

// resolved follows an alias of YAML.
func resolved(n *yaml.Node) *yaml.Node {
	if n.Kind == yaml.AliasNode {
		return n.Alias
	}
	return n
}

// entry is a name of a mapping with its value; key is where the name stands.
type entry struct {
	name  string
	key   *yaml.Node
	value at
}

// at is where the name stands.
func (e entry) at() at { return at{path: e.value.path, node: e.key} }

// spend counts what is read, and reports whether there may be as much.
func (r *reader) spend(a at) bool {
	r.work += len(a.node.Content)
	if r.work > maxWork {
		r.fail(a, "refers to the same things from too many places")
		return false
	}
	return true
}

// entries are the names of a mapping in their order. What is no mapping is wrong.
func (r *reader) entries(a at) []entry {
	if !a.there() {
		return nil
	}
	if a.node.Kind != yaml.MappingNode {
		r.fail(a, "must be a mapping")
		return nil
	}
	if !r.spend(a) {
		return nil
	}
	list := make([]entry, 0, len(a.node.Content)/2)
	for i := 0; i+1 < len(a.node.Content); i += 2 {
		key := a.node.Content[i]
		list = append(list, entry{key.Value, key, at{join(a.path, key.Value), resolved(a.node.Content[i+1]), a.index}})
	}
	return list
}

// items are those of a list. What is no list is wrong.
func (r *reader) items(a at) []at {
	if !a.there() {
		return nil
	}
	if a.node.Kind != yaml.SequenceNode {
		r.fail(a, "must be a list")
		return nil
	}
	if !r.spend(a) {
		return nil
	}
	list := make([]at, len(a.node.Content))
	for i, n := range a.node.Content {
		list[i] = at{strictyaml.Index(a.path, i), resolved(n), a.index}
	}
	return list
}

// text is the value of a text, "" where there is none. What is something else is
// wrong.
func (r *reader) text(a at) string {
	switch {
	case !a.there():
		return ""
	case a.node.Kind != yaml.ScalarNode || a.node.Tag == "!!null":
		r.fail(a, "must be a text")
		return ""
	}
	return a.node.Value
}

// flag is the value of a yes or no; absent is no.
func (r *reader) flag(a at) bool {
	if a.there() && (a.node.Kind != yaml.ScalarNode || a.node.Tag != "!!bool") {
		r.fail(a, "must be true or false")
		return false
	}
	return a.there() && a.node.Value == "true"
}

// number is a whole number from 0 on; absent is 0.
func (r *reader) number(a at) int64 {
	if !a.there() {
		return 0
	}
	n, err := strconv.ParseInt(a.node.Value, 10, 64)
	if a.node.Kind != yaml.ScalarNode || err != nil || n < 0 {
		r.fail(a, "must be a whole number, 0 or above")
		return 0
	}
	return n
}

func (r *reader) fail(a at, format string, args ...any) {
	r.wrong.Add(Violation{Place: a.place(), Detail: fmt.Sprintf(format, args...)})
}

// note tells what is lost.
func (r *reader) note(a at, format string, args ...any) {
	if len(r.notes) < maxNotes {
		r.notes = append(r.notes, Violation{Place: a.place(), Detail: fmt.Sprintf(format, args...)})
	}
}

// follow returns what a refers to, or a itself where it is no reference. Without
// what is referred to, it returns nothing, and says so.
func (r *reader) follow(a at) at {
	from := a
	for range maxHops {
		ref := a.field("$ref")
		if !ref.there() {
			return a
		}
		target, problem := r.target(ref)
		if problem != "" {
			r.deadEnd(ref, problem)
			return at{path: from.path}
		}
		a = target
	}
	r.fail(from, "refers to itself, through %s", strictyaml.Quote(r.text(from.field("$ref"))))
	return at{path: from.path}
}

// deadEnd says once what is wrong with a reference.
func (r *reader) deadEnd(ref at, problem string) {
	if !r.dead[ref.node] {
		r.dead[ref.node] = true
		r.fail(ref, "%s", problem)
	}
}

// target is what a local reference points to (RFC 6901), or why there is nothing.
func (r *reader) target(ref at) (at, string) {
	if ref.node.Kind != yaml.ScalarNode || ref.node.Tag != "!!str" {
		return at{}, "must be a text"
	}
	text := ref.node.Value
	pointer, local := strings.CutPrefix(text, "#")
	switch {
	case !local:
		return at{}, "refers to another document, " + strictyaml.Quote(text) + ", and none is ever fetched; put it into this one, as #/components/… (2.0: #/definitions/…), with a bundler for example"
	case pointer == "":
		return r.top(), ""
	case pointer[0] != '/':
		return at{}, "refers to the anchor " + strictyaml.Quote(text) + "; only references such as #/components/… can be followed"
	}
	a := r.top()
	for step := range strings.SplitSeq(pointer[1:], "/") {
		name, err := url.PathUnescape(step)
		if err != nil {
			return at{}, "is not a reference: " + strictyaml.Quote(text)
		}
		name = strings.NewReplacer("~1", "/", "~0", "~").Replace(name)
		if a.node.Kind == yaml.SequenceNode {
			i, err := strconv.Atoi(name)
			if err != nil || i < 0 || i >= len(a.node.Content) {
				return at{}, "refers to nothing: there is no " + strictyaml.Quote(text)
			}
			a = at{strictyaml.Index(a.path, i), resolved(a.node.Content[i]), a.index}
			continue
		}
		if a = a.field(name); !a.there() {
			return at{}, "refers to nothing: there is no " + strictyaml.Quote(text)
		}
	}
	return a, ""
}

// top is the document as a whole.
func (r *reader) top() at { return at{node: resolved(r.root), index: r.index} }

// join is the path of a field, as far as a message has room for it.
func join(path, name string) string {
	switch {
	case path == "":
		return name[:min(len(name), maxPath)]
	case len(path)+len(name) > maxPath:
		return path
	}
	return path + "." + name
}
