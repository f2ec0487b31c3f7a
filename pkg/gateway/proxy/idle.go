package proxy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/keywarden/keywarden/pkg/gateway/proxy/bodycopy"
	"github.com/keywarden/keywarden/pkg/gateway/upstream/http1"
	"github.com/keywarden/keywarden/pkg/splice"
)

// Causes of a context that a bound has ended. Only the first says something about
// the service.
var (
	errIdle     = errors.New("the service was silent, or took nothing, for longer than it may")
	errBodyIdle = fmt.Errorf("the client sent nothing for longer than it may: %w", context.Canceled)
	errBodyLate = fmt.Errorf("the client had not sent its body when the time of the route was over: %w", context.Canceled)
)

// startIdle prepares to bound the pauses of the bodies. A stream of gRPC may be
// silent in both directions.
func (x *exchange) startIdle(r *http.Request, cancel context.CancelCauseFunc, idle time.Duration) {
	if x.calls {
		return
	}
	if hasBody(r) {
		x.body.idle = idle
		x.body.pause = time.AfterFunc(idle, func() { x.paused(cancel) })
		x.body.pause.Stop() // until the body is asked for
	}
	x.answer.idle, x.answer.cancel = idle, cancel
}

// paused cuts the exchange for a pause of the request's body.
func (x *exchange) paused(cancel context.CancelCauseFunc) {
	if !x.body.free.Load() {
		x.cut(cancel, errIdle, errBodyIdle)
	}
}

// cut ends the exchange before its time. Whoever is waited for is at fault: the
// client, while its body is being read, unless that may last for as long as the
// answer, as in a call of gRPC. The read would go on after the exchange, and
// whatever ends the body, the transport too, would wait for it.
func (x *exchange) cut(cancel context.CancelCauseFunc, service, client error) {
	x.body.cut.Store(true)
	if !x.body.reading.Load() {
		cancel(service)
		return
	}
	if x.calls {
		client = service
	}
	cancel(client)
	x.body.mu.Lock()
	defer x.body.mu.Unlock()
	if !x.body.over {
		_ = http.NewResponseController(x.w).SetReadDeadline(time.Now())
	}
}

// stopIdle ends what startIdle began.
func (x *exchange) stopIdle() {
	if x.body.pause != nil {
		x.body.pause.Stop()
	}
	if x.answer.pause != nil {
		x.answer.pause.Stop()
	}
}

// answerBody is the body of an answer. It bounds the time that one read takes, and
// remembers whether the service broke it off. Only the request's goroutine reads.
type answerBody struct {
	io.ReadCloser
	exchange *exchange
	response *http.Response
	idle     time.Duration           // 0 without a bound
	cancel   context.CancelCauseFunc // of the exchange; with a bound
	pause    *time.Timer             // nil before the first read that waits
	failed   bool
}

// wait begins to bound the time of a read that has to wait.
func (b *answerBody) wait() {
	switch {
	case b.idle == 0 || b.Ready():
	case b.pause == nil:
		b.pause = time.AfterFunc(b.idle, func() { b.cancel(errIdle) })
	default:
		b.pause.Reset(b.idle)
	}
}

// Ready reports whether a part of the body is here already.
func (b *answerBody) Ready() bool { return bodycopy.Ready(b.ReadCloser) }

// Read implements [io.Reader].
func (b *answerBody) Read(p []byte) (int, error) {
	b.wait()
	n, err := b.ReadCloser.Read(p)
	if b.pause != nil {
		b.pause.Stop()
	}
	b.note(err)
	return n, err
}

// note remembers how reading has ended.
func (b *answerBody) note(err error) {
	switch {
	case err == nil, errors.Is(err, splice.ErrUnavailable):
	case errors.Is(err, io.EOF):
		dropTrailers(b.response.Trailer)
	default:
		b.failed = true
		b.exchange.noteBound(err)
	}
}

// CanFill implements [splice.Source]. Where a timer bounds the reads, they are those of
// Read.
func (b *answerBody) CanFill() bool {
	source, ok := b.ReadCloser.(splice.Source)
	return ok && b.idle == 0 && source.CanFill()
}

// FillPipe implements [splice.Source].
func (b *answerBody) FillPipe(p *splice.Pipe) (int, error) {
	n, err := b.ReadCloser.(splice.Source).FillPipe(p)
	b.note(err)
	return n, err
}

// watchAnswer follows the body of an answer.
func (x *exchange) watchAnswer(res *http.Response) {
	if x.lasting {
		x.body.free.Store(true)
		x.stopIdle()
		x.answer.idle, x.answer.pause = 0, nil
	}
	if res.StatusCode == http.StatusSwitchingProtocols {
		return // its body is the connection, in both directions
	}
	x.answer.ReadCloser, x.answer.response, x.answer.exchange = res.Body, res, x
	res.Body = &x.answer
}

// broken reports whether the service broke off its answer: not when the client
// did, nor when the time of the whole exchange was over.
func (x *exchange) broken() bool {
	return x.answer.failed && !x.body.Spoiled() && x.client.Err() == nil &&
		!errors.Is(x.cause(), errTimeout) && !errors.Is(x.cause(), errBodyLate) && !errors.Is(x.cause(), errStanding)
}

// cause is why the exchange was cut; nil when it was not.
func (x *exchange) cause() error {
	switch {
	case x.revoked.Load():
		return errStanding
	case x.late != nil:
		return x.late
	case x.bounded != nil:
		return context.Cause(x.bounded)
	}
	return nil
}

// noteBound remembers that a bound was reached while the service was waited for.
func (x *exchange) noteBound(err error) {
	switch {
	case errors.Is(err, http1.ErrDeadline):
		x.late = errTimeout
	case errors.Is(err, http1.ErrIdle):
		x.late = errIdle
	}
}
