// Package diff says what is different between two gateway documents, object by
// object and field by field, for people who review a change.
//
// It compares canonical forms, in which every default is spelled out, so that
// layout and comments make no difference. It does not judge whether a document is
// valid, and it neither reads nor writes documents.
package diff

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/keywarden/keywarden/pkg/spec"
)

// Kind says what happened to an object.
type Kind string

// The kinds of change.
const (
	Added   Kind = "added"
	Removed Kind = "removed"
	Changed Kind = "changed"
)

// Object is what a change is about.
type Object string

// The objects. Order is the order of a list, whose name is that of the change;
// Member is any other member of the document.
const (
	Route     Object = "route"
	Service   Object = "service"
	PolicySet Object = "policy_set"
	Defaults  Object = "defaults"
	Order     Object = "order"
	Member    Object = "document"
)

// Change is one object that differs.
type Change struct {
	Kind   Kind    `json:"kind" enums:"added,removed,changed"`
	Object Object  `json:"object" enums:"route,service,policy_set,defaults,order,document"`
	Name   string  `json:"name,omitempty" example:"users-api"` // of the object, or of the list that has another order
	Fields []Field `json:"fields,omitempty"`
	More   int     `json:"more,omitempty"` // fields that were left out
}

// Field is one value that differs. Before and After are JSON texts, empty where
// there is no value; one that is very long ends with "…".
type Field struct {
	Path   string `json:"path" example:"targets[0].weight"` // within the object
	Before string `json:"before,omitempty" example:"1"`
	After  string `json:"after,omitempty" example:"5"`
}

// Bounds of one change: how many fields it lists, and how long a text is, in
// bytes.
const (
	maxFields = 500
	maxText   = 1 << 10
)

// Documents lists what has to change in a for it to become b: defaults, policy
// sets, services and routes by their names, each in the order in which b, and
// then a, has them. It is empty when the two have the same digest, and, for valid
// documents, only then.
func Documents(a, b spec.Document) ([]Change, error) {
	before, err := json.Marshal(a)
	if err != nil {
		return nil, fmt.Errorf("encoding the gateway document: %w", err)
	}
	after, err := json.Marshal(b)
	if err != nil {
		return nil, fmt.Errorf("encoding the gateway document: %w", err)
	}
	return Canonical(before, after)
}

// Canonical is [Documents] for documents in their canonical form; an empty text
// is a document without anything in it. It also compares what this version of
// the program can no longer read.
func Canonical(a, b []byte) ([]Change, error) {
	if bytes.Equal(a, b) {
		return nil, nil
	}
	before, err := members(a)
	if err != nil {
		return nil, err
	}
	after, err := members(b)
	if err != nil {
		return nil, err
	}
	c := &comparison{}
	for _, name := range slices.Sorted(maps.Keys(union(before, after))) {
		isList := slices.ContainsFunc(lists(), func(l namedList) bool { return l.member == name })
		if !isList && name != defaults {
			c.object(Member, name, before[name], after[name])
		}
	}
	c.object(Defaults, "", before[defaults], after[defaults])
	for _, l := range lists() {
		if err := c.list(l.of, l.member, before[l.member], after[l.member]); err != nil {
			return nil, err
		}
	}
	return c.changes, nil
}

// defaults is the member with the policies of every route.
const defaults = "defaults"

// lists are the members that hold named objects, in the order of a report.
func lists() []namedList {
	return []namedList{{"policy_sets", PolicySet}, {"services", Service}, {"routes", Route}}
}

type namedList struct {
	member string
	of     Object
}

func members(document []byte) (map[string]json.RawMessage, error) {
	if len(document) == 0 {
		return nil, nil
	}
	var m map[string]json.RawMessage
	if err := json.Unmarshal(document, &m); err != nil {
		return nil, fmt.Errorf("decoding the gateway document: %w", err)
	}
	return m, nil
}

func union[V any](a, b map[string]V) map[string]V {
	all := maps.Clone(a)
	if all == nil {
		all = map[string]V{}
	}
	maps.Copy(all, b)
	return all
}

// comparison collects changes.
type comparison struct{ changes []Change }

// object compares one object; nil is one that is not there.
func (c *comparison) object(object Object, name string, before, after json.RawMessage) {
	if bytes.Equal(before, after) {
		return
	}
	change := Change{Kind: Changed, Object: object, Name: name}
	switch {
	case before == nil:
		change.Kind = Added
	case after == nil:
		change.Kind = Removed
	}
	change.Fields = fields(leavesOf(before), leavesOf(after))
	if len(change.Fields) > maxFields {
		change.More = len(change.Fields) - maxFields
		change.Fields = slices.Clip(change.Fields[:maxFields])
	}
	c.changes = append(c.changes, change)
}

