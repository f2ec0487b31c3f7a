package tree

import (
	"encoding/json"
	"slices"
	"strings"
)

// translation brings the schemas of a description into the form of JSON Schema
// 2020-12, in place, so that every reference leads to where it led before.
type translation struct {
	*Tree
	old     bool   // 2.0 or 3.0
	swagger bool   // 2.0
	without string // mark of fields that are not required in this direction

	directed bool // some field is not required in one of the directions
}

// document translates every schema of the description.
func (t *translation) document() {
	if t.swagger {
		t.each(t.root["definitions"])
	}
	t.fieldsOf(t.root)
}

// each translates every schema of a mapping or list.
func (t *translation) each(v any) {
	switch v := v.(type) {
	case map[string]any:
		for _, s := range v {
			t.schema(s)
		}
	case []any:
		for _, s := range v {
			t.schema(s)
		}
	}
}

// namesOf looks for schemas below names that the writer has chosen.
func (t *translation) namesOf(v any) {
	if m, ok := v.(map[string]any); ok {
		for _, child := range m {
			t.fieldsOf(child)
		}
		return
	}
	t.fieldsOf(v)
}

// fieldsOf looks for schemas below fields of the specification.
func (t *translation) fieldsOf(v any) {
	if list, ok := v.([]any); ok {
		for _, item := range list {
			t.fieldsOf(item)
		}
		return
	}
	m, ok := v.(map[string]any)
	if !ok {
		return
	}
	for name, child := range m {
		switch name {
		case "schema":
			t.schema(child)
		case "schemas":
			t.each(child)
		case "definitions", "example", "examples", "default", "enum":
		case "paths", "webhooks", "responses", "parameters", "headers", "content", "requestBodies", "callbacks", "links", "pathItems", "encoding":
			t.namesOf(child)
		default:
			if !strings.HasPrefix(name, "x-") {
				t.fieldsOf(child)
			}
		}
	}
	t.simple(m)
}

// simple gives a parameter or header of 2.0 the schema that its fields make.
func (t *translation) simple(m map[string]any) {
	kind, _ := m["type"].(string)
	if _, given := m["schema"]; !t.swagger || given || !slices.Contains(types(), kind) && kind != "file" {
		return
	}
	s := map[string]any{}
	for _, keyword := range keywords() {
		if v, ok := m[keyword]; ok && keyword != "required" {
			s[keyword] = v
		}
	}
	if kind == "file" {
		s = map[string]any{}
	}
	t.schema(s)
	m["schema"] = s
}

func types() []string {
	return []string{"string", "number", "integer", "boolean", "array", "object"}
}

// keywords are those of a schema of 2.0 and 3.0 that mean something to a validator.
func keywords() []string {
	return []string{
		"multipleOf", "maximum", "exclusiveMaximum", "minimum", "exclusiveMinimum", "maxLength", "minLength", "pattern",
		"maxItems", "minItems", "uniqueItems", "maxProperties", "minProperties", "required", "enum", "type", "allOf", "oneOf",
		"anyOf", "not", "items", "properties", "additionalProperties", "format", "default", "example",
	}
}

// schema translates a schema and those in it.
func (t *translation) schema(v any) {
	s, ok := v.(map[string]any)
	if !ok {
		return
	}
	t.relax(s)
	if t.old {
		t.modernise(s)
	}
	for name, child := range s {
		switch name {
		case "properties", "patternProperties", "$defs", "definitions", "dependentSchemas", "allOf", "anyOf", "oneOf", "prefixItems":
			t.each(child)
		case "items", "additionalProperties", "not", "if", "then", "else", "contains", "propertyNames", "unevaluatedItems", "unevaluatedProperties":
			t.schema(child)
		}
	}
}

// relax takes from required what the other direction alone has to have.
func (t *translation) relax(s map[string]any) {
	required, _ := s["required"].([]any)
	properties, _ := s["properties"].(map[string]any)
	if len(required) == 0 || len(properties) == 0 {
		return
	}
	kept := make([]any, 0, len(required))
	for _, name := range required {
		text, _ := name.(string)
		p := Place{Value: properties[text]}
		if t.marked(p, "readOnly") || t.marked(p, "writeOnly") {
			t.directed = true
		}
		if !t.marked(p, t.without) {
			kept = append(kept, name)
		}
	}
	s["required"] = kept
}

// marked reports whether a schema, or what it refers to, has a mark.
func (t *translation) marked(p Place, mark string) bool {
	here, _ := p.Flag(mark)
	there, _ := t.Follow(p).Flag(mark)
	return here || there
}

// modernise makes of a schema of 2.0 or 3.0 one of 2020-12. Beside $ref nothing
// counts there, and what is no keyword there must not become one.
func (t *translation) modernise(s map[string]any) {
	if ref, ok := s["$ref"].(string); ok {
		clear(s)
		s["$ref"] = ref
		return
	}
	nullable := s["nullable"] == true || s["x-nullable"] == true
	readOnly, writeOnly := s["readOnly"], s["writeOnly"]
	for name := range s {
		if !slices.Contains(keywords(), name) {
			delete(s, name)
		}
	}
	// The marks are remarks in 2020-12, and are needed where others refer to s.
	for name, mark := range map[string]any{"readOnly": readOnly, "writeOnly": writeOnly} {
		if on, ok := mark.(bool); ok {
			s[name] = on
		}
	}
	for exclusive, bound := range map[string]string{"exclusiveMinimum": "minimum", "exclusiveMaximum": "maximum"} {
		if on, ok := s[exclusive].(bool); ok {
			delete(s, exclusive)
			if number, ok := s[bound].(json.Number); ok && on {
				s[exclusive] = number
				delete(s, bound)
			}
		}
	}
	kind, _ := s["type"].(string)
	if kind == "file" { // of an answer in 2.0
		delete(s, "type")
	}
	if nullable && kind != "" && kind != "file" {
		s["type"] = []any{kind, "null"}
	}
}
