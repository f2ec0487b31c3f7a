// Package mediatypes lets only some media types of request bodies pass.
package mediatypes

import (
	"errors"
	"mime"
	"net/http"
	"slices"
	"strings"

	"github.com/keywarden/keywarden/pkg/gateway/policy"
	"github.com/keywarden/keywarden/pkg/problem"
)

// ErrMediaType is the refusal.
var ErrMediaType = problem.Define(problem.UnsupportedMedia, "gateway.media_type_not_accepted",
	"This route does not accept a body of this media type.")

// New makes the step. types are such as application/json or image/*, in lower case
// and without parameters. Requests without a body are not asked.
func New(types []string) (policy.Step, error) {
	if len(types) == 0 {
		return policy.Step{}, errors.New("no media type is named")
	}
	types = slices.Clone(types)
	refusal := ErrMediaType.WithDetail("This route accepts bodies of %s.", strings.Join(types, ", "))
	return policy.Step{Check: func(r *http.Request) error {
		if r.ContentLength == 0 {
			return nil
		}
		// More than one field means one thing here and another at the service.
		if values := r.Header["Content-Type"]; len(values) == 1 && accepted(types, values[0]) {
			return nil
		}
		return refusal
	}}, nil
}

func accepted(types []string, value string) bool {
	got, _, err := mime.ParseMediaType(value)
	if err != nil {
		return false
	}
	kind, _, _ := strings.Cut(got, "/")
	return slices.ContainsFunc(types, func(t string) bool { return t == got || t == kind+"/*" })
}
