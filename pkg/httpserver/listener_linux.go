package httpserver

import (
	"fmt"
	"net"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// writeStallControl prepares a listening socket so that the kernel drops its
// connections when data could not be sent for limit. Accepted connections
// inherit the setting, so it costs nothing per connection.
func writeStallControl(limit time.Duration) func(network, address string, c syscall.RawConn) error {
	return func(_, _ string, c syscall.RawConn) error {
		var set error
		err := c.Control(func(fd uintptr) {
			set = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(limit.Milliseconds()))
		})
		if err == nil {
			err = set
		}
		if err != nil {
			return fmt.Errorf("setting the write time-out: %w", err)
		}
		return nil
	}
}

// farHopLimit is a hop limit that no packet arrives with, unless its sender is on
// the same link and sends with the highest there is.
const farHopLimit = 255

// holdOff lets the kernel ignore new connections, while those whose handshake
// has begun still complete. Without it, a connection that arrives between the
// last accept and the close would be reset. A client that was ignored tries
// again after a second and then finds the port closed.
//
// The means is the smallest hop limit that a packet must have (IP_MINTTL, made
// for RFC 5082): the kernel checks it where a packet reaches the listening
// socket, and not where it reaches a handshake. A packet filter would say the
// same more plainly, but needs CAP_NET_ADMIN since Linux 6.17.
func (l *listener) holdOff() { setMinHopLimit(l.TCPListener, farHopLimit) }

// release undoes what an accepted connection inherited from a listener on hold.
// What its client sent too early was ignored, and is sent again.
func release(c *net.TCPConn) { setMinHopLimit(c, 0) }

func setMinHopLimit(s syscall.Conn, limit int) {
	raw, err := s.SyscallConn()
	if err != nil {
		return
	}
	_ = raw.Control(func(fd uintptr) {
		// A socket for IPv6 may take IPv4 too; one for IPv4 refuses the second.
		_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_MINTTL, limit)
		_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_IPV6, unix.IPV6_MINHOPCOUNT, limit)
	})
}

// pending reports whether a connection waits to be accepted.
func (l *listener) pending() bool {
	raw, err := l.SyscallConn()
	if err != nil {
		return false
	}
	var n int
	_ = raw.Control(func(fd uintptr) {
		n, err = unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 0)
	})
	return err == nil && n > 0
}
