// Package forward sends a request to one of the targets of a service, and once
// more to another where that is safe. It puts together what stands in the way of
// trouble, in this order: bulkhead, breaker, then for each attempt the choice of
// a target and what is learned from it.
//
// It does not know HTTP's outer side (package proxy does), and it does not decide
// whether targets are well; it tells those who do what became of each attempt.
package forward

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/keywarden/keywarden/pkg/gateway/balance"
	"github.com/keywarden/keywarden/pkg/gateway/health"
	"github.com/keywarden/keywarden/pkg/gateway/resilience"
	"github.com/keywarden/keywarden/pkg/gateway/upstream"
	"github.com/keywarden/keywarden/pkg/gateway/upstream/http1"
)

// Target is one address of a service.
type Target struct {
	balance.Target
	URL   *url.URL // scheme and host
	Pool  *upstream.Pool
	Index int // place in Config.Targets
}

// Reason is a failure after which a request may be sent again.
type Reason uint8

// The reasons.
const (
	OnConnect Reason = 1 << iota // no connection could be made: nothing was sent
	OnReset                      // the connection ended before an answer
	OnTimeout                    // no answer in time
	On502
	On503
	On504
)

// Retry says when a request is sent again.
type Retry struct {
	Attempts   int // in all, at least 1
	On         Reason
	Backoff    time.Duration
	MaxBackoff time.Duration
	Budget     *resilience.Budget // of all reasons but OnConnect; nil for no bound
}

// Config is what a service is made of. Balancer and Targets agree; what is nil is
// not there.
type Config struct {
	Targets  []*Target
	Balancer *balance.Balancer
	Refusal  error // what every request gets while there are no targets; required then
	Watcher  *health.Watcher
	Breaker  *resilience.Breaker
	Bulkhead *resilience.Bulkhead
	Retry    Retry
	Now      func() time.Time
}

// Service sends requests to its targets. It is safe for concurrent use.
type Service struct {
	config  Config
	byState map[*balance.State]*Target
}

// New makes a service.
func New(c Config) *Service {
	s := &Service{config: c, byState: make(map[*balance.State]*Target, len(c.Targets))}
	for _, t := range c.Targets {
		s.byState[t.State] = t
	}
	return s
}

// Plain reports whether all targets are spoken to by HTTP/1.1, on the goroutine of the
// request. Of a target with TLS that is known once it has answered.
func (s *Service) Plain() bool {
	for _, t := range s.config.Targets {
		if !t.Pool.Plain() {
			return false
		}
	}
	return len(s.config.Targets) > 0
}

// Queues reports whether a request may have to wait before it is sent to a target.
func (s *Service) Queues() bool { return s.config.Bulkhead != nil }

// Targets are the targets of the service.
func (s *Service) Targets() []*Target { return s.config.Targets }

// Exchange is one request on its way, from Send to End. The zero value with Hash
// and Host set is ready; it belongs to the request's goroutine.
type Exchange struct {
	Hash uint64 // for consistent hashing
	Host string // what the target is told as Host; empty: its own
	Body Body   // of the request; nil: it has none

	// Deadline is when the exchange has to be over, where its context does not say so; zero
	// is never. No attempt begins after it.
	Deadline time.Time

	target   *Target
	tried    []*balance.State
	leave    func()            // of the bulkhead
	report   func(failed bool) // to the breaker, when the body has ended; nil: it knows
	watcher  *health.Watcher   // nil: there is none, or no answer
	told     bool              // the watcher knows of the answer
	now      func() time.Time
	Attempts int // how often it was sent
}

// Body is what is known of the body of a request.
type Body interface {
	// Spoiled reports whether reading it has failed, which is no fault of the target's.
	Spoiled() bool
}

// late reports whether the time of the exchange is over.
func (x *Exchange) late(now time.Time) bool { return !x.Deadline.IsZero() && !now.Before(x.Deadline) }

// Target is the one that was tried last; nil before the first.
func (x *Exchange) Target() *Target { return x.target }

// End says that the exchange is over, its response's body included; broken, that
// the target broke it off. It may be called without Send, and once.
func (x *Exchange) End(broken bool) {
	if x.report != nil {
		x.report(broken)
	}
	if x.watcher != nil && (broken || !x.told) {
		x.watcher.Result(x.target.State, broken, x.now())
	}
	if x.target != nil {
		x.target.End()
		x.target.Pool.End()
	}
	if x.leave != nil {
		x.leave()
	}
}

