package front

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"net/netip"
	"runtime"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/keywarden/keywarden/pkg/reqctx"
)

// connection is one that is served here. It belongs to its goroutine, but for what the
// sweeper looks at: the atomics, and what enter has set for good.
type connection struct {
	server *Server
	nc     net.Conn
	tls    *tls.ConnectionState // nil without TLS
	remote string
	peer   netip.Addr // of remote,
	client string     // and its text
	ctx    context.Context
	cancel context.CancelFunc
	raw    syscall.RawConn // to look whether the client is still there

	small      *[readSpace]byte
	large      *[maxHead]byte // nil unless a head needed it
	buf        []byte         // small or large
	start, end int            // what was read and not used

	scratch http.Request  // where the next request is made
	rest    []byte        // what was read behind that
	armed   time.Duration // deadline for reading, since server.began
	current *response     // nil between requests
	failed  error         // the first error of writing

	afterPost bool // the last request was a POST

	turn   atomic.Uint64 // odd while a handler runs
	behind atomic.Bool   // more was read than the request that is being handled
	seen   uint64        // the sweeper's alone: turn when it last looked,
	looks  int           // and how often that was the same
}

// connContext is what the contexts of a connection's requests come from.
type connContext struct {
	context.Context
	server *http.Server
	local  net.Addr
}

// Value implements [context.Context], with what net/http promises.
func (c *connContext) Value(key any) any {
	switch key {
	case http.ServerContextKey:
		return c.server
	case http.LocalAddrContextKey:
		return c.local
	}
	return c.Context.Value(key)
}

// ServeConn serves nc until it is closed or handed over.
func (s *Server) ServeConn(nc net.Conn) {
	c := &connection{server: s, nc: nc, remote: nc.RemoteAddr().String()}
	c.peer, c.client = reqctx.PeerAddress(c.remote)
	handed := false
	defer func() { c.leave(recover(), handed) }()
	if t, ok := nc.(*tls.Conn); ok && !c.shakeHands(t) {
		handed = true
		s.opts.HandOver(nc, nil)
		return
	}
	c.enter()
	var h head
	for {
		switch x, next := c.await(&h); next {
		case take:
			if !c.serve(x) {
				return
			}
		case give:
			unread := c.unread()
			handed = true
			c.release()
			s.opts.HandOver(nc, unread)
			return
		case end:
			return
		}
	}
}

// shakeHands reports whether HTTP/1.1 is spoken over t. What else there is (HTTP/2, a
// challenge of ACME, a handshake that failed) net/http sees as if it had made the
// handshake itself: the result is kept in t.
func (c *connection) shakeHands(t *tls.Conn) bool {
	_ = t.SetDeadline(time.Now().Add(c.server.opts.ReadHeaderTimeout))
	if err := t.HandshakeContext(c.server.opts.Context); err != nil {
		return false
	}
	_ = t.SetDeadline(time.Time{})
	state := t.ConnectionState()
	c.tls = &state
	return state.NegotiatedProtocol == "" || state.NegotiatedProtocol == "http/1.1"
}

// enter prepares c for requests.
func (c *connection) enter() {
	s := c.server
	c.raw = rawOf(c.nc)
	c.small = s.small.Get().(*[readSpace]byte)
	c.buf = c.small[:]
	c.ctx, c.cancel = context.WithCancel(&connContext{s.opts.Context, s.opts.HTTP, c.nc.LocalAddr()})
	c.arm(s.opts.ReadHeaderTimeout)
	s.add(c)
}

// rawOf is the socket below c.
func rawOf(c net.Conn) syscall.RawConn {
	if t, ok := c.(*tls.Conn); ok {
		c = t.NetConn()
	}
	if s, ok := c.(syscall.Conn); ok {
		if raw, err := s.SyscallConn(); err == nil {
			return raw
		}
	}
	return nil
}