// list compares named objects, and then the order of those that stay.
func (c *comparison) list(object Object, name string, before, after json.RawMessage) error {
	old, oldOrder, err := named(before)
	if err != nil {
		return err
	}
	now, order, err := named(after)
	if err != nil {
		return err
	}
	for _, key := range order {
		c.object(object, key.name, old[key], now[key])
	}
	for _, key := range oldOrder {
		if _, stays := now[key]; !stays {
			c.object(object, key.name, old[key], nil)
		}
	}
	notIn := func(other map[key]json.RawMessage) func(key) bool {
		return func(k key) bool { _, ok := other[k]; return !ok }
	}
	oldOrder = slices.DeleteFunc(oldOrder, notIn(now))
	order = slices.DeleteFunc(order, notIn(old))
	if !slices.Equal(oldOrder, order) {
		c.changes = append(c.changes, Change{Kind: Changed, Object: Order, Name: name, Fields: []Field{
			{Before: clip(names(oldOrder)), After: clip(names(order))},
		}})
	}
	return nil
}

// key tells objects of a list apart: by name, and those that have the same one,
// which no valid document has, by number.
type key struct {
	name  string
	count int
}

func named(list json.RawMessage) (map[key]json.RawMessage, []key, error) {
	var objects []json.RawMessage
	if list != nil {
		if err := json.Unmarshal(list, &objects); err != nil {
			return nil, nil, fmt.Errorf("decoding the gateway document: %w", err)
		}
	}
	byKey, order := make(map[key]json.RawMessage, len(objects)), make([]key, 0, len(objects))
	for _, object := range objects {
		var head struct{ Name string }
		if err := json.Unmarshal(object, &head); err != nil {
			return nil, nil, fmt.Errorf("decoding the gateway document: %w", err)
		}
		k := key{name: head.Name}
		for _, taken := byKey[k]; taken; _, taken = byKey[k] {
			k.count++
		}
		byKey[k], order = object, append(order, k)
	}
	return byKey, order, nil
}

func names(order []key) string {
	list := make([]string, len(order))
	for i, k := range order {
		list[i] = k.name
	}
	text, _ := json.Marshal(list) // cannot fail for texts
	return string(text)
}

// leaf is a value without values in it, with the path to it.
type leaf struct{ path, text string }

// fields lists the leaves that are not the same, those of after first.
func fields(before, after []leaf) []Field {
	old, now := byPath(before), byPath(after)
	var list []Field
	for _, l := range after {
		if was := old[l.path]; was != l.text {
			list = append(list, Field{Path: l.path, Before: clip(was), After: clip(l.text)})
		}
	}
	for _, l := range before {
		if _, stays := now[l.path]; !stays {
			list = append(list, Field{Path: l.path, Before: clip(l.text)})
		}
	}
	return list
}

func byPath(leaves []leaf) map[string]string {
	m := make(map[string]string, len(leaves))
	for _, l := range leaves {
		m[l.path] = l.text
	}
	return m
}

// leavesOf lists the leaves of a JSON text, objects by the names of their members.
func leavesOf(text json.RawMessage) []leaf {
	if text == nil {
		return nil
	}
	dec := json.NewDecoder(bytes.NewReader(text))
	dec.UseNumber()
	var value any
	_ = dec.Decode(&value) // it was decoded as a part of the document
	return appendLeaves(nil, "", value)
}

func appendLeaves(list []leaf, path string, value any) []leaf {
	switch v := value.(type) {
	case map[string]any:
		for _, name := range slices.Sorted(maps.Keys(v)) {
			list = appendLeaves(list, member(path, name), v[name])
		}
		if len(v) > 0 {
			return list
		}
	case []any:
		for i, item := range v {
			list = appendLeaves(list, path+"["+strconv.Itoa(i)+"]", item)
		}
		if len(v) > 0 {
			return list
		}
	}
	return append(list, leaf{path, encode(value)})
}

// encode is the JSON text of a decoded value, with < and > as they are.
func encode(value any) string {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	_ = enc.Encode(value) // cannot fail for what was decoded
	return strings.TrimSuffix(b.String(), "\n")
}

// member is the path of a member. Names that a writer has chosen may hold
// anything.
func member(path, name string) string {
	plain := name != "" && strings.IndexFunc(name, notPlain) < 0
	switch {
	case !plain:
		return path + "[" + strconv.Quote(name) + "]"
	case path == "":
		return name
	}
	return path + "." + name
}

func notPlain(r rune) bool {
	return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && r != '_' && r != '-'
}

// clip bounds a text without cutting a character in two.
func clip(text string) string {
	if len(text) <= maxText {
		return text
	}
	end := maxText
	for !utf8.RuneStart(text[end]) {
		end--
	}
	return text[:end] + "…"
}
