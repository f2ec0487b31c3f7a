package http1

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"time"

	"github.com/keywarden/keywarden/pkg/header"
)

// connection is one connection to the service. It belongs to one exchange, or to
// the idle ones.
type connection struct {
	wire   *wire
	stream net.Conn // wire, or TLS over it
	state  *tls.ConnectionState
	in     *bufio.Reader // of stream
	since  time.Time     // when it became idle
}

func newConnection(raw net.Conn, c *Config) *connection {
	w := newWire(raw)
	return &connection{wire: w, stream: w, in: bufio.NewReaderSize(w, c.ReadBuffer)}
}

// close ends whatever waits on the connection. TLS is not told: that might wait itself.
func (conn *connection) close() { _ = conn.wire.Close() }

// used reports whether there was an exchange before.
func (conn *connection) used() bool { return !conn.since.IsZero() }

// silent reports whether an idle connection is open and the service has said nothing on
// it that counts, nor begun to. It does not wait. What is there is read: the connection
// is of no use then. With TLS there may be something that does not count, tickets for
// later connections above all, which TLS 1.3 sends when it likes; and bytes behind the
// last answer may have been deciphered with it.
func (conn *connection) silent() bool {
	conn.wire.polling = true
	_, err := conn.in.Peek(1)
	conn.wire.polling = false
	return errors.Is(err, errNothing) && !conn.wire.wanted && !conn.wire.records.within()
}

// exchange sends x, of which out is all but what is uploaded, and reads the header of the answer. untouched
// says that a connection that was used before ended without a byte of an answer.
func (conn *connection) exchange(c *Client, x *asked, out []byte) (resp *http.Response, err error, untouched bool) {
	x.sent = true
	conn.begin(c, x)
	a, err, untouched := conn.answer(c, x, out)
	if err != nil {
		conn.close()
		if err = x.upload.cause(err); x.ctx.Err() != nil {
			err, untouched = context.Cause(x.ctx), false
		}
		return nil, err, untouched
	}
	conn.deliver(c, x, a)
	return &a.Response, nil, false
}

// begin bounds the exchange.
func (conn *connection) begin(c *Client, x *asked) {
	w := conn.wire
	w.begin(x.ctx, x.now, x.deadline)
	if x.upload == nil {
		w.reads.within(c.config.ResponseTimeout, errNoAnswerInTime)
		w.writes.within(c.config.ResponseTimeout, errNothingTaken)
	} else {
		w.reads.after, w.reads.part = x.upload.done, c.config.ResponseTimeout
		w.writes.quiet, w.writes.late = c.config.ResponseTimeout, errNothingTaken
		if x.idle > 0 {
			w.writes.quiet, w.writes.late = x.idle, ErrIdle
		}
	}
	w.reads.ready()
	w.writes.ready()
}

// answer sends out and reads the header of what comes back.
func (conn *connection) answer(c *Client, x *asked, out []byte) (a *answer, err error, untouched bool) {
	if x.upload != nil {
		go x.upload.run(conn)
	} else if _, err := conn.stream.Write(out); err != nil {
		return nil, err, conn.used() && !isTimeout(err)
	}
	if _, err := conn.in.Peek(1); err != nil {
		return nil, noAnswer(err), conn.used() && !isTimeout(err)
	}
	a, err = conn.readAnswer(x, int(c.config.MaxHeader))
	return a, noAnswer(err), false
}

func isTimeout(err error) bool {
	var timeout net.Error
	return errors.As(err, &timeout) && timeout.Timeout()
}

// noAnswer tells an end before the answer from the end of an answer.
func noAnswer(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// maxInterim bounds the interim answers before a final one. They are a hint or two.
const maxInterim = 16

// readAnswer reads up to the header of the final answer and tells of interim ones.
func (conn *connection) readAnswer(x *asked, most int) (*answer, error) {
	for range maxInterim + 1 {
		head, err := readHead(conn.in, most)
		if err != nil {
			return nil, err
		}
		a := new(answer)
		if err := a.parseHead(head, x.Request); err != nil {
			return nil, err
		}
		if a.StatusCode >= http.StatusOK || a.StatusCode == http.StatusSwitchingProtocols {
			if taker, ok := x.to.(Taker); !ok || !taker.Take(a.fields) {
				a.Header = a.fields.Map()
			}
			return a, nil
		}
		a.Header = a.fields.Map()
		most -= len(head)
		if err := tellInterim(x.ctx, x.to, &a.Response); err != nil {
			return nil, err
		}
	}
	return nil, malformed("interim answers without end")
}

// answer is a response and its body, which are made together.
type answer struct {
	http.Response
	body   body
	coding [1]string        // of the transfer
	fields header.List      // without those that frame it
	space  [12]header.Field // where fields is, when there are no more
}

// deliver makes the body of the answer give the connection back at its end.
func (conn *connection) deliver(c *Client, x *asked, a *answer) {
	b := &a.body
	b.client, b.conn, b.resp, b.upload = c, conn, &a.Response, x.upload
	b.again = !a.Close && a.StatusCode >= http.StatusOK
	b.left = a.ContentLength
	if a.TransferEncoding != nil {
		b.chunks, b.left = true, 0
	}
	a.TLS = conn.state
	if a.ContentLength == 0 || bodyless(&a.Response) {
		a.Body = http.NoBody
		b.finish(true)
		return
	}
	a.Body = b
	conn.wire.reads.within(0, nil) // the body may take its time
	conn.wire.reads.after = nil
	b.SetBounds(x.deadline, x.idle)
}
