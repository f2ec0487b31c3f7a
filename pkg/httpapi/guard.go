package httpapi

import (
	"context"
	"log/slog"
	"net/http"
	"time"

	"github.com/gin-gonic/gin"

	"github.com/keywarden/keywarden/pkg/access"
	"github.com/keywarden/keywarden/pkg/audit"
	"github.com/keywarden/keywarden/pkg/reqctx"
	"github.com/keywarden/keywarden/pkg/throttle"
)

// Authenticator checks the credential of a request; access.Authenticator is one.
type Authenticator interface {
	Authenticate(r *http.Request, accept access.Methods) (*access.Principal, error)
}

// Guard authenticates and authorises calls to the platform's own API.
type Guard struct {
	Auth    Authenticator
	Record  func(ctx context.Context, e audit.Entry) error // audits refusals
	Denials *throttle.Limiter                              // audited refusals per user
	Logger  *slog.Logger

	// Used hears of each scope that a call has needed and that its caller holds; nil for
	// nobody.
	Used func(p *access.Principal, scope string)
}

// Authenticated admits every caller with a good credential.
func (g *Guard) Authenticated() gin.HandlerFunc {
	return Handle(func(c *gin.Context) error {
		_, err := g.authenticate(c)
		return err
	})
}

// Require admits callers that hold the scope.
func (g *Guard) Require(scope string) gin.HandlerFunc {
	return g.check(func(p *access.Principal) error { return g.Check(p, scope) }, scope)
}

// Check returns nil when the caller holds a scope that the call turns out to need,
// else access.Require's refusal.
func (g *Guard) Check(p *access.Principal, scope string) error {
	if err := access.Require(p, scope); err != nil {
		return err
	}
	g.Needed(p, scope)
	return nil
}

// Holds reports whether the caller holds a scope that the call turns out to need.
func (g *Guard) Holds(p *access.Principal, scope string) bool {
	if !p.Has(scope) {
		return false
	}
	g.Needed(p, scope)
	return true
}

// Needed says that the call has needed a scope that its caller holds.
func (g *Guard) Needed(p *access.Principal, scope string) {
	if g.Used != nil {
		g.Used(p, scope)
	}
}

// User admits people: callers with an access token.
func (g *Guard) User() gin.HandlerFunc {
	return g.check(func(p *access.Principal) error {
		if p.Kind != access.KindUser {
			return access.ErrUserOnly
		}
		return nil
	}, "user only")
}

// Key admits programs: callers with an API key.
func (g *Guard) Key() gin.HandlerFunc {
	return g.check(func(p *access.Principal) error {
		if p.Kind != access.KindKey {
			return access.ErrKeyOnly
		}
		return nil
	}, "key only")
}

func (g *Guard) check(allowed func(*access.Principal) error, rule string) gin.HandlerFunc {
	return Handle(func(c *gin.Context) error {
		p, err := g.authenticate(c)
		if err != nil {
			return err
		}
		if err := allowed(p); err != nil {
			g.denied(c, p, rule)
			return err
		}
		return nil
	})
}

// authenticate puts the caller into the request's context and facts.
func (g *Guard) authenticate(c *gin.Context) (*access.Principal, error) {
	p, err := g.Auth.Authenticate(c.Request, access.AnyMethod)
	if err != nil {
		return nil, err
	}
	ctx := c.Request.Context()
	info := reqctx.From(ctx)
	info.Subject, info.KeyID = p.UserID, p.KeyID
	if known := access.Admit(ctx, p); known != ctx {
		c.Request = c.Request.WithContext(known)
	}
	return p, nil
}

// auditTimeout bounds the recording of a refusal.
const auditTimeout = 5 * time.Second

// denied audits a refusal, but not a thousand of them.
func (g *Guard) denied(c *gin.Context, p *access.Principal, rule string) {
	if g.Denials.Take(p.UserID) > 0 {
		return
	}
	ctx := c.Request.Context()
	entry := audit.New(ctx, audit.AccessDenied, "route", c.Request.Method+" "+c.FullPath()).Failed().With("needs", rule)
	// A caller who hangs up is recorded too.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), auditTimeout)
	defer cancel()
	if err := g.Record(ctx, entry); err != nil {
		g.Logger.ErrorContext(ctx, "a refusal could not be audited", "error", err)
	}
}

// Principal is the caller of a guarded call.
func Principal(c *gin.Context) *access.Principal { return access.PrincipalFrom(c.Request.Context()) }
