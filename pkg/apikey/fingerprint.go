package apikey

import (
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"sync/atomic"
	"time"
)

// A fingerprint is how a key is recognised that was verified before, for less than what
// it costs to verify it: it is the SHA-256 of a random text of this process and of all of
// the key that its record does not tell by itself.
//
// It is no weaker than the verifier that it stands for. Whoever does not hold the key has
// to find 190 random bits, and learns nothing from a refusal but that it was one: what is
// compared are hashes under a secret of the process, and all of them are compared. It
// does not leave the memory of the process. Whoever can read that finds a hash of 190 random
// bits, as in the verifier beside it, and not the key, which is why the text itself is not
// kept, although comparing it would be cheaper. A hash for tables (hash/maphash) would be
// cheaper, too, but nobody promises that two texts with one hash cannot be found.
//
// What may have changed since is asked each time: the fingerprint is part of the cached
// record and goes with it, and it says nothing of revocation, expiry and addresses.
//
// It is written once: a secret has one text.
type fingerprint struct {
	state      atomic.Uint32 // one of the states below
	sum        [sha256.Size]byte
	validUntil int64 // of the secret, unix nanoseconds; 0 for no end
}

// States of a fingerprint.
const (
	notShown uint32 = iota // nobody has shown the key yet
	beingMade
	made // what is in it does not change any more
)

// prints makes fingerprints.
type prints struct {
	salt [saltLength]byte
}

// knownSecrets is how many secrets of a key have fingerprints: the present one, and that
// before it while it is still good.
const knownSecrets = 2

// What is hashed fits into one block of SHA-256, which has room for 55 bytes.
const (
	saltLength  = 16
	printedTail = secretLength + checkLength
	printed     = saltLength + 1 + printedTail
)

func newPrints() (p prints) {
	_, _ = rand.Read(p.salt[:]) // never fails (crypto/rand, Go 1.24)
	return p
}

// of is the fingerprint of a key of the right length; env is the first letter of its
// environment.
func (p *prints) of(env byte, key string) [sha256.Size]byte {
	var in [printed]byte
	copy(in[:], p.salt[:])
	in[saltLength] = env
	copy(in[saltLength+1:], key[len(key)-printedTail:])
	return sha256.Sum256(in[:])
}

// split finds the environment and the public id of what may be a key, by its length
// alone: nothing of it is checked but what is no part of a fingerprint.
func split(prefix, key string) (env byte, publicID string, ok bool) {
	const middle = len("_live_")
	at := len(prefix)
	if len(key) != at+middle+bodyLength || key[:at] != prefix {
		return 0, "", false
	}
	switch key[at : at+middle] {
	case "_live_":
		env = 'l'
	case "_test_":
		env = 't'
	default:
		return 0, "", false
	}
	at += middle
	return env, key[at : at+idLength], true
}

// recognise finds the record of a key that was verified before. right is false for
// another text than those that are right. No record is found where that has yet to be found
// out.
func (v *Verifier) recognise(key string, now time.Time) (r *record, right bool) {
	env, publicID, ok := split(v.opts.Prefix, key)
	if !ok || !v.opts.Fresh(now) {
		return nil, false
	}
	if r, ok = v.records.Get(publicID); !ok {
		return nil, false
	}
	nanos := now.UnixNano()
	if r.dead || r.expires != 0 && nanos >= r.expires || r.known[0].state.Load() != made && r.known[1].state.Load() != made {
		return nil, false
	}
	sum, unknown := v.prints.of(env, key), len(r.secrets)
	for i := range r.known {
		known := &r.known[i]
		if known.state.Load() != made {
			continue
		}
		unknown--
		if subtle.ConstantTimeCompare(sum[:], known.sum[:]) == 1 && (known.validUntil == 0 || nanos < known.validUntil) {
			return r, true
		}
	}
	if unknown > 0 {
		return nil, false // it may be another secret of the key
	}
	return r, false
}

// remember notes the text of a key that has turned out to be the one of the record's
// secret at found.
func (v *Verifier) remember(r *record, found int, key string) {
	env, _, ok := split(v.opts.Prefix, key)
	if !ok || found >= knownSecrets {
		return
	}
	known := &r.known[found]
	if known.state.CompareAndSwap(notShown, beingMade) {
		known.sum, known.validUntil = v.prints.of(env, key), r.secrets[found].validUntil
		known.state.Store(made)
	}
}
