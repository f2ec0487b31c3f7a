// Package bodylimit bounds the size of request bodies: before the upload where
// the client announces a size, and during it where it does not.
package bodylimit

import (
	"errors"
	"net/http"

	"github.com/keywarden/keywarden/pkg/gateway/policy"
	"github.com/keywarden/keywarden/pkg/problem"
)

// ErrTooLarge is the refusal. The proxy gives the same when a body without an
// announced size turns out to be too large on its way.
var ErrTooLarge = problem.ErrBodyTooLarge.WithDetail("The body of the request is larger than this route accepts.")

// New makes the step. limit is in bytes.
func New(limit int64) (policy.Middleware, error) {
	if limit < 1 {
		return nil, errors.New("the limit must be at least 1 byte")
	}
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			switch {
			case r.ContentLength > limit:
				policy.Refuse(w, r, ErrTooLarge)
				return
			case r.ContentLength < 0:
				limited := *r
				limited.Body = http.MaxBytesReader(w, r.Body, limit)
				r = &limited
			}
			next.ServeHTTP(w, r)
		})
	}, nil
}
