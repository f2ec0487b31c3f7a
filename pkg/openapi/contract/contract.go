// Package contract holds requests and answers against the description of an API: the
// parameters in path, query, header and cookies, and the bodies in JSON or of forms.
// It makes answers of examples and schemas for a service that is not there yet.
//
// The dialects of OpenAPI 2.0 and 3.0 are brought into the form of JSON Schema
// 2020-12, which that of 3.1 is. Nothing is fetched: a schema that refers to another
// document does not compile. Everything is compiled once, and what comes out is
// immutable. What a request can cost is bounded in bytes, depth and number of
// values, and regular expressions are RE2. Messages name places and rules, never
// the values that were sent.
//
// It does not know routes or answers of the gateway; package openapi reads the
// description.
package contract

import (
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/keywarden/keywarden/pkg/nearest"
	"github.com/keywarden/keywarden/pkg/openapi"
	"github.com/keywarden/keywarden/pkg/openapi/contract/tree"
)

// API is a description of which operations can be compiled. It is safe for
// concurrent use.
type API struct {
	dialect    openapi.Dialect
	operations map[string]*openapi.Operation // by id, and by "GET /pets/{id}"
	names      []string                      // of the map, for suggestions

	mu       sync.Mutex // compilers are not safe for concurrent use
	requests *schemas   // without what only answers must have
	answers  *schemas   // without what only requests must have; often the same
}

// Load reads a description. The error is that of [openapi.Parse], or says which part
// of the description is no value of JSON. Schemas are compiled with the operations
// that need them.
func Load(source string, data []byte) (*API, error) {
	doc, err := openapi.Parse(source, data)
	if err != nil {
		return nil, err
	}
	return New(doc)
}

// New takes a description that was read.
func New(doc *openapi.Document) (*API, error) {
	a := &API{dialect: doc.Dialect, operations: make(map[string]*openapi.Operation, 2*len(doc.Operations))}
	for i := range doc.Operations {
		op := &doc.Operations[i]
		a.operations[op.Method+" "+op.Path.String()] = op
	}
	for i := range doc.Operations { // an id wins over what only looks like one
		if op := &doc.Operations[i]; op.ID != "" {
			a.operations[op.ID] = op
		}
	}
	for name := range a.operations {
		a.names = append(a.names, name)
	}
	slices.Sort(a.names)
	t, directed, err := tree.New(doc, "readOnly")
	if err != nil {
		return nil, err
	}
	if a.requests, err = newSchemas(doc.Dialect, t); err != nil {
		return nil, err
	}
	if a.answers = a.requests; !directed {
		return a, nil
	}
	if t, _, err = tree.New(doc, "writeOnly"); err != nil {
		return nil, err
	}
	a.answers, err = newSchemas(doc.Dialect, t)
	return a, err
}

// Operation is what one operation takes and answers. It is immutable and safe for
// concurrent use.
type Operation struct {
	path       *pathMatcher
	parameters []parameter
	body       *requestBody
	responses  map[string]*response // by 200, 2XX, DEFAULT
}

// Operation compiles one operation, by its operationId or by method and path such as
// "GET /pets/{id}". The error says what in its schemas cannot be.
func (a *API) Operation(id string) (*Operation, error) {
	op := a.operations[id]
	if op == nil {
		return nil, fmt.Errorf("the description has no operation %q%s", id, nearest.Question(id, a.names))
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	b := &builder{api: a, dialect: a.dialect}
	o, err := b.operation(op)
	if err != nil {
		return nil, fmt.Errorf("%s %s: %w", op.Method, op.Path, err)
	}
	return o, nil
}

// Names are the operations, each by its id where it has one.
func (a *API) Names() []string {
	var names []string
	for name, op := range a.operations {
		if op.ID == name || op.ID == "" {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// builder compiles one operation.
type builder struct {
	api     *API
	dialect openapi.Dialect
}

// operation compiles an operation.
func (b *builder) operation(op *openapi.Operation) (*Operation, error) {
	t := b.api.requests
	item := t.At("paths", op.Path.String())
	item = t.Follow(item)
	here := t.Field(item, strings.ToLower(op.Method))
	o := &Operation{}
	var err error
	if o.path, err = newPathMatcher(op.Path); err != nil {
		return nil, err
	}
	lists := []tree.Place{t.Field(here, "parameters"), t.Field(item, "parameters")}
	seen := map[string]bool{}
	var form []parameter
	for _, list := range lists {
		for _, p := range t.Items(list) {
			p = t.Follow(p)
			in, name := p.Text("in"), p.Text("name")
			if in == "header" {
				name = strings.ToLower(name)
			}
			if seen[in+" "+name] || in == "body" {
				continue
			}
			seen[in+" "+name] = true
			made, err := b.parameter(p)
			switch {
			case err != nil:
				return nil, fmt.Errorf("parameter %s in %s: %w", p.Text("name"), in, err)
			case made.in == "formData":
				made.in = "body"
				form = append(form, made)
			case !made.ignored():
				o.parameters = append(o.parameters, made)
			}
		}
	}
	if o.body, err = b.body(item, here, form); err != nil {
		return nil, err
	}
	if o.responses, err = b.responses(op); err != nil {
		return nil, err
	}
	return o, nil
}
