package apikey

import (
	"context"
	"net/netip"
	"time"

	"github.com/keywarden/keywarden/pkg/access"
)

// Proof says which key somebody has shown that they hold.
type Proof struct {
	KeyID    string
	PublicID string
	UserID   string // its owner
	SecretID string // the version of its secret that was shown
	Canary   bool
}

// Prove finds out which key that would be good otherwise is held by who presents
// it, from wherever. It verifies as VerifyKey does, with the same errors and at the
// same cost, but it is no use of the key: nobody is authenticated, and the
// addresses that the key may be used from do not count.
func (v *Verifier) Prove(ctx context.Context, key string, client netip.Addr) (Proof, error) {
	if len(key) > maxKeyBytes {
		return Proof{}, access.ErrKey
	}
	publicID, ok := parse(v.opts.Prefix, key)
	if !ok {
		return Proof{}, access.ErrKey
	}
	now := v.opts.Now()
	r, err := v.record(ctx, publicID, client, now)
	if err != nil {
		return Proof{}, err
	}
	nanos := now.UnixNano()
	if r.dead || r.expires != 0 && nanos >= r.expires {
		return Proof{}, access.ErrKey
	}
	found, err := v.match(ctx, r, publicID, key, client, nanos)
	if err != nil {
		return Proof{}, err
	}
	if found < 0 {
		return Proof{}, access.ErrKey
	}
	if r.canary {
		v.alarm(ctx, r, client)
	}
	return Proof{KeyID: r.id, PublicID: publicID, UserID: r.userID, SecretID: r.secrets[found].id, Canary: r.canary}, nil
}

// alarm tells of a use of a canary key, and notes when it was.
func (v *Verifier) alarm(ctx context.Context, r *record, client netip.Addr) {
	v.used.note(r.id, v.opts.Now().UTC().Truncate(time.Minute))
	if v.opts.Canary != nil {
		v.opts.Canary(ctx, r.id, client)
	}
}
