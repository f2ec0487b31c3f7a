package httpserver

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
)

// clientBits is the part of an IPv6 address that tells clients apart.
const clientBits = 64

// partialGrace is how long a connection may fall silent in the middle of a
// request's header, during a shutdown, before it is given up.
const partialGrace = 5 * time.Second

// connections are the open ones, of all protocols, hijacked ones included.
type connections struct {
	max       int
	maxPerIP  int
	uncapped  []netip.Prefix
	idleGrace time.Duration

	mu    sync.Mutex
	open  map[*conn]struct{}
	perIP map[netip.Addr]int

	overMax   atomic.Int64 // refused because of max
	overPerIP atomic.Int64 // refused because of maxPerIP

	draining atomic.Bool
}

func newConnections(o *Options) *connections {
	return &connections{
		max:       o.MaxConnections,
		maxPerIP:  o.MaxConnectionsPerIP,
		uncapped:  o.Uncapped,
		idleGrace: o.IdleGrace,
		open:      make(map[*conn]struct{}),
		perIP:     make(map[netip.Addr]int),
	}
}

// admit takes raw among the open connections, or resets it and returns nil
// when a cap is reached.
func (cs *connections) admit(raw *net.TCPConn, tlsConfig *tls.Config) *conn {
	c := &conn{TCPConn: raw, all: cs, ip: cs.countedIP(raw), gone: make(chan struct{})}
	c.outer = c
	if tlsConfig != nil {
		c.outer = tls.Server(c, tlsConfig)
	}
	if !cs.add(c) {
		_ = raw.SetLinger(0) // a reset leaves nothing behind in the kernel
		_ = raw.Close()
		return nil
	}
	return c
}

func (cs *connections) add(c *conn) bool {
	cs.mu.Lock()
	defer cs.mu.Unlock()
	if cs.max > 0 && len(cs.open) >= cs.max {
		cs.overMax.Add(1)
		return false
	}
	if c.ip.IsValid() {
		if cs.perIP[c.ip] >= cs.maxPerIP {
			cs.overPerIP.Add(1)
			return false
		}
		cs.perIP[c.ip]++
	}
	cs.open[c] = struct{}{}
	return true
}

func (cs *connections) remove(c *conn) {
	cs.mu.Lock()
	defer cs.mu.Unlock()
	delete(cs.open, c)
	if !c.ip.IsValid() {
		return
	}
	if cs.perIP[c.ip]--; cs.perIP[c.ip] == 0 {
		delete(cs.perIP, c.ip)
	}
}

// countedIP is the client that a connection counts for; the zero Addr when its
// connections are not capped.
func (cs *connections) countedIP(raw *net.TCPConn) netip.Addr {
	tcp, ok := raw.RemoteAddr().(*net.TCPAddr)
	if cs.maxPerIP <= 0 || !ok {
		return netip.Addr{}
	}
	ip := tcp.AddrPort().Addr().Unmap().WithZone("")
	for _, p := range cs.uncapped {
		if p.Contains(ip) {
			return netip.Addr{}
		}
	}
	if ip.Is4() {
		return ip
	}
	return netip.PrefixFrom(ip, clientBits).Masked().Addr()
}

func (cs *connections) count() int {
	cs.mu.Lock()
	defer cs.mu.Unlock()
	return len(cs.open)
}

func (cs *connections) list(match func(*conn) bool) []*conn {
	cs.mu.Lock()
	defer cs.mu.Unlock()
	var out []*conn
	for c := range cs.open {
		if match(c) {
			out = append(out, c)
		}
	}
	return out
}

// shakingHands reports whether some connection has not shown yet which
// protocol it speaks.
func (cs *connections) shakingHands() bool {
	return len(cs.list(func(c *conn) bool {
		return !c.http2.Load() && http.ConnState(c.state.Load()) == http.StateNew
	})) > 0
}

