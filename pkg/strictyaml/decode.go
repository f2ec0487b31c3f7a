package strictyaml

import (
	"encoding"
	"fmt"
	"math"
	"reflect"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v4"

	"github.com/keywarden/keywarden/pkg/nearest"
)

// Decoded is what is known of a document that was read: what is wrong with it,
// and where each value stands. It fills Go values from a tree of YAML nodes by
// itself, rather than with the library's decoding, to be strict in every respect
// and to report all mistakes at once.
type Decoded struct {
	Collector
	places     map[string]Place
	unreadable bool
}

func (d *Decoded) fail(path string, n *yaml.Node, format string, args ...any) {
	d.Add(Violation{
		Place:  Place{Path: path, Line: n.Line, Column: n.Column},
		Detail: fmt.Sprintf(format, args...),
	})
}

// defaulter is a type with defaults that a present field overrides.
type defaulter interface{ SetDefaults() }

// shorthand is an object of which one field can stand for the whole.
type shorthand interface{ Short() string }

// setDefaults fills in the defaults of a type that has some.
func setDefaults(v reflect.Value) {
	if v, ok := v.Addr().Interface().(defaulter); ok {
		v.SetDefaults()
	}
}

// value decodes n into v, which stands at path. What cannot be decoded is
// reported and leaves v as it is.
func (d *Decoded) value(path string, n *yaml.Node, v reflect.Value) {
	d.places[path] = Place{Path: path, Line: n.Line, Column: n.Column}
	switch {
	case n.Kind == yaml.AliasNode || n.Anchor != "":
		d.fail(path, n, "anchors and aliases are not supported")
		return
	case n.Style&yaml.TaggedStyle != 0:
		d.fail(path, n, "tags are not supported")
		return
	case n.Kind == yaml.ScalarNode && n.Tag == "!!null":
		d.fail(path, n, "has no value; give it one or remove it")
		return
	}
	if text, ok := v.Addr().Interface().(encoding.TextUnmarshaler); ok {
		d.text(path, n, text)
		return
	}
	if short, ok := v.Addr().Interface().(shorthand); ok && n.Kind != yaml.MappingNode {
		setDefaults(v)
		field, _ := fieldNamed(v, short.Short())
		d.value(join(path, short.Short()), n, field)
		return
	}
	switch v.Kind() {
	case reflect.Map:
		d.texts(path, n, v)
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		d.value(path, n, v.Elem())
	case reflect.Struct:
		d.object(path, n, v)
	case reflect.Slice:
		d.slice(path, n, v)
	case reflect.String:
		d.string(path, n, v)
	case reflect.Int, reflect.Int64:
		d.int(path, n, v)
	case reflect.Float64:
		d.float(path, n, v)
	case reflect.Bool:
		d.bool(path, n, v)
	default:
		panic("spec: no decoding for " + v.Type().String())
	}
}

// object decodes a mapping into the fields of a struct, by their JSON names.
func (d *Decoded) object(path string, n *yaml.Node, v reflect.Value) {
	if n.Kind != yaml.MappingNode {
		d.fail(path, n, "must be a mapping of fields to values")
		return
	}
	setDefaults(v)
	seen := make(map[string]bool, len(n.Content)/2)
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := n.Content[i], n.Content[i+1]
		name := key.Value
		field, known := fieldNamed(v, name)
		switch {
		case key.Kind != yaml.ScalarNode || key.Anchor != "" || key.Style&yaml.TaggedStyle != 0:
			d.fail(path, key, "must have plain names as its keys")
		case !known:
			d.fail(join(path, name), key, "unknown field%s", nearest.Question(name, fieldNames(v)))
		case seen[name]:
			d.fail(join(path, name), key, "is given twice")
		default:
			d.value(join(path, name), value, field)
		}
		seen[name] = true
	}
}

