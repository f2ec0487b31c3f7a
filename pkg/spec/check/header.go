package check

import (
	"net/http"

	"github.com/keywarden/keywarden/pkg/header"
	"github.com/keywarden/keywarden/pkg/template"
)

// MaxFields bounds a list of header fields.
const MaxFields = 64

// FieldNames checks a list of names of header fields.
func (v *Checker) FieldNames(path string, names []string, check func(name string) error) {
	if names != nil && len(names) == 0 {
		v.Fail(path, "must name at least one; or remove it")
	}
	if len(names) > MaxFields {
		v.Fail(path, "must not name more than %d", MaxFields)
		return
	}
	seen := make(map[string]bool, len(names))
	for i, name := range names {
		canonical := http.CanonicalHeaderKey(name)
		if err := check(name); err != nil {
			v.Fail(Index(path, i), "%s", err.Error())
		} else if seen[canonical] {
			v.Fail(Index(path, i), "is named twice")
		}
		seen[canonical] = true
	}
}

// Template checks a template.
func (v *Checker) Template(path, text string) {
	if _, err := template.Parse(text); err != nil {
		v.Fail(path, "is not a template: %s", err.Error())
	}
}

// OutgoingTemplate checks a template of what goes to a service, which may name secrets.
func (v *Checker) OutgoingTemplate(path, text string) {
	if _, err := template.ParseOutgoing(text); err != nil {
		v.Fail(path, "is not a template: %s", err.Error())
	}
}

// FieldValue checks the value of a header field that is sent as it is.
func (v *Checker) FieldValue(path, value string) {
	if !header.IsValue(value) {
		v.Fail(path, "must be text without control characters and spaces around it, of at most %d bytes", header.MaxValue)
	}
}
