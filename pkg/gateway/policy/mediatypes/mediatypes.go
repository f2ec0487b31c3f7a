// Package mediatypes lets only some media types of request bodies pass.
package mediatypes

import (
	"errors"
	"net/http"
	"slices"
	"strings"

	"github.com/keywarden/keywarden/pkg/gateway/policy"
	"github.com/keywarden/keywarden/pkg/header"
	"github.com/keywarden/keywarden/pkg/problem"
)

// ErrMediaType is the refusal. The answer lists the media types that pass.
var ErrMediaType = problem.Define(problem.UnsupportedMedia, "gateway.media_type_not_accepted",
	"This route does not accept a body of this media type.")

// New makes the step. types are such as application/json or image/*, in lower case
// and without parameters. Requests without a body are not asked; a body whose type
// is not told is refused, since each reader would guess another.
func New(types []string) (policy.Step, error) {
	if len(types) == 0 {
		return policy.Step{}, errors.New("no media type is named")
	}
	types = slices.Clone(types)
	list := strings.Join(types, ", ")
	refusal := ErrMediaType.WithDetail("This route accepts bodies of %s.", list).WithAccept(list)
	return policy.Step{Check: func(r *http.Request) error {
		if r.ContentLength == 0 { // -1, when it is not known, is a body
			return nil
		}
		// More than one field means one thing here and another at the service.
		if values := r.Header["Content-Type"]; len(values) == 1 {
			if name, ok := header.MediaType(values[0]); ok && header.InMediaRanges(types, name) {
				return nil
			}
		}
		return refusal
	}}, nil
}
