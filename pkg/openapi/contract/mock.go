package contract

import (
	"bytes"
	"encoding/json"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/keywarden/keywarden/pkg/openapi/contract/tree"
)

// example is an example of an answer; one without a name is the only one.
type example struct {
	name  string
	value func() any
}

// as is a value that is there.
func as(v any) func() any { return func() any { return v } }

// made is a value of a schema. It is made when somebody asks for it first: most
// operations are never mocked.
func (b *builder) made(t *schemas, schema tree.Place) func() any {
	return sync.OnceValue(func() any {
		b.api.mu.Lock() // compiling changes references in the tree
		defer b.api.mu.Unlock()
		g := &generator{Tree: t.Tree, left: maxGenerated}
		return g.value(schema, 0)
	})
}

// examples are those of a media type, sorted by name, with those of its schema last.
func (b *builder) examples(t *schemas, media tree.Place) []example {
	var list []example
	if m, ok := media.Value.(map[string]any); ok {
		if v, given := m["example"]; given {
			list = append(list, example{value: as(v)})
		}
	}
	named := t.Field(media, "examples")
	for _, name := range t.Fields(named) {
		of := t.Follow(t.Field(named, name))
		if m, ok := of.Value.(map[string]any); ok {
			if v, given := m["value"]; given {
				list = append(list, example{name, as(v)})
			}
		}
	}
	if schema := t.Field(media, "schema"); schema.There() {
		list = append(list, example{value: b.made(t, schema)})
	}
	return list
}

// Answer is an answer of a mock.
type Answer struct {
	Status      int
	ContentType string // empty: no body
	Body        []byte
	Example     string // name of the example that was taken
}

// Mock makes the answer with a status, 0 for the first good one, and an example,
// empty for the first. ok is false where the description has no such answer.
func (o *Operation) Mock(status int, name string) (a Answer, ok bool) {
	r := o.described(status)
	if status == 0 {
		status, r = o.good()
	}
	if r == nil {
		return Answer{}, false
	}
	a.Status = status
	if len(r.contents) == 0 {
		return a, name == ""
	}
	i := slices.IndexFunc(r.contents, func(c content) bool { return isJSON(c.media) })
	c := &r.contents[max(i, 0)]
	if a.ContentType = c.media; strings.Contains(c.media, "*") {
		a.ContentType = "application/json"
	}
	for _, e := range c.mock {
		if name == "" || e.name == name {
			a.Body, a.Example = encode(e.value(), a.ContentType), e.name
			return a, true
		}
	}
	return a, name == ""
}

// good is the answer of a request that went well.
func (o *Operation) good() (int, *response) {
	var names []string
	for name := range o.responses {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		if strings.HasPrefix(name, "2") {
			status, err := strconv.Atoi(strings.ReplaceAll(name, "X", "0"))
			if err == nil {
				return status, o.responses[name]
			}
		}
	}
	if r := o.responses["DEFAULT"]; r != nil {
		return 200, r //nolint:mnd // what is not said otherwise
	}
	return 0, nil
}

// encode writes a value in a media type: a text as it is where the type is no JSON.
func encode(v any, media string) []byte {
	if text, ok := v.(string); ok && !isJSON(media) {
		return []byte(text)
	}
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil { // cannot happen: the value was JSON
		return nil
	}
	return b.Bytes()
}

// Bounds of what is made of a schema.
const (
	maxGenerated      = 2000 // values
	maxGeneratedDepth = 8
	maxGeneratedItems = 3
	maxGeneratedText  = 256
)

// generator makes a value of a schema, always the same. It is as described as far as
// that is easy: a pattern, for example, is not worked out.
type generator struct {
	*tree.Tree
	left int
}