// ErrNoTarget cannot happen: a service with targets always has one to choose.
var ErrNoTarget = errors.New("the service has no target")

// Send sends out to a target and returns its answer. out has no host yet; the
// caller closes its body, in case nobody else has. An error is that of the last
// attempt, or says why none was made.
func (s *Service) Send(x *Exchange, out *http.Request) (*http.Response, error) {
	if len(s.config.Targets) == 0 {
		return nil, s.config.Refusal
	}
	ctx := out.Context()
	if s.config.Bulkhead != nil {
		leave, err := s.config.Bulkhead.Enter(ctx)
		if err != nil {
			return nil, err
		}
		x.leave = leave
	}
	if s.config.Breaker != nil {
		report, err := s.config.Breaker.Admit()
		if err != nil {
			return nil, err
		}
		x.report = report
	}
	if s.config.Retry.Budget != nil {
		s.config.Retry.Budget.Request()
	}
	if out.Body != nil && s.config.Retry.Attempts > 1 {
		out.Body = &unreadBody{ReadCloser: out.Body}
	}
	resp, err, failed := s.attempts(ctx, x, out)
	s.settle(x, resp, failed)
	return resp, err
}

// settle leaves the verdict on an answer that looks good to [Exchange.End], which
// knows how its body ended. It does not wait for that where it may take for ever,
// nor while the breaker lets a few requests probe the service.
func (s *Service) settle(x *Exchange, resp *http.Response, failed bool) {
	good := resp != nil && !failed
	stream := good && lasting(resp)
	if good && x.target != nil {
		x.watcher, x.now = s.config.Watcher, s.config.Now
	}
	if stream && x.watcher != nil {
		x.watcher.Result(x.target.State, false, x.now())
		x.told = true
	}
	if x.report != nil && (!good || stream || s.config.Breaker.Probing()) {
		x.report(failed)
		x.report = nil
	}
}

// lasting reports whether the answer is a stream that may go on for long.
func lasting(resp *http.Response) bool {
	kind := http1.FieldOf(resp, "Content-Type")
	return resp.StatusCode == http.StatusSwitchingProtocols ||
		strings.HasPrefix(kind, "text/event-stream") || strings.HasPrefix(kind, "application/grpc")
}

// attempts sends out until there is an answer to give, or no further attempt is
// allowed.
func (s *Service) attempts(ctx context.Context, x *Exchange, out *http.Request) (_ *http.Response, err error, failed bool) {
	for {
		resp, err := s.attempt(x, out)
		failed := s.learn(ctx, x, resp, err)
		x.Attempts++
		if !s.again(ctx, x, out, resp, err) {
			return resp, err, failed
		}
		discard(resp)
		pause := resilience.Backoff(s.config.Retry.Backoff, s.config.Retry.MaxBackoff, x.Attempts)
		if !x.Deadline.IsZero() {
			pause = min(pause, x.Deadline.Sub(s.config.Now())) // the next attempt fails by it at once
		}
		if !wait(ctx, pause) {
			return nil, context.Cause(ctx), failed
		}
		// A request that has failed may still be in the hands of its transport.
		out = out.Clone(ctx)
	}
}

// attempt chooses a target and sends out to it.
func (s *Service) attempt(x *Exchange, out *http.Request) (*http.Response, error) {
	if x.target != nil {
		x.tried = append(x.tried, x.target.State)
		x.target.End()
		x.target.Pool.End()
		x.target = nil
	}
	begun := s.config.Now()
	chosen, ok := s.pick(x, begun)
	if !ok {
		return nil, ErrNoTarget
	}
	x.target = s.byState[chosen.State]
	x.target.Begin()
	x.target.Pool.Begin()
	out.URL.Scheme, out.URL.Host, out.Host = x.target.URL.Scheme, x.target.URL.Host, x.target.URL.Host
	if x.Host != "" {
		out.Host = x.Host
	}
	resp, err := x.target.Pool.RoundTrip(out)
	if err == nil {
		x.target.Observe(s.config.Now().Sub(begun))
	}
	return resp, err
}

