//go:build !linux

package httpserver

import (
	"net"
	"syscall"
	"time"
)

// writeStallControl does nothing: the socket option is Linux's.
func writeStallControl(time.Duration) func(network, address string, c syscall.RawConn) error {
	return nil
}

// holdOff does nothing: there is no portable way to keep new connections from
// being completed while the listener is open.
func (*listener) holdOff() {}

// release does nothing: nothing is held off.
func release(*net.TCPConn) {}

// pending always answers no: the quiet time alone has to do.
func (*listener) pending() bool { return false }
