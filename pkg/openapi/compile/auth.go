package compile

import (
	"net/http"
	"slices"

	"github.com/keywarden/keywarden/pkg/access"
	"github.com/keywarden/keywarden/pkg/openapi"
	"github.com/keywarden/keywarden/pkg/spec/check"
	"github.com/keywarden/keywarden/pkg/spec/policies"
)

// auth translates what an operation needs. A description that is silent does not
// open the route: nil leaves it to the gateway document, which is closed unless it
// says otherwise.
func (c *compiler) auth(op *openapi.Operation) *policies.Auth {
	security := op.Security
	if security == nil {
		security = c.doc.Security
	}
	if security == nil {
		c.once("silent", op.Place, "nothing is said of security, here or for the whole document: the defaults of the gateway document count, which ask for a key or a token; say security: [] for operations that are open")
		return nil
	}
	a := &policies.Auth{Mode: policies.AuthRequired}
	anonymous, alike := len(security.Any) == 0, true
	var first []string
	for i, requirement := range security.Any {
		if len(requirement.All) == 0 {
			anonymous = true
			continue
		}
		scopes := c.requirement(op, requirement, a)
		slices.Sort(scopes)
		if i == 0 {
			first = scopes
		}
		alike = alike && slices.Equal(first, scopes)
	}
	if len(a.Methods) == 0 {
		return &policies.Auth{Mode: policies.AuthNone}
	}
	if anonymous {
		if a.Scopes != nil {
			c.note(security.Place, "%s: callers without a credential pass, so those with one need no scopes", title(op))
		}
		return &policies.Auth{Mode: policies.AuthOptional, Methods: a.Methods}
	}
	if !alike {
		c.once("alternatives", security.Place, "%s: the alternatives have different scopes; every caller needs all of them, also with an API key", title(op))
	}
	return a
}

// title is how messages call an operation.
func title(op *openapi.Operation) string { return op.Method + " " + op.Path.String() }

// requirement adds one alternative to a, and returns its scopes. A request has one
// credential, so all needs must be for the same kind.
func (c *compiler) requirement(op *openapi.Operation, r openapi.Requirement, a *policies.Auth) []string {
	var methods []policies.AuthMethod
	var scopes []string
	for _, need := range r.All {
		method, ok := c.method(op, need)
		if !ok {
			continue
		}
		if !slices.Contains(methods, method) {
			methods = append(methods, method)
		}
		for _, scope := range need.Scopes {
			if !access.ValidScope(scope) {
				c.fail(need.Place, "%s: needs the scope %s, which no key or token can hold: scopes consist of lower-case letters, digits, dots, hyphens and underscores, in parts with colons between them", title(op), check.Quote(scope))
				continue
			}
			if !slices.Contains(scopes, scope) {
				scopes = append(scopes, scope)
			}
		}
	}
	if len(methods) > 1 {
		c.fail(r.Place, "%s: needs %s and %s together, and a request can have one credential; name them as alternatives, or one alone", title(op), methods[0], methods[1])
		return scopes
	}
	for _, m := range methods {
		if !slices.Contains(a.Methods, m) {
			a.Methods = append(a.Methods, m)
		}
	}
	for _, s := range scopes {
		if !slices.Contains(a.Scopes, s) {
			a.Scopes = append(a.Scopes, s)
		}
	}
	return scopes
}

// method is the credential for a scheme. Without an authenticator the operation is
// refused: nothing weaker may stand in.
func (c *compiler) method(op *openapi.Operation, need openapi.Need) (policies.AuthMethod, bool) {
	s := c.doc.Schemes[need.Scheme]
	switch {
	case s.Type == "apiKey":
		if s.In != "header" || http.CanonicalHeaderKey(s.Key) != access.KeyHeader {
			c.once("key "+s.Name, s.Place, "clients send API keys in the header X-API-Key or as bearer, and not as %s %s", s.In, check.Quote(s.Key))
		}
		return policies.AuthKey, true
	case s.Type == "oauth2", s.Type == "openIdConnect":
		c.once("token "+s.Name, s.Place, "tokens are those that this platform issues; the addresses of another authorization server are not used")
		return policies.AuthJWT, true
	case s.Type == "http" && s.HTTP == "bearer":
		return policies.AuthJWT, true
	case s.Type == "mutualTLS":
		return policies.AuthCertificate, true
	}
	kind := s.Type
	if kind == "http" {
		kind = "http " + s.HTTP
	}
	c.fail(need.Place, "%s: needs %s (%s), for which the gateway has no authenticator; it has apiKey, http bearer, oauth2, openIdConnect and mutualTLS", title(op), check.Quote(need.Scheme), kind)
	return "", false
}
