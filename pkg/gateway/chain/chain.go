// Package chain makes the policies of a route from what the gateway document says
// of them: each with its step, its mode and its condition, in the fixed order of
// [policies.Policies]. It knows every kind of policy, and the packages of the policies
// know nothing of one another. What a policy keeps from request to request, such as
// the counters of a limit, lives on from one document to the next by its identity.
//
// It does not know routes, the index or the proxy.
package chain

import (
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/keywarden/keywarden/pkg/access"
	"github.com/keywarden/keywarden/pkg/expression"
	"github.com/keywarden/keywarden/pkg/gateway/policy"
	"github.com/keywarden/keywarden/pkg/gateway/policy/auth"
	"github.com/keywarden/keywarden/pkg/gateway/policy/bodylimit"
	"github.com/keywarden/keywarden/pkg/gateway/policy/cache"
	"github.com/keywarden/keywarden/pkg/gateway/policy/compress"
	"github.com/keywarden/keywarden/pkg/gateway/policy/plan"
	"github.com/keywarden/keywarden/pkg/gateway/policy/validate"
	"github.com/keywarden/keywarden/pkg/openapi/contract"
	"github.com/keywarden/keywarden/pkg/quota"
	"github.com/keywarden/keywarden/pkg/ratelimit"
	"github.com/keywarden/keywarden/pkg/spec/policies"
	"github.com/keywarden/keywarden/pkg/spec/quantity"
	"github.com/keywarden/keywarden/pkg/template"
)

// Options is what chains are made with. Authenticator is required.
type Options struct {
	Authenticator auth.Authenticator

	// BodyLimit bounds request bodies on routes that set no limit of their own, in
	// bytes; 0 means no bound.
	BodyLimit int64

	// Counters makes the counters of rate limits; without it they are kept in the
	// memory of this replica.
	Counters Counters

	// Quotas hold what quotas have leased, and Cache keeps answers; without them no
	// route can have such a policy.
	Quotas *quota.Meters
	Cache  *cache.Cache

	// Secrets are those that templates for services may name; without them none can.
	Secrets template.Secrets

	// Drift is told of answers that are not as described; without it they are not
	// looked at.
	Drift validate.Drift

	// ScopeUsed hears of each scope that let a caller in; absent, nobody does.
	ScopeUsed func(p *access.Principal, scope string)

	// Plans hold the keys of apps to their products; without them no route accepts the
	// keys of apps.
	Plans *plan.Plans
}

// Builder makes chains. It is safe for concurrent use.
type Builder struct {
	Options
	writers *compress.Writers
	now     func() time.Time
}

// NewBuilder makes a builder.
func NewBuilder(o Options) (*Builder, error) {
	switch {
	case o.Authenticator == nil:
		return nil, errors.New("chain: an authenticator is required")
	case o.BodyLimit < 0:
		return nil, errors.New("chain: the body limit must not be negative")
	}
	if o.Counters == nil {
		o.Counters = InMemory{Subjects: limitSubjects}
	}
	return &Builder{Options: o, writers: compress.NewWriters(compress.MaxWriters), now: time.Now}, nil
}

// Kept is what the policies of a document keep from request to request. It is
// immutable once the document is compiled.
type Kept struct {
	counters map[limitIdentity]counter
	places   map[placesIdentity]*ratelimit.InFlight
}

// Document makes the chains of the routes of one document. It is not safe for
// concurrent use.
type Document struct {
	*Builder
	before     *Kept
	kept       *Kept
	conditions map[string]policy.Condition // by their text
}

// Document begins a document that follows the one that before is of; nil is none.
func (b *Builder) Document(before *Kept) *Document {
	if before == nil {
		before = &Kept{}
	}
	kept := &Kept{counters: map[limitIdentity]counter{}, places: map[placesIdentity]*ratelimit.InFlight{}}
	return &Document{Builder: b, before: before, kept: kept, conditions: map[string]policy.Condition{}}
}

// Kept is what the chains that were made keep.
func (d *Document) Kept() *Kept { return d.kept }

// Route is what policies want to know of a route.
type Route struct {
	Name    string
	Service string // empty: it leads to one of several, or to none
	Flows   []policies.Flow

	// Operation is what validate and mock go by; nil where the route names none.
	Operation *contract.Operation
}

// Rules makes the chain of a route. A policy that is not there has no step.
func (d *Document) Rules(route Route, p *policies.Policies) ([]policy.Rule, error) {
	if p.MaxBody == nil && d.BodyLimit > 0 {
		p.MaxBody = &policies.MaxBody{Gate: policies.Gate{Mode: policies.Enforce}, Limit: quantity.Size(d.BodyLimit)}
	}
	rules, err := d.rules(route, p)
	if err != nil || route.Flows == nil {
		return rules, err
	}
	return d.flows(route, rules)
}

// rules makes those of policies that are there.
func (d *Document) rules(route Route, p *policies.Policies) ([]policy.Rule, error) {
	var rules []policy.Rule
	for _, named := range p.List() {
		if named.Gate.Mode == policies.Off {
			continue
		}
		step, err := d.step(route, named.Name, p)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", named.Name, err)
		}
		rule := policy.Rule{Step: step, Name: named.Name, Text: named.Gate.When}
		if named.Gate.Mode == policies.Shadow {
			rule.Mode = policy.Shadow
		}
		if rule.When, err = d.condition(named.Gate.When); err != nil {
			return nil, fmt.Errorf("%s: when: %w", named.Name, err)
		}
		rules = append(rules, rule)
		if named.Name == auth.Name && d.Plans != nil {
			rules = append(rules, policy.Rule{Step: d.Plans.Step(route.Name), Name: plan.Name})
		}
		if named.Name == bodylimit.Name && (rule.Mode == policy.Shadow || rule.When != nil) && d.BodyLimit > 0 {
			if rule, err = instead(rule, d.BodyLimit); err != nil {
				return nil, fmt.Errorf("max_body: %w", err)
			}
			rules = append(rules, rule)
		}
	}
	return rules, nil
}

// instead is the bound of the process for the requests for which that of the route
// does not count: all in shadow mode, else those for which its condition is false.
func instead(own policy.Rule, limit int64) (policy.Rule, error) {
	step, err := bodylimit.New(limit)
	rule := policy.Rule{Step: step, Name: own.Name}
	if own.Mode == policy.Enforce {
		rule.Text = "!(" + own.Text + ")"
		rule.When = func(r *http.Request) (bool, error) {
			counts, err := own.When(r)
			return !counts, err
		}
	}
	return rule, err
}

// condition compiles the condition of a policy; nil for none. Routes that inherit
// a policy share its condition.
func (d *Document) condition(text string) (policy.Condition, error) {
	if text == "" {
		return nil, nil
	}
	if known := d.conditions[text]; known != nil {
		return known, nil
	}
	e, err := expression.Compile(text, expression.Bool)
	if err != nil {
		return nil, err
	}
	d.conditions[text] = e.Bool
	return e.Bool, nil
}
