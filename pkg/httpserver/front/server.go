// Package front serves plain HTTP/1.1 requests on connections that somebody else has
// accepted, and hands a connection over, with the bytes that were read and not used, at
// the first request that is not plain. It refuses nothing and interprets nothing that can
// be read in two ways: that is left to net/http, and what is taken here net/http would
// have understood in the same way (FuzzFrontAgreesWithNetHTTP). It knows nothing of
// listeners, caps and shutdowns; that is httpserver.
package front

import (
	"context"
	"log"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// readSpace is what a connection has for reading. A longer head is read into
	// maxHead, which goes back when it is over.
	readSpace = 4 << 10

	// bodySpace is how much of a body is held back, to say its length if that is all.
	// It is net/http's.
	bodySpace = 2 << 10

	// sendSpace is how much is gathered before it is sent.
	sendSpace = 4 << 10

	// firstLook is how many bytes behind an answer are the beginning of another request.
	// With fewer the connection is idle, as in net/http.
	firstLook = 4

	// bodyWait is how long the body of a plain request may take. It goes to net/http
	// after that, which does not need all of it before the handler.
	bodyWait = time.Second

	// deadlineSlack is the part of the idle time by which a connection may be closed
	// earlier: within it, the deadline of the request before is kept.
	deadlineSlack = 10
)

// Options says how to serve. All are required.
type Options struct {
	Handler http.Handler

	// Context is what the contexts of requests come from, and HTTP is what they call
	// their server.
	Context context.Context
	HTTP    *http.Server

	// HandOver takes a connection with what was read from it and not used. The bytes
	// are its to keep.
	HandOver func(c net.Conn, unread []byte)

	// State is told when a connection becomes active, idle or closed, as
	// [http.Server.ConnState] is.
	State func(c net.Conn, state http.ConnState)

	ReadHeaderTimeout time.Duration // bounds the TLS handshake, and a head from its first byte to its last
	IdleTimeout       time.Duration
	MaxHeaderBytes    int // longer heads are handed over
	ErrorLog          *log.Logger
}

// Server serves connections. [Server.Watch] has to run beside it.
type Server struct {
	opts  Options
	log   *log.Logger
	limit int       // of a head, in bytes
	began time.Time // what deadlines are counted from

	buffers sync.Pool // of *buffers
	small   sync.Pool // of *[readSpace]byte
	large   sync.Pool // of *[maxHead]byte
	date    atomic.Pointer[date]

	mu   sync.Mutex // guards open
	open map[*connection]struct{}
}

// New makes a server. Nothing runs yet.
func New(o Options) *Server {
	s := &Server{
		opts: o, log: o.ErrorLog, limit: min(maxHead, o.MaxHeaderBytes), began: time.Now(),
		open: make(map[*connection]struct{}),
	}
	s.buffers.New = func() any { return &buffers{out: make([]byte, 0, sendSpace)} }
	s.small.New = func() any { return new([readSpace]byte) }
	s.large.New = func() any { return new([maxHead]byte) }
	return s
}

func (s *Server) add(c *connection) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.open[c] = struct{}{}
}

func (s *Server) remove(c *connection) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.open, c)
}

// buffers are what an answer needs while it is made.
type buffers struct {
	out  []byte // heads, framing and small pieces, on their way to the client
	body [bodySpace]byte
	held int // bytes of body
	pair [2][]byte
	both net.Buffers
}

// hold takes as much of p as there is room for.
func (b *buffers) hold(p []byte) int {
	n := copy(b.body[b.held:], p)
	b.held += n
	return n
}

// giveBack keeps b for another answer, unless it has grown.
func (s *Server) giveBack(b *buffers) {
	if cap(b.out) > 2*sendSpace {
		return
	}
	b.out, b.held, b.both, b.pair = b.out[:0], 0, nil, [2][]byte{}
	s.buffers.Put(b)
}

// date is a line of the header, and the second that it is of.
type date struct {
	second int64
	line   string
}

// appendDate appends the field Date. It is written anew once in a second.
func (s *Server) appendDate(b []byte) []byte {
	now := time.Now()
	d := s.date.Load()
	if second := now.Unix(); d == nil || d.second != second {
		d = &date{second, "Date: " + now.UTC().Format(http.TimeFormat) + "\r\n"}
		s.date.Store(d)
	}
	return append(b, d.line...)
}
