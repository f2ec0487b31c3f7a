package httpserver

import (
	"crypto/tls"
	"errors"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// backlogQuiet is how long no connection must have arrived for the backlog to
	// be empty. It has to cover the last leg of a handshake that had begun.
	backlogQuiet = 100 * time.Millisecond

	// backlogLimit ends the wait where new connections cannot be held off.
	backlogLimit = 2 * time.Second
)

// listener accepts connections up to the caps, and can be stopped without
// losing one: closing a listening socket resets what waits in its backlog,
// connections whose clients may have sent a request already.
type listener struct {
	*net.TCPListener
	conns *connections
	tls   *tls.Config // nil without TLS

	stopping  atomic.Bool
	stopUntil time.Time // set before stopping is
}

// Accept implements net.Listener.
func (l *listener) Accept() (net.Conn, error) {
	for {
		if l.stopping.Load() {
			_ = l.SetDeadline(l.nextDeadline(time.Now()))
		}
		raw, err := l.AcceptTCP()
		if err == nil {
			if l.stopping.Load() {
				release(raw)
			}
			if c := l.conns.admit(raw, l.tls); c != nil {
				return c.outer, nil
			}
			continue
		}
		if !l.stopping.Load() || !errors.Is(err, os.ErrDeadlineExceeded) {
			return nil, err
		}
		if time.Now().Before(l.stopUntil) && l.pending() {
			continue // the deadline passed while this goroutine did not run
		}
		_ = l.Close()
		return nil, net.ErrClosed
	}
}

// stop makes Accept take what is waiting and then close the listener.
func (l *listener) stop() {
	now := time.Now()
	l.stopUntil = now.Add(backlogLimit)
	l.stopping.Store(true) // first: what is accepted from now on has to be released
	l.holdOff()
	_ = l.SetDeadline(l.nextDeadline(now)) // for an Accept that is waiting already
}

func (l *listener) nextDeadline(now time.Time) time.Time {
	if quiet := now.Add(backlogQuiet); quiet.Before(l.stopUntil) {
		return quiet
	}
	return l.stopUntil
}

// handOver is a listener of connections that have been accepted already. That of the
// HTTP/2 server gets them from the HTTP/1 server, when their handshake is done; that of
// the HTTP/1 server gets them from the front.
type handOver struct {
	conns chan net.Conn
	done  chan struct{}
	once  sync.Once
}

func newHandOver() *handOver {
	return &handOver{conns: make(chan net.Conn), done: make(chan struct{})}
}

// put gives c away and returns when it is closed, since net/http closes it
// after the call.
func (h *handOver) put(t *tls.Conn) {
	c, ok := t.NetConn().(*conn)
	if !ok {
		return
	}
	c.http2.Store(true)
	select {
	case h.conns <- t:
		<-c.gone
	case <-h.done:
	}
}

// give gives c away. It is closed when nobody takes it any more.
func (h *handOver) give(c net.Conn) {
	select {
	case h.conns <- c:
	case <-h.done:
		_ = c.Close()
	}
}

// Accept implements net.Listener.
func (h *handOver) Accept() (net.Conn, error) {
	select {
	case c := <-h.conns:
		return c, nil
	case <-h.done:
		return nil, net.ErrClosed
	}
}

// Close implements net.Listener.
func (h *handOver) Close() error {
	h.once.Do(func() { close(h.done) })
	return nil
}

// Addr implements net.Listener.
func (*handOver) Addr() net.Addr { return &net.TCPAddr{} }
