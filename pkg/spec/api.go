package spec

import (
	"errors"

	"github.com/keywarden/keywarden/pkg/nearest"
	"github.com/keywarden/keywarden/pkg/openapi"
	"github.com/keywarden/keywarden/pkg/spec/check"
	"github.com/keywarden/keywarden/pkg/spec/policies"
)

// API is the description of an API (OpenAPI 2.0, 3.0 or 3.1), for the policies that
// go by it. One of the texts is given.
type API struct {
	Name string `json:"name"`

	// OpenAPI is the description as a text, OpenAPIFile the name of a file with it.
	OpenAPI     string `json:"openapi,omitempty"`
	OpenAPIFile string `json:"openapi_file,omitempty"`
}

// Operation names an operation of an API.
type Operation struct {
	API string `json:"api"`

	// ID is its operationId, or method and path, such as "GET /pets/{id}".
	ID string `json:"id"`
}

// operations are the APIs of a document, with the operations of those whose text the
// document holds; nil for those in files, which are read when it is applied.
type operations map[string]map[string]bool

// apis checks the descriptions.
func (v *validator) apis(list []API) operations {
	known := operations{}
	names := make(check.Firsts, len(list))
	for i := range list {
		a, path := &list[i], check.Index("apis", i)
		v.Name(path, a.Name)
		names.Unique(&v.Checker, path+".name", a.Name)
		known[a.Name] = nil
		if (a.OpenAPI == "") == (a.OpenAPIFile == "") {
			v.Fail(path, "must have one of openapi and openapi_file")
			continue
		}
		if a.OpenAPI == "" {
			continue
		}
		doc, err := openapi.Parse("", []byte(a.OpenAPI))
		var wrong *Violations
		if errors.As(err, &wrong) {
			for _, w := range wrong.List {
				v.Fail(path+".openapi", "line %d of it: %s: %s", w.Line, w.Path, w.Detail)
			}
			continue
		}
		known[a.Name] = map[string]bool{}
		for j := range doc.Operations {
			op := &doc.Operations[j]
			known[a.Name][op.Method+" "+op.Path.String()] = true
			if op.ID != "" {
				known[a.Name][op.ID] = true
			}
		}
	}
	return known
}

// validateOperation checks that the operation of a route exists, and that there is
// one where a policy goes by it.
func (d *Document) validateOperation(path string, r *Route, known operations, v *validator) {
	if r.Operation == nil {
		p := d.Effective(r)
		if p.Validation != nil && p.Validation.Mode != policies.Off || p.Mock != nil && p.Mock.Mode != policies.Off {
			v.Fail(path+".operation", "is required by the policies validate and mock: {api: …, id: …}")
		}
		return
	}
	ids, there := known[r.Operation.API]
	switch {
	case r.Operation.ID == "":
		v.Required(path + ".operation.id")
	case !there:
		v.Fail(path+".operation.api", "no api is named %s%s", check.Quote(r.Operation.API), nearest.Question(r.Operation.API, keys(known)))
	case ids != nil && !ids[r.Operation.ID]:
		v.Fail(path+".operation.id", "the api %s has no operation %s%s", check.Quote(r.Operation.API), check.Quote(r.Operation.ID), nearest.Question(r.Operation.ID, keys(ids)))
	}
}

func keys[T any](m map[string]T) []string {
	list := make([]string, 0, len(m))
	for name := range m {
		list = append(list, name)
	}
	return list
}
