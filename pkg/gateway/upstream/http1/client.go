// Package http1 exchanges the plain case of a proxied request, one without a body
// over HTTP/1.1 without TLS, on the goroutine of its caller. [http.Transport]
// hands each exchange to two goroutines of the connection and back, which costs
// more than all other work of the gateway; a request that has no body to be sent
// while the answer arrives does not need them.
//
// It owns the connections to one address: it opens them, keeps those that are
// idle, and never uses one again of which it is not sure. It reads answers with
// net/http's own parser and not with one of its own. Everything that is not plain
// is for [http.Transport]; [Suits] says which is which. It does not choose the
// address and does not retry, except on a connection that the service had closed
// before the request came.
package http1

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"sync/atomic"
	"time"
)

// Config says how to talk to an address. All fields are required.
type Config struct {
	Dial            func(ctx context.Context, network, addr string) (net.Conn, error)
	Addr            string        // host:port
	ResponseTimeout time.Duration // from the request to the header of its answer
	IdleTimeout     time.Duration // after which an idle connection is closed
	MaxIdle         int           // connections that are kept
	MaxHeader       int64         // bytes of an answer's header, those of interim answers included
	ReadBuffer      int           // bytes, per connection
}

// Client exchanges requests with one address. It is safe for concurrent use.
type Client struct {
	config Config
	idle   idle
}

// New makes a client without connections.
func New(c Config) *Client {
	client := &Client{config: c}
	client.idle.max, client.idle.timeout = c.MaxIdle, c.IdleTimeout
	return client
}

// CloseIdleConnections closes what is idle now.
func (c *Client) CloseIdleConnections() { c.idle.closeAll() }

// errHeaderTooLarge is an answer whose header has no end in sight.
var errHeaderTooLarge = errors.New("http1: the header of the answer is too large")

// RoundTrip implements [http.RoundTripper] for requests that [Suits] accepts. The
// connection of an answer is used again once the body was read to its end, and
// closed when it was not.
func (c *Client) RoundTrip(r *http.Request) (*http.Response, error) {
	ctx := r.Context()
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	if conn := c.idle.take(); conn != nil {
		resp, err, untouched := conn.exchange(c, r)
		if !untouched {
			return resp, err
		}
		// The service closed the connection just when the request was sent: it may be
		// sent again, since it is safe by its method (RFC 9110 section 9.2.2). It is so
		// on a new connection: should the request be why it closes them, one that is
		// idle after the other would be lost.
	}
	raw, err := c.config.Dial(ctx, "tcp", c.config.Addr)
	if err != nil {
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		return nil, err
	}
	resp, err, _ := newConnection(raw, &c.config).exchange(c, r)
	return resp, err
}

// connection is one connection to the service. It belongs to one exchange, or to
// the idle ones.
type connection struct {
	raw   net.Conn
	limit limitedReader
	in    *bufio.Reader
	out   []byte // the header that is sent, reused
	probe probe
	since time.Time // when it became idle
}

func newConnection(raw net.Conn, c *Config) *connection {
	conn := &connection{raw: raw}
	conn.limit.from = raw
	conn.in = bufio.NewReaderSize(&conn.limit, c.ReadBuffer)
	conn.probe.open(raw)
	return conn
}

func (conn *connection) close() { _ = conn.raw.Close() }

// exchange sends r and reads the header of the answer. untouched says that a
// connection that was used before ended without a byte of an answer.
func (conn *connection) exchange(c *Client, r *http.Request) (_ *http.Response, err error, untouched bool) {
	ctx := r.Context()
	used := !conn.since.IsZero()
	stop := context.AfterFunc(ctx, conn.interrupt)
	defer func() {
		if err != nil {
			stop()
			conn.close()
			if ctx.Err() != nil {
				err, untouched = context.Cause(ctx), false
			}
		}
	}()
	var deadline time.Time
	if c.config.ResponseTimeout > 0 {
		deadline = time.Now().Add(c.config.ResponseTimeout)
	}
	_ = conn.raw.SetDeadline(deadline)
	if ctx.Err() != nil { // or its interrupt may have come before the deadline
		return nil, context.Cause(ctx), false
	}
	conn.out = appendRequest(conn.out[:0], r)
	if _, err := conn.raw.Write(conn.out); err != nil {
		return nil, err, used && !isTimeout(err)
	}
	conn.limit.left = c.config.MaxHeader
	if _, err := conn.in.Peek(1); err != nil {
		return nil, noAnswer(err), used && !isTimeout(err)
	}
	resp, err := conn.readHeader(ctx, r)
	switch {
	case err != nil && conn.limit.left <= 0: // whatever the parser makes of the end
		return nil, errHeaderTooLarge, false
	case err != nil:
		return nil, noAnswer(err), false
	}
	conn.limit.left = unlimited
	conn.deliver(c, resp, stop)
	return resp, nil, false
}

