package policies

import (
	"slices"

	"github.com/keywarden/keywarden/pkg/access"
	"github.com/keywarden/keywarden/pkg/spec/check"
)

// AuthMode says whether a route needs to know its caller.
type AuthMode string

// The modes. A route that says nothing is AuthRequired: a forgotten field must
// not open a backend. A document may write enforce for required and off for none,
// as with other policies.
const (
	AuthRequired AuthMode = "required"
	AuthOptional AuthMode = "optional" // anonymous callers pass, bad credentials do not
	AuthShadow   AuthMode = "shadow"   // who would be refused is counted, and passes as anonymous
	AuthNone     AuthMode = "none"
)

// AuthMethod is a kind of credential.
type AuthMethod string

// The methods.
const (
	AuthJWT AuthMethod = "jwt" // access token of this platform, as bearer
	AuthKey AuthMethod = "key" // API key of this platform

	// AuthCertificate is a TLS certificate that one of the authorities of
	// server.tls.client_ca_file has signed for the client.
	AuthCertificate AuthMethod = "certificate"
)

// Auth is the authentication of a route, and what its callers need to be.
type Auth struct {
	Mode AuthMode `json:"mode"`

	// When is the condition under which the policy counts; see [Gate].
	When string `json:"when,omitempty"`

	// Methods are the credentials that are accepted; jwt and key when the field is
	// absent.
	Methods []AuthMethod `json:"methods,omitempty"`

	// Scopes are needed, all of them.
	Scopes []string `json:"scopes,omitempty"`

	// Roles are those of which the caller must have one; empty means any.
	Roles []string `json:"roles,omitempty"`
}

// Bounds of what a route may demand.
const (
	maxScopes = 32
	maxRoles  = 16
)

// SetDefaults fills in what a document need not say.
func (a *Auth) SetDefaults() { a.Mode = AuthRequired }

func (a *Auth) Normalise() {
	switch a.Mode {
	case AuthMode(Enforce):
		a.Mode = AuthRequired
	case AuthMode(Off):
		a.Mode = AuthNone
	default:
	}
	if a.Mode != AuthNone && a.Methods == nil {
		a.Methods = []AuthMethod{AuthJWT, AuthKey}
	}
}

func (a *Auth) gate() Gate {
	g := Gate{Mode: Enforce, When: a.When}
	switch a.Mode {
	case AuthShadow:
		g.Mode = Shadow
	case AuthNone:
		g.Mode = Off
	default:
	}
	return g
}

func (a *Auth) Validate(path string, v *check.Checker) {
	if !v.OneOf(path+".mode", string(a.Mode), string(AuthRequired), string(AuthOptional), string(AuthShadow), string(AuthNone)) {
		return
	}
	if a.Mode == AuthNone {
		for _, f := range []struct {
			name  string
			given bool
		}{{"methods", a.Methods != nil}, {"scopes", a.Scopes != nil}, {"roles", a.Roles != nil}} {
			if f.given {
				v.Fail(path+"."+f.name, "means nothing with the mode none; remove one of the two")
			}
		}
		return
	}
	if len(a.Methods) == 0 {
		v.Fail(path+".methods", "must name at least one of jwt, key and certificate")
	}
	for i, m := range a.Methods {
		switch {
		case !slices.Contains(authMethods(), m):
			v.Fail(check.Index(path+".methods", i), "must be %s", words(authMethods()))
		case slices.Contains(a.Methods[:i], m):
			v.Fail(check.Index(path+".methods", i), "is named twice")
		}
	}
	if a.Mode == AuthOptional && len(a.Scopes)+len(a.Roles) > 0 {
		v.Fail(path, "cannot demand scopes or roles with the mode optional: those who show no credential would need less than those who do")
	}
	v.Distinct(path+".scopes", a.Scopes, maxScopes, "a scope such as orders:read", access.ValidScope)
	v.Distinct(path+".roles", a.Roles, maxRoles, "a role such as admin", check.IsName)
}

// authMethods lists all methods.
func authMethods() []AuthMethod { return []AuthMethod{AuthJWT, AuthKey, AuthCertificate} }
