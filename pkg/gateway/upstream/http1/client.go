// Package http1 exchanges plain requests over HTTP/1.1, with or without TLS, on the
// goroutine of their caller. [http.Transport] hands each exchange to two goroutines of
// the connection and back, which costs more than all other work of the gateway. Only a
// long body has a goroutine, which sends it while the answer is awaited.
//
// It owns the connections to one address: it opens them, keeps those that are
// idle, and never uses one again of which it is not sure. It reads answers more
// strictly than net/http does (RFC 9112): whatever could end in two places is
// refused, and its connection closed. Everything that is not plain
// is for [http.Transport]; [ErrUnsuitable] says which is which. It does not choose the
// address and does not retry, except on a connection that the service had closed
// before the request came.
//
// An exchange ends with its context, at the bounds of its [Caller], or when it is over.
// No timer and no goroutine watches that: whoever waits for the service looks after
// half a second at the latest.
package http1

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"time"
)

// Config says how to talk to an address. All fields but TLS are required.
type Config struct {
	Dial             func(ctx context.Context, network, addr string) (net.Conn, error)
	Addr             string        // host:port
	TLS              *tls.Config   // nil: no TLS; with a ServerName, and http/1.1 alone in NextProtos
	HandshakeTimeout time.Duration // of TLS
	ResponseTimeout  time.Duration // from the request to the header of its answer
	IdleTimeout      time.Duration // after which an idle connection is closed
	MaxIdle          int           // connections that are kept
	MaxHeader        int64         // bytes of an answer's header, those of interim answers included
	ReadBuffer       int           // bytes, per connection
}

// Client exchanges requests with one address. It is safe for concurrent use.
type Client struct {
	config  Config
	idle    idle
	buffers buffers
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

// asked is one request on its way.
type asked struct {
	*http.Request
	ctx      context.Context
	to       Interim // nil: nobody
	now      time.Time
	deadline time.Time     // of the whole; zero: none
	idle     time.Duration // of the answer's body; 0: no bound
	upload   *upload       // nil: the whole request is sent before the answer is awaited
	sent     bool          // a part of it at least, so that it may not be sent again
}

// RoundTrip implements [http.RoundTripper] for plain requests, and returns
// [ErrUnsuitable] for others. The connection of an answer is used again once the body
// was read to its end, and closed when it was not. When no connection can be made, the
// body of r is there again.
func (c *Client) RoundTrip(r *http.Request) (*http.Response, error) {
	x := asked{Request: r, ctx: r.Context()}
	if x.ctx.Err() != nil {
		return nil, context.Cause(x.ctx)
	}
	out := c.buffers.get()
	defer func() {
		if out != nil {
			c.buffers.put(out)
		}
	}()
	head, ok := appendRequest(out.bytes[:0], r, listed(x.ctx))
	out.bytes = head
	if !ok {
		return nil, ErrUnsuitable
	}
	x.to, x.deadline, x.idle = caller(x.ctx)
	conn, err := c.connect(&x)
	if err != nil {
		return nil, err
	}
	if !hasBody(r) {
		return c.exchange(conn, &x, head)
	}
	if r.ContentLength > MaxBody {
		long := out
		out = nil // it goes with the body
		return c.stream(conn, &x, long)
	}
	if out.bytes, err = appendBody(head, r); err != nil {
		conn.close()
		return nil, err
	}
	if x.now = time.Now(); conn.used() && !conn.silent() { // the client has taken its time
		conn.close()
		conn, err = c.dial(&x)
	}
	var resp *http.Response
	if err == nil {
		resp, err = c.exchange(conn, &x, out.bytes)
	}
	if err != nil && !x.sent { // whoever tries another address needs the body again
		r.Body = io.NopCloser(bytes.NewReader(bytes.Clone(out.bytes[len(head):])))
	}
	return resp, err
}

// connect returns a connection that was idle, or a new one. It comes before the body of
// the request: a client may keep that back, and be told that there is no service.
func (c *Client) connect(x *asked) (*connection, error) {
	x.now = time.Now()
	if reached(x.deadline, x.now) {
		return nil, ErrDeadline
	}
	if conn := c.idle.take(x.now); conn != nil {
		return conn, nil
	}
	return c.dial(x)
}

// exchange sends x, of which out is all, on conn, and if it has to on another connection.
//
// When the service closed an idle one just as the request was sent, it may be
// sent again, since it is safe by its method (RFC 9110 section 9.2.2). It is so
// on a new connection: should the request be why it closes them, one that is
// idle after the other would be lost.
func (c *Client) exchange(conn *connection, x *asked, out []byte) (*http.Response, error) {
	resp, err, untouched := conn.exchange(c, x, out)
	if !untouched || !safe(x.Method) {
		return resp, err
	}
	x.sent = false
	if conn, err = c.dial(x); err != nil {
		return nil, err
	}
	resp, err, _ = conn.exchange(c, x, out)
	return resp, err
}

// dial opens a connection for x.
func (c *Client) dial(x *asked) (*connection, error) {
	ctx := x.ctx
	if !x.deadline.IsZero() {
		bounded, cancel := context.WithDeadlineCause(ctx, x.deadline, ErrDeadline)
		defer cancel()
		ctx = bounded
	}
	raw, err := c.config.Dial(ctx, "tcp", c.config.Addr)
	if err != nil {
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		return nil, err
	}
	conn := newConnection(raw, &c.config)
	if c.config.TLS != nil {
		if err := conn.handshake(ctx, &c.config); err != nil {
			return nil, err
		}
	}
	x.now = time.Now()
	return conn, nil
}
