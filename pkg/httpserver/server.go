// Package httpserver runs one listener: its time limits and sizes, TLS, caps on connections, and a shutdown that
// loses no request. It knows nothing of what is served; that is one
// http.Handler.
package httpserver

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/metric/noop"

	"github.com/keywarden/keywarden/pkg/httpserver/front"
)

// Defaults of Options.
const (
	DefaultReadHeaderTimeout = 10 * time.Second
	DefaultIdleTimeout       = 120 * time.Second
	DefaultMaxHeaderBytes    = 64 << 10
	DefaultWriteStallTimeout = 60 * time.Second
	DefaultUnreadBodyTimeout = 5 * time.Second
	DefaultIdleGrace         = 500 * time.Millisecond
)

// Limits of HTTP/2.
const (
	maxConcurrentStreams = 100

	// A stream's window is smaller than the connection's, so that one upload
	// nobody reads cannot hold up the others.
	streamWindow     = 256 << 10
	connectionWindow = 1 << 20

	pingAfter = 30 * time.Second // notices a peer that went away without a word
)

// headerSlop is what net/http reads beyond Server.MaxHeaderBytes.
const headerSlop = 4096

// Options says how to serve. Addr, Handler and Logger are required; the zero
// value of the rest is the default named beside it.
type Options struct {
	Name    string // tells listeners apart in logs and metrics
	Addr    string // host:port; port 0 takes a free one
	Handler http.Handler
	Logger  *slog.Logger

	// TLS switches TLS on, and HTTP/2 with it where it is among NextProtos.
	TLS *tls.Config

	// ReadHeaderTimeout bounds the TLS handshake and the reading of a request's
	// header, from its first byte to its last.
	ReadHeaderTimeout time.Duration // 10 s
	IdleTimeout       time.Duration // 120 s

	// WriteStallTimeout is how long a client may take no byte of what is sent to
	// it. However slow it reads, a client that goes on reading is not cut off.
	// HTTP/1 has it on Linux only.
	WriteStallTimeout time.Duration // 60 s

	// UnreadBodyTimeout bounds the wait for a body that the handler has left unread:
	// net/http looks for its end before it sends a short answer, and again before the
	// next request. It is for HTTP/1.
	UnreadBodyTimeout time.Duration // 5 s

	// MaxHeaderBytes bounds request line and header together; more is answered
	// with 431. It cannot be less than 4 KiB.
	MaxHeaderBytes int // 64 KiB

	// MaxConnections and MaxConnectionsPerIP cap the open connections; one more
	// is reset at once. An IPv6 client counts by its /64, which is what a single
	// customer is given. Peers in Uncapped, which are proxies that carry many
	// clients, count for the first cap only. Zero is no cap.
	MaxConnections      int
	MaxConnectionsPerIP int
	Uncapped            []netip.Prefix

	// Front serves plain HTTP/1.1 requests without net/http's server, which gets the
	// connection at the first request that is not plain. It is for Linux; elsewhere
	// net/http's server serves everything.
	Front bool

	// DrainDelay is how long Shutdown goes on as if nothing had happened, while
	// load balancers notice that readiness is gone.
	DrainDelay time.Duration

	// DrainGrace is how long connections are still accepted while every answer
	// asks its client to close. It lets clients of keep-alive and HTTP/2
	// connections move elsewhere.
	DrainGrace time.Duration

	// IdleGrace is how long a connection has to be silent during a shutdown to
	// be closed.
	IdleGrace time.Duration // 500 ms

	MeterProvider metric.MeterProvider // counts connections; nil for none
}

func (o *Options) setDefaults() {
	if o.ReadHeaderTimeout <= 0 {
		o.ReadHeaderTimeout = DefaultReadHeaderTimeout
	}
	if o.IdleTimeout <= 0 {
		o.IdleTimeout = DefaultIdleTimeout
	}
	if o.MaxHeaderBytes <= 0 {
		o.MaxHeaderBytes = DefaultMaxHeaderBytes
	}
	if o.WriteStallTimeout <= 0 {
		o.WriteStallTimeout = DefaultWriteStallTimeout
	}
	if o.UnreadBodyTimeout <= 0 {
		o.UnreadBodyTimeout = DefaultUnreadBodyTimeout
	}
	if o.IdleGrace <= 0 {
		o.IdleGrace = DefaultIdleGrace
	}
	if o.MeterProvider == nil {
		o.MeterProvider = noop.NewMeterProvider()
	}
}

