package spec

import "slices"

// AuthMode says whether a route needs to know its caller.
type AuthMode string

// The modes. A route that says nothing is AuthRequired: a forgotten field must
// not open a backend.
const (
	AuthRequired AuthMode = "required"
	AuthNone     AuthMode = "none"
)

// AuthMethod is a kind of credential.
type AuthMethod string

// The methods.
const (
	AuthJWT AuthMethod = "jwt" // access token of this platform, as bearer
	AuthKey AuthMethod = "key" // API key of this platform
)

// Auth is the authentication of a route.
type Auth struct {
	Mode AuthMode `json:"mode"`

	// Methods are the credentials that the mode required accepts; all of them when
	// the field is absent.
	Methods []AuthMethod `json:"methods,omitempty"`
}

func (a *Auth) normalise() {
	if a.Mode == AuthRequired && a.Methods == nil {
		a.Methods = []AuthMethod{AuthJWT, AuthKey}
	}
}

func (a *Auth) validate(path string, v *validator) {
	switch a.Mode {
	case AuthNone:
		if a.Methods != nil {
			v.fail(path+".methods", "means nothing with the mode none; remove one of the two")
		}
		return
	case AuthRequired:
	default:
		v.fail(path+".mode", "must be required or none")
	}
	if len(a.Methods) == 0 {
		v.fail(path+".methods", "must name at least one of jwt and key")
	}
	for i, m := range a.Methods {
		switch {
		case m != AuthJWT && m != AuthKey:
			v.fail(index(path+".methods", i), "must be jwt or key")
		case slices.Contains(a.Methods[:i], m):
			v.fail(index(path+".methods", i), "is named twice")
		}
	}
}
