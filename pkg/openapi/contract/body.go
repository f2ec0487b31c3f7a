package contract

import (
	"fmt"
	"net/url"
	"slices"
	"strings"

	"github.com/santhosh-tekuri/jsonschema/v6"

	"github.com/keywarden/keywarden/pkg/header"
	"github.com/keywarden/keywarden/pkg/openapi"
	"github.com/keywarden/keywarden/pkg/openapi/contract/tree"
	"github.com/keywarden/keywarden/pkg/openapi/jsonvalue"
)

// requestBody is what an operation takes.
type requestBody struct {
	required bool
	contents []content
}

// content is a body of one media type, or of a range of them.
type content struct {
	media  string // type/subtype, type/* or */*
	schema *jsonschema.Schema
	fields []parameter // of a form
	shape  *shape
	mock   []example // of an answer
}

// formType is the media type of HTML forms.
const formType = "application/x-www-form-urlencoded"

// isJSON reports whether a media type is one of JSON (RFC 6839).
func isJSON(media string) bool {
	name, _ := header.MediaType(media)
	return name == "application/json" || name == "text/json" || strings.HasPrefix(name, "application/") && strings.HasSuffix(name, "+json")
}

// find is the content for a media type: by name, then by range.
func find(list []content, media string) *content {
	family, _, _ := strings.Cut(media, "/")
	for _, name := range []string{media, family + "/*", "*/*"} {
		if i := slices.IndexFunc(list, func(c content) bool { return c.media == name }); i >= 0 {
			return &list[i]
		}
	}
	return nil
}

// range is a name of content without parameters, in lower case.
func mediaRange(name string) string {
	name, _, _ = strings.Cut(name, ";")
	return strings.ToLower(strings.TrimSpace(name))
}

// body compiles what an operation takes; nil where no body is described.
func (b *builder) body(item, op tree.Place, form []parameter) (*requestBody, error) {
	if b.dialect == openapi.Dialect20 {
		return b.body20(item, op, form)
	}
	t := b.api.requests
	at := t.Follow(t.Field(op, "requestBody"))
	if !at.There() {
		return nil, nil //nolint:nilnil // an operation without a body
	}
	body := &requestBody{}
	body.required, _ = at.Flag("required")
	of := t.Field(at, "content")
	for _, name := range t.Fields(of) {
		c, err := b.content(t, name, t.Field(of, name))
		if err != nil {
			return nil, fmt.Errorf("body %s: %w", name, err)
		}
		body.contents = append(body.contents, c)
	}
	return body, nil
}

// body20 is the body of 2.0: a parameter, or those of a form.
func (b *builder) body20(item, op tree.Place, form []parameter) (*requestBody, error) {
	t := b.api.requests
	var body *requestBody
	var schema *jsonschema.Schema
	for _, list := range []tree.Place{t.Field(item, "parameters"), t.Field(op, "parameters")} {
		for _, p := range t.Items(list) {
			if p = t.Follow(p); p.Text("in") != "body" {
				continue
			}
			body = &requestBody{}
			body.required, _ = p.Flag("required")
			var err error
			if schema, err = t.schema(t.Field(p, "schema")); err != nil {
				return nil, fmt.Errorf("body: %w", err)
			}
		}
	}
	if len(form) > 0 && body == nil {
		body = &requestBody{required: slices.ContainsFunc(form, func(p parameter) bool { return p.required })}
	}
	if body == nil {
		return nil, nil //nolint:nilnil // an operation without a body
	}
	usual := []string{"application/json"}
	if len(form) > 0 {
		usual = []string{formType, "multipart/form-data"}
	}
	for _, name := range t.mediaTypes(op, "consumes", usual...) {
		c := content{media: mediaRange(name), schema: schema, shape: shapeOf(schema, 0)}
		if c.media == formType {
			c.fields = form
		}
		body.contents = append(body.contents, c)
	}
	return body, nil
}

// mediaTypes are those of an operation of 2.0 by its own field, consumes or produces,
// or by the description's; the usual ones where neither says any.
func (t *schemas) mediaTypes(op tree.Place, field string, usual ...string) []string {
	list := t.Field(op, field)
	if !list.There() {
		list = t.At(field)
	}
	var names []string
	for _, m := range t.Items(list) {
		if name, ok := m.Value.(string); ok {
			names = append(names, name)
		}
	}
	if len(names) == 0 {
		return usual
	}
	return names
}

