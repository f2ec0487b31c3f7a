// Package schema writes the JSON Schema (2020-12) of the gateway document, made
// from its Go types and their comments, for editors and other tools. What a
// document must keep beyond its shape is for package spec to say.
package schema

import (
	"bytes"
	"encoding/json"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path"
	"reflect"
	"slices"
	"strings"

	"github.com/keywarden/keywarden/pkg/spec"
	"github.com/keywarden/keywarden/pkg/spec/policies"
	"github.com/keywarden/keywarden/pkg/spec/quantity"
	"github.com/keywarden/keywarden/pkg/spec/services"
	"github.com/keywarden/keywarden/pkg/strictyaml"
)

// module is the path before that of every package in the source tree.
const module = "github.com/keywarden/keywarden/"

// Write returns the schema. source is the root of the source tree, from which
// the descriptions are taken.
func Write(source fs.FS) ([]byte, error) {
	w := &writer{source: source, comments: map[string]map[string]string{}, definitions: map[string]any{}}
	root, err := w.object(reflect.TypeFor[spec.Document]())
	if err != nil {
		return nil, err
	}
	root["$schema"] = "https://json-schema.org/draft/2020-12/schema"
	root["title"] = "Keywarden gateway document"
	root["required"] = []string{"version"}
	root["properties"].(map[string]any)["version"] = map[string]any{"const": spec.Version}
	root["$defs"] = w.definitions
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	err = enc.Encode(root)
	return b.Bytes(), err
}

type writer struct {
	source      fs.FS
	comments    map[string]map[string]string // by package, then "Type" or "Type.Field"
	definitions map[string]any
}

// written is the schema of a type that is written as a text of a certain form;
// nil for all others.
func written(t reflect.Type) map[string]any {
	switch t {
	case reflect.TypeFor[quantity.Duration]():
		return map[string]any{"type": "string", "pattern": `^([0-9]+(\.[0-9]+)?(ns|us|µs|ms|s|m|h))+$`, "examples": []string{"500ms", "30s", "2m"}}
	case reflect.TypeFor[quantity.Size]():
		return map[string]any{"type": "string", "pattern": `^[0-9]+ ?(B|KiB|MiB|GiB|TiB)$`, "examples": []string{"64KiB", "10MiB"}}
	case reflect.TypeFor[quantity.Network]():
		return map[string]any{"type": "string", "examples": []string{"10.0.0.0/8", "2001:db8::/32"}}
	case reflect.TypeFor[quantity.StatusRange]():
		return map[string]any{"type": []string{"string", "integer"}, "examples": []string{"200", "200-299"}}
	case reflect.TypeFor[services.Port]():
		return map[string]any{"type": []string{"string", "integer"}, "examples": []any{"http", 8080}}
	case reflect.TypeFor[quantity.Date]():
		return map[string]any{"type": "string", "format": "date", "examples": []string{"2027-01-31"}}
	case reflect.TypeFor[policies.Rate]():
		return map[string]any{"type": "string", "pattern": `^([1-9][0-9]*p[smh]|[0-9]+/[0-9.]+(ms|s|m|h)([0-9.]+(s|m))*)$`, "examples": []string{"100/1m", "30pm", "10ps"}}
	case reflect.TypeFor[policies.Mode]():
		return map[string]any{"enum": []policies.Mode{policies.Enforce, policies.Shadow, policies.Off}}
	case reflect.TypeFor[policies.AuthMode]():
		return map[string]any{"enum": []any{policies.AuthRequired, policies.AuthOptional, policies.AuthShadow, policies.AuthNone, policies.Enforce, policies.Off}}
	}
	return nil
}

// shorthand is an object of which one field can stand for the whole.
type shorthand interface{ Short() string }

// value is the schema of a type.
func (w *writer) value(t reflect.Type) (map[string]any, error) {
	if text := written(t); text != nil {
		return text, nil
	}
	switch t.Kind() {
	case reflect.Pointer:
		return w.value(t.Elem())
	case reflect.Struct:
		return w.reference(t)
	case reflect.Slice:
		items, err := w.value(t.Elem())
		return map[string]any{"type": "array", "items": items}, err
	case reflect.Map:
		values, err := w.value(t.Elem())
		return map[string]any{"type": "object", "additionalProperties": values}, err
	case reflect.String:
		return map[string]any{"type": "string"}, nil
	case reflect.Int, reflect.Int64:
		return map[string]any{"type": "integer"}, nil
	case reflect.Float64:
		return map[string]any{"type": "number"}, nil
	case reflect.Bool:
		return map[string]any{"type": "boolean"}, nil
	}
	return nil, fmt.Errorf("schema: no form for %s", t)
}

