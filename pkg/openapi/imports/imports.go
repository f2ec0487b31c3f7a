// Package imports puts the routes of a described API into a gateway document, takes
// them out again, and says beforehand what clients would notice. It owns which routes
// and services of a document are an API's, and what an import is compared with: the
// description that the document holds, or the routes that are left of it.
//
// How operations become routes is package compile's, what a document may say package
// spec's. It reads no files, and writes none.
package imports

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"

	"github.com/keywarden/keywarden/pkg/openapi"
	"github.com/keywarden/keywarden/pkg/openapi/compile"
	"github.com/keywarden/keywarden/pkg/spec"
	"github.com/keywarden/keywarden/pkg/spec/check"
	"github.com/keywarden/keywarden/pkg/spec/services"
	"github.com/keywarden/keywarden/pkg/strictyaml"
)

// Options are what the description does not say; Validate of the embedded ones is
// filled in.
type Options struct {
	compile.Options

	// Hold puts the description into the document and holds requests to it.
	Hold bool
}

// Description is one that was read and translated, for any document.
type Description struct {
	*compile.Fragment
	doc *openapi.Document
}

// Read reads and translates a description. The error is a *[openapi.Violations] with
// places in text, or [compile.ErrName].
func Read(text []byte, o Options) (*Description, error) {
	if o.Hold {
		if o.Validate = Readable(text); len(o.Validate) > spec.MaxBytes {
			var wrong strictyaml.Collector
			wrong.Add(openapi.Violation{Detail: "the description is larger than the 8 MiB that a gateway document can have; it can be imported without being validated against"})
			return nil, wrong.Report(o.Source)
		}
	}
	doc, err := openapi.Parse(o.Source, text)
	if err != nil {
		return nil, err
	}
	known := doc.WithoutRoot() // which takes twenty times of its text
	fragment, err := compile.Compile(doc, o.Options)
	if err != nil {
		return nil, err
	}
	return &Description{Fragment: fragment, doc: known}, nil
}

// longest is the length of the lines, in bytes, that people are spared in a gateway
// document.
const longest = 1000

// Readable is a description in lines that fit into a gateway document of YAML:
// programs write JSON as one.
func Readable(text []byte) []byte {
	var lines bytes.Buffer
	if !slices.ContainsFunc(bytes.Split(text, []byte("\n")), func(line []byte) bool { return len(line) > longest }) {
		return text
	}
	if !json.Valid(text) || json.Indent(&lines, text, "", " ") != nil {
		return text
	}
	return lines.Bytes()
}

// Basis is what an import was compared with.
type Basis string

// What there can be of an earlier import.
const (
	ByNothing     Basis = "nothing"     // the API is new
	ByDescription Basis = "description" // the document holds it
	ByRoutes      Basis = "routes"      // no more is known
)

// Plan is what an import would do.
type Plan struct {
	Document spec.Document // after it; valid
	Added    []string      // names of routes
	Removed  []string
	Changed  []string
	Services []string // that are added

	Basis      Basis
	Operations []openapi.Change // what clients would notice
}

// Into puts the API into a document, in the place of what it has there. A service is
// added where it is missing and never changed. The error is a *[spec.Violations] of
// the document after it, without places, or one that wraps [compile.ErrService].
func (d *Description) Into(before spec.Document) (*Plan, error) {
	p := &Plan{Document: before}
	missing, err := d.missing(before)
	if err != nil {
		return nil, err
	}
	for _, s := range missing {
		p.Services = append(p.Services, s.Name)
	}
	p.Document.Services = slices.Concat(before.Services, missing)
	p.Document.APIs = slices.Concat(withoutAPI(before.APIs, d.API), d.APIs)
	p.Document.Routes = replaced(before.Routes, d.Routes, d.API)
	if p.Document, err = normal(p.Document); err != nil {
		return nil, err
	}
	if err := p.routes(before, d.API); err != nil {
		return nil, err
	}
	p.Basis, p.Operations = d.compare(before, p.Document)
	return p, nil
}

