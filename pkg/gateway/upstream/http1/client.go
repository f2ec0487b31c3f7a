// Package http1 exchanges the plain case of a proxied request over HTTP/1.1, one
// without a body or with a small one, on the goroutine of its caller. [http.Transport]
// hands each exchange to two goroutines of the connection and back, which costs
// more than all other work of the gateway; a request that has no body to be sent
// while the answer arrives does not need them.
//
// It owns the connections to one address: it opens them, keeps those that are
// idle, and never uses one again of which it is not sure. It reads answers more
// strictly than net/http does (RFC 9112): whatever could end in two places is
// refused, and its connection closed. Everything that is not plain
// is for [http.Transport]; [Suits] says which is which. It does not choose the
// address and does not retry, except on a connection that the service had closed
// before the request came.
package http1

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"sync"
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
	bodies sync.Pool // of *[MaxBody + 1]byte
}

// New makes a client without connections.
func New(c Config) *Client {
	client := &Client{config: c, bodies: sync.Pool{New: func() any { return new([MaxBody + 1]byte) }}}
	client.idle.max, client.idle.timeout = c.MaxIdle, c.IdleTimeout
	return client
}

// CloseIdleConnections closes what is idle now.
func (c *Client) CloseIdleConnections() { c.idle.closeAll() }

// errHeaderTooLarge is an answer whose header has no end in sight.
var errHeaderTooLarge = errors.New("http1: the header of the answer is too large")

// RoundTrip implements [http.RoundTripper] for requests that [Suits] accepts. The
// connection of an answer is used again once the body was read to its end, and
// closed when it was not. When no connection can be made, the body of r is there again.
func (c *Client) RoundTrip(r *http.Request) (*http.Response, error) {
	ctx := r.Context()
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	conn := c.idle.take()
	if conn == nil {
		var err error
		if conn, err = c.dial(ctx); err != nil {
			return nil, err
		}
	}
	if !hasBody(r) {
		return c.exchange(conn, r, nil)
	}
	space := c.bodies.Get().(*[MaxBody + 1]byte)
	defer c.bodies.Put(space)
	sent, err := readBody(r, space[:])
	if err != nil {
		conn.close()
		return nil, err
	}
	if conn.used() && !conn.probe.silent() { // the client has taken its time
		conn.close()
		if conn, err = c.dial(ctx); err != nil {
			// Whoever tries another address needs it again.
			r.Body = io.NopCloser(bytes.NewReader(bytes.Clone(sent)))
			return nil, err
		}
	}
	return c.exchange(conn, r, sent)
}

// exchange sends r, whose body is sent, on conn, and if it has to on another connection.
//
// When the service closed an idle one just as the request was sent, it may be
// sent again, since it is safe by its method (RFC 9110 section 9.2.2). It is so
// on a new connection: should the request be why it closes them, one that is
// idle after the other would be lost.
func (c *Client) exchange(conn *connection, r *http.Request, sent []byte) (*http.Response, error) {
	resp, err, untouched := conn.exchange(c, r, sent)
	if !untouched || !safe(r.Method) {
		return resp, err
	}
	conn, err = c.dial(r.Context())
	if err != nil {
		return nil, err
	}
	resp, err, _ = conn.exchange(c, r, sent)
	return resp, err
}

func (c *Client) dial(ctx context.Context) (*connection, error) {
	raw, err := c.config.Dial(ctx, "tcp", c.config.Addr)
	if err != nil {
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		return nil, err
	}
	return newConnection(raw, &c.config), nil
}

// connection is one connection to the service. It belongs to one exchange, or to
// the idle ones.
type connection struct {
	raw   net.Conn
	in    *bufio.Reader
	out   []byte // what is sent, reused
	head  []byte // what is read of a header, reused
	cut   func() // interrupt; a method value would be allocated for each exchange
	probe probe
	since time.Time // when it became idle
}

func newConnection(raw net.Conn, c *Config) *connection {
	conn := &connection{raw: raw, in: bufio.NewReaderSize(raw, c.ReadBuffer)}
	conn.cut = conn.interrupt
	conn.probe.open(raw)
	return conn
}

