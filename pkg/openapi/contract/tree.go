package contract

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

// tree is a description as values of JSON: numbers are [json.Number].
type tree struct {
	root map[string]any
}

// place is a value with its JSON Pointer (RFC 6901).
type place struct {
	value   any
	pointer string
}

func (p place) there() bool { return p.value != nil }

// fragment is the pointer as the fragment of a URL.
func (p place) fragment() string {
	steps := strings.Split(p.pointer, "/")
	for i := range steps {
		steps[i] = url.PathEscape(steps[i])
	}
	return strings.Join(steps, "/")
}

func (p place) text(name string) string {
	m, _ := p.value.(map[string]any)
	s, _ := m[name].(string)
	return s
}

func (p place) flag(name string) (value, given bool) {
	m, _ := p.value.(map[string]any)
	value, given = m[name].(bool)
	return value, given
}

func (t *tree) at(steps ...string) place {
	p := place{value: t.root}
	for _, step := range steps {
		p = t.field(p, step)
	}
	return p
}

func (t *tree) field(p place, name string) place {
	m, _ := p.value.(map[string]any)
	return place{m[name], p.pointer + "/" + jsonvalue.Escape(name)}
}

// fields are the fields of a mapping, sorted.
func (t *tree) fields(p place) []string {
	m, _ := p.value.(map[string]any)
	return slices.Sorted(maps.Keys(m))
}

func (t *tree) items(p place) []place {
	list, _ := p.value.([]any)
	items := make([]place, len(list))
	for i := range list {
		items[i] = place{list[i], p.pointer + "/" + strconv.Itoa(i)}
	}
	return items
}

// follow is what p refers to, or p itself. A reference that leads nowhere is
// nothing; openapi.Parse has refused those that matter.
func (t *tree) follow(p place) place {
	for range maxHops {
		ref := p.text("$ref")
		if ref == "" {
			return p
		}
		pointer, local := strings.CutPrefix(ref, "#/")
		if !local {
			return place{}
		}
		p = place{value: t.root}
		for step := range strings.SplitSeq(pointer, "/") {
			name, err := url.PathUnescape(step)
			if err != nil {
				return place{}
			}
			name = strings.ReplaceAll(strings.ReplaceAll(name, "~1", "/"), "~0", "~")
			if list, ok := p.value.([]any); ok {
				i, err := strconv.Atoi(name)
				if err != nil || i < 0 || i >= len(list) {
					return place{}
				}
				p = place{list[i], p.pointer + "/" + name}
				continue
			}
			p = t.field(p, name)
		}
	}
	return place{}
}

// newTree makes the tree of one direction: fields that are marked without, which is
// readOnly or writeOnly, are not required there.
func newTree(doc *openapi.Document, without string) (*tree, error) {
	left := maxValues
	root, err := value(doc.Root(), 0, &left)
	if err != nil {
		return nil, err
	}
	t := &tree{}
	t.root, _ = root.(map[string]any)
	tr := &translation{tree: t, old: doc.Dialect != openapi.Dialect31, swagger: doc.Dialect == openapi.Dialect20, without: without}
	tr.document()
	return t, nil
}

// Errors of descriptions that are no values of JSON.
var (
	errLarge = errors.New("the description has too many values, or is nested too deeply")
	errValue = errors.New("is no value of JSON")
)

// value is a node as a value of JSON.
func value(n *yaml.Node, level int, left *int) (any, error) {
	if *left--; *left < 0 || level > maxLevels {
		return nil, errLarge
	}
	switch n.Kind {
	case yaml.AliasNode:
		return value(n.Alias, level+1, left)
	case yaml.DocumentNode:
		return value(n.Content[0], level+1, left)
	case yaml.MappingNode:
		m := make(map[string]any, len(n.Content)/2)
		for i := 0; i+1 < len(n.Content); i += 2 {
			v, err := value(n.Content[i+1], level+1, left)
			if err != nil {
				return nil, err
			}
			m[n.Content[i].Value] = v
		}
		return m, nil
	case yaml.SequenceNode:
		list := make([]any, len(n.Content))
		for i, item := range n.Content {
			v, err := value(item, level+1, left)
			if err != nil {
				return nil, err
			}
			list[i] = v
		}
		return list, nil
	}
	return scalar(n)
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
