// Package tree makes of the description of an API a tree of JSON values, in which the
// schemas of OpenAPI 2.0 and 3.0 are in the form of JSON Schema 2020-12, which that of
// 3.1 is, and finds its way in it. It follows no reference out of the description.
//
// What schemas mean is package contract's.
package tree

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v4"

	"github.com/keywarden/keywarden/pkg/openapi"
	"github.com/keywarden/keywarden/pkg/openapi/jsonvalue"
)

// Bounds of a description. Aliases of YAML let a text be larger than it looks.
const (
	maxValues = 4_000_000
	maxLevels = 200
	maxHops   = 32 // from reference to reference
)

// Tree is a description as values of JSON: numbers are [json.Number]. It is not safe
// for use beside [Tree.Detach].
type Tree struct {
	root  map[string]any
	named bool // schemas may have names or bases of their own ($id, $anchor and the like)
}

// Place is a value with its JSON Pointer (RFC 6901).
type Place struct {
	Value   any // nil where there is nothing
	Pointer string
}

// There reports whether there is something.
func (p Place) There() bool { return p.Value != nil }

// Fragment is the pointer as the fragment of a URL.
func (p Place) Fragment() string {
	steps := strings.Split(p.Pointer, "/")
	for i := range steps {
		steps[i] = url.PathEscape(steps[i])
	}
	return strings.Join(steps, "/")
}

// Text is a field that is a text, otherwise "".
func (p Place) Text(name string) string {
	m, _ := p.Value.(map[string]any)
	s, _ := m[name].(string)
	return s
}

// Flag is a field that is a yes or no; given is false where there is none.
func (p Place) Flag(name string) (value, given bool) {
	m, _ := p.Value.(map[string]any)
	value, given = m[name].(bool)
	return value, given
}

// Root is the whole.
func (t *Tree) Root() any { return t.root }

// Named reports whether schemas may have names or bases of their own, by which others
// refer to them: $id, $anchor and the like.
func (t *Tree) Named() bool { return t.named }

// At is the place below the top that the names of fields lead to.
func (t *Tree) At(steps ...string) Place {
	p := Place{Value: t.root}
	for _, step := range steps {
		p = t.Field(p, step)
	}
	return p
}

// Field is the place of a field of a mapping.
func (t *Tree) Field(p Place, name string) Place {
	m, _ := p.Value.(map[string]any)
	return Place{m[name], p.Pointer + "/" + jsonvalue.Escape(name)}
}

// Fields are the names of the fields of a mapping, sorted.
func (t *Tree) Fields(p Place) []string {
	m, _ := p.Value.(map[string]any)
	return slices.Sorted(maps.Keys(m))
}

// Items are those of a list.
func (t *Tree) Items(p Place) []Place {
	list, _ := p.Value.([]any)
	items := make([]Place, len(list))
	for i := range list {
		items[i] = Place{list[i], p.Pointer + "/" + strconv.Itoa(i)}
	}
	return items
}

// Follow is what p refers to, or p itself. A reference that leads nowhere is
// nothing; openapi.Parse has refused those that matter.
func (t *Tree) Follow(p Place) Place {
	for range maxHops {
		ref := p.Text("$ref")
		if ref == "" {
			return p
		}
		pointer, local := localPointer(ref)
		if !local {
			return Place{}
		}
		p = t.Walk(pointer)
	}
	return Place{}
}

// Walk is the place that a JSON Pointer leads to; nothing where there is none.
func (t *Tree) Walk(pointer string) Place {
	p := Place{Value: t.root}
	if pointer == "" {
		return p
	}
	for step := range strings.SplitSeq(strings.TrimPrefix(pointer, "/"), "/") {
		name := strings.ReplaceAll(strings.ReplaceAll(step, "~1", "/"), "~0", "~")
		if list, ok := p.Value.([]any); ok {
			i, err := strconv.Atoi(name)
			if err != nil || i < 0 || i >= len(list) {
				return Place{}
			}
			p = Place{list[i], p.Pointer + "/" + name}
			continue
		}
		p = t.Field(p, name)
	}
	return p
}

// New makes the tree of one direction: fields that are marked without, which is
// readOnly or writeOnly, are not required there. directed is whether that makes a
// difference for any of the two.
func New(doc *openapi.Document, without string) (t *Tree, directed bool, err error) {
	t = &Tree{}
	left := maxValues
	root, err := t.value(doc.Root(), 0, &left)
	if err != nil {
		return nil, false, err
	}
	t.root, _ = root.(map[string]any)
	tr := &translation{Tree: t, old: doc.Dialect != openapi.Dialect31, swagger: doc.Dialect == openapi.Dialect20, without: without}
	t.named = t.named && !tr.old // there these are no keywords
	tr.document()
	return t, tr.directed, nil
}

// Errors of descriptions that are no values of JSON.
var (
	errLarge = errors.New("the description has too many values, or is nested too deeply")
	errValue = errors.New("is no value of JSON")
)

// value is a node as a value of JSON.
func (t *Tree) value(n *yaml.Node, level int, left *int) (any, error) {
	if *left--; *left < 0 || level > maxLevels {
		return nil, errLarge
	}
	switch n.Kind {
	case yaml.AliasNode:
		return t.value(n.Alias, level+1, left)
	case yaml.DocumentNode:
		return t.value(n.Content[0], level+1, left)
	case yaml.MappingNode:
		m := make(map[string]any, len(n.Content)/2)
		for i := 0; i+1 < len(n.Content); i += 2 {
			v, err := t.value(n.Content[i+1], level+1, left)
			if err != nil {
				return nil, err
			}
			m[n.Content[i].Value] = v
			t.named = t.named || naming(n.Content[i].Value)
		}
		return m, nil
	case yaml.SequenceNode:
		list := make([]any, len(n.Content))
		for i, item := range n.Content {
			v, err := t.value(item, level+1, left)
			if err != nil {
				return nil, err
			}
			list[i] = v
		}
		return list, nil
	}
	return scalar(n)
}

// naming reports whether a field of a schema names it, gives it a base or another
// dialect, or goes by names.
func naming(field string) bool {
	switch field {
	case "$id", "$schema", "$anchor", "$dynamicAnchor", "$dynamicRef", "$recursiveAnchor", "$recursiveRef":
		return true
	}
	return false
}

func scalar(n *yaml.Node) (any, error) {
	switch n.Tag {
	case "!!null":
		return nil, nil //nolint:nilnil // null of JSON
	case "!!bool":
		return strings.EqualFold(n.Value, "true"), nil
	case "!!int", "!!float":
		if text := strings.ReplaceAll(n.Value, "_", ""); jsonvalue.IsNumber(text) {
			return json.Number(text), nil
		}
		if i, err := strconv.ParseInt(n.Value, 0, 64); err == nil {
			return json.Number(strconv.FormatInt(i, 10)), nil
		}
		f, err := strconv.ParseFloat(n.Value, 64)
		text, wrong := json.Marshal(f)
		if err != nil || wrong != nil {
			return nil, fmt.Errorf("line %d, column %d: %w", n.Line, n.Column, errValue)
		}
		return json.Number(text), nil
	}
	return n.Value, nil
}
