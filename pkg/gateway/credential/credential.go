// Package credential presents a credential of the gateway to a service: a header
// field, a query parameter, a user name with a password, a token of an OAuth 2
// server, or a signed word on who calls. It owns how the value is had and kept, and
// that nothing of the caller's stands where it goes.
//
// What cannot be had is an error, and the request does not leave without it. Values
// are in no error and no log. It does not know when a request is sent, or how often:
// package proxy does.
package credential

import (
	"context"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"sync"
	"time"

	"github.com/keywarden/keywarden/pkg/access"
	"github.com/keywarden/keywarden/pkg/header"
	"github.com/keywarden/keywarden/pkg/problem"
	"github.com/keywarden/keywarden/pkg/seal"
	"github.com/keywarden/keywarden/pkg/session"
	"github.com/keywarden/keywarden/pkg/spec/services"
	"github.com/keywarden/keywarden/pkg/template"
)

// ErrUnavailable is the refusal when a credential cannot be had: a secret is missing,
// or a token endpoint does not give a token.
var ErrUnavailable = problem.Define(problem.Unavailable, "gateway.credential_unavailable",
	"The credential that the service behind this route has to be called with cannot be had right now.")

// Signer signs what a service is told of a caller. It is safe for concurrent use.
type Signer interface {
	SignIdentity(i session.Identity, ttl time.Duration) (seal.Secret, error)
}

// Options is what credentials are made with. Logger and Now are required; without
// Secrets or Signer, credentials that need them cannot be had.
type Options struct {
	Secrets template.Secrets
	Signer  Signer
	RootCAs *x509.CertPool // of token endpoints; nil: those of the system
	Logger  *slog.Logger
	Now     func() time.Time

	// Fetched is told of each question to a token endpoint, for metrics: how long it took,
	// and why there is no token; nil for nobody.
	Fetched func(service string, took time.Duration, err error)
}

// Credentials makes credentials and owns the questions to token endpoints that are
// under way for them. It is safe for concurrent use.
type Credentials struct {
	Options
	client *http.Client

	ctx    context.Context
	cancel context.CancelFunc

	mu      sync.Mutex
	closed  bool
	running sync.WaitGroup
}

// NewCredentials makes an owner of credentials.
func NewCredentials(o Options) (*Credentials, error) {
	if o.Logger == nil || o.Now == nil {
		return nil, errors.New("credential: logger and clock are required")
	}
	if o.Fetched == nil {
		o.Fetched = func(string, time.Duration, error) {}
	}
	ctx, cancel := context.WithCancel(context.Background())
	return &Credentials{Options: o, client: newClient(o.RootCAs), ctx: ctx, cancel: cancel}, nil
}

// Close ends the questions that are under way and waits for them. From then on there
// are no others.
func (cs *Credentials) Close() {
	cs.mu.Lock()
	cs.closed = true
	cs.mu.Unlock()
	cs.cancel()
	cs.running.Wait()
}

// run runs f on a goroutine, unless the owner is closed.
func (cs *Credentials) run(f func(ctx context.Context)) bool {
	cs.mu.Lock()
	defer cs.mu.Unlock()
	if cs.closed {
		return false
	}
	cs.running.Go(func() { f(cs.ctx) })
	return true
}

// source gives the value that is presented, for one caller; nil is an anonymous one.
// An empty value is none: nothing is to be presented.
type source interface {
	value(ctx context.Context, caller *access.Principal) (seal.Secret, error)
}

// Credential is that of one service. It is safe for concurrent use.
type Credential struct {
	field     string // header field, in canonical form; empty: it is a parameter
	parameter string // of the query
	source    source
}

// New makes the credential of a service. What the document says was validated.
func (cs *Credentials) New(service string, of *services.Credential) (*Credential, error) {
	c := &Credential{field: http.CanonicalHeaderKey(of.Name)}
	var err error
	switch of.Kind {
	case services.CredentialHeader:
		c.source, err = cs.text(of.Value)
	case services.CredentialQuery:
		c.field, c.parameter = "", of.Name
		c.source, err = cs.text(of.Value)
	case services.CredentialBasic:
		c.source, err = cs.basic(of)
	case services.CredentialOAuth2:
		c.source, err = cs.oauth2(service, of, c.scheme())
	case services.CredentialIdentity:
		c.source, err = cs.identity(service, of, c.scheme())
	default:
		err = fmt.Errorf("there is no kind %q", of.Kind)
	}
	return c, err
}

