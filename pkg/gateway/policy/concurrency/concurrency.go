// Package concurrency refuses requests of those who have too many on their way. A
// request is on its way until its answer has ended, a stream or WebSocket for as
// long as it lasts.
package concurrency

import (
	"errors"
	"net/http"
	"time"

	"github.com/keywarden/keywarden/pkg/gateway/policy"
	"github.com/keywarden/keywarden/pkg/gateway/policy/limitfields"
	"github.com/keywarden/keywarden/pkg/problem"
	"github.com/keywarden/keywarden/pkg/ratelimit"
	"github.com/keywarden/keywarden/pkg/reqctx"
)

// Name is the name of the policy in the document.
const Name = "concurrency"

// Errors of this policy.
var (
	ErrLimited = problem.Define(problem.TooManyRequests, "gateway.concurrency_limited",
		"Too many requests are on their way at once; wait until one has ended.")
	ErrSubject = problem.Define(problem.Internal, "gateway.concurrency_subject",
		"It could not be worked out whom this request counts for.")
)

// retryAfter is when trying again makes sense: nobody knows when a request ends.
const retryAfter = time.Second

// Limit is one of the limits of a route.
type Limit struct {
	Name    string // in the answer's fields: letters, digits, hyphens and underscores
	Places  *ratelimit.InFlight
	Subject func(r *http.Request) (string, error) // whom the request counts for; "" for nobody
}

// step is the compiled form.
type step struct {
	limits []Limit
	policy *limitfields.Policies // the field RateLimit-Policy
	now    func() time.Time
}

// New makes the step. A request has to keep all limits.
func New(limits []Limit, now func() time.Time) (policy.Step, error) {
	if len(limits) == 0 {
		return policy.Step{}, errors.New("no limit is named")
	}
	s := &step{limits: limits, now: now}
	items := make([]string, len(limits))
	for i, l := range limits {
		items[i] = limitfields.Policy(l.Name, limitfields.ConcurrentRequests, l.Places.Limit(), 0)
	}
	s.policy = limitfields.NewPolicies(items)
	return policy.Step{
		Apply: func(next http.Handler) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				var space [4]ratelimit.Place // most routes have few limits
				places, left, err := s.acquire(space[:0], r)
				defer release(places)
				info := reqctx.From(r.Context())
				limitfields.Add(info, w.Header(), limitfields.Told{Policies: s.policy, Left: left}, err != nil, policy.Time(info, s.now))
				if err != nil {
					policy.Refuse(w, r, Name, err)
					return
				}
				next.ServeHTTP(w, r)
			})
		},
		Watch: func(next http.Handler, report policy.Report) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				places, _, err := s.acquire(nil, r)
				defer release(places)
				if err != nil {
					report(r, err)
				}
				next.ServeHTTP(w, r)
			})
		},
	}, nil
}

// acquire takes a place of every limit, and returns what is left of the tightest.
func (s *step) acquire(places []ratelimit.Place, r *http.Request) ([]ratelimit.Place, limitfields.Left, error) {
	var tightest limitfields.Left
	for i := range s.limits {
		l := &s.limits[i]
		subject, err := l.Subject(r)
		if err != nil {
			return places, limitfields.Left{}, ErrSubject.With(err)
		}
		if subject == "" {
			continue
		}
		place, remaining, ok := l.Places.Acquire(subject)
		if !ok {
			return places, limitfields.Left{Name: l.Name, Limit: l.Places.Limit()}, ErrLimited.WithRetryAfter(retryAfter).WithViolated(l.Name)
		}
		places = append(places, place)
		if tightest.Name == "" || remaining < tightest.Remaining {
			tightest = limitfields.Left{Name: l.Name, Limit: l.Places.Limit(), Remaining: remaining}
		}
	}
	return places, tightest, nil
}

func release(places []ratelimit.Place) {
	for _, p := range places {
		p.Release()
	}
}
