package contract

import (
	"fmt"
	"net/http"
	"strconv"
	"strings"

	"github.com/keywarden/keywarden/pkg/header"
	"github.com/keywarden/keywarden/pkg/openapi"
	"github.com/keywarden/keywarden/pkg/openapi/contract/tree"
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
	here := t.Field(t.Follow(t.At("paths", op.Path.String())), strings.ToLower(op.Method))
	all := t.Field(here, "responses")
	list := map[string]*response{}
	for _, status := range t.Fields(all) {
		if strings.HasPrefix(status, "x-") {
			continue
		}
		r, err := b.response(here, t.Follow(t.Field(all, status)))
		if err != nil {
			return nil, fmt.Errorf("answer %s: %w", status, err)
		}
		r.status = strings.ToUpper(status)
		list[r.status] = r
	}
	return list, nil
}

func (b *builder) response(op, at tree.Place) (*response, error) {
	t := b.api.answers
	r := &response{}
	headers := t.Field(at, "headers")
	for _, name := range t.Fields(headers) {
		h := t.Follow(t.Field(headers, name))
		p := parameter{name: name, in: "header", style: "simple"}
		if p.ignored() {
			continue
		}
		p.required, _ = h.Flag("required")
		p.explode, _ = h.Flag("explode")
		var err error
		if p.schema, err = t.schema(t.Field(h, "schema")); err != nil {
			return nil, fmt.Errorf("header %s: %w", name, err)
		}
		p.shape = shapeOf(p.schema, 0)
		r.headers = append(r.headers, p)
	}
	if b.dialect == openapi.Dialect20 {
		return r, b.response20(r, op, at)
	}
	of := t.Field(at, "content")
	for _, name := range t.Fields(of) {
		c, err := b.content(t, name, t.Field(of, name))
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		c.mock = b.examples(t, t.Field(of, name))
		r.contents = append(r.contents, c)
	}
	return r, nil
}

// response20 is the body of an answer of 2.0.
func (b *builder) response20(r *response, op, at tree.Place) error {
	t := b.api.answers
	of := t.Field(at, "schema")
	if !of.There() {
		return nil
	}
	schema, err := t.schema(of)
	if err != nil {
		return err
	}
	for _, name := range t.mediaTypes(op, "produces", "application/json") {
		c := content{media: mediaRange(name), schema: schema, shape: shapeOf(schema, 0)}
		if v := t.Field(t.Field(at, "examples"), name); v.There() {
			c.mock = []example{{value: as(v.Value)}}
		} else {
			c.mock = b.examples(t, at)
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
