//go:build !unix

package http1

import "net"

// Available says that idle connections can be looked at on this system.
const Available = false

// probe takes every connection for a closed one.
type probe struct{}

func (*probe) open(net.Conn) {}

func (*probe) silent() bool { return false }
