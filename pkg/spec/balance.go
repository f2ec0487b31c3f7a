package spec

import (
	"slices"
	"strings"

	"github.com/keywarden/keywarden/pkg/nearest"
)

// Balance says how a service with several targets chooses one for a request.
type Balance struct {
	Policy string `json:"policy"`

	// Hash names what consistent_hash keeps together; required there, and only
	// there.
	Hash *Hash `json:"hash,omitempty"`

	// SlowStart is how long a target that was not well, and is again, takes less
	// than its share.
	SlowStart Duration `json:"slow_start,omitempty"`
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

func (b *Balance) validate(path string, v *validator) {
	v.oneOf(path+".policy", b.Policy, balancePolicies()...)
	if b.SlowStart != 0 {
		v.timeout(path+".slow_start", b.SlowStart)
	}
	switch {
	case b.Hash == nil && b.Policy == BalanceConsistentHash:
		v.required(path + ".hash")
	case b.Hash != nil && b.Policy != BalanceConsistentHash:
		v.fail(path+".hash", "belongs to the policy consistent_hash")
	case b.Hash != nil:
		b.Hash.validate(path+".hash", v)
	}
}

func (h *Hash) validate(path string, v *validator) {
	if !v.oneOf(path+".by", h.By, HashClient, HashUser, HashHeader, HashCookie) {
		return
	}
	named := h.By == HashHeader || h.By == HashCookie
	switch {
	case named && h.Name == "":
		v.required(path + ".name")
	case !named && h.Name != "":
		v.fail(path+".name", "belongs to header and cookie")
	case named && !isToken(h.Name):
		v.fail(path+".name", "must be the name of a %s", h.By)
	}
}

// oneOf checks a word and reports whether it is good.
func (v *validator) oneOf(path, word string, words ...string) bool {
	if slices.Contains(words, word) {
		return true
	}
	if word == "" {
		v.required(path)
		return false
	}
	v.fail(path, "must be one of %s%s", strings.Join(words, ", "), nearest.Question(word, words))
	return false
}

// isToken reports whether s is a token (RFC 9110 section 5.6.2) that a field or
// cookie can have as its name; underscores never reach a service.
func isToken(s string) bool {
	for i := range len(s) {
		switch c := s[i]; {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == '-', c == '.', c == '_':
		default:
			return false
		}
	}
	return s != "" && len(s) <= 128
}