// content compiles a body of 3.x.
func (b *builder) content(t *schemas, name string, at tree.Place) (content, error) {
	c := content{media: mediaRange(name)}
	var err error
	if c.schema, err = t.schema(t.Field(at, "schema")); err != nil {
		return c, err
	}
	c.shape = shapeOf(c.schema, 0)
	if c.media != formType {
		return c, nil
	}
	for property, sh := range c.shape.properties {
		p := parameter{name: property, in: "body", style: "form", explode: true, shape: sh, json: sh.object()}
		encoding := t.Field(t.Field(at, "encoding"), property)
		if style := encoding.Text("style"); style != "" {
			p.style, p.explode = style, style == "form"
			p.json = false
		}
		if explode, given := encoding.Flag("explode"); given {
			p.explode = explode
		}
		c.fields = append(c.fields, p)
	}
	return c, nil
}

// Body says how the body of a request is to be read.
type Body uint8

// The ways to read a body.
const (
	Unread   Body = iota // it may be anything
	Read                 // it has to be read and handed to CheckBody
	Unknown              // its media type is not described
	Unwanted             // no body is described
)

// Body says how a body with this value of Content-Type is to be read.
func (o *Operation) Body(contentType string) Body {
	if o.body == nil {
		return Unwanted
	}
	c := o.content(contentType)
	switch {
	case c == nil:
		return Unknown
	case c.readable(contentType):
		return Read
	}
	return Unread
}

func (o *Operation) content(contentType string) *content {
	media, ok := header.MediaType(contentType)
	if !ok {
		return nil
	}
	return find(o.body.contents, media)
}

// readable reports whether there is something to check that can be read.
func (c *content) readable(contentType string) bool {
	media, _ := header.MediaType(contentType)
	if media == formType {
		return c.schema != nil || len(c.fields) > 0
	}
	return isJSON(contentType) && c.schema != nil
}

// Required reports whether the operation needs a body.
func (o *Operation) Required() bool { return o.body != nil && o.body.required }

// Accepts lists the media types that are described, for the field Accept.
func (o *Operation) Accepts() []string {
	var list []string
	if o.body != nil {
		for _, c := range o.body.contents {
			list = append(list, c.media)
		}
	}
	return list
}

// CheckBody holds a body, which [Operation.Body] wants read, against its schema.
func (o *Operation) CheckBody(contentType string, data []byte) []Failure {
	f := &failures{in: "body"}
	c := o.content(contentType)
	if c == nil {
		f.add("", "has a media type that is not described")
		return f.list
	}
	c.check(f, contentType, data)
	return f.list
}

func (c *content) check(f *failures, contentType string, data []byte) {
	if isJSON(contentType) {
		v, at, why := jsonvalue.Parse(data)
		if why != "" {
			f.add(at, "%s", why)
			return
		}
		f.check(c.schema, "", v)
		return
	}
	form, err := url.ParseQuery(string(data))
	if err != nil {
		f.add("", "is no form")
		return
	}
	if c.schema == nil { // of 2.0: each field has a schema of its own
		for i := range c.fields {
			c.fields[i].check(f, form[c.fields[i].name], form)
		}
		return
	}
	f.check(c.schema, "", c.formValue(f, form))
}

// formValue makes an object of a form.
func (c *content) formValue(f *failures, form url.Values) map[string]any {
	m := map[string]any{}
	known := map[string]bool{}
	for i := range c.fields {
		p := &c.fields[i]
		known[p.name] = true
		v, there, why := p.value(form[p.name], form)
		if why != "" {
			f.add("/"+jsonvalue.Escape(p.name), "%s", why)
			continue
		}
		if there {
			m[p.name] = v
		}
	}
	for name, texts := range form {
		bracket, _, deep := strings.Cut(name, "[")
		if known[name] || deep && known[bracket] {
			continue
		}
		p := parameter{shape: c.shape.of(name), style: "form", explode: len(texts) > 1}
		if len(texts) == 1 {
			m[name] = p.shape.scalar(texts[0])
		} else {
			m[name] = p.list(texts)
		}
	}
	return m
}
