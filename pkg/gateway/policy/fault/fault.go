// Package fault makes requests fail on purpose, so that people can see what their
// clients do then.
package fault

import (
	"context"
	"errors"
	"math"
	"math/rand/v2"
	"net/http"
	"time"

	"github.com/keywarden/keywarden/pkg/gateway/policy"
	"github.com/keywarden/keywarden/pkg/problem"
)

// Name is the name of the policy.
const Name = "fault"

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
	Abort   int           // status of the answer in place of the service's, from 400 to 599; 0: none

	// Random returns a number from 0 to 1, without 1; nil for a random one. It is
	// called by many goroutines.
	Random func() float64
}

// New makes the step.
func New(c Config) (policy.Step, error) {
	switch {
	case math.IsNaN(c.Percent) || c.Percent <= 0 || c.Percent > 100:
		return policy.Step{}, errors.New("the percentage must be above 0 and at most 100")
	case c.Delay < 0 || c.Delay == 0 && c.Abort == 0:
		return policy.Step{}, errors.New("needs a delay, or a status, or both")
	case c.Abort != 0 && (c.Abort < 400 || c.Abort > 599):
		return policy.Step{}, errors.New("the status must be from 400 to 599")
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
				wait(r.Context(), c.Delay)
				if c.Abort != 0 {
					policy.Refuse(w, r, Name, refusal)
					return
				}
				next.ServeHTTP(w, r)
			})
		},
		Watch: func(next http.Handler, report policy.Report) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				switch {
				case !hit():
				case c.Abort != 0:
					report(r, refusal)
				default:
					report(r, errDelayed)
				}
				next.ServeHTTP(w, r)
			})
		},
	}, nil
}

// wait pauses, and no longer than the request is waited for. When it is not any
// more, the request goes on all the same: what follows finds out by the context,
// and records it as it always does.
func wait(ctx context.Context, d time.Duration) {
	if d <= 0 {
		return
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	}
}
