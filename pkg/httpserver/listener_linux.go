package httpserver

import (
	"fmt"
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

// holdOff lets the kernel ignore new connections, while those whose handshake
// has begun still complete: a packet filter on the listening socket drops SYN.
// Without it, a connection that arrives between the last accept and the close
// would be reset. A client that was ignored tries again after a second and
// then finds the port closed. Where a filter is not allowed, the gap remains.
func (l *listener) holdOff() {
	const (
		flagsOffset = 13 // of the TCP header, where the filter of a TCP socket starts
		syn, ack    = 0x02, 0x10
		drop, keep  = 0, 0xffffffff
	)
	program := []unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_B | unix.BPF_ABS, K: flagsOffset},
		{Code: unix.BPF_ALU | unix.BPF_AND | unix.BPF_K, K: syn | ack},
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: syn, Jt: 0, Jf: 1},
		{Code: unix.BPF_RET | unix.BPF_K, K: drop},
		{Code: unix.BPF_RET | unix.BPF_K, K: keep},
	}
	raw, err := l.SyscallConn()
	if err != nil {
		return
	}
	_ = raw.Control(func(fd uintptr) {
		_ = unix.SetsockoptSockFprog(int(fd), unix.SOL_SOCKET, unix.SO_ATTACH_FILTER,
			&unix.SockFprog{Len: uint16(len(program)), Filter: &program[0]})
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
