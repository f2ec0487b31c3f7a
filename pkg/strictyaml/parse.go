// Package strictyaml reads YAML (of which JSON is a part) into Go values and
// leaves nothing to chance: unknown fields, duplicates, anchors, tags, empty
// values and texts that are no texts are refused, all mistakes are reported at
// once with line and column, and what a hostile document can cost is bounded. It
// knows no particular document: what one must keep beyond its shape is for its
// owner to check and to report with the same positions.
package strictyaml

import (
	"reflect"
	"strings"
)

// MaxBytes bounds a document as text.
const MaxBytes = 8 << 20

// bounds are those of documents that are decoded.
func bounds() Bounds {
	return Bounds{Bytes: MaxBytes, Line: 64 << 10, Items: 250_000, Depth: 16}
}

// Decode reads the only document of data into the struct that into points to, by
// the JSON names of its fields. What cannot be read is reported by the result and
// leaves its place in the struct as it is.
func Decode(data []byte, into any) *Decoded {
	d := &Decoded{places: map[string]Place{}}
	root, violation := Load(data, bounds())
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
