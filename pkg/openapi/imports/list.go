package imports

import (
	"maps"
	"slices"
	"strings"

	"github.com/keywarden/keywarden/pkg/openapi"
	"github.com/keywarden/keywarden/pkg/openapi/compile"
	"github.com/keywarden/keywarden/pkg/spec"
)

// API is an API of a gateway document.
type API struct {
	Name string

	// Routes are those whose names begin with its name and a dot.
	Routes []*spec.Route

	// Services are those that the routes lead to, each once.
	Services []string

	// Text is the description that the document holds; empty for none, and for one that
	// is in a file.
	Text string
	File string

	// Title, Version and Dialect are those of the text.
	Title, Version string
	Dialect        openapi.Dialect
}

// Summary is what the API will be.
func (d *Description) Summary() API {
	a := API{Name: d.API, Title: d.doc.Title, Version: d.doc.Version, Dialect: d.doc.Dialect}
	if len(d.APIs) > 0 {
		a.Text = d.APIs[0].OpenAPI
	}
	for i := range d.Routes {
		a.add(&d.Routes[i])
	}
	return a
}

// List are the APIs of a document, by name: those that it describes, and those of
// which it has routes.
func List(doc *spec.Document) []API {
	known := map[string]*API{}
	of := func(name string) *API {
		if known[name] == nil {
			known[name] = &API{Name: name}
		}
		return known[name]
	}
	var dotted []string // names that no import gives, and a document can
	for _, d := range doc.APIs {
		if of(d.Name); strings.Contains(d.Name, ".") {
			dotted = append(dotted, d.Name)
		}
	}
	for i := range doc.Routes {
		r := &doc.Routes[i]
		if name, _, found := strings.Cut(r.Name, "."); found && compile.ValidName(name) {
			of(name).add(r)
		}
		for _, name := range dotted {
			if compile.Owns(name, r.Name) {
				of(name).add(r)
			}
		}
	}
	for _, d := range doc.APIs {
		a := of(d.Name)
		a.Text, a.File = d.OpenAPI, d.OpenAPIFile
		if read, err := openapi.Parse("", []byte(d.OpenAPI)); d.OpenAPI != "" && err == nil {
			a.Title, a.Version, a.Dialect = read.Title, read.Version, read.Dialect
		}
	}
	list := make([]API, 0, len(known))
	for _, name := range slices.Sorted(maps.Keys(known)) {
		list = append(list, *known[name])
	}
	return list
}

func (a *API) add(r *spec.Route) {
	a.Routes = append(a.Routes, r)
	for _, service := range servicesOf(r) {
		if !slices.Contains(a.Services, service) {
			a.Services = append(a.Services, service)
		}
	}
}

// servicesOf are the services that a route leads to.
func servicesOf(r *spec.Route) []string {
	var names []string
	if r.Service != "" {
		names = append(names, r.Service)
	}
	if r.Split != nil {
		for _, s := range r.Split.Services {
			names = append(names, s.Service)
		}
	}
	if r.Versions != nil {
		for _, v := range r.Versions.Services {
			names = append(names, v.Service)
		}
	}
	return names
}
