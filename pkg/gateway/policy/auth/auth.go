// Package auth lets only callers pass who are known and may. It decides nothing
// about credentials: that is the Authenticator's, the same one that guards the
// platform's own API.
package auth

import (
	"errors"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/keywarden/keywarden/pkg/access"
	"github.com/keywarden/keywarden/pkg/gateway/policy"
	"github.com/keywarden/keywarden/pkg/problem"
	"github.com/keywarden/keywarden/pkg/reqctx"
)

// Name is the name of the policy in the document.
const Name = "auth"

// Authenticator finds out who makes a request. Its errors are problems, ready to
// be answered; access.ErrMissing says that there is no credential.
type Authenticator interface {
	Authenticate(r *http.Request, accept access.Methods) (*access.Principal, error)
}

// ErrRole is the refusal of a caller whose role is none of those that may.
var ErrRole = problem.Define(problem.Forbidden, "access.role_missing",
	"The caller does not have a role that this route needs.")

// Config is what a route demands.
type Config struct {
	Accept   access.Methods
	Optional bool          // a request without a credential passes
	Scopes   []string      // all of them are needed
	Roles    []access.Role // one of them is needed; empty: any

	// Used hears of each scope that let a caller in; nil for nobody. It must not block.
	Used func(p *access.Principal, scope string)
}

// New makes the step. The caller's principal goes on in the request's context,
// and its ids to the access log.
func New(a Authenticator, c Config) (policy.Step, error) {
	if a == nil {
		return policy.Step{}, errors.New("there is no authenticator")
	}
	if c.Accept == 0 {
		return policy.Step{}, errors.New("no way to authenticate is accepted")
	}
	d := &door{authenticator: a, Config: c}
	return policy.Step{
		Apply: func(next http.Handler) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				r, err := d.admit(r)
				if err != nil {
					policy.Refuse(w, r, Name, err)
					return
				}
				next.ServeHTTP(w, r)
			})
		},
		Watch: func(next http.Handler, report policy.Report) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				r, err := d.admit(r)
				if err != nil {
					report(r, err)
				}
				next.ServeHTTP(w, r)
			})
		},
		Preview: func(r *http.Request) error {
			p := access.PrincipalFrom(r.Context())
			switch {
			case p != nil && d.Accept&methodOf(p.Kind) == 0:
				return access.ErrMethod
			case p != nil:
				return d.authorise(p)
			case d.Optional:
				return nil
			default:
				return access.ErrMissing
			}
		},
	}, nil
}

// Standing makes the check of whether the caller of a request that was admitted
// would still be, at the moment of the check. Unlike the step it leaves no trace, so that
// it can run beside the request.
func Standing(a Authenticator, c Config, more ...Rule) policy.Check {
	d := &door{authenticator: a, Config: c}
	return func(r *http.Request) error {
		principal, err := a.Authenticate(anew(r), c.Accept)
		if err != nil || principal == nil {
			return err
		}
		for _, allows := range append([]Rule{d.authorise}, more...) {
			if err := allows(principal); err != nil {
				return err
			}
		}
		return nil
	}
}

// anew is r as if it came now: with facts of its own, of which those that are known
// before the first step of a route are the same.
func anew(r *http.Request) *http.Request {
	ctx := r.Context()
	of := reqctx.From(ctx)
	info := &reqctx.Info{ID: of.ID, Client: of.Client, Start: time.Now(), Scheme: of.Scheme, Host: of.Host}
	return r.WithContext(reqctx.With(ctx, info))
}

// Rule is what else a caller has to satisfy; nil is that they do.
type Rule func(p *access.Principal) error

// methodOf is the way in which a caller of the kind has authenticated.
func methodOf(kind access.Kind) access.Methods {
	switch kind {
	case access.KindKey:
		return access.MethodKey
	case access.KindCertificate:
		return access.MethodCertificate
	default:
		return access.MethodToken
	}
}

// door admits callers.
type door struct {
	authenticator Authenticator
	Config
}

// errNoPrincipal is a broken Authenticator; it must not open the route.
var errNoPrincipal = errors.New("the authenticator returned neither a principal nor an error")

// admit returns r with its caller in the context, as far as there is one, also
// beside an error.
func (d *door) admit(r *http.Request) (*http.Request, error) {
	principal, err := d.authenticator.Authenticate(r, d.Accept)
	switch {
	case err != nil && d.Optional && errors.Is(err, access.ErrMissing):
		return r, nil
	case err != nil:
		return r, err
	case principal == nil:
		return r, errNoPrincipal
	}
	ctx := r.Context()
	info := reqctx.From(ctx)
	info.Subject, info.KeyID, info.App = principal.UserID, principal.KeyID, principal.App
	if known := access.Admit(ctx, principal); known != ctx {
		r = r.WithContext(known)
	}
	if err := d.authorise(principal); err != nil {
		return r, err
	}
	if d.Used != nil {
		for _, scope := range d.Scopes {
			d.Used(principal, scope)
		}
	}
	return r, nil
}

// authorise checks what a known caller may.
func (d *door) authorise(p *access.Principal) error {
	for _, scope := range d.Scopes {
		if err := access.Require(p, scope); err != nil {
			return err
		}
	}
	if len(d.Roles) > 0 && !slices.Contains(d.Roles, p.Role) {
		return ErrRole.WithDetail("This route needs one of the roles %s, which the caller does not have.", strings.Join(names(d.Roles), ", "))
	}
	return nil
}

func names(roles []access.Role) []string {
	list := make([]string, len(roles))
	for i, r := range roles {
		list[i] = string(r)
	}
	return list
}
