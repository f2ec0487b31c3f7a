package keysapi

import (
	"net/netip"
	"slices"
	"time"

	"github.com/gin-gonic/gin"

	"github.com/keywarden/keywarden/pkg/access"
	"github.com/keywarden/keywarden/pkg/apikey"
	"github.com/keywarden/keywarden/pkg/httpapi"
)

// bounds keep a key from making, changing, or getting the secret of a key that may do
// more than itself, from more places, or for longer: whoever finds a key must not make
// another of it that outlives it. The key of an app cannot come here at all.
type bounds struct {
	handler *Handler
	caller  *access.Principal
	key     *apikey.Key // that calls; nil for a signed-in user, who has no bounds
}

// boundsOf are those of the caller.
func (h *Handler) boundsOf(c *gin.Context) (bounds, error) {
	b := bounds{handler: h, caller: httpapi.Principal(c)}
	if b.caller.Kind != access.KindKey {
		return b, nil
	}
	k, err := h.Keys.Get(c.Request.Context(), b.caller.UserID, b.caller.KeyID)
	b.key = &k
	return b, err
}

// scopes refuses what the caller does not hold. The answer does not repeat what was
// typed.
func (b bounds) scopes(scopes []string) error {
	for i, s := range scopes {
		if b.key != nil && !b.handler.Guard.Holds(b.caller, s) {
			return access.ErrScope.WithDetail("The calling API key does not hold scopes[%d] and cannot give it to another.", i)
		}
	}
	return nil
}

// expiry refuses an end after the caller's; nil is none.
func (b bounds) expiry(at *time.Time) error {
	if b.key == nil || b.key.ExpiresAt == nil || at != nil && !at.After(*b.key.ExpiresAt) {
		return nil
	}
	return access.ErrScope.WithDetail("The calling API key expires at %s, and no key that it makes or changes may last longer.",
		b.key.ExpiresAt.UTC().Format(time.RFC3339))
}

// networks refuses places that the caller may not be used from; none are all.
func (b bounds) networks(allowed []netip.Prefix) error {
	if b.key == nil || len(b.key.AllowedIPs) == 0 {
		return nil
	}
	outside := func(p netip.Prefix) bool {
		return !slices.ContainsFunc(b.key.AllowedIPs, func(own netip.Prefix) bool {
			return own.Bits() <= p.Bits() && own.Contains(p.Addr())
		})
	}
	if len(allowed) == 0 || slices.ContainsFunc(allowed, outside) {
		return access.ErrScope.WithDetail("The calling API key is bound to addresses, and so must be each key that it makes or changes: set allowed_ips within its own.")
	}
	return nil
}
