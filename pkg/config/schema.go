package config

import (
	"net/netip"
	"reflect"
	"strings"
	"time"

	"github.com/keywarden/keywarden/pkg/seal"
)

// envPrefix starts the name of every option in the environment.
const envPrefix = "KEYWARDEN_"

// fileSuffix makes the name of a variable that names a file with the secret.
const fileSuffix = "_FILE"

// option is one field of [Config], as its tags describe it: a section, which has
// children, or a single option, which has none.
type option struct {
	name     string // within its section
	path     string // from the root, joined by dots; empty for the root
	doc      string
	index    []int // of the field, for reflect.Value.FieldByIndex
	children []*option

	// The rest is for single options only.
	env      string
	aliases  []string // further names in the environment, highest first
	min, max string   // bounds in the syntax of a value; empty for none
	enum     []string
	format   string
	optional bool // an empty text is accepted, since that is the default
	elem     reflect.Type
	list     bool
}

// schema is the tree of all options. It is made anew for each use, which costs
// microseconds, and so stays free of shared state.
func schema() *option {
	root := &option{}
	root.children = fields(reflect.ValueOf(Default()).Elem(), root)
	return root
}

// fields describes the fields of a section; v holds its defaults.
func fields(v reflect.Value, parent *option) []*option {
	var all []*option
	for i := range v.NumField() {
		tag := v.Type().Field(i).Tag
		o := &option{
			name:  tag.Get("yaml"),
			doc:   tag.Get("doc"),
			index: append(append([]int(nil), parent.index...), i),
		}
		o.path = strings.TrimPrefix(parent.path+"."+o.name, ".")
		if isSection(v.Field(i).Type()) {
			o.children = fields(v.Field(i), o)
		} else {
			o.describe(tag, v.Field(i))
		}
		all = append(all, o)
	}
	return all
}

// isSection tells a struct of options from a struct that is a value.
func isSection(t reflect.Type) bool {
	return t.Kind() == reflect.Struct && t != reflect.TypeFor[seal.Secret]() && t != reflect.TypeFor[netip.Prefix]()
}

// describe reads the tags of a single option.
func (o *option) describe(tag reflect.StructTag, value reflect.Value) {
	o.env = envPrefix + strings.ToUpper(strings.ReplaceAll(o.path, ".", "_"))
	o.aliases = splitTag(tag.Get("alias"))
	o.min, o.max = tag.Get("min"), tag.Get("max")
	o.enum = splitTag(tag.Get("enum"))
	o.format = tag.Get("format")
	o.optional = value.IsZero()
	o.elem = value.Type()
	if o.elem.Kind() == reflect.Slice {
		// optional speaks of the items: an empty list has none.
		o.list, o.elem, o.optional = true, o.elem.Elem(), false
	}
}

func splitTag(tag string) []string {
	if tag == "" {
		return nil
	}
	return strings.Split(tag, ",")
}

// isSection reports whether o has options below it.
func (o *option) isSection() bool { return o.children != nil }

// secret reports whether the value of o must never be shown.
func (o *option) secret() bool { return o.elem == reflect.TypeFor[seal.Secret]() }

// child finds a member of a section by name.
func (o *option) child(name string) *option {
	for _, c := range o.children {
		if c.name == name {
			return c
		}
	}
	return nil
}

// leaves lists the single options below o, in the order of the struct.
func (o *option) leaves() []*option {
	if !o.isSection() {
		return []*option{o}
	}
	var all []*option
	for _, c := range o.children {
		all = append(all, c.leaves()...)
	}
	return all
}

// paths lists the paths of o's sections and options, for suggestions.
func (o *option) paths() []string {
	var all []string
	for _, c := range o.children {
		all = append(all, c.path)
		all = append(all, c.paths()...)
	}
	return all
}

// variables lists the names that o has in the environment, highest first.
func (o *option) variables() []string { return append([]string{o.env}, o.aliases...) }

// field is the value of o in cfg.
func (o *option) field(cfg *Config) reflect.Value {
	return reflect.ValueOf(cfg).Elem().FieldByIndex(o.index)
}

// typeName is the type of o as a person calls it.
func (o *option) typeName() string {
	if o.list {
		return "list of " + o.elemName()
	}
	return o.elemName()
}

// elemName is typeName for one item.
func (o *option) elemName() string {
	switch o.elem {
	case reflect.TypeFor[bool]():
		return "boolean"
	case reflect.TypeFor[int]():
		return "integer"
	case reflect.TypeFor[float64]():
		return "number"
	case reflect.TypeFor[time.Duration]():
		return "duration"
	case reflect.TypeFor[Size]():
		return "size"
	case reflect.TypeFor[seal.Secret]():
		return "secret"
	case reflect.TypeFor[netip.Prefix]():
		return "network"
	default:
		return "text"
	}
}

// bounds says what o accepts beyond its type, as a sentence without its end, or
// nothing.
func (o *option) bounds() string {
	switch {
	case o.enum != nil:
		return "one of " + strings.Join(o.enum, ", ")
	case o.min != "":
		return o.min + " to " + o.max
	default:
		return ""
	}
}