// leave closes c, unless it was handed over. panicked is what the handler did, nil for
// nothing.
func (c *connection) leave(panicked any, handed bool) {
	if panicked != nil && panicked != http.ErrAbortHandler { //nolint:errorlint // a panic is compared as net/http does it
		stack := make([]byte, 64<<10)
		stack = stack[:runtime.Stack(stack, false)]
		c.server.log.Printf("http: panic serving %v: %v\n%s", c.remote, panicked, stack)
	}
	if c.current != nil {
		c.current.abandon()
	}
	c.release()
	if !handed {
		_ = c.nc.Close()
		c.server.opts.State(c.nc, http.StateClosed)
	}
}

// release gives back what c has for requests.
func (c *connection) release() {
	if c.small == nil {
		return
	}
	c.server.remove(c)
	c.cancel()
	if c.large != nil {
		c.server.large.Put(c.large)
	}
	c.server.small.Put(c.small)
	c.small, c.large, c.buf = nil, nil, nil
}

// unread is what was read and not used, in bytes of its own.
func (c *connection) unread() []byte {
	return append(bytes.Clone(c.buf[c.start:c.end]), c.rest...)
}

// outcome is what comes next on a connection.
type outcome uint8

const (
	take outcome = iota // there is a plain request
	give                // what is there is for net/http
	end                 // there will be nothing
)

// await reads until a request is there, and judges it. h is where to work.
func (c *connection) await(h *head) (*exchange, outcome) {
	first := c.turn.Load() == 0 // its time began with the connection
	begun, bounded := first, first
	line := true // one has ended that was not judged
	for {
		if !begun && c.end-c.start >= firstLook {
			begun = true
			c.passLineEnds()
		}
		if begun && line && c.start < c.end {
			switch h.parse(c.buf[c.start:c.end]) {
			case plain:
				return c.accept(h)
			case unusual:
				return nil, give
			case more:
				line = false
			}
		}
		if !c.makeRoom() {
			return nil, give
		}
		switch {
		case !begun:
			c.renew(c.server.opts.IdleTimeout)
		case !bounded:
			c.arm(c.server.opts.ReadHeaderTimeout)
			bounded = true
		}
		n, err := c.nc.Read(c.buf[c.end:])
		line = line || endsLine(c.buf[c.end:c.end+n])
		c.end += n
		switch {
		case n > 0 || err == nil:
		case begun && c.start < c.end && (errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF)):
			return nil, give // net/http has an answer to half a request
		default:
			return nil, end
		}
	}
}

// accept makes the request whose head is h, if the server allows it.
func (c *connection) accept(h *head) (*exchange, outcome) {
	if h.length > c.server.limit {
		return nil, give
	}
	x := new(exchange)
	c.scratch = http.Request{}
	if !x.fill(&c.scratch, h, c.buf[c.start:c.end]) {
		return nil, give
	}
	c.server.opts.State(c.nc, http.StateActive)
	if h.body == 0 {
		c.start += h.length
		return x, take
	}
	return x, c.readBody(x, h)
}

// readBody reads the body of x. When it does not come soon, nothing was used.
func (c *connection) readBody(x *exchange, h *head) outcome {
	space := make([]byte, h.body)
	from := c.start + h.length
	here := copy(space, c.buf[from:c.end])
	if here < len(space) {
		c.arm(bodyWait)
		n, err := io.ReadFull(c.nc, space[here:])
		if err != nil {
			c.rest = space[here : here+n]
			return give
		}
	}
	c.start = from + here
	x.body.rest = space
	c.scratch.Body = &x.body
	return take
}

// passLineEnds drops the line ends among the first bytes behind a POST, as net/http does
// for clients that send too many.
func (c *connection) passLineEnds() {
	if c.afterPost {
		c.start += leading(c.buf[c.start : c.start+firstLook])
	}
}

