// Package timeout bounds the exchange with the service.
package timeout

import (
	"errors"
	"net/http"
	"time"

	"github.com/keywarden/keywarden/pkg/gateway/policy"
	"github.com/keywarden/keywarden/pkg/reqctx"
)

// Name is the name of the policy in the document.
const Name = "timeout"

// ErrLate is what a policy in shadow mode reports.
var ErrLate = errors.New("the exchange took longer than the policy would allow")

// New makes the step. It only tells the end of the route, which knows when a
// stream has begun and the bound no longer counts.
func New(after time.Duration) (policy.Step, error) {
	if after <= 0 {
		return policy.Step{}, errors.New("the bound must be above 0")
	}
	return policy.Step{
		Apply: func(next http.Handler) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				reqctx.From(r.Context()).Timeout = after
				next.ServeHTTP(w, r)
			})
		},
		Watch: func(next http.Handler, report policy.Report) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				begun := time.Now()
				next.ServeHTTP(w, r)
				took := time.Since(begun)
				if stream := reqctx.From(r.Context()).Stream; !stream.IsZero() {
					took = stream.Sub(begun) // from there on the bound does not count
				}
				if took > after {
					report(r, ErrLate)
				}
			})
		},
	}, nil
}