// Server serves one listener. Its life is New, Listen, Serve, Shutdown.
type Server struct {
	opts    Options
	tls     *tls.Config // nil without TLS
	conns   *connections
	metrics metric.Registration

	// Connections start on http1, which hands those that speak HTTP/2 to http2.
	// There are two because http.Server.Shutdown is right for HTTP/2, where
	// GOAWAY tells the client which requests were not taken, and wrong for
	// HTTP/1, where it drops requests that arrive on idle connections.
	http1 *http.Server
	http2 *http.Server // nil without TLS
	queue *handOver

	front *front.Server // nil without; connections start on it, and go on on http1
	rest  *handOver     // to http1

	base       context.Context // of every request; ends when requests are cut off
	cancelBase context.CancelFunc
	inFlight   atomic.Int64
	background sync.WaitGroup

	mu       sync.Mutex // guards what follows
	listener *listener
	serving  bool
	stopping bool

	draining   chan struct{} // closed when answers begin to ask for closing
	acceptDone chan struct{} // closed when no connection is accepted any more
	stopped    chan struct{} // closed when Shutdown is through
}

// New checks the options. Nothing is opened yet.
func New(o Options) (*Server, error) {
	if o.Handler == nil || o.Logger == nil {
		return nil, errors.New("httpserver: a handler and a logger are required")
	}
	o.setDefaults()
	s := &Server{
		opts:       o,
		draining:   make(chan struct{}),
		acceptDone: make(chan struct{}),
		stopped:    make(chan struct{}),
	}
	s.base, s.cancelBase = context.WithCancel(context.Background())
	s.conns = newConnections(&s.opts)
	s.tls = o.TLS
	s.setUpHTTP()
	var err error
	if s.metrics, err = s.conns.instrument(o.MeterProvider, o.Name); err != nil {
		return nil, err
	}
	return s, nil
}

func (s *Server) setUpHTTP() {
	s.http1 = s.newHTTPServer()
	s.http1.ConnState = noteState
	s.setUpFront()
	if s.tls == nil {
		s.http1.Protocols = new(http.Protocols)
		s.http1.Protocols.SetHTTP1(true) // and no HTTP/2 without TLS
		return
	}
	s.queue = newHandOver()
	s.http1.TLSNextProto = map[string]func(*http.Server, *tls.Conn, http.Handler){
		"h2": func(_ *http.Server, c *tls.Conn, _ http.Handler) { s.queue.put(c) },
	}
	s.http2 = s.newHTTPServer()
	s.http2.HTTP2 = &http.HTTP2Config{
		MaxConcurrentStreams:          maxConcurrentStreams,
		MaxReceiveBufferPerStream:     streamWindow,
		MaxReceiveBufferPerConnection: connectionWindow,
		SendPingTimeout:               pingAfter,
		WriteByteTimeout:              s.opts.WriteStallTimeout,
	}
}

func (s *Server) newHTTPServer() *http.Server {
	return &http.Server{
		Handler: http.HandlerFunc(s.serveRequest),
		// The handler answers OPTIONS * too, so that no answer escapes the log.
		DisableGeneralOptionsHandler: true,
		ReadHeaderTimeout:            s.opts.ReadHeaderTimeout,
		IdleTimeout:                  s.opts.IdleTimeout,
		MaxHeaderBytes:               max(s.opts.MaxHeaderBytes-headerSlop, 1),
		ErrorLog:                     newErrorLog(s.opts.Logger),
		BaseContext:                  func(net.Listener) context.Context { return s.base },
	}
}

