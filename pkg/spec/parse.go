package spec

import (
	"github.com/keywarden/keywarden/pkg/spec/services"
	"github.com/keywarden/keywarden/pkg/strictyaml"
)

// MaxBytes bounds a document as text.
const MaxBytes = strictyaml.MaxBytes

// What is wrong with a document.
type (
	Violation  = strictyaml.Violation
	Violations = strictyaml.Violations
	Place      = strictyaml.Place
)

// Parse reads a document from YAML or JSON, fills in defaults and validates it.
// The error is a *[Violations] with everything that is wrong; source, which may
// be empty, is the name of the file in it.
func Parse(source string, data []byte) (Document, error) {
	var doc Document
	decoded := strictyaml.Decode(data, &doc)
	if decoded.Unreadable() {
		return Document{}, decoded.Report(source)
	}
	doc.normalise()
	found := doc.violations()
	decoded.Merge(&found)
	if err := decoded.Report(source); err != nil {
		return Document{}, err
	}
	return doc, nil
}

func (d *Document) normalise() {
	if d.Defaults != nil {
		d.Defaults.Normalise()
	}
	for i := range d.PolicySets {
		d.PolicySets[i].Normalise()
	}
	for i := range d.Services {
		d.Services[i].Normalise()
	}
	for i := range d.Routes {
		d.Routes[i].normalise()
	}
	if d.Services == nil {
		d.Services = []services.Service{}
	}
	if d.Routes == nil {
		d.Routes = []Route{}
	}
}
