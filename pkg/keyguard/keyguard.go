// Package keyguard owns what protects API keys after they were handed out: reports
// of leaked ones and the quarantine that follows, canary keys and their alarms, and
// the rules by which scanners find keys of ours.
// Minting and verifying keys is the business of package apikey.
package keyguard

import (
	"context"
	"errors"
	"net/netip"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/keywarden/keywarden/pkg/access"
	"github.com/keywarden/keywarden/pkg/apikey"
	"github.com/keywarden/keywarden/pkg/audit"
	"github.com/keywarden/keywarden/pkg/changes"
	"github.com/keywarden/keywarden/pkg/problem"
	"github.com/keywarden/keywarden/pkg/seal"
	"github.com/keywarden/keywarden/pkg/throttle"
)

// maxNote bounds what who reports a key may say, in characters.
const maxNote = 200

// Prover finds out which key somebody holds; apikey.Verifier is one.
type Prover interface {
	Prove(ctx context.Context, key string, client netip.Addr) (apikey.Proof, error)
}

// Quarantines keeps which keys are in quarantine. Changes are committed with their
// audit entry and event, or not at all.
type Quarantines interface {
	// QuarantineKey puts a live key in quarantine while the version secretID of its
	// secret is valid still: a rotation may have overtaken the report. When there is
	// nothing to do, nothing is recorded and that is no error.
	QuarantineKey(ctx context.Context, id, secretID, note string, now time.Time, c changes.Change) error
	// ReleaseKey returns the key after it; apikey.ErrNotFound, apikey.ErrRevoked. Of a
	// key that is not in quarantine it changes and records nothing.
	ReleaseKey(ctx context.Context, id string, now time.Time, c changes.Change) (apikey.Key, error)
	// Key returns apikey.ErrNotFound for unknown and malformed identifiers.
	Key(ctx context.Context, id string) (apikey.Key, error)
}

// Options configure a [Service]. All fields are required.
type Options struct {
	Prover  Prover
	Keys    Quarantines
	Reports *throttle.Limiter   // per address
	Notify  func(changes.Event) // tells this replica at once
	Now     func() time.Time
}

// Service takes reports of leaked keys. It is safe for concurrent use.
type Service struct{ Options }

// New makes the service.
func New(o Options) *Service { return &Service{o} }

// Report puts the key in quarantine if it is a good one. Its holder could do more
// harm than that; who does not hold it learns nothing, since the answer is nil for
// every key. The errors are access.ErrThrottled, access.ErrUndecided, those of a
// store that is not to be had, and those of a wrong note.
func (s *Service) Report(ctx context.Context, key seal.Secret, note string, client netip.Addr) error {
	note, err := cleanNote(note)
	if err != nil {
		return err
	}
	if wait := s.Reports.Take(throttle.Address(client)); wait > 0 {
		return access.ErrThrottled.WithDetail("Too many reports from this address; try again later.").WithRetryAfter(wait)
	}
	proof, err := s.Prover.Prove(ctx, key.Reveal(), client)
	switch {
	case errors.Is(err, access.ErrKey):
		return nil
	case err != nil:
		return err
	case proof.Canary: // the alarm is raised; a trap that is shut catches nobody
		return nil
	}
	c := changes.Change{
		Audit: audit.New(ctx, audit.KeyQuarantined, "apikey", proof.KeyID).With("owner", proof.UserID),
		Event: changes.Event{Kind: changes.KeyChanged, Subject: proof.PublicID},
	}
	if err := s.Keys.QuarantineKey(ctx, proof.KeyID, proof.SecretID, note, s.now(), c); err != nil {
		return err
	}
	s.Notify(c.Event)
	return nil
}

// Release lifts the quarantine of any key, which works as before then. That is for
// admins, who judge that the report was wrong: owners rotate their keys.
func (s *Service) Release(ctx context.Context, id string) (apikey.Key, error) {
	k, err := s.Keys.Key(ctx, id)
	if err != nil {
		return apikey.Key{}, err
	}
	c := changes.Change{
		Audit: audit.New(ctx, audit.KeyReleased, "apikey", k.ID).With("owner", k.UserID),
		Event: changes.Event{Kind: changes.KeyChanged, Subject: k.PublicID},
	}
	k, err = s.Keys.ReleaseKey(ctx, id, s.now(), c)
	if err != nil {
		return apikey.Key{}, err
	}
	s.Notify(c.Event)
	return k, nil
}

func (s *Service) now() time.Time { return s.Now().UTC().Truncate(time.Microsecond) }

func cleanNote(note string) (string, error) {
	note = strings.TrimSpace(note)
	switch {
	case !utf8.ValidString(note) || strings.ContainsFunc(note, func(r rune) bool { return unicode.Is(unicode.C, r) }):
		return "", problem.ErrInvalid.WithField("note", "must not contain control characters")
	case utf8.RuneCountInString(note) > maxNote:
		return "", problem.ErrInvalid.WithField("note", "must be at most %d characters", maxNote)
	}
	return note, nil
}
