package front

import "golang.org/x/sys/unix"

// Available says that the front can serve here: it has to see that a client has gone.
const Available = true

// gone reports whether the client has gone: the connection is broken, or the client sends
// nothing more. As in net/http, one that has sent another request before counts as there.
// Over TLS something may always follow, the word that it ends.
func (c *connection) gone() bool {
	if c.raw == nil {
		return false
	}
	gone := false
	_ = c.raw.Control(func(fd uintptr) {
		poll := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLRDHUP}}
		if n, err := unix.Poll(poll, 0); err != nil || n == 0 {
			return
		}
		switch {
		case poll[0].Revents&(unix.POLLHUP|unix.POLLERR) != 0, c.tls != nil:
			gone = true
		case !c.behind.Load():
			n, _, err := unix.Recvfrom(int(fd), make([]byte, 1), unix.MSG_PEEK|unix.MSG_DONTWAIT)
			gone = n == 0 && err == nil
		}
	})
	return gone
}
