package services

import (
	"net/netip"
	"net/url"
	"strings"
	"time"

	"github.com/keywarden/keywarden/pkg/header"
	"github.com/keywarden/keywarden/pkg/spec/check"
	"github.com/keywarden/keywarden/pkg/spec/quantity"
	"github.com/keywarden/keywarden/pkg/template"
)

// Credential is what the gateway presents to a service in place of the caller's
// credential, which the service never sees. Its texts name secrets, such as
// {{ secret "users-key" }}: a document is no place for the secrets themselves.
type Credential struct {
	Kind string `json:"kind" enum:"header,query,basic,oauth2,identity"`

	// Name is the header field or the query parameter. Without it, the field is
	// Authorization, and X-Keywarden-Identity for the kind identity.
	Name string `json:"name,omitempty"`

	// Value is that of the field or the parameter, such as Bearer {{ secret "users-token" }}.
	Value string `json:"value,omitempty"`

	// Username and Password are those of the kind basic (RFC 7617).
	Username string `json:"username,omitempty"`
	Password string `json:"password,omitempty"`

	// TokenURL is where the kind oauth2 gets its tokens (RFC 6749 section 4.4), with
	// this client. Scopes and Audience are what is asked for.
	TokenURL     string   `json:"token_url,omitempty"`
	ClientID     string   `json:"client_id,omitempty"`
	ClientSecret string   `json:"client_secret,omitempty"`
	ClientAuth   string   `json:"client_auth,omitempty" enum:"basic,post"` // how the client proves who it is; basic without it
	Scopes       []string `json:"scopes,omitempty"`

	// Audience is also the "aud" of the kind identity, the name of the service without
	// it.
	Audience string `json:"audience,omitempty"`

	// Timeout bounds one question to TokenURL.
	Timeout quantity.Duration `json:"timeout,omitempty"`
}

// The kinds of credential, and the ways in which a client proves who it is.
const (
	CredentialHeader   = "header"
	CredentialQuery    = "query"
	CredentialBasic    = "basic"
	CredentialOAuth2   = "oauth2"
	CredentialIdentity = "identity"

	ClientAuthBasic = "basic"
	ClientAuthPost  = "post"
)

// Defaults of a credential.
const (
	DefaultCredentialField   = "Authorization"
	DefaultIdentityField     = "X-Keywarden-Identity"
	DefaultCredentialTimeout = quantity.Duration(5 * time.Second)
)

// maxCredentialTimeout bounds the time-out of a question for a token: requests wait
// for it.
const maxCredentialTimeout = quantity.Duration(time.Minute)

// maxCredentialScopes bounds the scopes that are asked for.
const maxCredentialScopes = 64

// Normalise fills in what depends on the kind.
func (c *Credential) Normalise() {
	switch c.Kind {
	case CredentialHeader, CredentialBasic, CredentialOAuth2:
		if c.Name == "" {
			c.Name = DefaultCredentialField
		}
	case CredentialIdentity:
		if c.Name == "" {
			c.Name = DefaultIdentityField
		}
	}
	if c.Kind != CredentialOAuth2 {
		return
	}
	if c.ClientAuth == "" {
		c.ClientAuth = ClientAuthBasic
	}
	if c.Timeout == 0 {
		c.Timeout = DefaultCredentialTimeout
	}
}

// Validate checks the credential of a service.
func (c *Credential) Validate(path string, v *check.Checker) {
	if !v.OneOf(path+".kind", c.Kind, CredentialHeader, CredentialQuery, CredentialBasic, CredentialOAuth2, CredentialIdentity) {
		return
	}
	c.validateForeign(path, v)
	c.validateName(path+".name", v)
	switch c.Kind {
	case CredentialHeader, CredentialQuery:
		secretText(path+".value", c.Value, v)
	case CredentialBasic:
		fixedText(path+".username", c.Username, v)
		if strings.Contains(c.Username, ":") {
			v.Fail(path+".username", "must not hold a colon (RFC 7617 section 2)")
		}
		secretText(path+".password", c.Password, v)
	case CredentialOAuth2:
		c.validateOAuth2(path, v)
	case CredentialIdentity:
		v.Word(path+".audience", c.Audience, false)
	}
}

// validateForeign refuses fields that belong to other kinds: whoever wrote them
// meant something else.
func (c *Credential) validateForeign(path string, v *check.Checker) {
	const value, basic = CredentialHeader + " " + CredentialQuery, CredentialBasic
	for _, f := range []struct {
		name, kinds string
		given       bool
	}{
		{"value", value, c.Value != ""},
		{"username", basic, c.Username != ""},
		{"password", basic, c.Password != ""},
		{"token_url", CredentialOAuth2, c.TokenURL != ""},
		{"client_id", CredentialOAuth2, c.ClientID != ""},
		{"client_secret", CredentialOAuth2, c.ClientSecret != ""},
		{"client_auth", CredentialOAuth2, c.ClientAuth != ""},
		{"scopes", CredentialOAuth2, c.Scopes != nil},
		{"timeout", CredentialOAuth2, c.Timeout != 0},
		{"audience", CredentialOAuth2 + " " + CredentialIdentity, c.Audience != ""},
	} {
		if f.given && !strings.Contains(" "+f.kinds+" ", " "+c.Kind+" ") {
			v.Fail(path+"."+f.name, "belongs to the kind %s", strings.ReplaceAll(f.kinds, " ", " or "))
		}
	}
}

