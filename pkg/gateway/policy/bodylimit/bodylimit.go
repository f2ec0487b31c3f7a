// Package bodylimit bounds the size of request bodies: before the upload where
// the client announces a size, and during it where it does not.
package bodylimit

import (
	"errors"
	"io"
	"net/http"

	"github.com/keywarden/keywarden/pkg/gateway/policy"
	"github.com/keywarden/keywarden/pkg/problem"
)

// Name is the name of the policy in the document.
const Name = "max_body"

// ErrTooLarge is the refusal. The proxy gives the same when a body without an
// announced size turns out to be too large on its way.
var ErrTooLarge = problem.ErrBodyTooLarge.WithDetail("The body of the request is larger than this route accepts.")

// New makes the step. limit is in bytes.
func New(limit int64) (policy.Step, error) {
	if limit < 1 {
		return policy.Step{}, errors.New("the limit must be at least 1 byte")
	}
	return policy.Step{
		Check: func(r *http.Request) error {
			if r.ContentLength > limit {
				return ErrTooLarge
			}
			return nil
		},
		Apply: func(next http.Handler) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.ContentLength < 0 {
					limited := *r
					limited.Body = http.MaxBytesReader(w, r.Body, limit)
					r = &limited
				}
				next.ServeHTTP(w, r)
			})
		},
		Watch: func(next http.Handler, report policy.Report) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.ContentLength >= 0 {
					next.ServeHTTP(w, r)
					return
				}
				watched := *r
				body := &counted{ReadCloser: r.Body}
				watched.Body = body
				next.ServeHTTP(w, &watched)
				if body.read > limit {
					report(r, ErrTooLarge)
				}
			})
		},
	}, nil
}

// counted counts what is read of a body.
type counted struct {
	io.ReadCloser
	read int64
}

// Read implements [io.Reader].
func (c *counted) Read(p []byte) (int, error) {
	n, err := c.ReadCloser.Read(p)
	c.read += int64(n)
	return n, err
}
