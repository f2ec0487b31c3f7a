package chain

import (
	"net/http"
	"strconv"
	"strings"

	"github.com/keywarden/keywarden/pkg/access"
	"github.com/keywarden/keywarden/pkg/expression"
	"github.com/keywarden/keywarden/pkg/problem"
	"github.com/keywarden/keywarden/pkg/reqctx"
	"github.com/keywarden/keywarden/pkg/spec/policies"
)

// subjectOf is whom a request counts for.
func subjectOf(l *policies.Subject, route string) (func(*http.Request) (string, error), error) {
	switch l.By {
	case policies.ByAddress:
		return func(r *http.Request) (string, error) { return network(reqctx.From(r.Context())), nil }, nil
	case policies.ByUser:
		return ofPrincipal(func(p *access.Principal) string { return p.UserID }), nil
	case policies.ByKey:
		return ofPrincipal(func(p *access.Principal) string { return p.KeyID }), nil
	case policies.ByService:
		return func(r *http.Request) (string, error) { return "service " + reqctx.From(r.Context()).Service, nil }, nil
	case policies.ByHeader:
		name := http.CanonicalHeaderKey(l.Header)
		return func(r *http.Request) (string, error) { return r.Header.Get(name), nil }, nil
	case policies.ByExpression:
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
func costOf(l *policies.Cost) (func(*http.Request) (int64, error), error) {
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
