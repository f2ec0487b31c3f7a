// Package ratelimit refuses requests of those who have made too many. What is
// counted, and where, is given to it; it decides whom a request counts for, what
// it costs, and what the answer says (the RateLimit fields of
// draft-ietf-httpapi-ratelimit-headers, X-RateLimit-*, Retry-After).
package ratelimit

import (
	"context"
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
const Name = "rate_limit"

// Errors of this policy.
var (
	ErrLimited = problem.Define(problem.TooManyRequests, "gateway.rate_limited",
		"Too many requests; try again after the time in Retry-After.")
	ErrTooCostly = problem.Define(problem.TooManyRequests, "gateway.rate_limit_cost",
		"This request costs more than the limit ever allows at once.")
	ErrSubject = problem.Define(problem.Internal, "gateway.rate_limit_subject",
		"It could not be worked out what this request counts for.")
)

// Counter keeps one limit. It is safe for concurrent use.
type Counter interface {
	Limit() ratelimit.Limit

	// TakeAt takes cost units of the subject at now. alone says that the counters which
	// replicas share did not answer, and this one decided by its share.
	TakeAt(ctx context.Context, subject string, cost int64, now time.Time) (d ratelimit.Decision, alone bool)

	// Refund gives units back that were taken for a request which was refused.
	Refund(subject string, cost int64)
}

// Limit is one of the limits of a route.
type Limit struct {
	Name    string // in the answer's fields: letters, digits, hyphens and underscores
	Counter Counter
	Subject func(r *http.Request) (string, error) // whom the request counts for; "" for nobody
	Cost    func(r *http.Request) (int64, error)  // at least 0; nil: 1
}

// step is the compiled form.
type step struct {
	limits []Limit
	policy *limitfields.Policies // the field RateLimit-Policy
	now    func() time.Time
}

// New makes the step. A request has to keep all limits; one that is refused by one
// of them counts for none.
func New(limits []Limit, now func() time.Time) (policy.Step, error) {
	if len(limits) == 0 {
		return policy.Step{}, errors.New("no limit is named")
	}
	s := &step{limits: limits, now: now}
	items := make([]string, len(limits))
	for i, l := range limits {
		of := l.Counter.Limit()
		items[i] = limitfields.Policy(l.Name, limitfields.Requests, of.Quota, of.Window)
	}
	s.policy = limitfields.NewPolicies(items)
	return policy.Step{
		Apply: func(next http.Handler) http.Handler {
			follower, _ := next.(limitfields.Follower)
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				info := reqctx.From(r.Context())
				now := policy.Time(info, s.now)
				o := s.take(r, now)
				if o.alone {
					w.Header()["X-Ratelimit-Scope"] = []string{"replica"}
				}
				if o.refusal == nil && follower != nil {
					follower.ServeAfter(w, r, info, now, s.told(&o))
					return
				}
				limitfields.Add(info, w.Header(), s.told(&o), o.refusal != nil, now)
				if o.refusal != nil {
					policy.Refuse(w, r, Name, o.refusal)
					return
				}
				next.ServeHTTP(w, r)
			})
		},
		Watch: func(next http.Handler, report policy.Report) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if o := s.take(r, policy.Time(reqctx.From(r.Context()), s.now)); o.refusal != nil {
					report(r, o.refusal)
				}
				next.ServeHTTP(w, r)
			})
		},
	}, nil
}

// outcome is what became of a request.
type outcome struct {
	tightest int // index of the limit with the least left, or that refused; -1: none counts
	decision ratelimit.Decision
	alone    bool
	refusal  error
}

// take takes what the request costs of every limit.
func (s *step) take(r *http.Request, now time.Time) outcome {
	o := outcome{tightest: -1}
	type taken struct {
		subject string
		cost    int64
	}
	var space [4]taken // most routes have few limits
	done := space[:0]
	for i := range s.limits {
		l := &s.limits[i]
		subject, cost, err := l.of(r)
		if err == nil && subject == "" {
			done = append(done, taken{})
			continue
		}
		var d ratelimit.Decision
		var alone bool
		if err == nil {
			d, alone = l.Counter.TakeAt(r.Context(), subject, cost, now)
		}
		o.alone = o.alone || alone
		if err == nil && d.Allowed {
			done = append(done, taken{subject, cost})
			if o.tightest < 0 || d.Remaining < o.decision.Remaining {
				o.tightest, o.decision = i, d
			}
			continue
		}
		for j, t := range done {
			if t.cost > 0 {
				s.limits[j].Counter.Refund(t.subject, t.cost)
			}
		}
		if err != nil {
			var said *problem.Error
			if !errors.As(err, &said) {
				err = ErrSubject.With(err)
			}
			return outcome{tightest: -1, refusal: err}
		}
		o.tightest, o.decision = i, d
		o.refusal = refusal(s.limits[i].Name, d)
		return o
	}
	return o
}

// of is whom the request counts for, and how much.
func (l *Limit) of(r *http.Request) (subject string, cost int64, err error) {
	if subject, err = l.Subject(r); err != nil || subject == "" {
		return "", 0, err
	}
	if l.Cost == nil {
		return subject, 1, nil
	}
	cost, err = l.Cost(r)
	if cost <= 0 { // what costs nothing counts for nobody
		subject = ""
	}
	return subject, cost, err
}

func refusal(name string, d ratelimit.Decision) error {
	if d.RetryAfter <= 0 {
		return ErrTooCostly.WithViolated(name)
	}
	return ErrLimited.WithRetryAfter(d.RetryAfter).WithViolated(name)
}

// told is what is left, of the limit that is nearest to its end.
func (s *step) told(o *outcome) limitfields.Told {
	t := limitfields.Told{Policies: s.policy}
	if o.tightest >= 0 {
		d := &o.decision
		t.Left = limitfields.Left{Name: s.limits[o.tightest].Name, Limit: d.Limit, Remaining: d.Remaining, Reset: d.ResetAfter, Retry: d.RetryAfter}
	}
	return t
}
