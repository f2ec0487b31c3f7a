package compile

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v4"

	"github.com/keywarden/keywarden/pkg/openapi"
	"github.com/keywarden/keywarden/pkg/spec"
	"github.com/keywarden/keywarden/pkg/spec/check"
)

// YAML is the fragment as a gateway document of its own. It is valid unless the
// fragment needs services that are elsewhere.
func (f *Fragment) YAML() ([]byte, error) {
	services, routes, err := f.nodes()
	if err != nil {
		return nil, err
	}
	top := mapping("version", scalar("1", "!!int"))
	if len(f.APIs) > 0 {
		apis, err := f.apis()
		if err != nil {
			return nil, err
		}
		top.Content = append(top.Content, mapping("apis", apis).Content...)
	}
	top.Content = append(top.Content, mapping("services", services, "routes", routes).Content...)
	return dump(top)
}

// maxLine is how long a line of a gateway document in YAML may be, in bytes, with
// what stands before a text.
const maxLine = 60 << 10

// apis are the descriptions as a list of YAML, their texts as blocks, or in quotes
// where a line of them is too long for that.
func (f *Fragment) apis() (*yaml.Node, error) {
	list := &yaml.Node{Kind: yaml.SequenceNode, Tag: "!!seq"}
	for _, a := range f.APIs {
		n, err := node(a)
		if err != nil {
			return nil, err
		}
		n.Style = 0
		for i := 0; i+1 < len(n.Content); i += 2 {
			if n.Content[i].Value != "openapi" {
				continue
			}
			n.Content[i+1].Style = yaml.LiteralStyle
			for line := range strings.Lines(a.OpenAPI) {
				if len(line) > maxLine {
					n.Content[i+1].Style = yaml.DoubleQuotedStyle
					break
				}
			}
		}
		list.Content = append(list.Content, n)
	}
	return list, nil
}

// nodes are the services and routes as lists of YAML.
func (f *Fragment) nodes() (services, routes *yaml.Node, err error) {
	services, routes = &yaml.Node{Kind: yaml.SequenceNode, Tag: "!!seq"}, &yaml.Node{Kind: yaml.SequenceNode, Tag: "!!seq"}
	for _, s := range f.Services {
		n, err := node(s)
		if err != nil {
			return nil, nil, err
		}
		services.Content = append(services.Content, n)
	}
	for i := range f.Routes {
		n, err := node(f.Routes[i])
		if err != nil {
			return nil, nil, err
		}
		routes.Content = append(routes.Content, n)
	}
	return services, routes, nil
}

// check puts the fragment through the gate that every gateway document takes, as
// text, and takes the normal form of the routes. The description is left out. What is wrong belongs to the
// operation at the same place in places.
func (c *compiler) check(places []openapi.Place) {
	whole := c.out
	if len(whole.APIs) > 0 { // the description was read; it would be again
		whole.APIs = []spec.API{{Name: c.options.API, OpenAPIFile: "openapi.yaml"}}
	}
	for _, name := range c.out.Needs {
		whole.Services = append(whole.Services[:len(whole.Services):len(whole.Services)], Service{Name: name, URL: "http://elsewhere.invalid"})
	}
	text, err := whole.YAML()
	if err != nil {
		c.fail(openapi.Place{}, "cannot be written: %s", err)
		return
	}
	doc, err := spec.Parse("", text)
	var list *openapi.Violations
	if errors.As(err, &list) {
		for _, v := range list.List {
			place, field := origin(v.Path, places)
			c.fail(place, "becomes a route that is refused: %s", strings.TrimPrefix(field+": "+v.Detail, ": "))
		}
		return
	}
	c.out.Routes = doc.Routes
}

// origin is the operation of which a field of a route was made.
func origin(path string, places []openapi.Place) (place openapi.Place, field string) {
	rest, ok := strings.CutPrefix(path, "routes[")
	number, field, found := strings.Cut(rest, "]")
	i, err := strconv.Atoi(number)
	if !ok || !found || err != nil || i >= len(places) {
		return openapi.Place{}, path
	}
	return places[i], strings.TrimPrefix(field, ".")
}

// ErrService is a service of the gateway document that has the name of the API and
// is another one.
var ErrService = errors.New("is another service: name the API otherwise, or say --service with its name to use that one, or change its url")

// Merge puts the routes of the fragment into a gateway document, in the place of
// those that the API has there, and adds services that are missing. Everything else
// stays as it is, comments included. The result is valid, or the error says why not:
// a *[spec.Violations] of the result, or one that wraps [ErrService].
func (f *Fragment) Merge(into []byte) ([]byte, spec.Document, error) {
	before, err := spec.Parse("", into)
	if err != nil {
		return nil, spec.Document{}, fmt.Errorf("reading the document to merge into: %w", err)
	}
	var root yaml.Node
	if err := yaml.Load(into, &root); err != nil {
		return nil, spec.Document{}, fmt.Errorf("reading the document to merge into: %w", err)
	}
	top := &root
	if root.Kind == yaml.DocumentNode {
		top = root.Content[0]
	}
	missing := *f
	missing.Services = nil
	for _, s := range f.Services {
		known := false
		for i := range before.Services {
			if before.Services[i].Name != s.Name {
				continue
			}
			known = true
			if before.Services[i].URL != s.URL {
				return nil, spec.Document{}, fmt.Errorf("the service %s of the gateway document, with the url %s and not %s, %w", check.Quote(s.Name), check.Quote(before.Services[i].URL), check.Quote(s.URL), ErrService)
			}
		}
		if !known {
			missing.Services = append(missing.Services, s)
		}
	}
	services, routes, err := missing.nodes()
	if err != nil {
		return nil, spec.Document{}, err
	}
	list := listIn(top, "services")
	list.Content = append(list.Content, services.Content...)
	replace(listIn(top, "routes"), routes.Content, f.API)
	if err := f.describe(top); err != nil {
		return nil, spec.Document{}, err
	}
	text, err := dump(&root)
	if err != nil {
		return nil, spec.Document{}, err
	}
	doc, err := spec.Parse("", text)
	return text, doc, err
}

