package template

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"

	"github.com/keywarden/keywarden/pkg/kvm/kvmname"
	"github.com/keywarden/keywarden/pkg/seal"
)

// Secrets gives the secrets of the gateway by their names. Implementations are safe
// for concurrent use, and their errors say nothing of the values.
type Secrets interface {
	Secret(ctx context.Context, name string) (seal.Secret, error)
}

// secretFunction is the function that stands for a secret: {{ secret "name" }}.
const secretFunction = "secret"

// What is wrong with a secret where it is to be used.
var (
	errControl = errors.New("it holds a line break or another control character, which cannot be sent here")
	errTooLong = fmt.Errorf("it is longer than %d bytes", MaxOutput)
	errNoLook  = errors.New("there is nothing to get secrets from")
)

// Outgoing is a compiled template of a text that goes to a service and nowhere else.
// It may name secrets. It is immutable and safe for concurrent use.
type Outgoing struct {
	template Template
	secrets  []string
}

// ParseOutgoing is [Parse] for a text that may name secrets. Whether they exist is
// seen when they are used: a secret comes and goes without the document.
func ParseOutgoing(text string, more ...Function) (*Outgoing, error) {
	p := &parser{text: text, functions: append(builtin(), more...), outgoing: true}
	t, err := p.check()
	if err != nil {
		return nil, err
	}
	o := &Outgoing{template: *t}
	for _, part := range t.parts {
		if part.secret != "" && !slices.Contains(o.secrets, part.secret) {
			o.secrets = append(o.secrets, part.secret)
		}
	}
	return o, nil
}

// Plain returns the template when it names no secret.
func (o *Outgoing) Plain() (t *Template, ok bool) { return &o.template, len(o.secrets) == 0 }

// UsesPrincipal reports whether the template asks who calls.
func (o *Outgoing) UsesPrincipal() bool { return o.template.UsesPrincipal() }

// Fixed reports whether the template is made of text and secrets alone, so that it
// is the same for every request.
func (o *Outgoing) Fixed() bool {
	return !slices.ContainsFunc(o.template.parts, func(p part) bool { return p.value != nil })
}

// Secrets are the names of the secrets that the template asks for. The slice is
// shared and must not be changed.
func (o *Outgoing) Secrets() []string { return o.secrets }

// Render returns what the template gives for r, and what may be shown of it: the
// same with a word in place of each secret. A text that lacks a secret is not made: the error names the secret,
// and never holds its value or what is around it. Nor is a secret changed to fit, as
// values of a request are.
func (o *Outgoing) Render(r *http.Request, from Secrets) (text seal.Secret, shown string, err error) {
	var hidden, masked []byte
	for _, p := range o.template.parts {
		begin := len(hidden)
		hidden = append(hidden, p.literal...)
		if p.value != nil {
			at := len(hidden)
			hidden = dropControls(p.value(hidden, r), at)
		}
		masked = append(masked, hidden[begin:]...)
		if p.secret != "" {
			value, err := o.secret(r.Context(), p.secret, from)
			if err != nil {
				return seal.Secret{}, "", fmt.Errorf("the secret %s: %w", p.secret, err)
			}
			hidden = append(hidden, value.Reveal()...)
			masked = append(masked, mask...)
		}
		if len(hidden) > MaxOutput {
			return seal.Secret{}, "", fmt.Errorf("a text with the secret %s: %w", o.secrets[0], errTooLong)
		}
	}
	return seal.NewSecret(string(hidden)), string(masked), nil
}

// mask stands for a secret in what may be shown.
const mask = "[redacted]"

func (o *Outgoing) secret(ctx context.Context, name string, from Secrets) (seal.Secret, error) {
	if from == nil {
		return seal.Secret{}, errNoLook
	}
	secret, err := from.Secret(ctx, name)
	if err != nil {
		return seal.Secret{}, err
	}
	value := secret.Reveal()
	for i := range len(value) {
		if isControl(value[i]) {
			return seal.Secret{}, errControl
		}
	}
	return secret, nil
}

// secret adds a secret where it may be.
func (p *parser) secret(at, argumentAt int, name string) *Error {
	switch {
	case !p.outgoing:
		return p.fail(at, "a secret can only be in what goes to the service, such as request_headers")
	case name == "":
		return p.fail(at, `secret needs the name of a secret, such as {{ secret "name" }}`)
	case !kvmname.IsName(name):
		return p.fail(argumentAt, "this cannot be the name of a secret: up to %d %s", kvmname.MaxName, kvmname.Rule)
	}
	p.template.parts = append(p.template.parts, part{literal: p.pending.String(), secret: name})
	p.pending.Reset()
	return nil
}
