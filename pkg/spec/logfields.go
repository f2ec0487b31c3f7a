package spec

import (
	"maps"
	"slices"

	"github.com/keywarden/keywarden/pkg/header"
	"github.com/keywarden/keywarden/pkg/reqctx"
)

// LogFields adds fields to the line of the access log of a request.
type LogFields struct {
	Gate

	// Fields are templates by the name of the field, such as
	// {{ request.header "X-Tenant" }}. A value is cut to 256 bytes, and an empty one
	// left out.
	Fields map[string]string `json:"fields"`
}

func (l *LogFields) validate(path string, v *validator) {
	path += ".fields"
	if len(l.Fields) == 0 {
		v.required(path)
	}
	if len(l.Fields) > reqctx.MaxFields {
		v.fail(path, "must not name more than %d fields", reqctx.MaxFields)
		return
	}
	for _, name := range slices.Sorted(maps.Keys(l.Fields)) {
		at := path + "." + name
		switch {
		case !reqctx.IsFieldName(name):
			v.fail(at, "must be a name of lower-case letters, digits and underscores that the access log does not have already")
		case header.Credential(name):
			v.fail(at, "is a name of secrets, which the log hides; choose another one")
		default:
			v.template(at, l.Fields[name])
		}
	}
}
