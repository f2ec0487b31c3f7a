// Package allowmethods lets only some request methods pass.
package allowmethods

import (
	"errors"
	"net/http"
	"slices"
	"strings"

	"github.com/keywarden/keywarden/pkg/gateway/policy"
	"github.com/keywarden/keywarden/pkg/problem"
)

// ErrMethod is the refusal. The answer lists the methods that pass.
var ErrMethod = problem.Define(problem.MethodNotAllowed, "gateway.method_refused", "This route does not accept this method.")

// New makes the step.
func New(methods []string) (policy.Step, error) {
	if len(methods) == 0 {
		return policy.Step{}, errors.New("no method is named")
	}
	methods = slices.Clone(methods)
	refusal := ErrMethod.WithAllow(strings.Join(methods, ", "))
	return policy.Step{Check: func(r *http.Request) error {
		if !slices.Contains(methods, r.Method) {
			return refusal
		}
		return nil
	}}, nil
}
