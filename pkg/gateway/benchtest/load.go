package main

import (
	"bufio"
	"context"
	"errors"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/keywarden/keywarden/pkg/loadtest"
)

// load is a number of connections that send requests. It is not net/http's client,
// which would cost more than what is measured.
type load struct {
	addr        string
	request     requests
	connections int
	rate        float64 // requests a second, each at its time; 0 for one as soon as the one before is answered
	events      bool    // each answer is a stream of events, which count in place of answers

	dial func(ctx context.Context, addr string) (net.Conn, error) // TCP when nil

	next atomic.Int64 // number of the next request
	done atomic.Int64 // whole answers with status 200, or events
}

// requests appends the text of request number n.
type requests func(to []byte, n int64) []byte

// same are requests that do not differ.
func same(text []byte) requests {
	return func(to []byte, _ int64) []byte { return append(to, text...) }
}

// run sends until ctx ends. Any other answer than a whole 200 is an error.
func (l *load) run(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	if l.rate > 0 {
		l.schedule(ctx, cancel)
	} else {
		l.saturate(ctx, cancel)
	}
	if cause := context.Cause(ctx); !errors.Is(cause, context.Canceled) && !errors.Is(cause, context.DeadlineExceeded) {
		return cause
	}
	return nil
}

// saturate has one request on the way on each connection at all times.
func (l *load) saturate(ctx context.Context, fail context.CancelCauseFunc) {
	var group sync.WaitGroup
	for range l.connections {
		group.Go(func() {
			c := &connection{load: l}
			defer c.close()
			for ctx.Err() == nil {
				if err := c.exchange(ctx, l.next.Add(1)-1); err != nil && ctx.Err() == nil {
					fail(err)
				}
			}
		})
	}
	group.Wait()
}

// endless is longer than any measurement.
const endless = 24 * time.Hour

// schedule sends each request at its time, on the next connection that is free.
// When all are busy, the request is late, and those after it are not put off by it:
// a gateway that is slow for a moment gets what was due meanwhile all the same.
func (l *load) schedule(ctx context.Context, fail context.CancelCauseFunc) {
	connections := make([]*connection, l.connections)
	for i := range connections {
		connections[i] = &connection{load: l}
		defer connections[i].close()
	}
	// Requests that are on the way when ctx ends are to be answered.
	loadtest.Run(context.WithoutCancel(ctx), loadtest.Plan{
		Rate: l.rate, Duration: endless, Workers: l.connections, Stop: ctx.Done(),
		Do: func(_ context.Context, worker, n int) error {
			err := connections[worker].exchange(ctx, int64(n))
			if err != nil && ctx.Err() == nil {
				fail(err)
			}
			return err
		},
	})
}

// connection is one that is kept. It is for one goroutine at a time.
type connection struct {
	load *load
	conn net.Conn
	in   *bufio.Reader
	text []byte
}

// answerTimeout bounds one exchange, and longestWait all of a connection.
const (
	answerTimeout = 30 * time.Second
	longestWait   = time.Hour
)

func dialTCP(ctx context.Context, addr string) (net.Conn, error) {
	return (&net.Dialer{Timeout: answerTimeout}).DialContext(ctx, "tcp", addr)
}

// dial connects. The end of ctx ends a wait for an answer that never comes.
func (c *connection) dial(ctx context.Context) (err error) {
	dial := c.load.dial
	if dial == nil {
		dial = dialTCP
	}
	if c.conn, err = dial(ctx, c.load.addr); err != nil {
		c.conn = nil
		return err
	}
	c.in = bufio.NewReaderSize(c.conn, 16<<10)
	if err := c.conn.SetDeadline(time.Now().Add(longestWait)); err != nil {
		return err
	}
	conn, patience := c.conn, answerTimeout
	if c.load.events {
		patience = 0 // a stream has no end to wait for
	}
	context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Now().Add(patience)) })
	return nil
}

// exchange sends request number n and reads its answer.
func (c *connection) exchange(ctx context.Context, n int64) error {
	if c.conn == nil {
		if err := c.dial(ctx); err != nil {
			return err
		}
	}
	c.text = c.load.request(c.text[:0], n)
	if _, err := c.conn.Write(c.text); err != nil {
		return err
	}
	if c.load.events {
		return readEvents(c.in, &c.load.done)
	}
	if err := readAnswer(c.in); err != nil {
		return err
	}
	c.load.done.Add(1)
	return nil
}

func (c *connection) close() {
	if c.conn != nil {
		_ = c.conn.Close()
	}
}