// scheme is what stands before a token: that of bearers (RFC 6750 section 2.1) in the
// field Authorization, and nothing in another.
func (c *Credential) scheme() string {
	if c.field == services.DefaultCredentialField {
		return "Bearer "
	}
	return ""
}

// Apply puts the credential into a request that is ready to leave, in place of all
// that the caller has sent under its name. It returns what was presented, for
// [Credential.Renew]. The error is the cause of the context when that has ended.
func (c *Credential) Apply(out *http.Request, caller *access.Principal) (presented seal.Secret, err error) {
	value, err := c.source.value(out.Context(), caller)
	if err == nil && c.field != "" && !header.IsValue(value.Reveal()) {
		err = errNotAValue
	}
	if err != nil {
		return seal.Secret{}, unavailable(out.Context(), err)
	}
	if c.field == "" {
		out.URL.RawQuery = withParameter(out.URL.RawQuery, c.parameter, value)
		return value, nil
	}
	removeField(out.Header, c.field)
	if !value.Empty() {
		out.Header[c.field] = []string{value.Reveal()}
	}
	return value, nil
}

var errNotAValue = fmt.Errorf("it cannot be sent in a header field: it is longer than %d bytes, or has spaces around it", header.MaxValue)

// unavailable is the refusal for an error, unless the request itself has ended.
func unavailable(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if errors.Is(err, ErrUnavailable) {
		return err
	}
	return ErrUnavailable.With(err).WithRetryAfter(problem.From(err).RetryAfter)
}

// Renew is told that the service did not accept what was presented. It reports
// whether there is something else to present by now; unless wait is set, it only sees
// to it that there will be.
func (c *Credential) Renew(ctx context.Context, presented seal.Secret, wait bool) bool {
	s, ok := c.source.(interface {
		renew(ctx context.Context, presented seal.Secret, wait bool) bool
	})
	return ok && s.renew(ctx, presented, wait)
}

// text is a template of text and secrets.
type text struct {
	of      *template.Outgoing
	literal seal.Secret // of a template without secrets, which is not rendered
	secrets template.Secrets
}

func (cs *Credentials) text(of string) (text, error) {
	t, err := template.ParseOutgoing(of)
	if err != nil {
		return text{}, err
	}
	if !t.Fixed() {
		return text{}, errors.New("a credential must not depend on the request")
	}
	made := text{of: t, secrets: cs.Secrets}
	if plain, ok := t.Plain(); ok {
		literal, _ := plain.Literal()
		made.literal = seal.NewSecret(literal)
	}
	return made, nil
}

// value implements source.
func (t text) value(ctx context.Context, _ *access.Principal) (seal.Secret, error) {
	if !t.literal.Empty() {
		return t.literal, nil
	}
	value, _, err := t.of.Render((&http.Request{}).WithContext(ctx), t.secrets)
	if err == nil && value.Empty() {
		err = errEmpty
	}
	return value, err
}

var errEmpty = errors.New("it is empty")

// basic is a user name with a password (RFC 7617).
type basic struct{ username, password text }

func (cs *Credentials) basic(of *services.Credential) (b basic, err error) {
	if b.username, err = cs.text(of.Username); err != nil {
		return b, err
	}
	b.password, err = cs.text(of.Password)
	return b, err
}

// value implements source.
func (b basic) value(ctx context.Context, _ *access.Principal) (seal.Secret, error) {
	username, err := b.username.value(ctx, nil)
	if err != nil {
		return seal.Secret{}, err
	}
	password, err := b.password.value(ctx, nil)
	if err != nil {
		return seal.Secret{}, err
	}
	return seal.NewSecret("Basic " + base64.StdEncoding.EncodeToString([]byte(username.Reveal()+":"+password.Reveal()))), nil
}