// describe puts the descriptions in the place of those of the same name. Without any,
// one that an earlier import has left goes.
func (f *Fragment) describe(top *yaml.Node) error {
	apis, err := f.apis()
	if err != nil {
		return err
	}
	if len(apis.Content) == 0 && !slices.ContainsFunc(top.Content, func(n *yaml.Node) bool { return n.Value == "apis" }) {
		return nil
	}
	list := listIn(top, "apis")
	list.Content = slices.DeleteFunc(list.Content, func(n *yaml.Node) bool { return nameOf(n) == f.API })
	list.Content = append(list.Content, apis.Content...)
	return nil
}

// replace puts items where the routes of the API are, or at the end.
func replace(list *yaml.Node, items []*yaml.Node, api string) {
	var kept []*yaml.Node
	at := -1
	for _, item := range list.Content {
		if Owns(api, nameOf(item)) {
			if at < 0 {
				at = len(kept)
			}
			continue
		}
		kept = append(kept, item)
	}
	if at < 0 {
		at = len(kept)
	}
	list.Content = append(append(kept[:at:at], items...), kept[at:]...)
}

func nameOf(item *yaml.Node) string {
	for i := 0; i+1 < len(item.Content); i += 2 {
		if item.Content[i].Value == "name" {
			return item.Content[i+1].Value
		}
	}
	return ""
}

// listIn is a list of the document, in block style, which is made where it is
// missing.
func listIn(top *yaml.Node, name string) *yaml.Node {
	top.Style &^= yaml.FlowStyle
	for i := 0; i+1 < len(top.Content); i += 2 {
		if top.Content[i].Value == name {
			top.Content[i+1].Style &^= yaml.FlowStyle
			return top.Content[i+1]
		}
	}
	list := &yaml.Node{Kind: yaml.SequenceNode, Tag: "!!seq"}
	top.Content = append(top.Content, scalar(name, "!!str"), list)
	return list
}

// node is a value by its JSON form.
func node(v any) (*yaml.Node, error) {
	text, err := json.Marshal(v)
	if err != nil {
		return nil, fmt.Errorf("encoding: %w", err)
	}
	decoder := json.NewDecoder(bytes.NewReader(text))
	decoder.UseNumber()
	return read(decoder)
}

// read makes nodes of JSON, short ones of one line.
func read(d *json.Decoder) (*yaml.Node, error) {
	token, err := d.Token()
	if err != nil {
		return nil, fmt.Errorf("encoding: %w", err)
	}
	switch v := token.(type) {
	case json.Delim:
		n := &yaml.Node{Kind: yaml.MappingNode, Tag: "!!map"}
		if v == '[' {
			n.Kind, n.Tag = yaml.SequenceNode, "!!seq"
		}
		for d.More() {
			child, err := read(d)
			if err != nil {
				return nil, err
			}
			n.Content = append(n.Content, child)
		}
		if leaf(n) {
			n.Style = yaml.FlowStyle
		}
		_, err := d.Token()
		return n, err
	case json.Number:
		if strings.ContainsAny(v.String(), ".eE") {
			return scalar(v.String(), "!!float"), nil
		}
		return scalar(v.String(), "!!int"), nil
	case bool:
		return scalar(strconv.FormatBool(v), "!!bool"), nil
	case string:
		return scalar(v, "!!str"), nil
	}
	return scalar("null", "!!null"), nil
}

// leaf reports whether n fits on a line and holds nothing that does not.
func leaf(n *yaml.Node) bool {
	const width = 80
	length := 0
	for _, child := range n.Content {
		if child.Kind != yaml.ScalarNode && child.Style&yaml.FlowStyle == 0 {
			return false
		}
		length += len(child.Value) + 2
		for _, grand := range child.Content {
			length += len(grand.Value) + 2
			if grand.Kind != yaml.ScalarNode && n.Kind == yaml.MappingNode {
				return false
			}
		}
	}
	return length < width
}

func scalar(value, tag string) *yaml.Node {
	return &yaml.Node{Kind: yaml.ScalarNode, Tag: tag, Value: value}
}

// mapping is made of names and values in turn.
func mapping(pairs ...any) *yaml.Node {
	n := &yaml.Node{Kind: yaml.MappingNode, Tag: "!!map"}
	for i := 0; i+1 < len(pairs); i += 2 {
		name, _ := pairs[i].(string)
		value, _ := pairs[i+1].(*yaml.Node)
		n.Content = append(n.Content, scalar(name, "!!str"), value)
	}
	return n
}

func dump(n *yaml.Node) ([]byte, error) {
	const indent, width = 2, 120
	text, err := yaml.Dump(n, yaml.WithIndent(indent), yaml.WithLineWidth(width))
	if err != nil {
		return nil, fmt.Errorf("writing YAML: %w", err)
	}
	return text, nil
}
