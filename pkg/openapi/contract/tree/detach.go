package tree

import (
	"net/url"
	"strings"
)

// detached stands before the pointer, escaped for a query, in the address of a schema
// that is a document of its own.
const detached = "keywarden:///schema?"

// Address is that of the schema at a JSON Pointer.
func Address(pointer string) string { return detached + url.QueryEscape(pointer) }

// Detach makes of the references in a schema addresses of documents of their own, in
// place, so that the schema can be read without the rest of the description.
// [Tree.Follow] knows both forms.
func (t *Tree) Detach(p Place) { point(p.Value, false) }

// point detaches a schema, or a mapping of names to schemas.
func point(v any, names bool) {
	switch v := v.(type) {
	case []any:
		for _, item := range v {
			point(item, false)
		}
	case map[string]any:
		if ref, ok := v["$ref"].(string); ok && !names {
			if pointer, local := localPointer(ref); local {
				v["$ref"] = Address(pointer)
			}
		}
		for name, child := range v {
			if names {
				point(child, false)
				continue
			}
			switch name {
			case "properties", "patternProperties", "$defs", "definitions", "dependentSchemas":
				point(child, true)
			case "enum", "const", "default", "example", "examples": // values, whatever is in them
			default:
				point(child, false)
			}
		}
	}
}

// PointerOf is the pointer in an address that [Address] has made.
func PointerOf(address string) (pointer string, ours bool) {
	escaped, ours := strings.CutPrefix(address, detached)
	pointer, err := url.QueryUnescape(escaped)
	return pointer, ours && err == nil
}

// localPointer is the JSON Pointer of a reference within the description.
func localPointer(ref string) (pointer string, local bool) {
	if pointer, ours := PointerOf(ref); ours {
		return pointer, true
	}
	fragment, local := strings.CutPrefix(ref, "#")
	if !local || fragment != "" && fragment[0] != '/' {
		return "", false
	}
	steps := strings.Split(fragment, "/")
	for i, step := range steps {
		name, err := url.PathUnescape(step)
		if err != nil {
			return "", false
		}
		steps[i] = strings.ReplaceAll(name, "/", "~1")
	}
	return strings.Join(steps, "/"), true
}
