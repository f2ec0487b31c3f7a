package spec

import (
	"maps"
	"net/http"
	"slices"

	"github.com/keywarden/keywarden/pkg/header"
	"github.com/keywarden/keywarden/pkg/template"
)

// RequestHeaders changes header fields of requests before they go to the service.
// Fields that belong to the connection or to the gateway cannot be changed.
type RequestHeaders struct {
	Gate
	HeaderChanges
}

// ResponseHeaders changes header fields of the answers of the service, or of the
// route itself; not of what the gateway answers when the service fails.
type ResponseHeaders struct {
	Gate
	HeaderChanges
}

// HeaderChanges are made in the order of the fields here. Values are templates, such
// as {{ request.header "X-Tenant" }}; one that is empty for a request is not sent.
type HeaderChanges struct {
	// Remove names fields that are taken away.
	Remove []string `json:"remove,omitempty"`

	// Set are values in place of those that are there.
	Set map[string]string `json:"set,omitempty"`

	// Add are values beside those that are there.
	Add map[string]string `json:"add,omitempty"`
}

// maxHeaderChanges bounds each kind of change.
const maxHeaderChanges = 64

func (h *RequestHeaders) validate(path string, v *validator) {
	h.HeaderChanges.validate(path, v, header.CheckRequest)
}

func (h *ResponseHeaders) validate(path string, v *validator) {
	h.HeaderChanges.validate(path, v, header.CheckResponse)
}

func (h *HeaderChanges) validate(path string, v *validator, check func(name string) error) {
	if h.Remove == nil && h.Set == nil && h.Add == nil {
		v.fail(path, "must have at least one of remove, set and add")
	}
	changed := make(map[string]bool)
	v.fieldNames(path+".remove", h.Remove, check)
	for _, name := range h.Remove {
		changed[http.CanonicalHeaderKey(name)] = true
	}
	for _, kind := range []struct {
		path   string
		fields map[string]string
	}{{path + ".set", h.Set}, {path + ".add", h.Add}} {
		if len(kind.fields) > maxHeaderChanges {
			v.fail(kind.path, "must not name more than %d fields", maxHeaderChanges)
			continue
		}
		for _, name := range slices.Sorted(maps.Keys(kind.fields)) {
			at := kind.path + "." + name
			if err := check(name); err != nil {
				v.fail(at, "%s", err.Error())
				continue
			}
			if canonical := http.CanonicalHeaderKey(name); changed[canonical] {
				v.fail(at, "%s is changed twice", canonical)
			} else {
				changed[canonical] = true
			}
			v.template(at, kind.fields[name])
		}
	}
}

// fieldNames checks a list of names of header fields.
func (v *validator) fieldNames(path string, names []string, check func(name string) error) {
	if names != nil && len(names) == 0 {
		v.fail(path, "must name at least one; or remove it")
	}
	if len(names) > maxHeaderChanges {
		v.fail(path, "must not name more than %d", maxHeaderChanges)
		return
	}
	seen := make(map[string]bool, len(names))
	for i, name := range names {
		canonical := http.CanonicalHeaderKey(name)
		if err := check(name); err != nil {
			v.fail(index(path, i), "%s", err.Error())
		} else if seen[canonical] {
			v.fail(index(path, i), "is named twice")
		}
		seen[canonical] = true
	}
}

// template checks a template.
func (v *validator) template(path, text string) {
	if _, err := template.Parse(text); err != nil {
		v.fail(path, "is not a template: %s", err.Error())
	}
}

// fieldValue checks the value of a header field that is sent as it is.
func (v *validator) fieldValue(path, value string) {
	if !header.IsValue(value) {
		v.fail(path, "must be text without control characters and spaces around it, of at most %d bytes", header.MaxValue)
	}
}
