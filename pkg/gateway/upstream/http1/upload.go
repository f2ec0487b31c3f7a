package http1

import (
	"bytes"
	"errors"
	"io"
	"net"
	"net/http"
	"slices"
	"sync/atomic"
	"syscall"
	"time"
)

// Sizes and times of a body that is sent while its answer is awaited.
const (
	pieceSize = 32 << 10              // bytes, with the header in the first one
	lastTime  = 50 * time.Millisecond // from the whole answer to the news that the last piece is out
)

// upload sends a long body, piece by piece, at the pace of the slower side. It has a
// goroutine of its own from the second piece on: a service may answer when it likes,
// while the client is silent too, and may go on reading then, so that neither of both
// directions can wait for the other. It ends with the body, and otherwise when the
// connection is closed and the client has said something or is gone. The answer does
// not wait for that.
type upload struct {
	client *Client
	body   io.ReadCloser
	left   int64 // bytes that are still to be read
	out    *buffer
	one    [1]byte

	last   atomic.Bool           // the last piece is on its way
	failed atomic.Pointer[error] // why the connection was closed
	done   chan struct{}         // closed at the end
	whole  bool                  // all of it was sent; after done
}

// stream sends x on conn, its header in out, and reads the header of its answer. The
// body is not sent again, on no account.
func (c *Client) stream(conn *connection, x *asked, out *buffer) (*http.Response, error) {
	u := &upload{client: c, body: x.Body, left: x.ContentLength, out: out, done: make(chan struct{})}
	head := len(out.bytes)
	err := u.next()
	if err != nil {
		conn.close()
		u.end()
		return nil, err
	}
	if x.now = time.Now(); conn.used() && !conn.silent() { // the client has taken its time
		conn.close()
		if conn, err = c.dial(x); err != nil {
			first := bytes.NewReader(bytes.Clone(out.bytes[head:]))
			x.Body = unread{io.MultiReader(first, u.body), u.body}
			c.buffers.put(out)
			return nil, err
		}
	}
	x.upload = u
	resp, err, _ := conn.exchange(c, x, nil)
	return resp, err
}

// unread is a body of which a part was read and put back.
type unread struct {
	io.Reader
	io.Closer
}

// next adds a piece of the body to what is to be sent, and at the end asks for the
// body's.
func (u *upload) next() error {
	b := slices.Grow(u.out.bytes, max(pieceSize-len(u.out.bytes), 1))
	room := min(int64(cap(b)-len(b)), u.left)
	n, err := u.body.Read(b[len(b) : len(b)+int(room)])
	u.out.bytes = b[:len(b)+n]
	u.left -= int64(n)
	switch {
	case errors.Is(err, io.EOF) && u.left > 0:
		return io.ErrUnexpectedEOF
	case errors.Is(err, io.EOF):
		return nil
	case err == nil && u.left == 0:
		return atEnd(u.body, u.one[:])
	}
	return err
}

// run sends what there is, and then the rest.
func (u *upload) run(conn *connection) {
	defer u.end()
	for {
		u.last.Store(u.left == 0)
		if _, err := conn.stream.Write(u.out.bytes); err != nil {
			// A service that takes no more may have answered: who reads will see.
			if !closed(err) {
				u.fail(conn, err)
			}
			return
		}
		if u.left == 0 {
			u.whole = true
			return
		}
		u.out.bytes = u.out.bytes[:0]
		if err := u.next(); err != nil {
			u.fail(conn, err)
			return
		}
	}
}

func closed(err error) bool {
	return errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE) || errors.Is(err, net.ErrClosed)
}

// fail ends the exchange: the service has got half a request.
func (u *upload) fail(conn *connection, err error) {
	u.failed.Store(&err)
	conn.close()
}

func (u *upload) end() {
	_ = u.body.Close()
	u.client.buffers.put(u.out)
	close(u.done)
}

// cause is why the upload has ended the exchange, or err.
func (u *upload) cause(err error) error {
	if u == nil {
		return err
	}
	if failed := u.failed.Load(); failed != nil {
		return *failed
	}
	return err
}

// over reports whether all was sent. The answer was read to its end, so that there is
// nothing to wait for but a goroutine that has not been told yet.
func (u *upload) over() bool {
	if u == nil {
		return true
	}
	if u.last.Load() {
		late := time.NewTimer(lastTime)
		defer late.Stop()
		select {
		case <-u.done:
		case <-late.C:
		}
	}
	select {
	case <-u.done:
		return u.whole
	default:
		return false
	}
}
