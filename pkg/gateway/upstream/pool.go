// Package upstream owns the connections to the services: one pool for each
// address with its timeouts. Pools outlive the snapshot of a document, so that a
// reload keeps warm connections; one that no snapshot uses any more closes its
// connections when the requests on them have ended, never earlier.
//
// It does not choose between services, does not retry, and does not know what
// goes through the connections.
package upstream

import (
	"crypto/tls"
	"errors"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"time"

	"github.com/keywarden/keywarden/pkg/gateway/upstream/http1"
)

// Limits and sizes of a pool that no document sets.
const (
	maxIdlePerHost        = 256
	idleTimeout           = 60 * time.Second
	keepAlive             = 30 * time.Second // probes, so that a dead peer is noticed
	expectContinueTimeout = time.Second
	maxResponseHeader     = 256 << 10 // bytes, interim responses included
	bufferSize            = 16 << 10  // bytes, per connection and direction
	plainBufferSize       = 8 << 10   // bytes, per connection
)

// Identity is what makes two services share a pool.
type Identity struct {
	Scheme, Host    string        // Host with its port, if it has one
	ConnectTimeout  time.Duration // for TCP and, again, for TLS
	ResponseTimeout time.Duration // from the end of the request to the response's header
	Protocol        Protocol
	TLS             TLS
}

// Protocol is what is spoken through a pool.
type Protocol uint8

// The protocols.
const (
	Auto  Protocol = iota // HTTP/2 where it is offered over TLS, else HTTP/1.1
	HTTP1                 // HTTP/1.1 only
	H2C                   // HTTP/2 without TLS
)

// Pool is the connections to one address. It is safe for concurrent use.
type Pool struct {
	transport *http.Transport
	plain     *http1.Client // for plain requests; nil where there are none
	secure    bool          // over TLS
	short     atomic.Bool   // plain requests go by plain
	refused   atomic.Int32  // handshakes of plain's that failed where the transport's did not, in a row
	active    atomic.Int64
	retired   atomic.Bool
}

// maxRefused is how many handshakes for HTTP/1.1 alone may fail in a row, where others
// succeed, before that is not tried any more.
const maxRefused = 3

// NewPool makes a pool without connections; it fails when a file of id.TLS cannot
// be used. It never uses a proxy from the environment and never asks for or
// undoes compression, so that bodies pass as they are.
func NewPool(id Identity) (*Pool, error) {
	config, err := id.TLS.Config()
	if err != nil {
		return nil, err
	}
	dialer := &net.Dialer{Timeout: id.ConnectTimeout, KeepAlive: keepAlive}
	p := &Pool{transport: &http.Transport{
		DialContext:            dialer.DialContext,
		TLSClientConfig:        config,
		TLSHandshakeTimeout:    id.ConnectTimeout,
		Protocols:              protocols(id),
		DisableCompression:     true,
		MaxIdleConnsPerHost:    maxIdlePerHost,
		IdleConnTimeout:        idleTimeout,
		ResponseHeaderTimeout:  id.ResponseTimeout,
		ExpectContinueTimeout:  expectContinueTimeout,
		MaxResponseHeaderBytes: maxResponseHeader,
		WriteBufferSize:        bufferSize,
		ReadBufferSize:         bufferSize,
	}}
	if p.secure = id.Scheme == "https"; id.Protocol != H2C && http1.Available {
		c := http1.Config{
			Dial: dialer.DialContext, Addr: withPort(id.Host, "80"), ResponseTimeout: id.ResponseTimeout,
			IdleTimeout: idleTimeout, MaxIdle: maxIdlePerHost, MaxHeader: maxResponseHeader, ReadBuffer: plainBufferSize,
		}
		if p.secure {
			c.Addr = withPort(id.Host, "443")
			c.TLS, c.HandshakeTimeout, c.ReadBuffer = plainTLS(config, c.Addr), id.ConnectTimeout, bufferSize
		}
		p.plain = http1.New(c)
		p.short.Store(!p.secure || id.Protocol == HTTP1)
	}
	return p, nil
}

