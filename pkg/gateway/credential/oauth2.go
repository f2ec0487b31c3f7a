package credential

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/keywarden/keywarden/pkg/access"
	"github.com/keywarden/keywarden/pkg/seal"
	"github.com/keywarden/keywarden/pkg/spec/services"
)

// oauth2 is a token that a client gets in its own name (RFC 6749 section 4.4). It is
// asked for when a request needs it, once for all who wait, and again before it ends.
type oauth2 struct {
	owner    *Credentials
	endpoint endpoint
	service  string

	mu      sync.Mutex // guards what follows; nobody asks the endpoint while holding it
	current *token     // nil: none yet
	flight  *flight    // nil: no question is under way
	failed  int        // questions in a row
	failure error      // of the last
	retryAt time.Time  // no question before it, after one that has failed
}

// token is one that was given. It is immutable.
type token struct {
	value     seal.Secret // as it is presented
	fetched   time.Time
	refreshAt time.Time // somebody asks for the next one from then on
	until     time.Time // not presented from then on
}

// flight is a question under way. What it has found may be read once done is closed.
type flight struct {
	done  chan struct{}
	token *token
	err   error
}

// Bounds of the pause after a question that has failed.
const (
	minPause = time.Second
	maxPause = time.Minute
)

// minAge is how old a token has to be for a service's word that it is not good to
// be believed: a service that refuses everything must not make the gateway ask for a
// token with every request.
const minAge = 10 * time.Second

func (cs *Credentials) oauth2(service string, of *services.Credential, scheme string) (*oauth2, error) {
	e, err := cs.endpoint(of, scheme)
	return &oauth2{owner: cs, endpoint: e, service: service}, err
}

// value implements source.
func (o *oauth2) value(ctx context.Context, _ *access.Principal) (seal.Secret, error) {
	o.mu.Lock()
	now := o.owner.Now()
	if t := o.current; t != nil && now.Before(t.until) {
		if !now.Before(t.refreshAt) {
			_, _ = o.begin(now) // nobody has to wait for it
		}
		o.mu.Unlock()
		return t.value, nil
	}
	f, err := o.begin(now)
	o.mu.Unlock()
	if err != nil {
		return seal.Secret{}, err
	}
	return f.wait(ctx)
}

// renew implements what [Credential.Renew] asks for. The token goes on being
// presented until there is another: the service may have meant something else.
func (o *oauth2) renew(ctx context.Context, presented seal.Secret, wait bool) bool {
	o.mu.Lock()
	now := o.owner.Now()
	if t := o.current; t != nil {
		newer := !t.value.Equal(presented.Reveal())
		if newer || now.Before(t.fetched.Add(minAge)) {
			o.mu.Unlock()
			return newer
		}
	}
	f, err := o.begin(now)
	o.mu.Unlock()
	if err != nil || !wait {
		return false
	}
	value, err := f.wait(ctx)
	return err == nil && !value.Equal(presented.Reveal())
}

var errClosed = errors.New("the gateway is being closed")

// begin returns the question that is under way, or begins one, unless it is too
// early after one that has failed. The caller holds the lock.
func (o *oauth2) begin(now time.Time) (*flight, error) {
	if o.flight != nil {
		return o.flight, nil
	}
	if now.Before(o.retryAt) {
		return nil, ErrUnavailable.With(o.failure).WithRetryAfter(o.retryAt.Sub(now))
	}
	f := &flight{done: make(chan struct{})}
	if !o.owner.run(func(ctx context.Context) { o.fly(ctx, f) }) {
		return nil, errClosed
	}
	o.flight = f
	return f, nil
}

// wait waits for what a question finds, no longer than ctx lasts.
func (f *flight) wait(ctx context.Context) (seal.Secret, error) {
	select {
	case <-f.done:
	case <-ctx.Done():
		return seal.Secret{}, context.Cause(ctx)
	}
	if f.err != nil {
		return seal.Secret{}, f.err
	}
	return f.token.value, nil
}

// fly asks the endpoint, and keeps what it says.
func (o *oauth2) fly(ctx context.Context, f *flight) {
	asked := o.owner.Now()
	given, err := o.endpoint.ask(ctx)
	o.owner.Fetched(o.service, o.owner.Now().Sub(asked), err)

	o.mu.Lock()
	defer o.mu.Unlock()
	defer close(f.done)
	o.flight = nil
	if err != nil {
		f.err = o.fail(err)
		return
	}
	// A part of the life is left for the way to the service; the next token is asked
	// for at a moment of its own, so that replicas do not ask all at once.
	f.token = &token{
		value: given.value, fetched: asked,
		refreshAt: asked.Add(given.life*7/10 + rand.N(given.life/10+1)), //nolint:gosec // no secret
		until:     asked.Add(given.life - min(given.life/10, minAge)),
	}
	o.current, o.failed, o.failure, o.retryAt = f.token, 0, nil, time.Time{}
}

// fail notes that a question has failed, and returns what those who wait are told.
// The caller holds the lock.
func (o *oauth2) fail(err error) error {
	o.failed++
	pause := min(minPause<<min(o.failed-1, 10), maxPause)
	pause = pause/2 + rand.N(pause/2+1) //nolint:gosec // no secret
	if asked := (later{}); errors.As(err, &asked) {
		pause = max(pause, asked.after)
	}
	o.failure = fmt.Errorf("asking for a token: %w", err)
	o.retryAt = o.owner.Now().Add(pause)
	if o.owner.ctx.Err() == nil {
		o.owner.Logger.Warn("there is no token for a service", "service", o.service, "error", o.failure,
			"failures", o.failed, "pause", pause)
	}
	return ErrUnavailable.With(o.failure).WithRetryAfter(pause)
}
