package contract

import (
	"fmt"
	"net/http"
	"strconv"
	"strings"

	"github.com/keywarden/keywarden/pkg/header"
	"github.com/keywarden/keywarden/pkg/openapi"
)

// response is an answer that is described.
type response struct {
	status   string
	headers  []parameter
	contents []content
}

// responses compiles the answers of an operation.
func (b *builder) responses(op *openapi.Operation) (map[string]*response, error) {
	t := b.api.answers
	here := t.field(t.follow(t.at("paths", op.Path.String())), strings.ToLower(op.Method))
	all := t.field(here, "responses")
	list := map[string]*response{}
	for _, status := range t.fields(all) {
		if strings.HasPrefix(status, "x-") {
			continue
		}
		r, err := b.response(here, t.follow(t.field(all, status)))
		if err != nil {
			return nil, fmt.Errorf("answer %s: %w", status, err)
		}
		r.status = strings.ToUpper(status)
		list[r.status] = r
	}
	return list, nil
}

func (b *builder) response(op, at place) (*response, error) {
	t := b.api.answers
	r := &response{}
	headers := t.field(at, "headers")
	for _, name := range t.fields(headers) {
		h := t.follow(t.field(headers, name))
		p := parameter{name: name, in: "header", style: "simple"}
		if p.ignored() {
			continue
		}
		p.required, _ = h.flag("required")
		p.explode, _ = h.flag("explode")
		var err error
		if p.schema, err = t.schema(t.field(h, "schema")); err != nil {
			return nil, fmt.Errorf("header %s: %w", name, err)
		}
		p.shape = shapeOf(p.schema, 0)
		r.headers = append(r.headers, p)
	}
	if b.dialect == openapi.Dialect20 {
		return r, b.response20(r, op, at)
	}
	of := t.field(at, "content")
	for _, name := range t.fields(of) {
		c, err := b.content(t, name, t.field(of, name))
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		c.mock = t.examples(t.field(of, name))
		r.contents = append(r.contents, c)
	}
	return r, nil
}

// response20 is the body of an answer of 2.0.
func (b *builder) response20(r *response, op, at place) error {
	t := b.api.answers
	of := t.field(at, "schema")
	if !of.there() {
		return nil
	}
	schema, err := t.schema(of)
	if err != nil {
		return err
	}
	media := t.field(op, "produces")
	if !media.there() {
		media = t.at("produces")
	}
	names := []string{}
	for _, m := range t.items(media) {
		if name, ok := m.value.(string); ok {
			names = append(names, name)
		}
	}
	if len(names) == 0 {
		names = []string{"application/json"}
	}
	for _, name := range names {
		c := content{media: mediaRange(name), schema: schema, shape: shapeOf(schema, 0)}
		if v := t.field(t.field(at, "examples"), name); v.there() {
			c.mock = []example{{value: v.value}}
		} else {
			c.mock = t.examples(at)
		}
		r.contents = append(r.contents, c)
	}
	return nil
}

// described is what is said of answers with a status; nil for nothing.
func (o *Operation) described(status int) *response {
	for _, name := range []string{strconv.Itoa(status), strconv.Itoa(status/100) + "XX", "DEFAULT"} {
		if r := o.responses[name]; r != nil {
			return r
		}
	}
	return nil
}

// ReadsAnswer reports whether an answer has a body that CheckAnswer wants to see.
func (o *Operation) ReadsAnswer(status int, contentType string) bool {
	r := o.described(status)
	if r == nil {
		return false
	}
	media, ok := header.MediaType(contentType)
	if !ok {
		return false
	}
	c := find(r.contents, media)
	return c != nil && isJSON(contentType) && c.schema != nil
}

// CheckAnswer holds an answer against the description. data is nil where the body is
// not known, or [Operation.ReadsAnswer] does not want it; then the rest is checked.
func (o *Operation) CheckAnswer(status int, h http.Header, data []byte) []Failure {
	f := &failures{in: "header"}
	r := o.described(status)
	if r == nil {
		f.in = "status"
		f.add("", "%d is not described", status)
		return f.list
	}
	for i := range r.headers {
		r.headers[i].check(f, h.Values(r.headers[i].name), nil)
	}
	f.in = "body"
	kind := h.Get("Content-Type")
	if kind == "" || len(r.contents) == 0 {
		return f.list
	}
	media, _ := header.MediaType(kind)
	c := find(r.contents, media)
	switch {
	case c == nil:
		f.in = "header"
		f.add("/content-type", "is not described for this status")
	case data != nil && isJSON(kind):
		c.check(f, kind, data)
	}
	return f.list
}
