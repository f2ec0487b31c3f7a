// Package strictyaml reads YAML (of which JSON is a part) into Go values and
// leaves nothing to chance: unknown fields, duplicates, anchors, tags, empty
// values and texts that are no texts are refused, all mistakes are reported at
// once with line and column, and what a hostile document can cost is bounded. It
// knows no particular document: what one must keep beyond its shape is for its
// owner to check and to report with the same positions.
package strictyaml

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"reflect"
	"strings"
	"unicode/utf8"

	"go.yaml.in/yaml/v4"
	"go.yaml.in/yaml/v4/plugin/loaderlimits"
)

// Limits of a document as text. They bound the memory that reading a hostile one
// takes. The number of items bounds the nodes: each of them but the first has a
// line break, a comma, an opening bracket or a dash of its own, or shares it with
// one other. The length of a line bounds how far the scanner looks ahead for the
// colon that would make everything before it a key; JSON with longer ones has a
// reader of its own.
const (
	MaxBytes = 8 << 20
	maxLine  = 64 << 10
	maxItems = 250_000
	maxDepth = 16
)

// Decode reads the only document of data into the struct that into points to, by
// the JSON names of its fields. What cannot be read is reported by the result and
// leaves its place in the struct as it is.
func Decode(data []byte, into any) *Decoded {
	d := &Decoded{places: map[string]Place{}}
	root, violation := parseTree(data)
	if violation != nil {
		d.unreadable = true
		d.Add(*violation)
		return d
	}
	d.value("", root, reflect.ValueOf(into).Elem())
	return d
}

// Unreadable reports whether there is nothing to check: the text is no YAML, or
// too large.
func (d *Decoded) Unreadable() bool { return d.unreadable }

// Merge adds what the owner of the document has found wrong with it, with the
// positions that are known. Consequences of what is reported already are left
// out: a value that could not be decoded is not missing, and makes no conflict.
func (d *Decoded) Merge(found *Collector) {
	d.list = append(d.list, placed(found.list, d)...)
	d.more += found.more
}

// parseTree reads the only document of data as nodes.
func parseTree(data []byte) (*yaml.Node, *Violation) {
	if len(data) > MaxBytes {
		return nil, &Violation{Detail: "the document is larger than 8 MiB"}
	}
	line := longLine(data)
	if line > 0 && utf8.Valid(data) && json.Valid(data) {
		return JSON(data, 2*maxItems, maxDepth) // programs write it so
	}
	if countItems(data) > maxItems {
		return nil, &Violation{Detail: "the document has too many items"}
	}
	if line > 0 {
		return nil, &Violation{Place: Place{Line: line, Column: 1}, Detail: "the line is longer than 64 KiB; break it"}
	}
	loader, err := yaml.NewLoader(bytes.NewReader(data),
		yaml.WithPlugin(loaderlimits.New(loaderlimits.DepthValue(maxDepth))))
	if err != nil {
		return nil, syntax(err)
	}
	var doc, next yaml.Node
	switch err := loader.Load(&doc); {
	case errors.Is(err, io.EOF):
		return nil, &Violation{Detail: "the document is empty"}
	case err != nil:
		return nil, syntax(err)
	}
	switch err := loader.Load(&next); {
	case errors.Is(err, io.EOF):
	case err != nil:
		return nil, syntax(err)
	default:
		return nil, &Violation{
			Place:  Place{Line: next.Line, Column: next.Column},
			Detail: "there must be only one YAML document",
		}
	}
	if len(doc.Content) != 1 {
		return nil, &Violation{Detail: "the document is empty"}
	}
	return doc.Content[0], nil
}

func countItems(data []byte) int {
	n := 0
	for _, separator := range []string{"\n", "\r", "\u0085", "\u2028", "\u2029", ",", "[", "{", "- ", "-\t", "? "} {
		n += bytes.Count(data, []byte(separator))
	}
	return n
}

// longLine is the number of the first line that is too long, or 0.
func longLine(data []byte) int {
	number := 0
	for line := range bytes.Lines(data) {
		if number++; len(line) > maxLine {
			return number
		}
	}
	return 0
}

// syntax says where and why data is no YAML.
func syntax(err error) *Violation {
	v := &Violation{Detail: "is not valid YAML"}
	var e *yaml.LoadError
	if errors.As(err, &e) {
		v.Line, v.Column = e.Mark.Line, e.Mark.Column
		v.Detail += ": " + strings.ReplaceAll(e.Message, "\n", " ")
	}
	return v
}

// placed adds the positions that d has seen. A field that is missing stands
// where its object does. Consequences of what d has reported are left out: a
// value that could not be decoded is not missing, and makes no conflict.
func placed(list []Violation, d *Decoded) []Violation {
	failed, around := map[string]bool{}, map[string]bool{}
	for _, v := range d.list {
		failed[v.Path] = true
		for at := v.Path; at != ""; at = parent(at) {
			around[at] = true
		}
	}
	kept := list[:0]
	for _, v := range list {
		conflict := v.Related.Path != ""
		if within(failed, v.Path) || conflict && (around[v.Path] || around[v.Related.Path]) {
			continue
		}
		v.Place = d.locate(v.Path)
		if conflict {
			v.Related = d.locate(v.Related.Path)
		}
		kept = append(kept, v)
	}
	return kept
}

// within reports whether path or an object around it is in set.
func within(set map[string]bool, path string) bool {
	for !set[path] {
		if path == "" {
			return false
		}
		path = parent(path)
	}
	return true
}

// locate is the position of the value at path or of the nearest object around it.
func (d *Decoded) locate(path string) Place {
	for at := path; ; at = parent(at) {
		if p, ok := d.places[at]; ok {
			p.Path = path
			return p
		}
		if at == "" {
			return Place{Path: path}
		}
	}
}

// parent is the path of the object or list around path.
func parent(path string) string {
	return path[:max(strings.LastIndexAny(path, ".["), 0)]
}
