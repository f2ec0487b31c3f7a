// Package policy is what the steps of a route's chain have in common. A policy is
// a package of its own beside this one: a constructor that validates and returns
// a [Step], which says what the policy refuses and what it changes. Whether it is
// enforced, only watched, or asked at all for a request is decided here, for all
// policies in the same way.
//
// Steps start no goroutines, hold no global state and know neither the index nor
// the proxy; what has to outlive a reload is handed to them.
package policy

import (
	"net/http"
	"time"

	"github.com/keywarden/keywarden/pkg/problem"
	"github.com/keywarden/keywarden/pkg/reqctx"
)

// Middleware wraps the next step of a chain.
type Middleware func(next http.Handler) http.Handler

// Check decides whether a request may go on, and changes nothing; nil is yes. An
// error that is no problem is answered with 500.
type Check func(r *http.Request) error

// Report is told of what a policy would have refused.
type Report func(r *http.Request, err error)

// Step is a policy, made for a route. Each of its functions may be nil.
type Step struct {
	// Check is asked first.
	Check Check

	// Apply is what the policy does to request or answer. What it refuses on its own
	// it answers with [Refuse].
	Apply Middleware

	// Watch stands in for Apply in shadow mode: neither service nor client notice it.
	Watch func(next http.Handler, report Report) http.Handler

	// Preview is what Apply would refuse of a request that is only described, for
	// explanations: there is no body, and the caller, if any, is in the context.
	Preview Check
}

// Mode says how seriously a policy is meant.
type Mode uint8

// The modes. A policy that is off has no step.
const (
	Enforce Mode = iota
	Shadow
)

// Condition reports whether a policy counts for a request.
type Condition func(r *http.Request) (bool, error)

// Rule is a step in its place in the chain.
type Rule struct {
	Step
	Name string // of the policy, as in the document
	Mode Mode
	When Condition // nil: for every request
	Text string    // of the condition
}

// Verdict is what a rule says of a request.
type Verdict uint8

// The verdicts.
const (
	Passes  Verdict = iota // the request may go on
	Refuses                // it may not
	Skipped                // the condition does not hold
	Changes                // the policy refuses nobody, and changes request or answer
)

// Explain returns what the rule says of a request that is only described, whose
// caller, if any, is in the context. Nothing is changed and nobody is told.
func (u Rule) Explain(r *http.Request) (Verdict, error) {
	if u.When != nil {
		switch counts, err := u.When(r); {
		case err != nil:
			return Refuses, ErrCondition.With(err)
		case !counts:
			return Skipped, nil
		}
	}
	for _, check := range []Check{u.Check, u.Preview} {
		if check == nil {
			continue
		}
		if err := check(r); err != nil {
			return Refuses, err
		}
	}
	if u.Check == nil && u.Preview == nil {
		return Changes, nil
	}
	return Passes, nil
}

// Observer is told what policies in shadow mode have seen, and of conditions that
// cannot be worked out. err is nil for a policy that changes rather than refuses.
type Observer interface {
	Shadowed(r *http.Request, policy string, err error)
	ConditionFailed(r *http.Request, policy string, err error)
}

// Chain puts rules around last; the first rule is the outermost.
func Chain(last http.Handler, o Observer, rules ...Rule) http.Handler {
	for i := len(rules) - 1; i >= 0; i-- {
		last = rules[i].around(last, o)
	}
	return last
}

func (u Rule) around(next http.Handler, o Observer) http.Handler {
	var step http.Handler
	if u.Mode == Shadow {
		step = u.shadow(next, o)
	} else {
		step = u.enforce(next)
	}
	if u.When == nil {
		return step
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		counts, err := u.When(r)
		switch {
		case err != nil:
			// It cannot be known whether the policy counts, so nobody passes.
			o.ConditionFailed(r, u.Name, err)
			if u.Mode == Shadow {
				next.ServeHTTP(w, r)
				return
			}
			Refuse(w, r, u.Name, ErrCondition.With(err))
		case counts:
			step.ServeHTTP(w, r)
		default:
			next.ServeHTTP(w, r)
		}
	})
}

// ErrCondition is the refusal when a condition fails while it is worked out.
var ErrCondition = problem.Define(problem.Internal, "gateway.condition_failed",
	"A condition of this route could not be worked out for the request.")

func (u Rule) enforce(next http.Handler) http.Handler {
	if u.Apply != nil {
		next = u.Apply(next)
	}
	if u.Check == nil {
		return next
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if err := u.Check(r); err != nil {
			Refuse(w, r, u.Name, err)
			return
		}
		next.ServeHTTP(w, r)
	})
}

func (u Rule) shadow(next http.Handler, o Observer) http.Handler {
	after := next
	if u.Watch != nil {
		after = u.Watch(next, func(r *http.Request, err error) { o.Shadowed(r, u.Name, err) })
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case u.Check != nil:
			if err := u.Check(r); err != nil {
				o.Shadowed(r, u.Name, err)
				next.ServeHTTP(w, r)
				return
			}
		case u.Watch == nil:
			o.Shadowed(r, u.Name, nil)
		}
		after.ServeHTTP(w, r)
	})
}

// Time is what policies take for now: when the request was read, which is the one look at
// the clock that a request needs, as long as nothing before them has waited for others than
// those who know its key. now is for requests that no server has read.
func Time(info *reqctx.Info, now func() time.Time) time.Time {
	if info.Start.IsZero() {
		return now()
	}
	return info.Start
}

// Refuse answers r with the problem that err is or holds, notes it for the access
// log, and lets the gateway record the decision. name is the policy that refuses,
// empty when it is none.
func Refuse(w http.ResponseWriter, r *http.Request, name string, err error) {
	info := reqctx.From(r.Context())
	p := problem.From(err)
	info.Code, info.Err, info.Policy = p.Code, err, name
	if info.Decide != nil {
		p = p.WithDecision(info.Decide(r, p))
	}
	p.Write(w, info.ID)
}
