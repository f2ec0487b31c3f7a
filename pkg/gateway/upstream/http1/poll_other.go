//go:build !unix

package http1

import "net"

// Available says that idle connections can be looked at on this system.
const Available = false

// poller takes every connection for a closed one.
type poller struct{}

func (*poller) open(net.Conn) {}

func (*poller) read([]byte) (int, error) { return 0, net.ErrClosed }
