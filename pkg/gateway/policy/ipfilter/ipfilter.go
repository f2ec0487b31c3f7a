// Package ipfilter decides by the client's address.
package ipfilter

import (
	"errors"
	"net/http"
	"net/netip"
	"slices"

	"github.com/keywarden/keywarden/pkg/gateway/policy"
	"github.com/keywarden/keywarden/pkg/problem"
	"github.com/keywarden/keywarden/pkg/reqctx"
)

// ErrDenied is the refusal. It does not say which networks would be allowed.
var ErrDenied = problem.Define(problem.Forbidden, "gateway.address_not_allowed",
	"This route may not be used from this address.")

// Allow lets only clients from the networks pass. The client's address is
// reqctx.Info.Client, that is after trusted proxies; a request without one is
// refused.
func Allow(networks []netip.Prefix) (policy.Step, error) {
	return step(networks, func(client netip.Addr, inside bool) bool { return inside })
}

// Deny refuses clients from the networks, and those without an address.
func Deny(networks []netip.Prefix) (policy.Step, error) {
	return step(networks, func(client netip.Addr, inside bool) bool { return client.IsValid() && !inside })
}

func step(networks []netip.Prefix, pass func(client netip.Addr, inside bool) bool) (policy.Step, error) {
	if len(networks) == 0 {
		return policy.Step{}, errors.New("no network is named")
	}
	if slices.ContainsFunc(networks, func(p netip.Prefix) bool { return !p.IsValid() }) {
		return policy.Step{}, errors.New("a network is not valid")
	}
	networks = slices.Clone(networks)
	return policy.Step{Check: func(r *http.Request) error {
		client := reqctx.From(r.Context()).Client.Unmap()
		inside := false
		for _, n := range networks {
			if n.Contains(client) {
				inside = true
				break
			}
		}
		if !pass(client, inside) {
			return ErrDenied
		}
		return nil
	}}, nil
}
