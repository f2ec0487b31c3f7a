package policies

import (
	"maps"
	"net/http"
	"slices"

	"github.com/keywarden/keywarden/pkg/header"
	"github.com/keywarden/keywarden/pkg/spec/check"
)

// RequestHeaders changes header fields of requests before they go to the service.
// Fields that belong to the connection or to the gateway cannot be changed. Values may
// name secrets, such as {{ secret "backend" }}.
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

func (h *RequestHeaders) Validate(path string, v *check.Checker) {
	h.HeaderChanges.Validate(path, v, header.CheckRequest, v.OutgoingTemplate)
}

func (h *ResponseHeaders) Validate(path string, v *check.Checker) {
	h.HeaderChanges.Validate(path, v, header.CheckResponse, v.Template)
}

func (h *HeaderChanges) Validate(path string, v *check.Checker, allowed func(name string) error, value func(path, text string)) {
	if h.Remove == nil && h.Set == nil && h.Add == nil {
		v.Fail(path, "must have at least one of remove, set and add")
	}
	changed := make(map[string]bool)
	v.FieldNames(path+".remove", h.Remove, allowed)
	for _, name := range h.Remove {
		changed[http.CanonicalHeaderKey(name)] = true
	}
	for _, kind := range []struct {
		path   string
		fields map[string]string
	}{{path + ".set", h.Set}, {path + ".add", h.Add}} {
		if len(kind.fields) > check.MaxFields {
			v.Fail(kind.path, "must not name more than %d fields", check.MaxFields)
			continue
		}
		for _, name := range slices.Sorted(maps.Keys(kind.fields)) {
			at := kind.path + "." + name
			if err := allowed(name); err != nil {
				v.Fail(at, "%s", err.Error())
				continue
			}
			if canonical := http.CanonicalHeaderKey(name); changed[canonical] {
				v.Fail(at, "%s is changed twice", canonical)
			} else {
				changed[canonical] = true
			}
			value(at, kind.fields[name])
		}
	}
}