// pick prefers targets that were not tried yet.
func (s *Service) pick(x *Exchange, now time.Time) (balance.Target, bool) {
	if len(x.tried) == 0 {
		return s.config.Balancer.Pick(now, x.Hash, nil)
	}
	tried := func(state *balance.State) bool { return slices.Contains(x.tried, state) }
	if t, ok := s.config.Balancer.Pick(now, x.Hash, tried); ok {
		return t, true
	}
	return s.config.Balancer.Pick(now, x.Hash, nil)
}

// learn tells the watcher of an attempt that failed, and returns whether it did.
// A client that went away, or that has sent a bad body or a method that the target
// does not know, says nothing about the target.
func (s *Service) learn(ctx context.Context, x *Exchange, resp *http.Response, err error) (failed bool) {
	if err != nil && (ctx.Err() != nil && !timedOut(ctx) || x.Body != nil && x.Body.Spoiled()) {
		return false
	}
	failed = err != nil || resp.StatusCode >= http.StatusInternalServerError && resp.StatusCode != http.StatusNotImplemented
	if failed && s.config.Watcher != nil && x.target != nil {
		s.config.Watcher.Result(x.target.State, true, s.config.Now())
	}
	return failed
}

// timedOut reports whether the context ended by its own deadline or bound, and
// not because the client went away.
func timedOut(ctx context.Context) bool { return !errors.Is(context.Cause(ctx), context.Canceled) }

// again reports whether the request is to be sent once more. What may have
// reached a target is repeated only if its method says that this does no harm,
// and if it has no body, of which a part may be gone (RFC 9110 section 9.2.2).
func (s *Service) again(ctx context.Context, x *Exchange, out *http.Request, resp *http.Response, err error) bool {
	r := &s.config.Retry
	if x.Attempts >= r.Attempts || ctx.Err() != nil || errors.Is(err, ErrNoTarget) || x.late(s.config.Now()) {
		return false
	}
	reason := reasonOf(resp, err)
	if reason&r.On == 0 {
		return false
	}
	if reason == OnConnect {
		return true
	}
	if !Repeatable(out) {
		return false
	}
	return r.Budget == nil || r.Budget.Retry()
}

func reasonOf(resp *http.Response, err error) Reason {
	var op *net.OpError
	var timeout interface{ Timeout() bool }
	switch {
	case err == nil:
		switch resp.StatusCode {
		case http.StatusBadGateway:
			return On502
		case http.StatusServiceUnavailable:
			return On503
		case http.StatusGatewayTimeout:
			return On504
		}
		return 0
	case errors.As(err, &op) && op.Op == "dial":
		return OnConnect
	case errors.As(err, &timeout) && timeout.Timeout():
		return OnTimeout
	default:
		return OnReset
	}
}

// Repeatable reports whether a request that may have reached a target can be sent
// again: its method says that this does no harm, and it has no body, of which a part
// may be gone.
func Repeatable(out *http.Request) bool {
	return idempotent(out.Method) && (out.Body == nil || out.Body == http.NoBody)
}

// idempotent reports whether repeating the method has the effect of doing it
// once.
func idempotent(method string) bool {
	switch method {
	case http.MethodGet, http.MethodHead, http.MethodOptions, http.MethodPut, http.MethodDelete:
		return true
	}
	return false
}

// unreadBody stays open until somebody has read from it: a transport that cannot
// connect closes the body, which the next attempt needs.
type unreadBody struct {
	io.ReadCloser
	read atomic.Bool
}

// Read implements [io.Reader].
func (b *unreadBody) Read(p []byte) (int, error) {
	b.read.Store(true)
	return b.ReadCloser.Read(p)
}

// Close implements [io.Closer].
func (b *unreadBody) Close() error {
	if !b.read.Load() {
		return nil
	}
	return b.ReadCloser.Close()
}

// Bounds of what is read of an answer that is not given, so that its connection can
// be used again: bytes, and the time that the next attempt waits for it.
const (
	maxDiscard  = 16 << 10
	discardTime = 100 * time.Millisecond
)

func discard(resp *http.Response) {
	if resp == nil {
		return
	}
	late := time.AfterFunc(discardTime, func() { _ = resp.Body.Close() })
	defer late.Stop()
	_, _ = io.CopyN(io.Discard, resp.Body, maxDiscard)
	_ = resp.Body.Close()
}

// wait pauses; it reports whether the context still goes on.
func wait(ctx context.Context, d time.Duration) bool {
	if d <= 0 {
		return ctx.Err() == nil
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}