// interrupt ends whatever waits on the connection.
func (conn *connection) interrupt() { _ = conn.raw.SetDeadline(time.Unix(1, 0)) }

func isTimeout(err error) bool {
	var timeout net.Error
	return errors.As(err, &timeout) && timeout.Timeout()
}

// noAnswer tells an end before the answer from the end of an answer.
func noAnswer(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// readHeader reads up to the final answer and tells interim ones to the client's
// trace, by which they reach the client.
func (conn *connection) readHeader(ctx context.Context, r *http.Request) (*http.Response, error) {
	for {
		resp, err := http.ReadResponse(conn.in, r)
		if err != nil {
			return nil, err
		}
		if resp.StatusCode < 100 || resp.StatusCode > 199 || resp.StatusCode == http.StatusSwitchingProtocols {
			return resp, nil
		}
		if trace := httptrace.ContextClientTrace(ctx); trace != nil && trace.Got1xxResponse != nil {
			if err := trace.Got1xxResponse(resp.StatusCode, textproto.MIMEHeader(resp.Header)); err != nil {
				return nil, err
			}
		}
	}
}

// deliver makes the body of the answer give the connection back at its end.
func (conn *connection) deliver(c *Client, resp *http.Response, stop func() bool) {
	again := !resp.Close && resp.ProtoAtLeast(1, 1) && resp.StatusCode >= http.StatusOK
	b := &body{ReadCloser: resp.Body, ctx: resp.Request.Context(), client: c, conn: conn, stop: stop, again: again}
	if resp.Body == http.NoBody || resp.ContentLength == 0 {
		b.finish(true)
		return
	}
	resp.Body = b
	if resp.ContentLength < 0 || int64(conn.in.Buffered()) < resp.ContentLength {
		_ = conn.raw.SetDeadline(time.Time{}) // the body may take its time; see interrupt
		if b.ctx.Err() != nil {
			conn.interrupt()
		}
	}
}

// body is the body of an answer. It is read by one goroutine; any may close it.
type body struct {
	io.ReadCloser
	ctx    context.Context
	client *Client
	conn   *connection
	stop   func() bool // ends the watch over ctx; false when ctx has ended
	again  bool        // the connection may be used again
	over   atomic.Bool // it was given back or closed
}

// Read implements [io.Reader].
func (b *body) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err == nil || b.over.Load() {
		return n, err
	}
	if !errors.Is(err, io.EOF) && b.ctx.Err() != nil {
		err = context.Cause(b.ctx)
	}
	b.finish(errors.Is(err, io.EOF))
	return n, err
}

// Close implements [io.Closer]. What is left of the body is not waited for.
func (b *body) Close() error {
	b.finish(false)
	return nil
}

// finish gives the connection back after a whole answer with nothing behind it,
// and closes it otherwise: what came unasked must not become somebody's answer.
func (b *body) finish(whole bool) {
	if !b.over.CompareAndSwap(false, true) {
		return
	}
	undisturbed := b.stop()
	if whole && undisturbed && b.again && b.conn.in.Buffered() == 0 {
		b.client.idle.put(b.conn)
		return
	}
	b.conn.close()
}

// unlimited is more than any body has.
const unlimited = 1<<63 - 1

// limitedReader bounds what is read of a connection.
type limitedReader struct {
	from io.Reader
	left int64
}

// Read implements [io.Reader].
func (l *limitedReader) Read(p []byte) (int, error) {
	if l.left <= 0 {
		return 0, errHeaderTooLarge
	}
	if int64(len(p)) > l.left {
		p = p[:l.left]
	}
	n, err := l.from.Read(p)
	l.left -= int64(n)
	return n, err
}
