package upstream

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"time"

	"github.com/keywarden/keywarden/pkg/gateway/upstream/http1"
)

// ordinary exchanges r by [http.Transport]. Its caller may have taken it for a plain
// request, and then expects of it what [http1.Client] does: to be told of interim answers,
// and that its bounds hold.
func (p *Pool) ordinary(r *http.Request) (*http.Response, error) {
	ctx := r.Context()
	to, ok := ctx.Value(http1.InterimKey{}).(http1.Interim)
	if !ok {
		return p.transport.RoundTrip(r)
	}
	if trace := httptrace.ContextClientTrace(ctx); trace == nil || trace.Got1xxResponse == nil {
		ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{Got1xxResponse: func(status int, header textproto.MIMEHeader) error {
			to.Interim(status, http.Header(header))
			return nil
		}})
		r = r.WithContext(ctx)
	}
	caller, ok := to.(http1.Caller)
	if !ok {
		return p.transport.RoundTrip(r)
	}
	if deadline, idle := caller.Bounds(); !deadline.IsZero() || idle > 0 {
		return p.bounded(r, deadline, idle)
	}
	return p.transport.RoundTrip(r)
}

// bounded exchanges r within bounds.
func (p *Pool) bounded(r *http.Request, deadline time.Time, idle time.Duration) (*http.Response, error) {
	ctx, cancel := context.WithCancelCause(r.Context())
	b := &boundedBody{ctx: ctx, cancel: cancel}
	b.SetBounds(deadline, idle)
	resp, err := p.transport.RoundTrip(r.WithContext(ctx))
	if err != nil {
		b.end()
		return nil, b.explain(err)
	}
	resp.Request = r
	if resp.StatusCode == http.StatusSwitchingProtocols {
		b.SetBounds(time.Time{}, 0) // it lasts, and its body is the connection
		context.AfterFunc(r.Context(), b.end)
		return resp, nil
	}
	b.ReadCloser, resp.Body = resp.Body, b
	return resp, nil
}

// boundedBody is the body of an answer with bounds. It implements [http1.Bounded].
type boundedBody struct {
	io.ReadCloser
	ctx    context.Context
	cancel context.CancelCauseFunc
	whole  *time.Timer // nil: no bound
	idle   time.Duration
	pause  *time.Timer // nil before the first read with a bound
}

// SetBounds implements [http1.Bounded].
func (b *boundedBody) SetBounds(deadline time.Time, idle time.Duration) {
	if b.whole != nil {
		b.whole.Stop()
		b.whole = nil
	}
	if !deadline.IsZero() {
		b.whole = time.AfterFunc(time.Until(deadline), func() { b.cancel(http1.ErrDeadline) })
	}
	b.idle = idle
}

// Read implements [io.Reader].
func (b *boundedBody) Read(p []byte) (int, error) {
	switch {
	case b.idle == 0:
	case b.pause == nil:
		b.pause = time.AfterFunc(b.idle, func() { b.cancel(http1.ErrIdle) })
	default:
		b.pause.Reset(b.idle)
	}
	n, err := b.ReadCloser.Read(p)
	if b.pause != nil {
		b.pause.Stop()
	}
	if err != nil && !errors.Is(err, io.EOF) {
		err = b.explain(err)
	}
	return n, err
}

// Close implements [io.Closer].
func (b *boundedBody) Close() error {
	err := b.ReadCloser.Close()
	b.end()
	return err
}

// end lets go of what bounds the exchange.
func (b *boundedBody) end() {
	if b.whole != nil {
		b.whole.Stop()
	}
	b.cancel(nil)
}

// explain returns the bound behind an error, if there is one.
func (b *boundedBody) explain(err error) error {
	if cause := context.Cause(b.ctx); errors.Is(cause, http1.ErrDeadline) || errors.Is(cause, http1.ErrIdle) {
		return cause
	}
	return err
}
