package openapi

import (
	"slices"
	"strings"

	"github.com/keywarden/keywarden/pkg/strictyaml"
)

// verbs are the fields of a path that are operations.
func verbs() []string {
	return []string{"get", "put", "post", "delete", "options", "head", "patch", "trace"}
}

// paths reads all operations.
func (r *reader) paths(paths at, d *Document) {
	if !paths.there() {
		if d.Dialect != Dialect31 {
			r.fail(r.top(), "paths is required")
		}
		return
	}
	shapes := map[string]at{} // of templates with a method, by where they stand
	ids := map[string]at{}
	for _, e := range r.entries(paths) {
		if strings.HasPrefix(e.name, "x-") {
			continue
		}
		here := e.at()
		template, err := ParseTemplate(e.name)
		if err != nil {
			r.fail(here, "the path %s", err)
			continue
		}
		before := len(d.Operations)
		r.path(e.value, template, d, ids)
		for _, op := range d.Operations[before:] {
			shape := op.Method + " " + template.Shape()
			if first, taken := shapes[shape]; taken {
				r.conflict(here, "matches the same requests as another path: names of parameters tell nothing apart", first)
				break
			}
			shapes[shape] = here
		}
		if len(d.Operations) > maxOperations {
			r.fail(here, "there are more than %d operations", maxOperations)
			return
		}
	}
}

func (r *reader) conflict(a at, detail string, with at) {
	r.wrong.Add(Violation{Place: a.place(), Detail: detail, Related: with.place()})
}

// path reads the operations of one path.
func (r *reader) path(item at, template Template, d *Document, ids map[string]at) {
	if item.field("$ref").there() {
		for _, e := range r.entries(item) {
			if e.name != "$ref" && e.name != "summary" && e.name != "description" {
				r.fail(e.at(), "cannot stand beside $ref: which of the two counts is not defined")
			}
		}
		if item = r.follow(item); !item.there() {
			return
		}
	}
	shared := r.parameters(item.field("parameters"), d.Dialect)
	var server *Server
	if s := item.field("servers"); s.there() && d.Dialect != Dialect20 {
		of := r.server(s)
		server = &of
	}
	for _, e := range r.entries(item) {
		switch {
		case slices.Contains(verbs(), e.name):
		case strings.HasPrefix(e.name, "x-keywarden-"):
			r.fail(e.at(), "belongs to an operation or to the top of the document")
			continue
		case e.name == "parameters", e.name == "servers", e.name == "summary", e.name == "description", e.name == "$ref", strings.HasPrefix(e.name, "x-"):
			continue
		default:
			r.fail(e.at(), "is no method of HTTP that OpenAPI knows%s", question(e.name, verbs()))
			continue
		}
		if e.name == "trace" {
			r.note(e.at(), "TRACE is never forwarded and gets no route")
			continue
		}
		op := Operation{Place: e.at().place(), Method: strings.ToUpper(e.name), Path: template, Server: server}
		r.operation(&op, e.value, shared, d, ids)
		d.Operations = append(d.Operations, op)
	}
}

// operation reads one operation.
func (r *reader) operation(op *Operation, a at, shared []Parameter, d *Document, ids map[string]at) {
	list := r.entries(a)
	id := a.field("operationId")
	if op.ID = r.text(id); op.ID != "" {
		if first, taken := ids[op.ID]; taken {
			r.conflict(id, "is taken: each operation has an id of its own", first)
		}
		ids[op.ID] = id
	}
	op.Deprecated = r.flag(a.field("deprecated"))
	op.Security = r.security(a.field("security"), d.Schemes)
	if s := a.field("servers"); s.there() && d.Dialect != Dialect20 {
		of := r.server(s)
		op.Server = &of
	}
	op.Parameters = override(shared, r.parameters(a.field("parameters"), d.Dialect))
	r.checkPathParameters(op, a)
	op.Body = r.body(op, a, d)
	op.Responses = r.responses(a, d)
	r.known(list, operationExtensions())
	op.Service, op.Policies = r.extensions(list)
	op.Backend = r.backend(a.field("x-google-backend"), true)
	op.MetricCosts = r.metricCosts(a.field("x-google-quota"))
}

