package http1

import (
	"context"
	"errors"
	"net"
	"os"
	"time"

	"github.com/keywarden/keywarden/pkg/splice"
)

// slice is how far ahead the deadline of a connection is set, and so how late the end of
// a context is noticed by who has begun to wait. The deadline is renewed when less than
// half of it is left: that is a few times a second for each connection, where a timer of
// the runtime and a watch over the context for each exchange cost more than parsing its
// answer. Who waits for longer than that watches the context then, so that streams that
// are silent do not wake up all the time.
const slice = 500 * time.Millisecond

// timeoutError is a bound that was reached. It implements [net.Error].
type timeoutError struct {
	text string
	late bool // it is an [os.ErrDeadlineExceeded]
	soon bool // the same may succeed later
}

func (e *timeoutError) Error() string        { return e.text }
func (e *timeoutError) Timeout() bool        { return true }
func (e *timeoutError) Temporary() bool      { return e.soon }
func (e *timeoutError) Is(target error) bool { return e.late && target == os.ErrDeadlineExceeded }

// errNothing says that nothing is there to be read at this moment. It is temporary:
// crypto/tls goes on after that.
var errNothing error = &timeoutError{text: "http1: nothing to be read", soon: true}

// wire is a connection below TLS whose reads and writes end with the context of their
// exchange, or at a bound. One goroutine reads and one writes, at a time. It stands below
// TLS because a write that timed out cannot be taken up again above.
type wire struct {
	net.Conn
	reads, writes half
	polling       bool // reads do not wait; between exchanges
	wanted        bool // something was to be written then: TLS answers to what was read
	poll          poller
	records       *records // nil without TLS
}

func newWire(raw net.Conn) *wire {
	w := &wire{Conn: raw}
	w.reads.open(raw.SetReadDeadline)
	w.writes.open(raw.SetWriteDeadline)
	w.poll.open(raw)
	return w
}

// begin starts an exchange, or a handshake, whose time is now.
func (w *wire) begin(ctx context.Context, now, deadline time.Time) {
	w.reads.begin(ctx, now, deadline)
	w.writes.begin(ctx, now, deadline)
}

// end lets go of the context of an exchange that is over, and returns about when that was.
func (w *wire) end() time.Time {
	w.reads.ctx, w.writes.ctx = nil, nil
	return w.reads.now
}

// Read implements [io.Reader].
func (w *wire) Read(p []byte) (int, error) {
	n, err := w.read(p)
	if w.records != nil {
		w.records.pass(p[:n])
	}
	return n, err
}

func (w *wire) read(p []byte) (int, error) {
	if w.polling {
		return w.poll.read(p)
	}
	return w.take(p, nil, 0)
}

// fill reads at most so many bytes into a pipe, past TLS and whatever else is between.
func (w *wire) fill(pipe *splice.Pipe, most int64) (int, error) { return w.take(nil, pipe, most) }

// take reads into p, or into pipe where there is one.
func (w *wire) take(p []byte, pipe *splice.Pipe, most int64) (int, error) {
	h := &w.reads
	start, err := h.start()
	for err == nil {
		var n int
		var err error
		if pipe != nil {
			n, err = pipe.Fill(w.poll.raw, most)
		} else {
			n, err = w.Conn.Read(p)
		}
		if n > 0 || !errors.Is(err, os.ErrDeadlineExceeded) {
			h.end()
			return n, err
		}
		if err := h.goOn(start); err != nil {
			h.end()
			return 0, err
		}
	}
	return 0, err
}

// Write implements [io.Writer]. What fails has failed for good.
func (w *wire) Write(p []byte) (n int, err error) {
	if w.polling {
		w.wanted = true // crypto/tls may keep the error to itself for the time being
		return 0, net.ErrClosed
	}
	h := &w.writes
	start, err := h.start()
	for err == nil {
		done, err := w.Conn.Write(p[n:])
		n += done
		if !errors.Is(err, os.ErrDeadlineExceeded) {
			h.end()
			return n, err
		}
		if done > 0 {
			start = time.Now() // something was taken
		}
		if err := h.goOn(start); err != nil {
			h.end()
			return n, err
		}
	}
	return n, err
}