// missing are the services of the API that the document does not have.
func (d *Description) missing(before spec.Document) ([]services.Service, error) {
	var list []compile.Service
	for _, s := range d.Services {
		i := slices.IndexFunc(before.Services, func(known services.Service) bool { return known.Name == s.Name })
		switch {
		case i < 0:
			list = append(list, s)
		case before.Services[i].URL != s.URL:
			return nil, fmt.Errorf("the service %s of the gateway document, with the url %s and not %s, %w", check.Quote(s.Name), check.Quote(before.Services[i].URL), check.Quote(s.URL), compile.ErrService)
		}
	}
	// Their defaults are filled in by reading them.
	text, err := json.MarshalIndent(map[string]any{"version": spec.Version, "services": append([]compile.Service{}, list...)}, "", " ")
	if err != nil {
		return nil, fmt.Errorf("encoding the services: %w", err)
	}
	doc, err := spec.Parse("", text)
	return doc.Services, err
}

// replaced are the routes with those of the API exchanged, in the place of the first
// of them, or at the end.
func replaced(routes, by []spec.Route, api string) []spec.Route {
	at := slices.IndexFunc(routes, func(r spec.Route) bool { return compile.Owns(api, r.Name) })
	if at < 0 {
		return slices.Concat(routes, by)
	}
	return slices.Concat(routes[:at], by, withoutRoutes(routes[at:], api))
}

func withoutRoutes(routes []spec.Route, api string) []spec.Route {
	return slices.DeleteFunc(slices.Clone(routes), func(r spec.Route) bool { return compile.Owns(api, r.Name) })
}

func withoutAPI(apis []spec.API, name string) []spec.API {
	return slices.DeleteFunc(slices.Clone(apis), func(a spec.API) bool { return a.Name == name })
}

// normal reads a document that was put together, which fills in defaults and checks
// it as a whole.
func normal(doc spec.Document) (spec.Document, error) {
	if doc.Services == nil {
		doc.Services = []services.Service{}
	}
	if doc.Routes == nil {
		doc.Routes = []spec.Route{}
	}
	text, err := json.MarshalIndent(doc, "", " ")
	if err != nil {
		return spec.Document{}, fmt.Errorf("encoding the gateway document: %w", err)
	}
	return spec.Parse("", text)
}

// routes tells which routes of the API are others.
func (p *Plan) routes(before spec.Document, api string) error {
	old := map[string][]byte{}
	for i := range before.Routes {
		if r := &before.Routes[i]; compile.Owns(api, r.Name) {
			text, err := json.Marshal(r)
			if err != nil {
				return fmt.Errorf("encoding a route: %w", err)
			}
			old[r.Name] = text
		}
	}
	kept := map[string]bool{}
	for i := range p.Document.Routes {
		r := &p.Document.Routes[i]
		if !compile.Owns(api, r.Name) {
			continue
		}
		kept[r.Name] = true
		text, err := json.Marshal(r)
		if err != nil {
			return fmt.Errorf("encoding a route: %w", err)
		}
		switch was, known := old[r.Name]; {
		case !known:
			p.Added = append(p.Added, r.Name)
		case !bytes.Equal(was, text):
			p.Changed = append(p.Changed, r.Name)
		}
	}
	for i := range before.Routes {
		if name := before.Routes[i].Name; compile.Owns(api, name) && !kept[name] {
			p.Removed = append(p.Removed, name)
		}
	}
	return nil
}

// Remove takes the routes and the description of an API out of a document; services
// stay. The error is a *[spec.Violations] of what is left, which is returned as well.
// It returns false when the document has no such API.
func Remove(before spec.Document, api string) (after spec.Document, found bool, err error) {
	after = before
	after.Routes, after.APIs = withoutRoutes(before.Routes, api), withoutAPI(before.APIs, api)
	if len(after.Routes) == len(before.Routes) && len(after.APIs) == len(before.APIs) {
		return before, false, nil
	}
	left, err := normal(after)
	if err != nil {
		return after, true, err
	}
	return left, true, nil
}
