package gateway

import (
	"context"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/keywarden/keywarden/pkg/access"
	"github.com/keywarden/keywarden/pkg/expression"
	"github.com/keywarden/keywarden/pkg/gateway/policy"
	policylimit "github.com/keywarden/keywarden/pkg/gateway/policy/ratelimit"
	"github.com/keywarden/keywarden/pkg/problem"
	"github.com/keywarden/keywarden/pkg/ratelimit"
	"github.com/keywarden/keywarden/pkg/reqctx"
	"github.com/keywarden/keywarden/pkg/spec"
)

// limitSubjects is how many subjects one limit remembers: about 60 MB when all are
// there, and nothing before.
const limitSubjects = 1_000_000

// counter keeps a limit in the memory of this replica.
type counter struct{ *ratelimit.Limiter }

// Take implements the policy's Counter.
func (c counter) Take(_ context.Context, subject string, cost int64) (ratelimit.Decision, bool) {
	return c.Limiter.Take(subject, time.Now(), cost), false
}

// limitIdentity is what a counter lives on by, from one document to the next: the
// route, the limit's name, and how it counts.
type limitIdentity struct {
	route, name string
	limit       ratelimit.Limit
}

// rateLimit makes the step of the limits of a route.
func (c *compiler) rateLimit(route string, l *spec.RateLimits) (policy.Step, error) {
	limits := make([]policylimit.Limit, len(l.Limits))
	for i := range l.Limits {
		of := &l.Limits[i]
		id := limitIdentity{route, of.Name, of.Arithmetic()}
		kept := c.gateway.live.Load().counters[id]
		if kept == nil {
			made, err := ratelimit.NewLimiter(id.limit, limitSubjects)
			if err != nil {
				return policy.Step{}, err
			}
			kept = &counter{made}
		}
		c.counters[id] = kept
		subject, err := subjectOf(of, route)
		if err != nil {
			return policy.Step{}, err
		}
		cost, err := costOf(of)
		if err != nil {
			return policy.Step{}, err
		}
		limits[i] = policylimit.Limit{Name: of.Name, Counter: kept, Subject: subject, Cost: cost}
	}
	return policylimit.New(limits, time.Now)
}

// subjectOf is whom a request counts for.
func subjectOf(l *spec.RateLimit, route string) (func(*http.Request) (string, error), error) {
	switch l.By {
	case spec.ByAddress:
		return func(r *http.Request) (string, error) { return network(reqctx.From(r.Context())), nil }, nil
	case spec.ByUser:
		return ofPrincipal(func(p *access.Principal) string { return p.UserID }), nil
	case spec.ByKey:
		return ofPrincipal(func(p *access.Principal) string { return p.KeyID }), nil
	case spec.ByService:
		return func(r *http.Request) (string, error) { return "service " + reqctx.From(r.Context()).Service, nil }, nil
	case spec.ByHeader:
		name := http.CanonicalHeaderKey(l.Header)
		return func(r *http.Request) (string, error) { return r.Header.Get(name), nil }, nil
	case spec.ByExpression:
		e, err := expression.Compile(l.Expression, expression.String)
		if err != nil {
			return nil, err
		}
		return e.String, nil
	default:
		return func(*http.Request) (string, error) { return route, nil }, nil
	}
}

func ofPrincipal(id func(*access.Principal) string) func(*http.Request) (string, error) {
	return func(r *http.Request) (string, error) {
		if p := access.PrincipalFrom(r.Context()); p != nil {
			return id(p), nil
		}
		return "", nil
	}
}

// network is the caller's address, of IPv6 the /64, which is what a single
// customer is given.
func network(info *reqctx.Info) string {
	client := info.Client.Unmap()
	if client.Is6() {
		if p, err := client.Prefix(64); err == nil {
			return p.Addr().String()
		}
	}
	return client.String()
}

// costOf is how much a request takes; nil for 1. A field that says nothing costs 1,
// and one that holds no whole number is refused, not a discount.
func costOf(l *spec.RateLimit) (func(*http.Request) (int64, error), error) {
	switch {
	case l.CostHeader != "":
		name := http.CanonicalHeaderKey(l.CostHeader)
		return func(r *http.Request) (int64, error) {
			value := strings.TrimSpace(r.Header.Get(name))
			if value == "" {
				return 1, nil
			}
			n, err := strconv.ParseInt(value, 10, 64)
			if err != nil || n < 1 {
				return 0, problem.ErrInvalid.WithField(name, "must be a whole number from 1 on: what the request costs")
			}
			return n, nil
		}, nil
	case l.CostExpression != "":
		e, err := expression.Compile(l.CostExpression, expression.Int)
		if err != nil {
			return nil, err
		}
		return e.Int, nil
	case l.Cost > 1:
		cost := int64(l.Cost)
		return func(*http.Request) (int64, error) { return cost, nil }, nil
	}
	return nil, nil
}
