package services

import (
	"github.com/keywarden/keywarden/pkg/spec/check"
	"github.com/keywarden/keywarden/pkg/spec/quantity"
)

// Balance says how a service with several targets chooses one for a request.
type Balance struct {
	Policy string `json:"policy"`

	// Hash names what consistent_hash keeps together; required there, and only
	// there.
	Hash *Hash `json:"hash,omitempty"`

	// SlowStart is how long a target that was not well, and is again, takes less
	// than its share.
	SlowStart quantity.Duration `json:"slow_start,omitempty"`
}

// Hash is one of the things that requests have in common.
type Hash struct {
	By   string `json:"by"`             // client, user, header or cookie
	Name string `json:"name,omitempty"` // of the header or cookie
}

// The policies of balancing, and what consistent_hash can go by.
const (
	BalanceRoundRobin         = "round_robin"
	BalanceWeightedRoundRobin = "weighted_round_robin"
	BalanceRandom             = "random"
	BalanceLeastConnections   = "least_connections"
	BalancePowerOfTwo         = "power_of_two"
	BalanceConsistentHash     = "consistent_hash"

	HashClient = "client" // the caller's address
	HashUser   = "user"   // the authenticated user; the address of an anonymous caller
	HashHeader = "header"
	HashCookie = "cookie"
)

// balancePolicies lists all policies.
func balancePolicies() []string {
	return []string{
		BalanceRoundRobin, BalanceWeightedRoundRobin, BalanceRandom,
		BalanceLeastConnections, BalancePowerOfTwo, BalanceConsistentHash,
	}
}

// SetDefaults fills in what a document need not say.
func (b *Balance) SetDefaults() { b.Policy = BalanceRoundRobin }

func (b *Balance) Validate(path string, v *check.Checker) {
	v.OneOf(path+".policy", b.Policy, balancePolicies()...)
	if b.SlowStart != 0 {
		v.Timeout(path+".slow_start", b.SlowStart)
	}
	switch {
	case b.Hash == nil && b.Policy == BalanceConsistentHash:
		v.Required(path + ".hash")
	case b.Hash != nil && b.Policy != BalanceConsistentHash:
		v.Fail(path+".hash", "belongs to the policy consistent_hash")
	case b.Hash != nil:
		b.Hash.Validate(path+".hash", v)
	}
}

func (h *Hash) Validate(path string, v *check.Checker) {
	if !v.OneOf(path+".by", h.By, HashClient, HashUser, HashHeader, HashCookie) {
		return
	}
	named := h.By == HashHeader || h.By == HashCookie
	switch {
	case named && h.Name == "":
		v.Required(path + ".name")
	case !named && h.Name != "":
		v.Fail(path+".name", "belongs to header and cookie")
	case named && !check.IsToken(h.Name):
		v.Fail(path+".name", "must be the name of a %s", h.By)
	}
}
