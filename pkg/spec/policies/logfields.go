package policies

import (
	"maps"
	"slices"

	"github.com/keywarden/keywarden/pkg/header"
	"github.com/keywarden/keywarden/pkg/reqctx"
	"github.com/keywarden/keywarden/pkg/spec/check"
)

// LogFields adds fields to the line of the access log of a request.
type LogFields struct {
	Gate

	// Fields are templates by the name of the field, such as
	// {{ request.header "X-Tenant" }}. A value is cut to 256 bytes, and an empty one
	// left out.
	Fields map[string]string `json:"fields"`
}

func (l *LogFields) Validate(path string, v *check.Checker) {
	path += ".fields"
	if len(l.Fields) == 0 {
		v.Required(path)
	}
	if len(l.Fields) > reqctx.MaxFields {
		v.Fail(path, "must not name more than %d fields", reqctx.MaxFields)
		return
	}
	for _, name := range slices.Sorted(maps.Keys(l.Fields)) {
		at := path + "." + name
		switch {
		case !reqctx.IsFieldName(name):
			v.Fail(at, "must be a name of lower-case letters, digits and underscores that the access log does not have already")
		case header.Credential(name):
			v.Fail(at, "is a name of secrets, which the log hides; choose another one")
		default:
			v.Template(at, l.Fields[name])
		}
	}
}
