// Package policy is what the steps of a route's chain have in common. A step is
// a package of its own beside this one: a constructor that validates, and a plain
// middleware that decides and either refuses or passes the request on. Steps
// start no goroutines, hold no global state and know neither the index nor the
// proxy; what has to outlive a reload is handed to them.
package policy

import (
	"net/http"

	"github.com/keywarden/keywarden/pkg/problem"
	"github.com/keywarden/keywarden/pkg/reqctx"
)

// Middleware wraps the next step of a chain.
type Middleware func(next http.Handler) http.Handler

// Chain puts steps around last; the first step is the outermost.
func Chain(last http.Handler, steps ...Middleware) http.Handler {
	for i := len(steps) - 1; i >= 0; i-- {
		last = steps[i](last)
	}
	return last
}

// Refuse answers r with the problem that err is or holds, and notes it for the
// access log.
func Refuse(w http.ResponseWriter, r *http.Request, err error) {
	info := reqctx.From(r.Context())
	p := problem.From(err)
	info.Code, info.Err = p.Code, err
	p.Write(w, info.ID)
}
