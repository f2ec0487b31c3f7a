// Package slowhash runs bcrypt, which costs a large part of a second of one
// core, so that a burst of it cannot starve everything else: only a few hashes
// run at a time, more wait in a bounded queue, and beyond that callers are told
// to come back.
package slowhash

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"time"

	"golang.org/x/crypto/bcrypt"
	"golang.org/x/sync/semaphore"

	"github.com/keywarden/keywarden/pkg/problem"
)

// ErrBusy says that too many hashes are waiting, or that the wait was too long.
var ErrBusy = problem.Define(problem.Unavailable, "auth.busy",
	"Too many sign-ins or new keys at this moment; try again in a few seconds.").WithRetryAfter(2 * time.Second)

// maxDigest is how much of its input bcrypt looks at.
const maxDigest = 72

const (
	waitersEach = 16              // callers that may wait for each running hash
	patience    = 5 * time.Second // and how long
)

// Pool hashes with one bcrypt cost. It is safe for concurrent use.
type Pool struct {
	cost    int
	running *semaphore.Weighted
	waiting *semaphore.Weighted
}

// New makes a pool of the given bcrypt cost that runs at most concurrency hashes
// at a time.
func New(cost, concurrency int) (*Pool, error) {
	if cost < bcrypt.MinCost || cost > bcrypt.MaxCost || concurrency < 1 {
		return nil, fmt.Errorf("bcrypt of cost %d, %d at a time, is not possible", cost, concurrency)
	}
	return &Pool{
		cost:    cost,
		running: semaphore.NewWeighted(int64(concurrency)),
		waiting: semaphore.NewWeighted(int64(concurrency) * (1 + waitersEach)),
	}, nil
}

// Decoy returns what looks like a hash of the pool's cost, and was made of nothing: to
// compare with it takes the time of any other comparison, and to make it takes none.
func (p *Pool) Decoy() string {
	const (
		alphabet = "./ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
		salt     = 22 // characters, of the last of which two bits count
		length   = salt + 31
	)
	var b [length]byte
	_, _ = rand.Read(b[:]) // never fails
	for i := range b {
		b[i] = alphabet[b[i]%byte(len(alphabet))]
	}
	b[salt-1] = alphabet[0]
	return fmt.Sprintf("$2a$%02d$%s", p.cost, b[:])
}

// Hash returns the bcrypt hash of digest, at most 72 bytes; more is an error.
func (p *Pool) Hash(ctx context.Context, digest []byte) (string, error) {
	var out []byte
	err := p.run(ctx, func() (err error) {
		out, err = bcrypt.GenerateFromPassword(digest, p.cost)
		return err
	})
	return string(out), err
}

// Compare reports whether hash was made from digest, and whether it has another
// cost than the pool's. bcrypt by itself would ignore what is beyond 72 bytes.
func (p *Pool) Compare(ctx context.Context, hash string, digest []byte) (ok, stale bool, err error) {
	if len(digest) > maxDigest {
		return false, false, bcrypt.ErrPasswordTooLong
	}
	err = p.run(ctx, func() error {
		err := bcrypt.CompareHashAndPassword([]byte(hash), digest)
		ok = err == nil
		if errors.Is(err, bcrypt.ErrMismatchedHashAndPassword) {
			return nil
		}
		return err
	})
	if err != nil {
		return false, false, err
	}
	cost, err := bcrypt.Cost([]byte(hash))
	return ok, cost != p.cost, err
}

// run does work when it is its turn.
func (p *Pool) run(ctx context.Context, work func() error) error {
	if !p.waiting.TryAcquire(1) {
		return ErrBusy
	}
	defer p.waiting.Release(1)
	turn, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	if err := p.running.Acquire(turn, 1); err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		return ErrBusy
	}
	defer p.running.Release(1)
	return work()
}