// plainTLS is config for HTTP/1.1 alone.
func plainTLS(config *tls.Config, addr string) *tls.Config {
	config = config.Clone()
	config.NextProtos = []string{"http/1.1"}
	if config.ServerName == "" {
		config.ServerName, _, _ = net.SplitHostPort(addr)
	}
	return config
}

// withPort adds a port to a host that has none.
func withPort(host, port string) string {
	if _, _, err := net.SplitHostPort(host); err == nil {
		return host
	}
	return net.JoinHostPort(strings.Trim(host, "[]"), port)
}

func protocols(id Identity) *http.Protocols {
	var p http.Protocols
	p.SetHTTP1(id.Protocol != H2C)
	p.SetHTTP2(id.Protocol == Auto && id.Scheme == "https")
	p.SetUnencryptedHTTP2(id.Protocol == H2C)
	return &p
}

// Plain reports whether the pool exchanges plain requests on their own goroutine. A
// service with TLS that may speak HTTP/2 has to show first that it does not: the answer
// changes then, and may change back.
func (p *Pool) Plain() bool { return p.short.Load() }

// RoundTrip implements [http.RoundTripper]. It belongs between Begin and End.
func (p *Pool) RoundTrip(r *http.Request) (*http.Response, error) {
	refused := false
	if p.short.Load() {
		resp, err := p.plain.RoundTrip(r)
		if err == nil {
			p.wellAgain()
			return resp, nil
		}
		// A handshake that fails for HTTP/1.1 alone may succeed for what the ordinary
		// transport offers. Nothing was sent in either case.
		var handshake *http1.HandshakeError
		if refused = errors.As(err, &handshake); !refused && !errors.Is(err, http1.ErrUnsuitable) {
			return nil, err
		}
	}
	refused = refused && p.short.CompareAndSwap(true, false) // of many at a time, one counts
	http1.Unlist(r)
	resp, err := p.ordinary(r)
	if p.secure && err == nil && len(r.Header["Upgrade"]) == 0 { // an upgrade is asked for by HTTP/1.1 in any case
		if refused {
			p.refused.Add(1)
		}
		p.learn(resp)
	}
	return resp, err
}

// wellAgain forgets handshakes that have failed before one that has not.
func (p *Pool) wellAgain() {
	if p.secure && p.refused.Load() > 0 {
		p.refused.Store(0)
	}
}

// learn takes note of what a service with TLS speaks when it may choose.
func (p *Pool) learn(resp *http.Response) {
	if short := p.plain != nil && resp.ProtoMajor == 1 && p.refused.Load() < maxRefused; p.short.Load() != short {
		p.short.Store(short)
	}
}

func (p *Pool) closeIdle() {
	p.transport.CloseIdleConnections()
	if p.plain != nil {
		p.plain.CloseIdleConnections()
	}
}

// Begin says that an exchange starts: the pool stays open until its End.
func (p *Pool) Begin() { p.active.Add(1) }

// End says that an exchange is over, its response's body included.
func (p *Pool) End() {
	if p.active.Add(-1) == 0 && p.retired.Load() {
		p.closeIdle()
	}
}

// Active is the number of exchanges between Begin and End.
func (p *Pool) Active() int64 { return p.active.Load() }

// retire closes what is idle now; what is in use is closed when it becomes idle.
// An exchange that starts after all, because it found the pool just before, still
// works, and its End closes what it left.
func (p *Pool) retire() {
	p.retired.Store(true)
	p.closeIdle()
}

// Pools is the pools in use, by identity. It is not safe for concurrent use: the
// one who applies documents owns it.
type Pools struct {
	byID map[Identity]*Pool
}

// Get returns the pool of id, a new one if there is none yet.
func (ps *Pools) Get(id Identity) (*Pool, error) {
	if p := ps.byID[id]; p != nil {
		return p, nil
	}
	p, err := NewPool(id)
	if err != nil {
		return nil, err
	}
	if ps.byID == nil {
		ps.byID = map[Identity]*Pool{}
	}
	ps.byID[id] = p
	return p, nil
}

// Keep retires every pool but those of used.
func (ps *Pools) Keep(used map[Identity]bool) {
	for id, p := range ps.byID {
		if !used[id] {
			p.retire()
			delete(ps.byID, id)
		}
	}
}