func (c *Credential) validateName(path string, v *check.Checker) {
	switch c.Kind {
	case CredentialQuery:
		if c.Name == "" {
			v.Required(path)
		} else if !check.IsToken(c.Name) {
			v.Fail(path, "must be the name of a parameter: letters, digits, dots, hyphens and underscores")
		}
	case CredentialBasic:
		if c.Name != DefaultCredentialField {
			v.Fail(path, "belongs to the kinds header, query, oauth2 and identity; basic is sent as %s", DefaultCredentialField)
		}
	default:
		if err := credentialField(c.Name); err != nil {
			v.Fail(path, "%s", err.Error())
		}
	}
}

// credentialField says why a field cannot carry a credential; nil when it can. Beside
// those that a document may change at all, some of what only the gateway may set
// serves for it.
func credentialField(name string) error {
	for _, field := range [...]string{DefaultCredentialField, DefaultIdentityField, "X-Api-Key"} {
		if strings.EqualFold(name, field) {
			return nil
		}
	}
	return header.CheckRequest(name)
}

func (c *Credential) validateOAuth2(path string, v *check.Checker) {
	if err := checkTokenURL(c.TokenURL); err != nil {
		v.Fail(path+".token_url", "%s", err.Error())
	}
	fixedText(path+".client_id", c.ClientID, v)
	secretText(path+".client_secret", c.ClientSecret, v)
	v.OneOf(path+".client_auth", c.ClientAuth, ClientAuthBasic, ClientAuthPost)
	v.Distinct(path+".scopes", c.Scopes, maxCredentialScopes, "a scope: printable characters but space, quote and backslash", isScope)
	v.Word(path+".audience", c.Audience, false)
	if c.Timeout <= 0 || c.Timeout > maxCredentialTimeout {
		v.Fail(path+".timeout", "must be above 0 and at most %s", time.Duration(maxCredentialTimeout))
	}
}

// checkTokenURL says why a URL cannot be that of a token endpoint; nil when it can.
func checkTokenURL(text string) error {
	if text == "" {
		return check.ErrText("is required")
	}
	u, err := url.Parse(text)
	switch {
	case err != nil || u.Opaque != "" || u.Hostname() == "" || u.Scheme != "https" && u.Scheme != "http":
		return check.ErrText("must be an https URL with a host, such as https://login.example.com/oauth2/token")
	case u.User != nil:
		return check.ErrText("must not hold a user name or password; they are client_id and client_secret")
	case u.Fragment != "" || strings.HasSuffix(text, "#"):
		return check.ErrText("must not have a fragment (RFC 6749 section 3.2)")
	case u.Scheme == "http" && !isLoopback(u.Hostname()):
		return check.ErrText("must be https: the secret of the client goes there (RFC 6749 section 3.2); http is for this machine alone")
	}
	return nil
}

// isLoopback reports whether a host is this machine.
func isLoopback(host string) bool {
	if ip, err := netip.ParseAddr(host); err == nil {
		return ip.IsLoopback()
	}
	return strings.EqualFold(host, "localhost")
}

// isScope reports whether s is a scope (RFC 6749 section 3.3).
func isScope(s string) bool {
	for i := range len(s) {
		if c := s[i]; c <= ' ' || c >= 0x7F || c == '"' || c == '\\' {
			return false
		}
	}
	return s != "" && len(s) <= 256
}

// fixedText checks a template that is the same for every request: what a caller
// says has no place in a credential of the gateway.
func fixedText(path, text string, v *check.Checker) *template.Outgoing {
	if text == "" {
		v.Required(path)
		return nil
	}
	t, err := template.ParseOutgoing(text)
	switch {
	case err != nil:
		v.Fail(path, "is not a template: %s", err.Error())
		return nil
	case !t.Fixed():
		v.Fail(path, "must not depend on the request: only text and {{ secret \"name\" }} can be in a credential")
		return nil
	}
	return t
}

// secretText is fixedText for a text that has to be secret.
func secretText(path, text string, v *check.Checker) {
	if t := fixedText(path, text, v); t != nil && len(t.Secrets()) == 0 {
		v.Fail(path, "must name a secret, such as {{ secret \"name\" }}: everybody who reads the document would read it here")
	}
}