func (conn *connection) close() { _ = conn.raw.Close() }

// used reports whether there was an exchange before.
func (conn *connection) used() bool { return !conn.since.IsZero() }

// exchange sends r, whose body is sent, and reads the header of the answer. untouched
// says that a connection that was used before ended without a byte of an answer.
func (conn *connection) exchange(c *Client, r *http.Request, sent []byte) (_ *http.Response, err error, untouched bool) {
	ctx := r.Context()
	stop := context.AfterFunc(ctx, conn.cut)
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
	conn.out = append(appendRequest(conn.out[:0], r), sent...)
	_, err = conn.raw.Write(conn.out)
	if cap(conn.out) > maxKept {
		conn.out = nil
	}
	if err != nil {
		return nil, err, conn.used() && !isTimeout(err)
	}
	if _, err := conn.in.Peek(1); err != nil {
		return nil, noAnswer(err), conn.used() && !isTimeout(err)
	}
	a, err := conn.readAnswer(ctx, r, int(c.config.MaxHeader))
	if err != nil {
		return nil, noAnswer(err), false
	}
	conn.deliver(c, a, stop)
	return &a.Response, nil, false
}

// maxKept bounds what a connection keeps for the header of the next request, in bytes.
const maxKept = 4 << 10

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

// maxInterim bounds the interim answers before a final one. They are a hint or two.
const maxInterim = 16

// readAnswer reads up to the header of the final answer and tells of interim ones.
func (conn *connection) readAnswer(ctx context.Context, r *http.Request, most int) (*answer, error) {
	for range maxInterim + 1 {
		head, err := readHead(conn.in, conn.head, most)
		conn.head = head[:0]
		if cap(head) > maxKept {
			conn.head = nil
		}
		if err != nil {
			return nil, err
		}
		a := new(answer)
		if err := parseHead(string(head), r, &a.Response); err != nil {
			return nil, err
		}
		if a.StatusCode >= http.StatusOK || a.StatusCode == http.StatusSwitchingProtocols {
			return a, nil
		}
		most -= len(head)
		if err := tellInterim(ctx, a); err != nil {
			return nil, err
		}
	}
	return nil, malformed("interim answers without end")
}

// InterimKey is the key of a context whose value is told of interim answers, when it is
// an [Interim] and the context has no [httptrace.ClientTrace] for that.
type InterimKey struct{}

// Interim is told of the interim answers to a request, while [Client.RoundTrip] runs.
type Interim interface {
	Interim(status int, header http.Header)
}

func tellInterim(ctx context.Context, a *answer) error {
	if trace := httptrace.ContextClientTrace(ctx); trace != nil && trace.Got1xxResponse != nil {
		return trace.Got1xxResponse(a.StatusCode, textproto.MIMEHeader(a.Header))
	}
	if to, ok := ctx.Value(InterimKey{}).(Interim); ok {
		to.Interim(a.StatusCode, a.Header)
	}
	return nil
}

// answer is a response and its body, which are made together.
type answer struct {
	http.Response
	body body
}

// deliver makes the body of the answer give the connection back at its end.
func (conn *connection) deliver(c *Client, a *answer, stop func() bool) {
	b := &a.body
	*b = body{
		ctx: a.Request.Context(), client: c, conn: conn, resp: &a.Response, stop: stop,
		again: !a.Close && a.StatusCode >= http.StatusOK,
		left:  a.ContentLength,
	}
	if a.TransferEncoding != nil {
		b.chunks, b.left = true, 0
	}
	if a.ContentLength == 0 || bodyless(&a.Response) {
		a.Body = http.NoBody
		b.finish(true)
		return
	}
	a.Body = b
	if a.ContentLength < 0 || int64(conn.in.Buffered()) < a.ContentLength {
		_ = conn.raw.SetDeadline(time.Time{}) // the body may take its time; see interrupt
		if b.ctx.Err() != nil {
			conn.interrupt()
		}
	}
}
