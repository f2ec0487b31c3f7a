package policies

import (
	"time"

	"github.com/keywarden/keywarden/pkg/spec/check"
	"github.com/keywarden/keywarden/pkg/spec/quantity"
)

// Cache keeps answers of the service and gives them to later requests, as a shared
// cache does (RFC 9111). A copy is for the caller that it was made for, unless it is
// public.
type Cache struct {
	Gate

	// Public is one copy for all callers, of answers that allow it.
	Public bool `json:"public,omitempty"`

	// DefaultTTL is how long an answer is fresh that does not say so.
	DefaultTTL quantity.Duration `json:"default_ttl,omitempty"`

	// MaxObject is the largest body that is kept.
	MaxObject quantity.Size `json:"max_object"`

	// VaryByHeaders are fields of the request that answers differ by, beside those that
	// the service names in Vary.
	VaryByHeaders []string `json:"vary_by_headers,omitempty"`

	// StaleWhileRevalidate and StaleIfError are how long a stale answer may still be
	// given while a fresh one is fetched, or when that fails, where the answer does not
	// say so (RFC 5861).
	StaleWhileRevalidate quantity.Duration `json:"stale_while_revalidate,omitempty"`
	StaleIfError         quantity.Duration `json:"stale_if_error,omitempty"`
}

// Bounds of caches.
const (
	defaultMaxObject = quantity.Size(1 << 20)
	largestObject    = quantity.Size(64 << 20)
	maxFreshness     = quantity.Duration(365 * 24 * time.Hour)
	maxVary          = 16
)

// SetDefaults fills in what a document need not say.
func (c *Cache) SetDefaults() { c.MaxObject = defaultMaxObject }

func (c *Cache) Validate(path string, v *check.Checker) {
	if c.MaxObject <= 0 || c.MaxObject > largestObject {
		v.Fail(path+".max_object", "must be above 0 and at most 64MiB")
	}
	if len(c.VaryByHeaders) > 0 {
		v.Distinct(path+".vary_by_headers", c.VaryByHeaders, maxVary, "the name of a header field", check.IsToken)
	}
	for _, of := range []struct {
		field string
		span  quantity.Duration
	}{{"default_ttl", c.DefaultTTL}, {"stale_while_revalidate", c.StaleWhileRevalidate}, {"stale_if_error", c.StaleIfError}} {
		if of.span < 0 || of.span > maxFreshness {
			v.Fail(path+"."+of.field, "must be from 0s to 8760h")
		}
	}
}