// parameters reads those of a path or an operation.
func (r *reader) parameters(list at, dialect Dialect) []Parameter {
	items := r.items(list)
	if len(items) > maxParameters {
		r.fail(list, "must not name more than %d parameters", maxParameters)
		return nil
	}
	var parameters []Parameter
	for _, item := range items {
		of := r.follow(item)
		if !of.there() {
			continue
		}
		p := Parameter{Place: item.place(), Name: r.text(of.field("name")), In: r.text(of.field("in")), Required: r.flag(of.field("required"))}
		schema := of.field("schema")
		if dialect == Dialect20 && p.In != "body" {
			schema = of
		}
		if schema.there() {
			p.Type = r.typeOf(schema)
		}
		places := []string{"path", "query", "header", "cookie"}
		if dialect == Dialect20 {
			places = []string{"path", "query", "header", "formData", "body"}
		}
		switch {
		case p.Name == "":
			r.fail(item, "name is required")
			continue
		case !slices.Contains(places, p.In):
			r.fail(item, "in is %s, must be one of %s%s", strictyaml.Quote(p.In), strings.Join(places, ", "), question(p.In, places))
			continue
		}
		if p.In == "header" {
			p.Name = strings.ToLower(p.Name)
		}
		if slices.ContainsFunc(parameters, p.same) {
			r.fail(item, "is given twice: %s in %s", strictyaml.Quote(p.Name), p.In)
			continue
		}
		parameters = append(parameters, p)
	}
	return parameters
}

// typeOf is the type of a schema as one text; several are joined.
func (r *reader) typeOf(schema at) string {
	if schema = r.followQuietly(schema); !schema.there() {
		return ""
	}
	kind := schema.field("type")
	if !kind.there() {
		return ""
	}
	if kind.node.Content == nil {
		return kind.node.Value
	}
	var words []string
	for _, n := range kind.node.Content {
		words = append(words, n.Value)
	}
	slices.Sort(words)
	return strings.Join(words, "|")
}

// followQuietly follows references of schemas as far as they lead: they may be
// recursive, and may have anchors.
func (r *reader) followQuietly(a at) at {
	for range maxHops {
		ref := a.field("$ref")
		if !ref.there() {
			return a
		}
		target, problem := r.target(ref)
		if problem != "" {
			return at{}
		}
		a = target
	}
	return at{}
}

// same reports whether two parameters are the same one.
func (p Parameter) same(o Parameter) bool { return p.Name == o.Name && p.In == o.In }

// override is the parameters of a path with those of an operation in their place.
func override(shared, own []Parameter) []Parameter {
	list := slices.Clone(own)
	for _, p := range shared {
		if !slices.ContainsFunc(own, p.same) {
			list = append(list, p)
		}
	}
	return list
}

// checkPathParameters compares the template with what is declared.
func (r *reader) checkPathParameters(op *Operation, a at) {
	named := op.Path.Parameters()
	declared := map[string]bool{}
	for _, p := range op.Parameters {
		if p.In != "path" {
			continue
		}
		declared[p.Name] = true
		if !slices.Contains(named, p.Name) {
			r.notes = append(r.notes, Violation{Place: p.Place, Detail: "the path " + op.Path.String() + " has no place for the parameter " + strictyaml.Quote(p.Name) + question(p.Name, named)})
		}
	}
	for _, name := range named {
		if !declared[name] {
			r.note(a, "the parameter %s of the path is not declared; it is taken for any text without a slash", strictyaml.Quote(name))
		}
	}
}

// body reads what an operation takes.
func (r *reader) body(op *Operation, a at, d *Document) *Body {
	if d.Dialect != Dialect20 {
		of := a.field("requestBody")
		if !of.there() {
			return nil
		}
		if of = r.follow(of); !of.there() {
			return nil
		}
		return &Body{Required: r.flag(of.field("required")), MediaTypes: r.contentTypes(of)}
	}
	var body *Body
	op.Parameters = slices.DeleteFunc(op.Parameters, func(p Parameter) bool {
		if p.In == "body" || p.In == "formData" {
			if body == nil {
				body = &Body{MediaTypes: r.mediaTypes(a, "consumes")}
			}
			body.Required = body.Required || p.Required
		}
		return p.In == "body"
	})
	return body
}

// contentTypes are the names of content, sorted.
func (r *reader) contentTypes(of at) []string {
	var types []string
	for _, e := range r.entries(of.field("content")) {
		types = append(types, strings.ToLower(e.name))
	}
	slices.Sort(types)
	return types
}

// mediaTypes are those of an operation of 2.0, or of the document, sorted.
func (r *reader) mediaTypes(a at, field string) []string {
	list := a.field(field)
	if !list.there() {
		list = r.top().field(field)
	}
	var types []string
	for _, item := range r.items(list) {
		types = append(types, strings.ToLower(r.text(item)))
	}
	slices.Sort(types)
	return types
}

// responses reads what is answered.
func (r *reader) responses(a at, d *Document) []Response {
	var list []Response
	for _, e := range r.entries(a.field("responses")) {
		if strings.HasPrefix(e.name, "x-") {
			continue
		}
		of := r.follow(e.value)
		response := Response{Status: strings.ToUpper(e.name)}
		if d.Dialect == Dialect20 {
			if of.field("schema").there() {
				response.MediaTypes = r.mediaTypes(a, "produces")
			}
		} else {
			response.MediaTypes = r.contentTypes(of)
		}
		list = append(list, response)
	}
	return list
}