// texts decodes a mapping of names, which the writer chooses, to texts.
func (d *Decoded) texts(path string, n *yaml.Node, v reflect.Value) {
	if n.Kind != yaml.MappingNode {
		d.fail(path, n, "must be a mapping of names to texts")
		return
	}
	v.Set(reflect.MakeMapWithSize(v.Type(), len(n.Content)/2))
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, text := n.Content[i], reflect.New(v.Type().Elem()).Elem()
		at, name := join(path, key.Value), reflect.ValueOf(key.Value).Convert(v.Type().Key())
		switch {
		case key.Kind != yaml.ScalarNode || key.Tag != "!!str" || key.Value == "" || key.Anchor != "" || key.Style&yaml.TaggedStyle != 0:
			d.fail(path, key, "must have texts as its names")
		case v.MapIndex(name).IsValid():
			d.fail(at, key, "is given twice")
		default:
			d.value(at, n.Content[i+1], text)
			v.SetMapIndex(name, text)
		}
	}
}

func (d *Decoded) slice(path string, n *yaml.Node, v reflect.Value) {
	if n.Kind != yaml.SequenceNode {
		d.fail(path, n, "must be a list")
		return
	}
	v.Set(reflect.MakeSlice(v.Type(), len(n.Content), len(n.Content)))
	for i, item := range n.Content {
		d.value(Index(path, i), item, v.Index(i))
	}
}

func (d *Decoded) string(path string, n *yaml.Node, v reflect.Value) {
	switch {
	case n.Kind != yaml.ScalarNode:
		d.fail(path, n, "must be a text")
	case n.Tag != "!!str":
		d.fail(path, n, "must be a text; put it in quotes")
	case n.Value == "":
		d.fail(path, n, "must not be empty")
	default:
		v.SetString(n.Value)
	}
}

func (d *Decoded) int(path string, n *yaml.Node, v reflect.Value) {
	number, err := strconv.ParseInt(n.Value, 10, 64)
	if n.Kind != yaml.ScalarNode || n.Tag != "!!int" || err != nil {
		d.fail(path, n, "must be a whole number")
		return
	}
	v.SetInt(number)
}

func (d *Decoded) float(path string, n *yaml.Node, v reflect.Value) {
	number, err := strconv.ParseFloat(n.Value, 64)
	if n.Kind != yaml.ScalarNode || n.Tag != "!!int" && n.Tag != "!!float" || err != nil || math.IsInf(number, 0) || math.IsNaN(number) {
		d.fail(path, n, "must be a number")
		return
	}
	v.SetFloat(number)
}

func (d *Decoded) bool(path string, n *yaml.Node, v reflect.Value) {
	if n.Kind != yaml.ScalarNode || n.Value != "true" && n.Value != "false" || n.Tag != "!!bool" {
		d.fail(path, n, "must be true or false")
		return
	}
	v.SetBool(n.Value == "true")
}

// text decodes a type that reads itself from text. The error of the type is the
// detail.
func (d *Decoded) text(path string, n *yaml.Node, v encoding.TextUnmarshaler) {
	if n.Kind != yaml.ScalarNode || n.Value == "" {
		d.fail(path, n, "must be a text")
		return
	}
	if err := v.UnmarshalText([]byte(n.Value)); err != nil {
		d.fail(path, n, "%s", err.Error())
	}
}

// fieldNamed finds a field by its JSON name, also one of an embedded struct.
func fieldNamed(v reflect.Value, name string) (reflect.Value, bool) {
	for i := range v.NumField() {
		if v.Type().Field(i).Anonymous {
			if field, ok := fieldNamed(v.Field(i), name); ok {
				return field, true
			}
		} else if FieldName(v.Type().Field(i)) == name {
			return v.Field(i), true
		}
	}
	return reflect.Value{}, false
}

func fieldNames(v reflect.Value) []string {
	var names []string
	for i := range v.NumField() {
		if v.Type().Field(i).Anonymous {
			names = append(names, fieldNames(v.Field(i))...)
		} else {
			names = append(names, FieldName(v.Type().Field(i)))
		}
	}
	return names
}

// FieldName is the name of a struct field in documents, that of its JSON tag.
func FieldName(f reflect.StructField) string {
	name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
	return name
}

// Index is the path of an item of the list at path.
func Index(path string, i int) string { return path + "[" + strconv.Itoa(i) + "]" }

func join(path, name string) string {
	if path == "" {
		return name
	}
	return path + "." + name
}
