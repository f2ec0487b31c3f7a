package kvm

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"time"

	"github.com/keywarden/keywarden/pkg/changes"
	"github.com/keywarden/keywarden/pkg/kvm/kvmname"
	"github.com/keywarden/keywarden/pkg/seal"
	"github.com/keywarden/keywarden/pkg/verdict"
)

// Source is where a reader gets rows; a [Store] is one.
type Source interface {
	// Secret returns ErrNotFound for a secret that does not exist.
	Secret(ctx context.Context, environment, name string) (Row, error)
}

// ReaderOptions make a [Reader]. All fields are required.
type ReaderOptions struct {
	Source      Source
	Ring        *seal.Keyring
	Environment string // whose secrets are read

	Entries int           // bound of the cache; an entry has up to [MaxValue] bytes
	Timeout time.Duration // bound of one question to the source

	// MaxStale bounds for how long a value is used after it was read, when the source
	// does not answer. At least Refresh.
	MaxStale time.Duration

	Now func() time.Time
}

// Refresh is how long a value is used without asking again. Changes are heard of by
// events; this is the safety net.
const Refresh = 30 * time.Second

// retryInterval is how often, at most, a source that does not answer is asked for a
// value that is known. One request does it, the others go on with what there is.
const retryInterval = 5 * time.Second

// Reader gives secrets to the data plane from memory. Of a value that is there, a
// question costs a look-up. It is safe for concurrent use.
type Reader struct {
	opts  ReaderOptions
	known *verdict.Cache[*known]
}

// known is what was read. All but next is immutable.
type known struct {
	value seal.Secret
	none  bool  // there is no such secret
	until int64 // unix nanoseconds; not used after it
	next  atomic.Int64
}

// NewReader makes a reader with an empty cache.
func NewReader(o ReaderOptions) (*Reader, error) {
	if !kvmname.IsEnvironment(o.Environment) {
		return nil, fmt.Errorf("the environment of secrets is %q, must be %s", o.Environment, kvmname.Rule)
	}
	if o.MaxStale < Refresh {
		return nil, fmt.Errorf("secrets cannot be stale for %v, must be at least %v", o.MaxStale, Refresh)
	}
	cache, err := verdict.New[*known](o.Entries, o.Timeout)
	if err != nil {
		return nil, err
	}
	return &Reader{opts: o, known: cache}, nil
}

// Secret returns the value of a secret. It is [ErrNotFound] when there is none; while
// it cannot be known, the error is that of the source.
func (r *Reader) Secret(ctx context.Context, name string) (seal.Secret, error) {
	now := r.opts.Now().UnixNano()
	k, ok := r.known.Get(name)
	if !ok || now >= k.until {
		return r.load(ctx, name)
	}
	next := k.next.Load()
	if now < next || !k.next.CompareAndSwap(next, now+int64(retryInterval)) {
		return k.result()
	}
	value, err := r.load(ctx, name)
	if err == nil || lasting(err) {
		return value, err
	}
	// The source does not answer. What an event has dropped meanwhile is not used.
	if current, ok := r.known.Get(name); ok {
		return current.result()
	}
	return seal.Secret{}, err
}

// lasting reports whether an error says something of the secret, not of the way to it.
// A value under a key that only other replicas know yet is what it was before they
// have sealed it anew, or else an event has dropped it.
func lasting(err error) bool {
	return errors.Is(err, ErrNotFound) || errors.Is(err, seal.ErrTampered)
}

func (k *known) result() (seal.Secret, error) {
	if k.none {
		return seal.Secret{}, ErrNotFound
	}
	return k.value, nil
}

// load asks the source, once for all who ask at the moment. That there is no such
// secret is kept too: names come from the gateway document, so there are few.
func (r *Reader) load(ctx context.Context, name string) (seal.Secret, error) {
	k, err := r.known.Load(ctx, name, func(ctx context.Context) (*known, error) {
		asked := r.opts.Now()
		k := &known{until: asked.Add(r.opts.MaxStale).UnixNano()}
		k.next.Store(asked.Add(Refresh).UnixNano())
		row, err := r.opts.Source.Secret(ctx, r.opts.Environment, name)
		if errors.Is(err, ErrNotFound) {
			k.none = true
			return k, nil
		}
		if err != nil {
			return nil, err
		}
		// The row is asked for by name: another one in its place does not open either.
		row.Environment, row.Name = r.opts.Environment, name
		plain, err := open(r.opts.Ring, row)
		if err != nil {
			return nil, err
		}
		defer clear(plain)
		k.value = seal.NewSecret(string(plain))
		return k, nil
	})
	if err != nil {
		if lasting(err) {
			r.known.Invalidate(name)
		}
		return seal.Secret{}, err
	}
	return k.result()
}

// Apply drops what an event has overtaken.
func (r *Reader) Apply(e changes.Event) {
	if e.Kind != changes.SecretChanged {
		return
	}
	if environment, name, _ := strings.Cut(e.Subject, "/"); environment == r.opts.Environment {
		r.known.Invalidate(name)
	}
}

// Reset drops everything: events were missed.
func (r *Reader) Reset() { r.known.Clear() }
