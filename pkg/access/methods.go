package access

import (
	"errors"
	"net/http"
	"strings"
	"time"

	"github.com/keywarden/keywarden/pkg/problem"
	"github.com/keywarden/keywarden/pkg/reqctx"
)

// Methods is the set of ways to authenticate that a route accepts.
type Methods uint8

// The ways to authenticate.
const (
	MethodToken       Methods = 1 << iota // access token (JWT) as bearer
	MethodKey                             // API key in X-API-Key or as bearer
	MethodCertificate                     // TLS certificate of the client

	// MethodAppKey is accepted beside MethodKey where the key may be that of an app:
	// only where it is looked at what the grant of the app opens.
	MethodAppKey
)

// AnyMethod accepts every way in which accounts prove who they are. A certificate
// has no account, and so no business with the platform's own API.
const AnyMethod = MethodToken | MethodKey

// KeyHeader is the header that carries an API key.
const KeyHeader = "X-Api-Key"

// Errors of authentication and authorisation.
var (
	ErrMissing = problem.Define(problem.Unauthenticated, "auth.missing",
		"This call needs an access token or an API key: send Authorization: Bearer <token or key>, or X-API-Key: <key>.")
	ErrAmbiguous = problem.Define(problem.Invalid, "auth.ambiguous",
		"The request carries more than one credential; send exactly one.")
	ErrMethod = problem.Define(problem.Unauthenticated, "auth.method_not_accepted",
		"This kind of credential is not accepted here.")
	ErrKey = problem.Define(problem.Unauthenticated, "auth.key_invalid",
		"The API key is not valid: it is unknown, revoked or expired.")
	ErrToken = problem.Define(problem.Unauthenticated, "auth.token_invalid",
		"The access token is not valid: it is malformed, expired or revoked.")
	ErrAddress = problem.Define(problem.Forbidden, "auth.address_not_allowed",
		"This API key may not be used from this address.")
	ErrUndecided = problem.Define(problem.Unavailable, "auth.unavailable",
		"The credential cannot be checked right now. Keep it and try again shortly.")
	ErrThrottled = problem.Define(problem.TooManyRequests, "auth.throttled",
		"Too many failed attempts; try again later.")
	ErrScope = problem.Define(problem.Forbidden, "access.scope_missing",
		"The caller does not hold the scope that this call needs.")
	ErrUserOnly = problem.Define(problem.Forbidden, "access.user_only",
		"This call is for a signed-in user; an API key cannot make it.")
	ErrAppKey = problem.Define(problem.Forbidden, "access.app_key",
		"The API key of an app opens the products that the app is subscribed to, and nothing else.")
	ErrKeyOnly = problem.Define(problem.Forbidden, "access.key_only",
		"This call is for an API key.")
)

// Authenticator finds the credential of a request and has it checked. It is the
// one way in, for the platform's own API and for every proxied call; it is safe
// for concurrent use.
type Authenticator struct {
	keys      KeyVerifier
	tokens    TokenVerifier
	keyPrefix string
	challenge string
}

// NewAuthenticator makes the authenticator. keyPrefix ("kw") with an underscore
// begins every API key; a bearer that begins with it is a key, any other is a
// token. realm is shown in challenges.
func NewAuthenticator(keys KeyVerifier, tokens TokenVerifier, keyPrefix, realm string) *Authenticator {
	return &Authenticator{
		keys:      keys,
		tokens:    tokens,
		keyPrefix: keyPrefix + "_",
		challenge: `Bearer realm="` + realm + `"`,
	}
}

// Authenticate returns the caller of r by one of the accepted methods. Every
// error is a problem: 401 with a challenge (RFC 6750 section 3), 400 for more
// than one credential, 403, 429 or 503. Only when the request's context ends
// first is it the context's error.
func (a *Authenticator) Authenticate(r *http.Request, accept Methods) (*Principal, error) {
	method, credential, err := a.credential(r.Header)
	if errors.Is(err, ErrMissing) && accept&MethodCertificate != 0 {
		if p := certified(r.TLS); p != nil {
			return p, nil
		}
	}
	if err != nil {
		return nil, a.challenged(err)
	}
	if accept&method == 0 {
		return nil, a.challenged(ErrMethod)
	}
	var p *Principal
	if method == MethodKey {
		info := reqctx.From(r.Context())
		info.Path = r.URL.Path
		p, err = a.keys.VerifyKeyAt(r.Context(), credential, info.Client, timeOf(info))
	} else {
		p, err = a.tokens.VerifyToken(r.Context(), credential)
	}
	if err != nil {
		return nil, a.challenged(err)
	}
	if p != nil && p.App != "" && accept&MethodAppKey == 0 {
		return nil, ErrAppKey
	}
	return p, nil
}

// timeOf is when the request was read. Keys are looked at before anything else that takes
// time, so that it is also now, without another look at the clock.
func timeOf(info *reqctx.Info) time.Time {
	if info.Start.IsZero() { // outside a server
		return time.Now()
	}
	return info.Start
}

// credential extracts the one credential of the request.
func (a *Authenticator) credential(h http.Header) (Methods, string, error) {
	bearers, keys := h["Authorization"], h[KeyHeader]
	if len(bearers)+len(keys) == 0 {
		return 0, "", ErrMissing
	}
	if len(bearers)+len(keys) > 1 {
		return 0, "", ErrAmbiguous
	}
	if len(keys) == 1 {
		if keys[0] == "" {
			return 0, "", ErrKey
		}
		return MethodKey, keys[0], nil
	}
	token, ok := bearerToken(bearers[0])
	if !ok {
		return 0, "", ErrMissing
	}
	if strings.HasPrefix(token, a.keyPrefix) {
		return MethodKey, token, nil
	}
	return MethodToken, token, nil
}

// bearerToken reads the credentials of the Bearer scheme, whose name is
// case-insensitive (RFC 9110 section 11.1).
func bearerToken(value string) (string, bool) {
	const scheme = "bearer "
	if len(value) <= len(scheme) || !strings.EqualFold(value[:len(scheme)], scheme) {
		return "", false
	}
	token := strings.Trim(value[len(scheme):], " ")
	return token, token != ""
}

// challenged adds the WWW-Authenticate value to a refusal. A request without a
// credential gets no error code (RFC 6750 section 3.1).
func (a *Authenticator) challenged(err error) error {
	p := problem.From(err)
	switch {
	case p.Kind != problem.Unauthenticated:
		return err
	case p.Code == ErrMissing.Code || p.Code == ErrMethod.Code:
		return p.WithChallenge(a.challenge)
	default:
		return p.WithChallenge(a.challenge + `, error="invalid_token"`)
	}
}

// Require returns nil when p holds scope, else a 403 problem that names it.
func Require(p *Principal, scope string) error {
	if p == nil {
		return ErrMissing
	}
	if !p.Has(scope) {
		return ErrScope.WithDetail("This call needs the scope %q, which the caller does not hold.", scope).
			WithChallenge(`Bearer error="insufficient_scope", scope="` + scope + `"`)
	}
	return nil
}