func (g *generator) value(at tree.Place, depth int) any {
	at = g.Follow(at)
	s, ok := at.Value.(map[string]any)
	if g.left--; !ok || g.left < 0 || depth > maxGeneratedDepth {
		return nil
	}
	if v, given := given(s); given {
		return v
	}
	for _, keyword := range []string{"oneOf", "anyOf"} {
		if parts := g.Items(g.Field(at, keyword)); len(parts) > 0 && s["properties"] == nil {
			return g.value(parts[0], depth+1)
		}
	}
	switch kindOf(s) {
	case "object":
		return g.object(at, depth)
	case "array":
		return g.array(at, s, depth)
	case "boolean":
		return true
	case "null":
		return nil
	case "integer", "number":
		return number(s)
	case "string":
		return text(s)
	}
	if parts := g.Items(g.Field(at, "allOf")); len(parts) == 1 {
		return g.value(parts[0], depth+1)
	} else if len(parts) > 1 {
		return g.object(at, depth)
	}
	return nil
}

// given is a value that the schema names.
func given(s map[string]any) (any, bool) {
	for _, name := range []string{"example", "const", "default"} {
		if v, ok := s[name]; ok {
			return v, true
		}
	}
	for _, name := range []string{"examples", "enum"} {
		if list, ok := s[name].([]any); ok && len(list) > 0 {
			return list[0], true
		}
	}
	return nil, false
}

// kindOf is the first type of a schema.
func kindOf(s map[string]any) string {
	switch t := s["type"].(type) {
	case string:
		return t
	case []any:
		for _, item := range t {
			if name, ok := item.(string); ok && name != "null" {
				return name
			}
		}
	}
	switch {
	case s["properties"] != nil:
		return "object"
	case s["items"] != nil:
		return "array"
	}
	return ""
}

func (g *generator) object(at tree.Place, depth int) map[string]any {
	m := map[string]any{}
	for _, part := range g.Items(g.Field(at, "allOf")) {
		if of, ok := g.value(part, depth+1).(map[string]any); ok {
			for name, v := range of {
				m[name] = v
			}
		}
	}
	properties := g.Field(at, "properties")
	for _, name := range g.Fields(properties) {
		p := g.Field(properties, name)
		if hidden, _ := g.Follow(p).Flag("writeOnly"); hidden || depth == maxGeneratedDepth {
			continue
		}
		m[name] = g.value(p, depth+1)
	}
	return m
}

func (g *generator) array(at tree.Place, s map[string]any, depth int) []any {
	n := min(max(whole(s["minItems"]), 1), maxGeneratedItems)
	list := make([]any, 0, n)
	for range n {
		if v := g.value(g.Field(at, "items"), depth+1); v != nil {
			list = append(list, v)
		}
	}
	return list
}

func whole(v any) int {
	n, _ := v.(json.Number)
	i, _ := n.Int64()
	return int(i)
}

// number is the smallest that is allowed, or the largest, or 0.
func number(s map[string]any) any {
	if n, ok := s["minimum"].(json.Number); ok {
		return n
	}
	if n, ok := s["exclusiveMinimum"].(json.Number); ok {
		if i, err := n.Int64(); err == nil {
			return i + 1
		}
	}
	if n, ok := s["maximum"].(json.Number); ok {
		return n
	}
	return json.Number("0")
}

func text(s map[string]any) string {
	format, _ := s["format"].(string)
	switch format {
	case "date-time":
		return "2024-01-01T00:00:00Z"
	case "date":
		return "2024-01-01"
	case "time":
		return "00:00:00Z"
	case "uuid":
		return "00000000-0000-4000-8000-000000000000"
	case "email":
		return "somebody@example.com"
	case "uri", "url":
		return "https://example.com/"
	case "hostname":
		return "example.com"
	case "ipv4":
		return "192.0.2.1"
	case "ipv6":
		return "2001:db8::1"
	}
	value := "string"
	if least := min(whole(s["minLength"]), maxGeneratedText); least > len(value) {
		value += strings.Repeat("x", least-len(value))
	}
	if most, ok := s["maxLength"].(json.Number); ok && whole(most) < len(value) {
		value = value[:max(whole(most), 0)]
	}
	return value
}
