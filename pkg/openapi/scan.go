package openapi

import (
	"slices"
	"strings"

	"go.yaml.in/yaml/v4"

	"github.com/keywarden/keywarden/pkg/strictyaml"
)

// scan looks at every node once, for what may stand nowhere: names that are given
// twice, merge keys, and references that lead out of the document or to nothing.
// It follows no alias, so that its cost is that of the text.
type scan struct {
	*reader
	good map[string]bool // references that were followed

	// based is how many schemas around have an $id. References count from there, also to
	// what stands in the description under another $id, and are left to who follows them.
	based int
}

// role is what the names of a mapping are.
type role uint8

const (
	fields role = iota // the specification's
	names              // the writer's
	data               // anything: an example, a default
)

// roleOf is the role of the mapping below a field. Below it everything is of
// OpenAPI again, so that a property of the name "default" is a schema.
func roleOf(field string) role {
	switch field {
	case "properties", "patternProperties", "definitions", "$defs", "dependentSchemas", "responses", "parameters", "headers",
		"schemas", "callbacks", "links", "paths", "requestBodies", "securitySchemes", "securityDefinitions", "pathItems", "content", "examples", "encoding":
		return names
	case "example", "default", "enum", "const", "value":
		return data
	}
	if strings.HasPrefix(field, "x-") {
		return data
	}
	return fields
}

// trail is the way to a node. It becomes a text only for a message.
type trail struct {
	up   *trail
	name string
}

func (t *trail) String() string {
	if t == nil {
		return ""
	}
	up := t.up.String()
	if strings.HasPrefix(t.name, "[") {
		return up + t.name
	}
	return join(up, t.name)
}

// walk looks at a node and what is below.
func (s *scan) walk(way *trail, n *yaml.Node, as role) {
	if s.wrong.Full() {
		return
	}
	if n.Kind == yaml.SequenceNode {
		if as == names {
			as = fields // a list of parameters, of examples
		}
		for i, item := range n.Content {
			s.walk(&trail{way, strictyaml.Index("", i)}, item, as)
		}
		return
	}
	if n.Kind != yaml.MappingNode {
		return
	}
	if as == fields && (at{node: n}).field("$id").there() {
		s.based++
		defer func() { s.based-- }()
	}
	seen := make(map[string]bool, len(n.Content)/2)
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := n.Content[i], n.Content[i+1]
		here := &trail{way, key.Value}
		switch {
		case key.Kind != yaml.ScalarNode:
			s.fail(at{path: way.String(), node: key}, "must have plain names as its keys")
			continue
		case key.Tag == "!!merge":
			s.fail(at{path: here.String(), node: key}, "merge keys (<<) are not supported; write the fields out")
		case seen[key.Value]:
			s.fail(at{path: here.String(), node: key}, "is given twice")
		case key.Value == "$ref" && as == fields && value.Kind == yaml.ScalarNode && s.based == 0:
			s.reference(here, value)
		}
		seen[key.Value] = true
		below := as
		switch as {
		case fields:
			below = roleOf(key.Value)
		case names:
			below = fields
		case data:
		}
		s.walk(here, value, below)
	}
}

// reference checks one reference. An anchor is left to who follows it: schemas have
// them, and are not followed.
func (s *scan) reference(way *trail, n *yaml.Node) {
	text := n.Value
	if s.good[text] || strings.HasPrefix(text, "#") && !strings.HasPrefix(text, "#/") {
		return
	}
	ref := at{node: n}
	if _, problem := s.target(ref); problem != "" {
		ref.path = way.String()
		s.deadEnd(ref, problem)
		return
	}
	s.good[text] = true
}

// known refuses extensions of ours that do not exist: a typing error in one that
// limits must not go unnoticed.
func (r *reader) known(in []entry, ours []string) {
	for _, e := range in {
		if strings.HasPrefix(e.name, "x-keywarden-") && !slices.Contains(ours, e.name) {
			r.fail(e.at(), "is no extension that belongs here%s", question(e.name, ours))
		}
	}
}
