//go:build !unix

package http1

import (
	"net"
	"syscall"
)

// Available says that idle connections can be looked at on this system.
const Available = false

// poller takes every connection for a closed one.
type poller struct {
	raw syscall.RawConn // always nil
}

func (*poller) open(net.Conn) {}

func (*poller) read([]byte) (int, error) { return 0, net.ErrClosed }
