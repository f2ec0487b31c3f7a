package contract

import (
	"encoding/json"

	"github.com/santhosh-tekuri/jsonschema/v6"

	"github.com/keywarden/keywarden/pkg/openapi/jsonvalue"
)

// shape is which types a schema lets a value have. Parameters are texts, and have to
// become values before a schema can be asked.
type shape struct {
	types      map[string]bool // empty: any
	items      *shape
	properties map[string]*shape
	rest       *shape // of other properties
}

// maxShape bounds how deep shapes are looked at; schemas are recursive, parameters
// are not.
const maxShape = 6

func shapeOf(s *jsonschema.Schema, depth int) *shape {
	sh := &shape{types: map[string]bool{}, properties: map[string]*shape{}}
	if s != nil && depth < maxShape {
		sh.take(s, depth)
	}
	return sh
}

// take adds what s says.
func (sh *shape) take(s *jsonschema.Schema, depth int) {
	if s == nil || depth >= maxShape {
		return
	}
	if s.Types != nil {
		for _, name := range s.Types.ToStrings() {
			sh.types[name] = true
		}
	}
	if s.Items2020 != nil {
		sh.items = shapeOf(s.Items2020, depth+1)
	}
	for name, p := range s.Properties {
		sh.properties[name] = shapeOf(p, depth+1)
	}
	if rest, ok := s.AdditionalProperties.(*jsonschema.Schema); ok {
		sh.rest = shapeOf(rest, depth+1)
	}
	sh.take(s.Ref, depth+1)
	for _, list := range [][]*jsonschema.Schema{s.AllOf, s.AnyOf, s.OneOf} {
		for _, part := range list {
			sh.take(part, depth+1)
		}
	}
	if s.Types == nil && s.Enum != nil {
		for _, v := range s.Enum.Values {
			sh.types[typeName(v)] = true
		}
	}
}

func typeName(v any) string {
	switch v.(type) {
	case nil:
		return "null"
	case bool:
		return "boolean"
	case json.Number:
		return "number"
	case []any:
		return "array"
	case map[string]any:
		return "object"
	}
	return "string"
}

// array and object report whether a value may be one; one that may be a text as
// well is taken for a text.
func (sh *shape) array() bool { return sh.types["array"] && !sh.types["string"] }
func (sh *shape) object() bool {
	return sh.types["object"] && !sh.types["string"] && !sh.types["array"]
}

// of is the shape of a property.
func (sh *shape) of(name string) *shape {
	if p := sh.properties[name]; p != nil {
		return p
	}
	if sh.rest != nil {
		return sh.rest
	}
	return &shape{}
}

// item is the shape of items.
func (sh *shape) item() *shape {
	if sh.items != nil {
		return sh.items
	}
	return &shape{}
}

// scalar makes a value of a text. What does not look like any type that is allowed
// stays a text, which the schema then refuses.
func (sh *shape) scalar(text string) any {
	switch {
	case (sh.types["number"] || sh.types["integer"]) && jsonvalue.IsNumber(text):
		return json.Number(text)
	case sh.types["boolean"] && (text == "true" || text == "false"):
		return text == "true"
	case sh.types["null"] && !sh.types["string"] && (text == "" || text == "null"):
		return nil
	}
	return text
}
