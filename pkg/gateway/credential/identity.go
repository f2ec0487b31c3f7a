package credential

import (
	"context"
	"errors"
	"strings"
	"time"

	"github.com/maypok86/otter/v2"

	"github.com/keywarden/keywarden/pkg/access"
	"github.com/keywarden/keywarden/pkg/seal"
	"github.com/keywarden/keywarden/pkg/session"
	"github.com/keywarden/keywarden/pkg/spec/services"
)

// How long an identity is good for, and for how long one is presented again.
const (
	identityTTL   = time.Minute
	identityReuse = identityTTL / 2
)

// identities bounds the callers for whom an identity is kept, of at most a few
// kilobytes each.
const identities = 10_000

// identity is a signed word on who calls.
type identity struct {
	audience string
	scheme   string
	signer   Signer
	now      func() time.Time

	// known are by principal, which verifiers share between the requests of a caller
	// and never change.
	known *otter.Cache[*access.Principal, signed]
}

// signed is an identity that was made.
type signed struct {
	value seal.Secret
	until int64 // unix nanoseconds; not presented from then on
}

func (cs *Credentials) identity(service string, of *services.Credential, scheme string) (*identity, error) {
	known, err := otter.New(&otter.Options[*access.Principal, signed]{MaximumSize: identities})
	i := &identity{audience: of.Audience, scheme: scheme, signer: cs.Signer, now: cs.Now, known: known}
	if i.audience == "" {
		i.audience = service
	}
	return i, err
}

var errNoSigner = errors.New("there is nothing to sign identities with")

// value implements source. Of an anonymous caller there is nothing to say.
func (i *identity) value(_ context.Context, caller *access.Principal) (seal.Secret, error) {
	if caller == nil {
		return seal.Secret{}, nil
	}
	if i.signer == nil {
		return seal.Secret{}, errNoSigner
	}
	now := i.now()
	if s, ok := i.known.GetIfPresent(caller); ok && now.UnixNano() < s.until {
		return s.value, nil
	}
	token, err := i.signer.SignIdentity(session.Identity{
		Subject: caller.UserID, Audience: i.audience, Kind: string(caller.Kind), Role: string(caller.Role),
		Scope: strings.Join(caller.Scopes, " "), KeyID: caller.KeyID, AppID: caller.App, Name: certificateName(caller),
	}, identityTTL)
	if err != nil {
		return seal.Secret{}, err
	}
	s := signed{value: seal.NewSecret(i.scheme + token.Reveal()), until: now.Add(identityReuse).UnixNano()}
	i.known.Set(caller, s)
	return s.value, nil
}

// certificateName is the name in a caller's certificate; that of a key is any text
// of its owner.
func certificateName(p *access.Principal) string {
	if p.Kind == access.KindCertificate {
		return p.KeyName
	}
	return ""
}
