package diff_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/keywarden/keywarden/pkg/spec"
	"github.com/keywarden/keywarden/pkg/spec/diff"
)

func parse(t *testing.T, text string) spec.Document {
	t.Helper()
	doc, err := spec.Parse("", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return doc
}

func documents(t *testing.T, a, b string) []diff.Change {
	t.Helper()
	changes, err := diff.Documents(parse(t, a), parse(t, b))
	if err != nil {
		t.Fatal(err)
	}
	return changes
}

const base = `
version: 1
services:
  - {name: a, url: http://a}
  - {name: b, targets: [{url: http://b1}, {url: http://b2, weight: 2}]}
routes:
  - {name: one, match: {path: {prefix: /one}}, service: a}
  - {name: two, match: {path: {prefix: /two}}, service: b}
  - {name: three, match: {path: {prefix: /three}}, service: a, auth: {mode: none}}
`

func TestDifferencesAreNamed(t *testing.T) {
	for _, c := range []struct {
		name, from, to string // replaced in base
		want           []diff.Change
	}{
		{"layout and defaults", "{name: a, url: http://a}", "{url: 'http://A/', name: a, connect_timeout: 2000ms} # same", nil},
		{"one value", "weight: 2", "weight: 3", []diff.Change{{Kind: diff.Changed, Object: diff.Service, Name: "b", Fields: []diff.Field{
			{Path: "targets[1].weight", Before: "2", After: "3"},
		}}}},
		{"a value more and one less", "auth: {mode: none}", "priority: 7", []diff.Change{{Kind: diff.Changed, Object: diff.Route, Name: "three", Fields: []diff.Field{
			{Path: "priority", After: "7"}, {Path: "auth.mode", Before: `"none"`},
		}}}},
		{"order of routes", "{name: one, match: {path: {prefix: /one}}, service: a}\n  - {name: two, match: {path: {prefix: /two}}, service: b}",
			"{name: two, match: {path: {prefix: /two}}, service: b}\n  - {name: one, match: {path: {prefix: /one}}, service: a}",
			[]diff.Change{{Kind: diff.Changed, Object: diff.Order, Name: "routes", Fields: []diff.Field{
				{Before: `["one","two","three"]`, After: `["two","one","three"]`},
			}}}},
		{"what is removed is no change of order", "  - {name: two, match: {path: {prefix: /two}}, service: b}\n", "", []diff.Change{{
			Kind: diff.Removed, Object: diff.Route, Name: "two", Fields: []diff.Field{
				{Path: "match.path.prefix", Before: `"/two"`}, {Path: "name", Before: `"two"`}, {Path: "service", Before: `"b"`},
			},
		}}},
		{"another name", "name: three,", "name: four,", []diff.Change{
			{Kind: diff.Added, Object: diff.Route, Name: "four", Fields: []diff.Field{
				{Path: "auth.mode", After: `"none"`}, {Path: "match.path.prefix", After: `"/three"`}, {Path: "name", After: `"four"`}, {Path: "service", After: `"a"`},
			}},
			{Kind: diff.Removed, Object: diff.Route, Name: "three", Fields: []diff.Field{
				{Path: "auth.mode", Before: `"none"`}, {Path: "match.path.prefix", Before: `"/three"`}, {Path: "name", Before: `"three"`}, {Path: "service", Before: `"a"`},
			}},
		}},
		{"defaults and policy sets", "services:", "defaults: {max_body: 1MiB}\npolicy_sets: [{name: s, max_body: 2MiB}]\nservices:", []diff.Change{
			{Kind: diff.Added, Object: diff.Defaults, Fields: []diff.Field{
				{Path: "max_body.limit", After: `"1MiB"`}, {Path: "max_body.mode", After: `"enforce"`},
			}},
			{Kind: diff.Added, Object: diff.PolicySet, Name: "s", Fields: []diff.Field{
				{Path: "max_body.limit", After: `"2MiB"`}, {Path: "max_body.mode", After: `"enforce"`}, {Path: "name", After: `"s"`},
			}},
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			if strings.Count(base, c.from) != 1 {
				t.Fatalf("%q is not once in the document", c.from)
			}
			if d := cmp.Diff(c.want, documents(t, base, strings.Replace(base, c.from, c.to, 1))); d != "" {
				t.Errorf("(-want +got):\n%s", d)
			}
		})
	}
}

// A member that this version does not know, and a document that it cannot read,
// are compared all the same.
func TestUnknownMembersAreCompared(t *testing.T) {
	got, err := diff.Canonical([]byte(`{"version":1,"later":{"a b":[1,{}]}}`), []byte(`{"version":2,"later":{"a b":[2]}}`))
	if err != nil {
		t.Fatal(err)
	}
	want := []diff.Change{
		{Kind: diff.Changed, Object: diff.Member, Name: "later", Fields: []diff.Field{
			{Path: `["a b"][0]`, Before: "1", After: "2"}, {Path: `["a b"][1]`, Before: "{}"},
		}},
		{Kind: diff.Changed, Object: diff.Member, Name: "version", Fields: []diff.Field{{Before: "1", After: "2"}}},
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
	for _, broken := range []string{"[]", "{", `{"routes":{}}`, `{"routes":[1]}`} {
		if _, err := diff.Canonical(nil, []byte(broken)); err == nil {
			t.Errorf("%s is compared", broken)
		}
	}
}

func TestReportsAreBounded(t *testing.T) {
	hosts := make([]string, 2000)
	for i := range hosts {
		hosts[i] = fmt.Sprintf("h%d.example.com", i)
	}
	long := strings.Repeat("é", 3000)
	text, err := json.Marshal(map[string]any{"routes": []any{
		map[string]any{"name": "many", "hosts": hosts}, map[string]any{"name": "long", "body": long},
	}})
	if err != nil {
		t.Fatal(err)
	}
	got, err := diff.Canonical(nil, text)
	if err != nil || len(got) != 2 {
		t.Fatalf("%d changes, %v", len(got), err)
	}
	if n := len(got[0].Fields); n+got[0].More != 2001 || n > 500 {
		t.Errorf("%d fields and %d more", n, got[0].More)
	}
	if after := got[1].Fields[0].After; len(after) > 1100 || !strings.HasSuffix(after, "é…") {
		t.Errorf("a text of %d bytes ends %q", len(after), after[len(after)-8:])
	}
}

// ---- what holds for any two documents

// value draws a JSON value.
func value(depth int) *rapid.Generator[any] {
	return rapid.Custom(func(t *rapid.T) any {
		kinds := 4
		if depth > 0 {
			kinds = 6
		}
		switch rapid.IntRange(0, kinds-1).Draw(t, "kind") {
		case 0:
			return rapid.SampledFrom([]string{"", "a", "b", "<é>"}).Draw(t, "text")
		case 1:
			return float64(rapid.IntRange(0, 3).Draw(t, "number"))
		case 2:
			return rapid.Bool().Draw(t, "bool")
		case 3:
			return nil
		case 4:
			return rapid.SliceOfN(value(depth-1), 0, 3).Draw(t, "list")
		default:
			return object(depth-1).Draw(t, "object")
		}
	})
}

func object(depth int) *rapid.Generator[any] {
	return rapid.Map(rapid.MapOfN(rapid.SampledFrom([]string{"a", "b", "c.d", "e f"}), value(depth), 0, 3),
		func(m map[string]any) any { return m })
}

// document draws a document: of objects with names, and whatever in them.
func document(t *rapid.T, label string) map[string]any {
	doc := map[string]any{"version": 1.0}
	if rapid.Bool().Draw(t, label+" defaults") {
		doc["defaults"] = object(2).Draw(t, label+" of defaults")
	}
	for _, list := range []string{"services", "routes"} {
		names := rapid.SliceOfNDistinct(rapid.SampledFrom([]string{"p", "q", "r", "s"}), 0, 4, rapid.ID[string]).Draw(t, label+" "+list)
		objects := []any{}
		for _, name := range names {
			o := maps.Clone(object(2).Draw(t, label+" "+name).(map[string]any))
			o["name"] = name
			objects = append(objects, o)
		}
		doc[list] = objects
	}
	return doc
}

func encode(t *rapid.T, doc any) []byte {
	text, err := json.Marshal(doc)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// leaves lists every value without values in it, under "object name: path".
func leaves(doc map[string]any) map[string]string {
	all := map[string]string{}
	var walk func(at string, v any)
	walk = func(at string, v any) {
		switch v := v.(type) {
		case map[string]any:
			for name, member := range v {
				switch {
				case strings.ContainsAny(name, ". "):
					walk(at+"["+strconv.Quote(name)+"]", member)
				case strings.HasSuffix(at, ": "):
					walk(at+name, member)
				default:
					walk(at+"."+name, member)
				}
			}
			if len(v) > 0 {
				return
			}
		case []any:
			for i, item := range v {
				walk(fmt.Sprintf("%s[%d]", at, i), item)
			}
			if len(v) > 0 {
				return
			}
		}
		text, _ := json.Marshal(v)
		all[at] = strings.NewReplacer(`\u003c`, "<", `\u003e`, ">").Replace(string(text))
	}
	for name, member := range doc {
		switch name {
		case "services", "routes":
			for _, o := range member.([]any) {
				walk(strings.TrimSuffix(name, "s")+" "+o.(map[string]any)["name"].(string)+": ", o)
			}
		case "defaults":
			walk("defaults : ", member)
		default:
			walk("document "+name+": ", member)
		}
	}
	return all
}

// order lists the names of a list that are in both documents.
func order(doc, other map[string]any, list string) []string {
	var names []string
	for _, o := range doc[list].([]any) {
		name := o.(map[string]any)["name"]
		if slices.ContainsFunc(other[list].([]any), func(o any) bool { return o.(map[string]any)["name"] == name }) {
			names = append(names, name.(string))
		}
	}
	return names
}

func TestNothingIsDifferentFromItself(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		text := encode(t, document(t, "a"))
		if got, err := diff.Canonical(text, slices.Clone(text)); err != nil || len(got) > 0 {
			t.Fatalf("%v, %v", got, err)
		}
	})
	for _, file := range []string{"../testdata/complete.json", "../testdata/routing.json", "../testdata/targets.json"} {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		doc := parse(t, string(text))
		if got, err := diff.Documents(doc, doc); err != nil || len(got) > 0 {
			t.Errorf("%s: %v, %v", file, got, err)
		}
	}
}

// Who applies the report to the leaves of the one has the leaves of the other:
// nothing that changed is missing, and nothing that did not is there.
func TestEveryChangedLeafIsReported(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a, b := document(t, "a"), document(t, "b")
		changes, err := diff.Canonical(encode(t, a), encode(t, b))
		if err != nil {
			t.Fatal(err)
		}
		got, want := leaves(a), leaves(b)
		var reordered []string
		for _, c := range changes {
			if c.Object == diff.Order {
				reordered = append(reordered, c.Name)
				continue
			}
			for _, f := range c.Fields {
				at := string(c.Object) + " " + c.Name + ": " + f.Path
				switch {
				case got[at] != f.Before || f.Before == f.After:
					t.Fatalf("%s was %q and is %q: reported as %q and %q", at, got[at], want[at], f.Before, f.After)
				case f.After == "":
					delete(got, at)
				default:
					got[at] = f.After
				}
			}
		}
		if d := cmp.Diff(want, got); d != "" {
			t.Fatalf("after applying the report (-want +got):\n%s", d)
		}
		for _, list := range []string{"services", "routes"} {
			if moved := !slices.Equal(order(a, b, list), order(b, a, list)); moved != slices.Contains(reordered, list) {
				t.Fatalf("the order of %s changed: %t, reported: %q", list, moved, reordered)
			}
		}
	})
}
