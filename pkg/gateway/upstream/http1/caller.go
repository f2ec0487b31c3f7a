package http1

import (
	"context"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"time"
)

// InterimKey is the key of a context whose value is told of interim answers, when it is
// an [Interim] and the context has no [httptrace.ClientTrace] for that, and bounds the
// exchange, when it is a [Caller].
type InterimKey struct{}

// Interim is told of the interim answers to a request, while [Client.RoundTrip] runs.
type Interim interface {
	Interim(status int, header http.Header)
}

// Caller is who asks for an exchange. It bounds it without a timer of its own: the
// bounds are looked at whenever the service is waited for. Nobody looks at them while
// the body of the request is waited for, which is the caller's.
type Caller interface {
	Interim

	// Bounds is asked once for each exchange. deadline is when the whole of it has
	// to be over; idle is the longest silence of the service while the body of its
	// answer is awaited, or of its taking nothing while it is sent a body. Zero is no
	// bound.
	Bounds() (deadline time.Time, idle time.Duration)
}

// Bounded is the body of an answer whose bounds can be changed. They are changed by the
// one who reads it, between two reads.
type Bounded interface {
	// SetBounds replaces what [Caller.Bounds] has said.
	SetBounds(deadline time.Time, idle time.Duration)
}

// Errors of an exchange that has reached a bound of its [Caller]. Their Timeout is true.
var (
	ErrDeadline error = &timeoutError{text: "http1: the exchange took longer than it may"}
	ErrIdle     error = &timeoutError{text: "http1: the service was silent, or took nothing, for longer than it may"}
)

// What took longer than the configuration allows.
var (
	errNoAnswerInTime   error = &timeoutError{text: "http1: no answer in time", late: true}
	errNothingTaken     error = &timeoutError{text: "http1: the service takes nothing of the request", late: true}
	errHandshakeTooLong error = &timeoutError{text: "http1: the TLS handshake takes too long", late: true}
)

// caller is what the context of a request says about its exchange.
func caller(ctx context.Context) (to Interim, deadline time.Time, idle time.Duration) {
	switch c := ctx.Value(InterimKey{}).(type) {
	case Caller:
		deadline, idle = c.Bounds()
		return c, deadline, idle
	case Interim:
		return c, deadline, 0
	}
	return nil, deadline, 0
}

func tellInterim(ctx context.Context, to Interim, resp *http.Response) error {
	if trace := httptrace.ContextClientTrace(ctx); trace != nil && trace.Got1xxResponse != nil {
		return trace.Got1xxResponse(resp.StatusCode, textproto.MIMEHeader(resp.Header))
	}
	if to != nil {
		to.Interim(resp.StatusCode, resp.Header)
	}
	return nil
}
