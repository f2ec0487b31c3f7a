// Package quota lets a route have quotas: units are reserved before a request is
// passed on, and settled when its answer has ended. What is counted, and where, is
// package pkg/quota's; this one decides whom a request counts for, what it costs,
// before and after, and what the answer says.
package quota

import (
	"context"
	"errors"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/keywarden/keywarden/pkg/gateway/policy"
	"github.com/keywarden/keywarden/pkg/gateway/policy/limitfields"
	"github.com/keywarden/keywarden/pkg/gateway/respwriter"
	"github.com/keywarden/keywarden/pkg/problem"
	"github.com/keywarden/keywarden/pkg/quota"
	"github.com/keywarden/keywarden/pkg/reqctx"
)

// Name is the name of the policy in the document.
const Name = "quota"

// Errors of this policy, beside quota.ErrUnavailable.
var (
	ErrExceeded = problem.Define(problem.TooManyRequests, "gateway.quota_exceeded",
		"The quota of this period is used up; try again after the time in Retry-After.")
	ErrTooCostly = problem.Define(problem.TooManyRequests, "gateway.quota_cost",
		"This request costs more than the quota of a whole period.")
	ErrSubject = problem.Define(problem.Internal, "gateway.quota_subject",
		"It could not be worked out whom this request counts for, or what it costs.")
)

// Quota is one of the quotas of a route.
type Quota struct {
	Meter   *quota.Meter                          // its name is that in the answer's fields
	Subject func(r *http.Request) (string, error) // whom the request counts for; "" for nobody
	Cost    func(r *http.Request) (int64, error)  // that is reserved, at least 0; nil: 1

	// CostHeader names the field of the answer in which the service says what the
	// request has cost in the end; empty for none. The client does not see it.
	CostHeader string
}

// step is the compiled form.
type step struct {
	quotas []Quota
	policy *limitfields.Policies // the field RateLimit-Policy
	asks   bool                  // one of the quotas has a CostHeader
	now    func() time.Time
}

// New makes the step. A request has to keep all quotas; one that is refused by one
// of them counts for none. now is for the time at which a period ends.
func New(quotas []Quota, now func() time.Time) (policy.Step, error) {
	if len(quotas) == 0 {
		return policy.Step{}, errors.New("no quota is named")
	}
	s := &step{quotas: make([]Quota, len(quotas)), now: now}
	items := make([]string, len(quotas))
	for i, q := range quotas {
		if q.Meter == nil || q.Subject == nil {
			return policy.Step{}, errors.New("a quota needs a meter and a subject")
		}
		q.CostHeader = http.CanonicalHeaderKey(q.CostHeader)
		s.quotas[i], s.asks = q, s.asks || q.CostHeader != ""
		of := q.Meter.Quota()
		items[i] = limitfields.Policy(of.Name, limitfields.Requests, of.Limit, of.Period.Window())
	}
	s.policy = limitfields.NewPolicies(items)
	return policy.Step{
		Apply: func(next http.Handler) http.Handler {
			return &applied{s, next}
		},
		Watch: func(next http.Handler, report policy.Report) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { s.watch(next, report, w, r) })
		},
	}, nil
}

// applied is the step before the rest of a chain: it reserves, passes the request on and
// settles.
type applied struct {
	*step
	next http.Handler
}

var _ limitfields.Follower = (*applied)(nil)

// ServeHTTP implements [http.Handler].
func (s *applied) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	info := reqctx.From(r.Context())
	s.ServeAfter(w, r, info, policy.Time(info, s.now), limitfields.Told{})
}

// ServeAfter implements [limitfields.Follower].
func (s *applied) ServeAfter(w http.ResponseWriter, r *http.Request, info *reqctx.Info, now time.Time, earlier limitfields.Told) {
	if s.asks {
		s.serveAsking(w, r, info, now, earlier)
		return
	}
	x := exchange{step: s.step}
	if s.admit(&x, w, r, info, now, earlier) {
		defer x.settle(r)
		s.next.ServeHTTP(w, r)
	}
}

// serveAsking is for services that say what the request has cost: only here is the exchange
// a value that outlives the call.
func (s *applied) serveAsking(w http.ResponseWriter, r *http.Request, info *reqctx.Info, now time.Time, earlier limitfields.Told) {
	x := &exchange{step: s.step}
	if s.admit(x, w, r, info, now, earlier) {
		defer x.settle(r)
		respwriter.Serve(s.next, w, r, x)
	}
}

// admit reserves, and answers the requests for which there is not enough.
func (s *step) admit(x *exchange, w http.ResponseWriter, r *http.Request, info *reqctx.Info, now time.Time, earlier limitfields.Told) bool {
	left, err := x.reserve(r, now)
	limitfields.AddBoth(info, w.Header(), earlier, limitfields.Told{Policies: s.policy, Left: left}, err != nil, now)
	if err != nil {
		policy.Refuse(w, r, Name, err)
	}
	return err == nil
}

// watch does the same without that anybody notices.
func (s *step) watch(next http.Handler, report policy.Report, w http.ResponseWriter, r *http.Request) {
	x := &exchange{step: s, shadow: true}
	if _, err := x.reserve(r, policy.Time(reqctx.From(r.Context()), s.now)); err != nil {
		report(r, err)
	}
	defer x.settle(r)
	if s.asks {
		respwriter.Serve(next, w, r, x)
		return
	}
	next.ServeHTTP(w, r)
}

