// Package logfields adds fields to the line of the access log that a request
// leaves.
package logfields

import (
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"

	"github.com/keywarden/keywarden/pkg/gateway/policy"
	"github.com/keywarden/keywarden/pkg/reqctx"
	"github.com/keywarden/keywarden/pkg/template"
)

// field is a name and what gives its value.
type field struct {
	name  string
	value *template.Template
}

// New makes the step. fields are templates by the name of the field; one that is
// empty for a request is left out.
func New(fields map[string]string) (policy.Step, error) {
	if len(fields) > reqctx.MaxFields {
		return policy.Step{}, fmt.Errorf("there are more than %d fields", reqctx.MaxFields)
	}
	var list []field
	for _, name := range slices.Sorted(maps.Keys(fields)) {
		if !reqctx.IsFieldName(name) {
			return policy.Step{}, fmt.Errorf("the access log cannot have a field %q", name)
		}
		value, err := template.Parse(fields[name])
		if err != nil {
			return policy.Step{}, fmt.Errorf("the field %q: %w", name, err)
		}
		list = append(list, field{name, value})
	}
	return policy.Step{Apply: func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			note(reqctx.From(r.Context()), list, r)
			next.ServeHTTP(w, r)
		})
	}}, nil
}

func note(info *reqctx.Info, list []field, r *http.Request) {
	for _, f := range list {
		value := f.value.Render(r)
		if value == "" || len(info.Fields) >= reqctx.MaxFields {
			continue
		}
		if info.Fields == nil {
			info.Fields = make([]reqctx.Field, 0, len(list))
		}
		info.Fields = append(info.Fields, reqctx.Field{Name: f.name, Value: cut(value)})
	}
}

// cut shortens a value to what the log takes, without half a character at its end.
func cut(value string) string {
	if len(value) <= reqctx.MaxFieldValue {
		return value
	}
	return strings.ToValidUTF8(value[:reqctx.MaxFieldValue], "")
}
