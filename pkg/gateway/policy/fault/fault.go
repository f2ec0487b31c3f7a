// Package fault makes requests fail on purpose, so that people can see what their
// clients do then.
package fault

import (
	"errors"
	"math/rand/v2"
	"net/http"
	"time"

	"github.com/keywarden/keywarden/pkg/gateway/policy"
	"github.com/keywarden/keywarden/pkg/problem"
)

// ErrInjected is the answer to a request that was made to fail.
var ErrInjected = problem.Define(problem.Unavailable, "gateway.fault_injected",
	"This request was made to fail on purpose, for a drill.")

// errDelayed is what a policy in shadow mode reports of a request that would only
// be delayed.
var errDelayed = errors.New("the request would be delayed")

// Config says what happens to whom.
type Config struct {
	Percent float64       // of the requests
	Delay   time.Duration // before they go on; 0: none
	Abort   int           // status of the answer in place of the service's; 0: none

	// Random returns a number from 0 to 1, without 1; nil for a random one.
	Random func() float64
}

// New makes the step.
func New(c Config) (policy.Step, error) {
	if c.Percent <= 0 || c.Percent > 100 || c.Delay < 0 || c.Delay == 0 && c.Abort == 0 {
		return policy.Step{}, errors.New("needs a percentage, and a delay or a status")
	}
	if c.Random == nil {
		c.Random = rand.Float64 // who is hit need not be a secret
	}
	refusal := ErrInjected.WithStatus(c.Abort)
	hit := func() bool { return c.Random()*100 < c.Percent }
	return policy.Step{
		Apply: func(next http.Handler) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if !hit() {
					next.ServeHTTP(w, r)
					return
				}
				if !wait(r, c.Delay) {
					return // nobody is left to be answered
				}
				if c.Abort != 0 {
					policy.Refuse(w, r, "fault", refusal)
					return
				}
				next.ServeHTTP(w, r)
			})
		},
		Watch: func(next http.Handler, report policy.Report) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if hit() {
					if c.Abort != 0 {
						report(r, refusal)
					} else {
						report(r, errDelayed)
					}
				}
				next.ServeHTTP(w, r)
			})
		},
	}, nil
}

// wait pauses; it reports whether the client still waits, too.
func wait(r *http.Request, d time.Duration) bool {
	if d <= 0 {
		return true
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-r.Context().Done():
		return false
	case <-timer.C:
		return true
	}
}