// reference defines a struct once and refers to it.
func (w *writer) reference(t reflect.Type) (map[string]any, error) {
	name := t.Name()
	if _, done := w.definitions[name]; !done {
		w.definitions[name] = nil // breaks circles
		object, err := w.object(t)
		if err != nil {
			return nil, err
		}
		w.definitions[name] = object
	}
	reference := map[string]any{"$ref": "#/$defs/" + name}
	short, ok := reflect.New(t).Interface().(shorthand)
	if !ok {
		return reference, nil
	}
	field, err := w.value(fieldNamed(t, short.Short()).Type)
	return map[string]any{"anyOf": []any{field, reference}}, err
}

func fieldNamed(t reflect.Type, name string) reflect.StructField {
	for _, f := range reflect.VisibleFields(t) {
		if strictyaml.FieldName(f) == name {
			return f
		}
	}
	return reflect.StructField{Type: reflect.TypeFor[string]()}
}

// object is the schema of a struct: its fields, and no others.
func (w *writer) object(t reflect.Type) (map[string]any, error) {
	properties := map[string]any{}
	if err := w.fields(t, properties); err != nil {
		return nil, err
	}
	object := map[string]any{"type": "object", "properties": properties, "additionalProperties": false}
	text, err := w.comment(t, "")
	if text != "" {
		object["description"] = text
	}
	return object, err
}

func (w *writer) fields(t reflect.Type, properties map[string]any) error {
	for i := range t.NumField() {
		f := t.Field(i)
		if f.Anonymous {
			if err := w.fields(f.Type, properties); err != nil {
				return err
			}
			continue
		}
		value, err := w.value(f.Type)
		if err != nil {
			return fmt.Errorf("%s.%s: %w", t.Name(), f.Name, err)
		}
		text, err := w.comment(t, f.Name)
		if err != nil {
			return err
		}
		if text != "" {
			value["description"] = text
		}
		if words := f.Tag.Get("enum"); words != "" {
			value["enum"] = strings.Split(words, ",")
		}
		properties[strictyaml.FieldName(f)] = value
	}
	return nil
}

// comment is that of a type, or of a field of it, as one paragraph.
func (w *writer) comment(t reflect.Type, field string) (string, error) {
	comments, ok := w.comments[t.PkgPath()]
	if !ok {
		var err error
		if comments, err = w.read(strings.TrimPrefix(t.PkgPath(), module)); err != nil {
			return "", err
		}
		w.comments[t.PkgPath()] = comments
	}
	if field != "" {
		return comments[t.Name()+"."+field], nil
	}
	return comments[t.Name()], nil
}

// read collects the comments of the types of a package.
func (w *writer) read(folder string) (map[string]string, error) {
	files, err := fs.Glob(w.source, path.Join(folder, "*.go"))
	if err != nil {
		return nil, err
	}
	slices.Sort(files)
	comments := map[string]string{}
	for _, name := range files {
		text, err := fs.ReadFile(w.source, name)
		if err != nil {
			return nil, err
		}
		file, err := parser.ParseFile(token.NewFileSet(), name, text, parser.ParseComments)
		if err != nil {
			return nil, err
		}
		ast.Inspect(file, func(n ast.Node) bool {
			if decl, ok := n.(*ast.GenDecl); ok && decl.Tok == token.TYPE {
				describe(decl, comments)
			}
			return true
		})
	}
	return comments, nil
}

func describe(decl *ast.GenDecl, comments map[string]string) {
	for _, s := range decl.Specs {
		t, ok := s.(*ast.TypeSpec)
		if !ok {
			continue
		}
		comments[t.Name.Name] = paragraph(decl.Doc)
		object, ok := t.Type.(*ast.StructType)
		if !ok {
			continue
		}
		for _, f := range object.Fields.List {
			text := paragraph(f.Doc)
			if text == "" {
				text = paragraph(f.Comment)
			}
			for _, name := range f.Names {
				comments[t.Name.Name+"."+name.Name] = text
			}
		}
	}
}

func paragraph(g *ast.CommentGroup) string { return strings.Join(strings.Fields(g.Text()), " ") }