// makeRoom makes room for another read. There is none when the head is longer than a
// plain one.
func (c *connection) makeRoom() bool {
	if c.start == c.end {
		c.start, c.end = 0, 0
		c.putLarge()
	}
	if c.end < len(c.buf) {
		return true
	}
	if c.start > 0 {
		c.end = copy(c.buf, c.buf[c.start:c.end])
		c.start = 0
		return true
	}
	if c.large != nil || c.server.limit <= readSpace {
		return false
	}
	c.large = c.server.large.Get().(*[maxHead]byte)
	c.end = copy(c.large[:], c.buf[:c.end])
	c.buf = c.large[:]
	return true
}

// putLarge goes back to the small buffer; nothing is in the large one.
func (c *connection) putLarge() {
	if c.large == nil {
		return
	}
	c.server.large.Put(c.large)
	c.large, c.buf = nil, c.small[:]
}

// arm bounds the reads from now on.
func (c *connection) arm(d time.Duration) {
	now := time.Now()
	c.armed = now.Sub(c.server.began) + d
	_ = c.nc.SetReadDeadline(now.Add(d))
}

// renew bounds the reads from now on by d, unless they are already, nearly.
func (c *connection) renew(d time.Duration) {
	left := c.armed - time.Since(c.server.began)
	if left > d || left < d-d/deadlineSlack {
		c.arm(d)
	}
}

// serve answers a request and reports whether another may follow.
func (c *connection) serve(x *exchange) bool {
	w := &x.response
	x.context.connection = c.ctx
	c.scratch.RemoteAddr, c.scratch.TLS = c.remote, c.tls
	ctx := x.carrier.Blank(&x.context)
	reqctx.Carried(ctx).SetClient(c.peer, c.client)
	x.request = *c.scratch.WithContext(ctx) // of its own: a handler may keep it
	r := &x.request
	c.afterPost = r.Method == http.MethodPost
	if behind := c.start < c.end; behind != c.behind.Load() {
		c.behind.Store(behind)
	}
	w.start(c, r)
	c.current = w
	c.turn.Add(1)
	c.server.opts.Handler.ServeHTTP(w, r)
	c.turn.Add(1)
	x.context.end()
	keep := w.finish()
	c.current = nil
	_ = x.body.Close()
	if r.MultipartForm != nil {
		_ = r.MultipartForm.RemoveAll()
	}
	if keep {
		c.server.opts.State(c.nc, http.StateIdle)
	}
	return keep
}

// send gathers p, or sends it together with what was gathered.
func (c *connection) send(b *buffers, p []byte) error {
	const chunkEnd = 2
	switch {
	case c.failed != nil:
		b.out = b.out[:0]
		return c.failed
	case len(b.out)+len(p)+chunkEnd <= sendSpace:
		b.out = append(b.out, p...)
		return nil
	case len(b.out) == 0:
		return c.write(p)
	case c.tls == nil: // one call for both
		b.pair = [2][]byte{b.out, p}
		b.both = b.pair[:]
		_, err := b.both.WriteTo(c.nc)
		b.out, b.pair = b.out[:0], [2][]byte{}
		return c.fail(err)
	}
	n := min(max(sendSpace-len(b.out), 0), len(p)) // one record for both
	b.out = append(b.out, p[:n]...)
	if err := c.flush(b); err != nil || n == len(p) {
		return err
	}
	return c.write(p[n:])
}

// flush sends what was gathered.
func (c *connection) flush(b *buffers) error {
	if len(b.out) == 0 {
		return c.failed
	}
	out := b.out
	b.out = b.out[:0]
	return c.write(out)
}

func (c *connection) write(p []byte) error {
	if c.failed != nil {
		return c.failed
	}
	_, err := c.nc.Write(p)
	return c.fail(err)
}

// fail keeps the first error of writing, with which the connection ends.
func (c *connection) fail(err error) error {
	if err != nil && c.failed == nil {
		c.failed = err
		c.cancel()
	}
	return c.failed
}
