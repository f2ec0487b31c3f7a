package session

import (
	"errors"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/keywarden/keywarden/pkg/access"
	"github.com/keywarden/keywarden/pkg/seal"
)

// IdentityType is the "typ" of a token that tells a service who calls. No door of
// this platform takes it for an access token.
const IdentityType = "kw-identity+jwt"

// Identity is what a service is told of a caller. Empty texts are left out of the
// token, but for those that are required.
type Identity struct {
	Subject  string // id of the user, or what stands for it; required
	Audience string // the service; required
	Kind     string // of the caller's credential
	Role     string
	Scope    string // separated by spaces
	KeyID    string // of the API key
	AppID    string // of the app that the key belongs to
	Name     string // in the certificate
}

var errNoIdentity = errors.New("an identity needs a subject, an audience and a lifetime of whole seconds")

// SignIdentity makes a token that tells a service who calls, for the service to check
// with the keys of [Signer.JWKS]. It has no "jti": one token serves for many requests
// of a caller.
func (s *Signer) SignIdentity(i Identity, ttl time.Duration) (seal.Secret, error) {
	if i.Subject == "" || i.Audience == "" || ttl < time.Second || ttl%time.Second != 0 {
		return seal.Secret{}, errNoIdentity
	}
	set := s.keys.Load()
	if set == nil {
		return seal.Secret{}, access.ErrUndecided.With(errNoKeys).WithRetryAfter(retryAfter)
	}
	now := s.opts.Now()
	claims := jwt.MapClaims{
		"iss": s.opts.Issuer, "sub": i.Subject, "aud": i.Audience, "iat": now.Unix(), "exp": now.Add(ttl).Unix(),
	}
	for name, text := range map[string]string{
		"kind": i.Kind, "role": i.Role, "scope": i.Scope, "key_id": i.KeyID, "app_id": i.AppID, "name": i.Name,
	} {
		if text != "" {
			claims[name] = text
		}
	}
	token := jwt.NewWithClaims(jwt.SigningMethodEdDSA, claims)
	token.Header["typ"], token.Header["kid"] = IdentityType, set.signing
	signed, err := token.SignedString(set.private)
	return seal.NewSecret(signed), err
}