// instrument shows the connections as metrics, until the returned registration
// ends.
func (cs *connections) instrument(provider metric.MeterProvider, name string) (metric.Registration, error) {
	meter := provider.Meter("github.com/keywarden/keywarden/pkg/httpserver")
	open, err := meter.Int64ObservableUpDownCounter("keywarden.server.connections",
		metric.WithUnit("{connection}"), metric.WithDescription("Open connections of a listener."))
	if err != nil {
		return nil, fmt.Errorf("httpserver: counting connections: %w", err)
	}
	refused, err := meter.Int64ObservableCounter("keywarden.server.connections.refused",
		metric.WithUnit("{connection}"), metric.WithDescription("Connections reset because a cap was reached."))
	if err != nil {
		return nil, fmt.Errorf("httpserver: counting connections: %w", err)
	}
	set := func(attrs ...attribute.KeyValue) metric.ObserveOption {
		return metric.WithAttributeSet(attribute.NewSet(append(attrs, attribute.String("keywarden.listener", name))...))
	}
	listener, byMax, byIP := set(), set(attribute.String("cap", "total")), set(attribute.String("cap", "ip"))
	reg, err := meter.RegisterCallback(func(_ context.Context, o metric.Observer) error {
		o.ObserveInt64(open, int64(cs.count()), listener)
		o.ObserveInt64(refused, cs.overMax.Load(), byMax)
		o.ObserveInt64(refused, cs.overPerIP.Load(), byIP)
		return nil
	}, open, refused)
	if err != nil {
		return nil, fmt.Errorf("httpserver: counting connections: %w", err)
	}
	return reg, nil
}

// conn is an accepted connection. It embeds the concrete type, so that net/http
// still finds CloseWrite on it and lets the kernel copy files to it.
type conn struct {
	*net.TCPConn
	all   *connections
	ip    netip.Addr // counted for; see countedIP
	outer net.Conn   // what the HTTP server works on: the conn itself, or TLS around it

	unread []byte // was read by the front, and comes before the rest

	state    atomic.Int32 // of HTTP/1, an http.ConnState
	http2    atomic.Bool
	heard    atomic.Bool   // bytes have come since the last answer
	activity atomic.Uint32 // changes when something happens, during a shutdown

	// What the shutdown saw when it last looked; its alone.
	seenActivity uint32
	quietLooks   int
	closing      bool

	once sync.Once
	gone chan struct{} // closed with the connection
}

// Read implements net.Conn. net/http calls a connection active when it has a
// whole header; a shutdown has to know at the first byte.
func (c *conn) Read(p []byte) (int, error) {
	if len(c.unread) > 0 {
		n := copy(p, c.unread)
		c.unread = c.unread[n:]
		return n, nil
	}
	n, err := c.TCPConn.Read(p)
	if n > 0 {
		if !c.heard.Load() {
			c.heard.Store(true)
		}
		c.touch()
	}
	return n, err
}

// WriteTo implements io.WriterTo for whoever hijacked the connection: that of the
// embedded one knows nothing of what is unread.
func (c *conn) WriteTo(w io.Writer) (int64, error) {
	var n int
	if len(c.unread) > 0 {
		var err error
		n, err = w.Write(c.unread)
		c.unread = c.unread[n:]
		if err != nil {
			return int64(n), err
		}
	}
	m, err := c.TCPConn.WriteTo(w)
	return int64(n) + m, err
}

// Close implements net.Conn, also for whoever hijacked the connection. Its place
// is free before the client can see the end and come back.
func (c *conn) Close() error {
	c.once.Do(func() {
		c.all.remove(c)
		close(c.gone)
	})
	return c.TCPConn.Close()
}

// touch notes that something happened, for a shutdown.
func (c *conn) touch() {
	if c.all.draining.Load() {
		c.activity.Add(1)
	}
}

// noteState is the http.Server.ConnState of HTTP/1, and that of the front.
func noteState(nc net.Conn, state http.ConnState) {
	if t, ok := nc.(interface{ NetConn() net.Conn }); ok { // TLS, or what is resumed of it
		nc = t.NetConn()
	}
	c, ok := nc.(*conn)
	if !ok {
		return
	}
	if state == http.StateIdle {
		c.heard.Store(false)
	}
	c.state.Store(int32(state))
	c.touch()
}

// quiet is called at each tick of a shutdown. It reports whether a connection of
// HTTP/1 may be closed: it waits for a request, and nothing has happened for
// long enough. Time is counted in looks, not read from the clock: a process that
// was not running must not take that for the silence of its clients.
func (c *conn) quiet() bool {
	if c.http2.Load() || c.closing {
		return false
	}
	state := http.ConnState(c.state.Load())
	waiting := state == http.StateNew || state == http.StateIdle
	if activity := c.activity.Load(); !waiting || activity != c.seenActivity {
		c.seenActivity, c.quietLooks = activity, 0
		return false
	}
	c.quietLooks++
	grace := c.all.idleGrace
	if c.heard.Load() { // part of a header, or of a TLS handshake
		grace = max(grace, partialGrace)
	}
	return time.Duration(c.quietLooks)*drainTick >= grace
}
