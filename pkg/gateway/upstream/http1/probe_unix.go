//go:build unix

package http1

import (
	"errors"
	"net"
	"syscall"

	"golang.org/x/sys/unix"
)

// Available says that idle connections can be looked at on this system.
const Available = true

// probe looks at an idle connection without waiting and without taking anything
// from it. It is not safe for concurrent use.
type probe struct {
	raw   syscall.RawConn // nil: it cannot be looked at
	look  func(fd uintptr)
	quiet bool
	space [1]byte
}

func (p *probe) open(conn net.Conn) {
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
		_, _, err := unix.Recvfrom(int(fd), p.space[:], unix.MSG_PEEK|unix.MSG_DONTWAIT)
		p.quiet = errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EWOULDBLOCK)
	}
}

// silent reports whether the connection is open and has nothing to read. A
// service that has closed it, or that sends what nobody asked for, is not silent.
func (p *probe) silent() bool {
	if p.raw == nil {
		return false
	}
	p.quiet = false
	return p.raw.Control(p.look) == nil && p.quiet
}
