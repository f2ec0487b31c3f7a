//go:build unix

package http1

import (
	"errors"
	"io"
	"net"
	"syscall"
)

// Available says that idle connections can be looked at on this system.
const Available = true

// poller reads from a connection without waiting. It is not safe for concurrent use.
type poller struct {
	raw   syscall.RawConn // nil: it cannot be looked at
	look  func(fd uintptr)
	space []byte
	n     int
	err   error
}

func (p *poller) open(conn net.Conn) {
	socket, ok := conn.(syscall.Conn)
	if !ok {
		return
	}
	raw, err := socket.SyscallConn()
	if err != nil {
		return
	}
	p.raw = raw
	p.look = func(fd uintptr) { // made once: a closure would be allocated for each request
		p.n, p.err = syscall.Read(int(fd), p.space) // net's sockets never block
	}
}

// read returns errNothing when the other side has said nothing.
func (p *poller) read(space []byte) (int, error) {
	if p.raw == nil {
		return 0, net.ErrClosed
	}
	p.space = space
	err := p.raw.Control(p.look)
	p.space = nil
	switch {
	case err != nil:
		return 0, err
	case errors.Is(p.err, syscall.EAGAIN):
		return 0, errNothing
	case p.err != nil:
		return 0, p.err
	case p.n == 0:
		return 0, io.EOF
	}
	return p.n, nil
}