// exchange is one request with what was reserved for it.
type exchange struct {
	*step
	shadow bool
	taken  [4]taken // most routes have few quotas
	more   []taken
	count  int // of those that were looked at
}

// taken is what was reserved of one quota.
type taken struct {
	reservation quota.Reservation
	cost        int64 // as the service says; -1: it has not said
}

func (x *exchange) at(i int) *taken {
	if i < len(x.taken) {
		return &x.taken[i]
	}
	return &x.more[i-len(x.taken)]
}

// reserve takes what the request costs of every quota, or of none. It returns what
// is left of the quota that has the fewest units left, or that has refused.
func (x *exchange) reserve(r *http.Request, now time.Time) (tightest limitfields.Left, err error) {
	if n := len(x.quotas) - len(x.taken); n > 0 {
		x.more = make([]taken, n)
	}
	for i := range x.quotas {
		q := &x.quotas[i]
		subject, cost, err := q.of(r)
		var d quota.Decision
		if err == nil && subject != "" {
			t := x.at(i)
			t.cost = -1
			t.reservation, d, err = q.Meter.ReserveAt(r.Context(), subject, cost, now)
		}
		x.count = i + 1
		name := q.Meter.Quota().Name
		switch {
		case err != nil:
			x.cancel(r.Context())
			return limitfields.Left{}, undecided(err, name)
		case subject == "" || d.Unmetered:
			continue
		}
		left := limitfields.Left{Name: name, Limit: d.Limit, Remaining: d.Remaining, Reset: d.Reset}
		if !d.Allowed {
			x.cancel(r.Context())
			return left, refusal(d, name)
		}
		if tightest.Name == "" || left.Remaining < tightest.Remaining {
			tightest = left
		}
	}
	return tightest, nil
}

// of is whom the request counts for, and how much.
func (q *Quota) of(r *http.Request) (subject string, cost int64, err error) {
	if subject, err = q.Subject(r); err != nil || subject == "" {
		return "", 0, err
	}
	if q.Cost == nil {
		return subject, 1, nil
	}
	cost, err = q.Cost(r)
	if cost <= 0 { // what costs nothing counts for nobody
		subject = ""
	}
	return subject, cost, err
}

func refusal(d quota.Decision, name string) error {
	if d.TooCostly {
		return ErrTooCostly.WithViolated(name)
	}
	return ErrExceeded.WithRetryAfter(max(time.Second, d.Reset)).WithViolated(name)
}

// undecided is the refusal where it is not known whether there are units.
func undecided(err error, name string) error {
	var said *problem.Error
	switch {
	case !errors.As(err, &said):
		return ErrSubject.With(err)
	case errors.Is(err, quota.ErrUnavailable):
		return said.WithViolated(name)
	}
	return err
}

// Header implements respwriter.Hook: the service says what the request has cost.
func (x *exchange) Header(w *respwriter.Writer, r *http.Request, _ int) respwriter.Body {
	h := w.Header()
	answered := reqctx.From(r.Context()).Code == "" // by the service, and not in its place
	for i := range x.count {
		name := x.quotas[i].CostHeader
		if name == "" || !answered {
			continue
		}
		// A service that says nonsense has said nothing: what was reserved counts.
		if cost, err := strconv.ParseInt(strings.TrimSpace(h.Get(name)), 10, 64); err == nil && cost >= 0 {
			x.at(i).cost = cost
		}
	}
	if !x.shadow {
		for i := range x.quotas {
			if name := x.quotas[i].CostHeader; name != "" {
				delete(h, name)
			}
		}
	}
	return nil
}

// settle ends the exchange, also when it was broken off.
func (x *exchange) settle(r *http.Request) {
	ctx := r.Context()
	if info := reqctx.From(ctx); refused(info.Policy) || unasked(info.Code) {
		x.cancel(ctx)
		return
	}
	for i := range x.count {
		if t := x.at(i); t.cost >= 0 {
			t.reservation.Settle(ctx, t.cost)
		}
	}
}

// cancel gives everything back.
func (x *exchange) cancel(ctx context.Context) {
	for i := range x.count {
		x.at(i).reservation.Cancel(ctx)
	}
	x.count = 0
}

// refused reports whether the policy is one that stands between this one and the
// service, and refuses requests only: what it has refused, the service has not seen.
func refused(policy string) bool {
	switch policy {
	case "request_headers", "validate", "mock", "cache":
		return true
	}
	return false
}

// unasked reports whether the code is that of an answer in place of a service which
// has not seen the request. A request that the service has seen counts, whatever
// became of it: who makes a service time out is not to have that for nothing.
func unasked(code string) bool {
	switch code {
	case "gateway.upstream_unreachable", "gateway.circuit_open", "gateway.overloaded", "gateway.no_targets", "gateway.targets_unknown",
		"gateway.service_unusable", "gateway.route_unusable", "gateway.credential_unavailable", "gateway.saturated", "gateway.fault_injected", "gateway.condition_failed",
		"gateway.rewrite_refused", "gateway.rewrite_no_match", "gateway.version_invalid", "gateway.version_not_found",
		"gateway.version_not_acceptable", "gateway.version_not_supported", "request.upgrade_invalid":
		return true
	}
	return false
}