// serveRequest passes a request on. After a request whose end can be disputed
// the connection is closed. While the server drains, the answer asks the client
// to use another connection next time; in HTTP/2 net/http makes a
// GOAWAY of it. An upgrade is left alone: it has its own use for the header.
func (s *Server) serveRequest(w http.ResponseWriter, r *http.Request) {
	s.inFlight.Add(1)
	defer s.inFlight.Add(-1)
	if disputable(r) || s.conns.draining.Load() && !upgrades(r) {
		w.Header()["Connection"] = []string{"close"}
	}
	s.opts.Handler.ServeHTTP(w, r)
	if r.ProtoMajor == 1 && r.ContentLength != 0 {
		// It ends with the request: net/http sets another one for the next.
		_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(s.opts.UnreadBodyTimeout))
	}
}

// upgrades reports whether r may turn the connection into something else. The
// offer of h2c, which some clients make with every request, is never taken.
func upgrades(r *http.Request) bool {
	offers := r.Header["Upgrade"]
	return len(offers) > 0 && !strings.EqualFold(offers[0], "h2c")
}

// disputable reports whether somebody else may see the end of the request
// elsewhere. A request with both Transfer-Encoding and Content-Length must be
// the last one of its connection (RFC 9112 section 6.1), and so must one of
// HTTP/1.0 with Transfer-Encoding; net/http hides that the other field was
// there, so it is assumed.
func disputable(r *http.Request) bool {
	return r.ProtoMajor == 1 && (r.TransferEncoding != nil || r.ProtoMinor == 0)
}

// startServers starts the servers that get their connections from another one. They end
// with their Shutdown or Close.
func (s *Server) startServers() {
	if s.http2 != nil {
		s.background.Go(func() { _ = s.http2.Serve(s.queue) })
	}
	if s.front != nil {
		s.background.Go(func() { _ = s.http1.Serve(s.rest) })
		s.background.Go(func() { s.front.Watch(s.base) })
	}
}

// accept serves the connections of the listener until it is closed.
func (s *Server) accept() error {
	if s.front == nil {
		return s.http1.Serve(s.listener)
	}
	return s.acceptForFront()
}

// Listen opens the listener, so that Addr is known and a taken port is an error
// before anything else starts. Connections wait until Serve.
func (s *Server) Listen() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.stopping:
		return http.ErrServerClosed
	case s.listener != nil:
		return nil
	}
	config := net.ListenConfig{Control: writeStallControl(s.opts.WriteStallTimeout)}
	config.SetMultipathTCP(false) // Go's default, but its sockets lack the option that holdOff needs
	ln, err := config.Listen(s.base, "tcp", s.opts.Addr)
	if err != nil {
		return fmt.Errorf("httpserver: listening on %s: %w", s.opts.Addr, err)
	}
	s.listener = &listener{TCPListener: ln.(*net.TCPListener), conns: s.conns, tls: s.tls}
	return nil
}

// Addr is the address that is listened on; nil before Listen.
func (s *Server) Addr() net.Addr {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.listener == nil {
		return nil
	}
	return s.listener.Addr()
}

// Draining is closed when a shutdown has begun to send clients away. Handlers of
// endless streams may watch it to end them in their own words.
func (s *Server) Draining() <-chan struct{} { return s.draining }

// Serve accepts connections until Shutdown is through, and then returns nil.
// Any other return means that no connection is accepted any more; those that
// were are served until Shutdown, which is due then too.
func (s *Server) Serve() error {
	if err := s.Listen(); err != nil {
		return err
	}
	s.mu.Lock()
	if s.stopping || s.serving {
		s.mu.Unlock()
		return http.ErrServerClosed
	}
	s.serving = true
	s.startServers() // a shutdown waits for them, so it must not come between
	s.mu.Unlock()

	err := s.accept()
	close(s.acceptDone)

	s.mu.Lock()
	stopping := s.stopping
	s.mu.Unlock()
	if !stopping {
		return fmt.Errorf("httpserver: accepting connections: %w", err)
	}
	<-s.stopped
	return nil
}