// half is what bounds the waits of one direction of a wire.
type half struct {
	set       func(time.Time) error // the deadline of the connection
	interrupt func()                // ends a wait
	armed     time.Time             // that deadline
	now       time.Time             // when the clock was looked at last
	unwatch   func() bool           // ends the watch over ctx; nil: there is none

	ctx      context.Context
	deadline time.Time     // of the exchange; zero: none
	until    time.Time     // of its present part; zero: none
	over     error         // for what lasts until then
	quiet    time.Duration // the longest wait; 0: no bound
	late     error         // for a wait that is longer

	// after, when it is closed, begins a part of the exchange that may last for part.
	after <-chan struct{}
	part  time.Duration
}

func (h *half) open(set func(time.Time) error) {
	h.set = set
	h.interrupt = func() { _ = set(time.Unix(1, 0)) }
}

// begin starts an exchange.
func (h *half) begin(ctx context.Context, now, deadline time.Time) {
	*h = half{set: h.set, interrupt: h.interrupt, armed: h.armed, now: now, ctx: ctx, deadline: deadline}
}

// within bounds the present part of the exchange; 0 is no bound.
func (h *half) within(d time.Duration, over error) {
	h.until, h.over = time.Time{}, over
	if d > 0 {
		h.until = h.now.Add(d)
	}
}

// ready sees to it that the deadline is neither so near that the next wait would run into
// it nor later than a bound of a wait that begins now. It is called when the bounds
// have changed.
func (h *half) ready() {
	first := h.first(h.now)
	if h.armed.Sub(h.now) < slice/2 || !first.IsZero() && first.Before(h.armed) {
		h.arm(first)
	}
}

// bound changes the bounds of an exchange that goes on.
func (h *half) bound(deadline time.Time, idle time.Duration) {
	h.deadline, h.quiet, h.late = deadline, idle, ErrIdle
	if !deadline.IsZero() && deadline.Before(h.armed) {
		h.arm(deadline)
	}
}

// start begins a wait, and returns when that was, if the wait is bounded.
func (h *half) start() (time.Time, error) {
	if h.ctx.Err() != nil {
		return h.now, context.Cause(h.ctx)
	}
	if h.quiet > 0 {
		h.now = time.Now()
		h.ready()
	}
	return h.now, nil
}

// goOn is called when the deadline was reached by a wait that began at start. An error
// ends the exchange.
func (h *half) goOn(start time.Time) error {
	h.now = time.Now()
	if h.ctx.Err() != nil {
		return context.Cause(h.ctx)
	}
	select {
	case <-h.after: // never, when there is none
		h.after = nil
		h.within(h.part, errNoAnswerInTime)
	default:
	}
	switch {
	case reached(h.deadline, h.now):
		return ErrDeadline
	case reached(h.until, h.now):
		return h.over
	case h.quiet > 0 && h.now.Sub(start) >= h.quiet:
		return h.late
	}
	if h.after == nil {
		h.watch(start)
	} else {
		h.arm(h.first(start))
	}
	if h.ctx.Err() != nil { // an interrupt may have come before the new deadline
		return context.Cause(h.ctx)
	}
	return nil
}

// watch has the end of the context end a wait that began at start.
func (h *half) watch(start time.Time) {
	h.armed = h.first(start)
	_ = h.set(h.armed)
	if h.unwatch == nil {
		h.unwatch = context.AfterFunc(h.ctx, h.interrupt)
	}
}

// end ends a wait. An interrupt that comes late does no harm: whoever runs into it finds
// the context of its own exchange alive, and goes on.
func (h *half) end() {
	if h.unwatch != nil {
		h.unwatch()
		h.unwatch = nil
		h.now = time.Now()
		h.arm(h.first(h.now))
	}
}

func reached(bound, now time.Time) bool { return !bound.IsZero() && !now.Before(bound) }

// first is the earliest bound of a wait that began at start; zero: none.
func (h *half) first(start time.Time) time.Time {
	first := earlier(h.deadline, h.until)
	if h.quiet > 0 {
		first = earlier(first, start.Add(h.quiet))
	}
	return first
}

func earlier(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}

// arm sets the deadline a slice ahead, or to a bound before that.
func (h *half) arm(bound time.Time) {
	h.armed = earlier(h.now.Add(slice), bound)
	_ = h.set(h.armed) // of a closed connection, which the next read says
}
