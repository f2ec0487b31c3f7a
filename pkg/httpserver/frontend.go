package httpserver

import (
	"crypto/tls"
	"log/slog"
	"net"
	"time"

	"github.com/keywarden/keywarden/pkg/httpserver/front"
)

// setUpFront makes the front, where it is wanted and possible.
func (s *Server) setUpFront() {
	if !s.opts.Front || !front.Available {
		return
	}
	s.rest = newHandOver()
	s.front = front.New(front.Options{
		Handler:           s.http1.Handler,
		Context:           s.base,
		HTTP:              s.http1,
		HandOver:          s.handOver,
		State:             noteState,
		ReadHeaderTimeout: s.opts.ReadHeaderTimeout,
		IdleTimeout:       s.opts.IdleTimeout,
		MaxHeaderBytes:    max(s.opts.MaxHeaderBytes, headerSlop+1), // as for net/http
		ErrorLog:          s.http1.ErrorLog,
	})
}

// handOver lets net/http go on with a connection, at the bytes that the front has read
// and not used.
func (s *Server) handOver(nc net.Conn, unread []byte) {
	switch c := nc.(type) {
	case *conn:
		c.unread = unread
	case *tls.Conn:
		if len(unread) > 0 { // else net/http is to see what it is
			nc = &resumed{Conn: c, unread: unread}
		}
	}
	s.rest.give(nc)
}

// resumed is a TLS connection on which something was read and not used. net/http takes
// the state of TLS from it as from any other.
type resumed struct {
	*tls.Conn
	unread []byte
}

// Read implements net.Conn.
func (c *resumed) Read(p []byte) (int, error) {
	if len(c.unread) > 0 {
		n := copy(p, c.unread)
		c.unread = c.unread[n:]
		return n, nil
	}
	return c.Conn.Read(p)
}

const (
	firstAcceptPause = 5 * time.Millisecond
	lastAcceptPause  = time.Second
)

// acceptForFront gives the connections of the listener to the front. As in net/http, an
// error that may pass, of which there are too many open files, is waited out.
func (s *Server) acceptForFront() error {
	pause := firstAcceptPause
	for {
		c, err := s.listener.Accept()
		if err == nil {
			pause = firstAcceptPause
			go s.front.ServeConn(c)
			continue
		}
		if passing, ok := err.(interface{ Temporary() bool }); !ok || !passing.Temporary() {
			return err
		}
		s.opts.Logger.Warn("a connection could not be accepted", slog.Any("err", err), slog.Duration("again_in", pause))
		wait := time.NewTimer(pause)
		select {
		case <-wait.C:
		case <-s.base.Done():
			wait.Stop()
			return net.ErrClosed
		}
		pause = min(2*pause, lastAcceptPause)
	}
}
