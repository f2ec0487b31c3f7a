// Package access answers who is calling and whether they may: the Principal,
// the roles with the scopes they hold, and the one Authenticator that guards
// both the platform's own API and every proxied call. It verifies nothing by
// itself: API keys and tokens are checked by the verifiers it is given.
package access

import (
	"context"
	"net/netip"
	"slices"
	"time"

	"github.com/keywarden/keywarden/pkg/reqctx"
)

// Kind says by which kind of credential a caller proved who they are.
type Kind string

// The kinds of principal.
const (
	KindUser Kind = "user" // a person with an access token
	KindKey  Kind = "key"  // a program with an API key

	KindCertificate Kind = "certificate" // a client with a TLS certificate; only for routes of the gateway
)

// Principal is an authenticated caller. Values are immutable and shared between
// requests: verifiers hand out the same pointer for the same credential.
type Principal struct {
	Kind      Kind
	UserID    string   // the user, or the owner of the key; for a certificate its fingerprint, "sha256:..."
	Role      Role     // the user's current role
	Scopes    []string // sorted; already cut to what the role holds
	SessionID string   // for KindUser
	KeyID     string   // for KindKey: the key's identifier (UUID)
	KeyName   string   // for KindKey; for KindCertificate the name in it

	// App is the app (UUID) that a key belongs to, empty for none; Grant is what it may
	// reach then. Such a key reaches nothing else, whatever its scopes.
	App   string
	Grant *Grant
}

// Has reports whether p holds scope.
func (p *Principal) Has(scope string) bool {
	if p == nil {
		return false
	}
	return holds(p.Scopes, scope)
}

// holds reports whether sorted scopes contain scope or the wildcard.
func holds(scopes []string, scope string) bool {
	if len(scopes) > 0 && scopes[0] == Wildcard {
		return true
	}
	_, found := slices.BinarySearch(scopes, scope)
	return found
}

// KeyVerifier checks API keys. It returns an Unauthenticated problem for every
// key that is not good at now, and an Unavailable one when that cannot be decided.
type KeyVerifier interface {
	VerifyKeyAt(ctx context.Context, key string, client netip.Addr, now time.Time) (*Principal, error)
}

// TokenVerifier checks access tokens, with the same errors as KeyVerifier.
type TokenVerifier interface {
	VerifyToken(ctx context.Context, token string) (*Principal, error)
}

// WithPrincipal returns ctx carrying p, for whoever is given that context. A nil p
// hides the one that ctx has.
func WithPrincipal(ctx context.Context, p *Principal) context.Context {
	return context.WithValue(ctx, reqctx.CallerKey{}, p)
}

// Admit makes p the caller of the request whose context ctx is, from now on and
// for everybody who has that context. It returns ctx, or, outside a request, one
// that carries p.
func Admit(ctx context.Context, p *Principal) context.Context {
	info := reqctx.Carried(ctx)
	if info == nil {
		return WithPrincipal(ctx, p)
	}
	info.Caller = p
	return ctx
}

// PrincipalFrom returns the caller of the request, nil when anonymous.
func PrincipalFrom(ctx context.Context) *Principal {
	p, _ := ctx.Value(reqctx.CallerKey{}).(*Principal)
	return p
}
