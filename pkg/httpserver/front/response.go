package front

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"path"
	"runtime"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/keywarden/keywarden/pkg/header"
)

// response is the [http.ResponseWriter] of one request. It answers as net/http's does,
// with the same framing for the same calls: what fits bodySpace has its length said,
// what is longer and has no length is sent in chunks. It is used by one goroutine at a
// time, but for the deadlines. There is no [http.Hijacker]: a request that may become
// something else is unusual.
type response struct {
	conn    *connection
	header  http.Header // the handler's; nil until it is asked for
	listed  header.List // fields of the answer beside those; see AddFields
	buffers *buffers
	over    atomic.Bool // the handler has returned

	deadlined atomic.Bool // the handler has set a deadline for writing

	status   int
	length   int64    // that the handler declared; -1 without
	written  int64    // bytes of body that the handler has written
	trailers []string // that the handler announced

	head     bool // the request is HEAD
	wanted   bool // the client closes the connection after the answer
	mode     mode
	fits     bool // the length may be said when all of the body is there at the end
	sniff    bool // the type is found out from the body
	undated  bool // the Date is not the handler's
	sayClose bool // Connection: close is not the handler's
	complete bool // the head is in the buffer, wholly
	lastOne  bool // the connection is closed after the answer
}

// mode is how the end of the body is known.
type mode uint8

const (
	undecided  mode = iota // until it is seen whether everything fits
	nothing                // there is no body
	sized                  // by Content-Length
	chunked                // by the last chunk
	untilClose             // by the end of the connection
)

var (
	_ http.ResponseWriter = (*response)(nil)
	_ http.Flusher        = (*response)(nil)
	_ io.StringWriter     = (*response)(nil)
	_ io.ReaderFrom       = (*response)(nil)
)

// usualFields is for about how many fields of an answer there is room at once.
const usualFields = 8

// errOver is for a handler that goes on writing when it has returned.
var errOver = errors.New("front: the handler has returned")

func (w *response) start(c *connection, r *http.Request) {
	w.conn, w.length, w.head, w.wanted = c, -1, r.Method == http.MethodHead, r.Close
	w.buffers = c.server.buffers.Get().(*buffers)
}

// Header implements [http.ResponseWriter].
func (w *response) Header() http.Header {
	if w.header == nil {
		w.header = make(http.Header, usualFields)
	}
	return w.header
}

// WriteHeader implements [http.ResponseWriter]. An interim answer is sent at once.
func (w *response) WriteHeader(status int) {
	switch {
	case w.over.Load():
		return
	case w.status != 0:
		caller := callerOf()
		w.conn.server.log.Printf("http: superfluous response.WriteHeader call from %s (%s:%d)", caller.Function, path.Base(caller.File), caller.Line)
		return
	case status < 100 || status > 999:
		panic(fmt.Sprintf("invalid WriteHeader code %v", status))
	case status <= 199 && status != http.StatusSwitchingProtocols:
		w.interim(status)
		return
	}
	w.status = status
	w.begin()
}

// callerOf finds who called into this package.
func callerOf() runtime.Frame {
	pc := make([]uintptr, 16)
	frames := runtime.CallersFrames(pc[:runtime.Callers(1, pc)])
	for {
		frame, more := frames.Next()
		if !more || !strings.Contains(frame.Function, "/httpserver/front.") && !strings.HasPrefix(frame.Function, "net/http.") {
			return frame
		}
	}
}

func (w *response) interim(status int) {
	out := appendStatus(w.buffers.out, status)
	out = appendFields(out, w.header, func(name string) bool { return name == "Content-Length" || name == "Transfer-Encoding" })
	w.buffers.out = append(out, "\r\n"...)
	_ = w.flush()
}

// admit begins a write of n bytes.
func (w *response) admit(n int) error {
	if w.over.Load() {
		return errOver
	}
	if w.status == 0 {
		w.WriteHeader(http.StatusOK)
	}
	if n == 0 {
		return nil
	}
	if !bodyAllowed(w.status) {
		return http.ErrBodyNotAllowed
	}
	w.written += int64(n)
	if w.length >= 0 && w.written > w.length {
		return http.ErrContentLength
	}
	return nil
}

// Write implements [io.Writer].
func (w *response) Write(p []byte) (int, error) {
	if err := w.admit(len(p)); err != nil || len(p) == 0 {
		return 0, err
	}
	if err := w.put(p); err != nil {
		return 0, err
	}
	return len(p), nil
}

// put takes a piece of the body. A large one is not copied.
func (w *response) put(p []byte) error {
	b := w.buffers
	if b.held == 0 && (w.complete || !w.sniff) && w.mode == sized {
		return w.emit(p) // there is nothing to find out
	}
	for len(p) > bodySpace-b.held {
		if b.held == 0 {
			return w.emit(p)
		}
		p = p[b.hold(p):]
		if err := w.release(); err != nil {
			return err
		}
	}
	b.held += copy(b.body[b.held:], p)
	return w.conn.failed
}

// WriteString implements [io.StringWriter].
func (w *response) WriteString(s string) (int, error) {
	if err := w.admit(len(s)); err != nil || s == "" {
		return 0, err
	}
	n := len(s)
	b := w.buffers
	for len(s) > bodySpace-b.held {
		m := copy(b.body[b.held:], s)
		b.held += m
		s = s[m:]
		if err := w.release(); err != nil {
			return 0, err
		}
	}
	b.held += copy(b.body[b.held:], s)
	if w.conn.failed != nil {
		return 0, w.conn.failed
	}
	return n, nil
}

// release sends the body that is held on.
func (w *response) release() error {
	b := w.buffers
	n := b.held
	b.held = 0
	if n == 0 {
		return w.conn.failed
	}
	return w.emit(b.body[:n])
}

// emit sends a piece of the body on, framed.
func (w *response) emit(p []byte) error {
	w.completeHead(p, false)
	if w.mode == nothing {
		return w.conn.failed
	}
	if w.mode != chunked {
		return w.conn.send(w.buffers, p)
	}
	w.buffers.out = append(strconv.AppendInt(w.buffers.out, int64(len(p)), 16), "\r\n"...)
	err := w.conn.send(w.buffers, p)
	w.buffers.out = append(w.buffers.out, "\r\n"...)
	return err
}

const (
	// copySpace is how much is read at a time from what is copied.
	copySpace = 32 << 10

	// sniffSpace is how much of a body its type is found out from.
	sniffSpace = 512
)

// ReadFrom implements [io.ReaderFrom]: a file that is not sent in chunks goes from the
// kernel to the kernel, but for its beginning.
func (w *response) ReadFrom(src io.Reader) (n int64, err error) {
	if w.over.Load() {
		return 0, errOver
	}
	kernel, ok := w.conn.nc.(io.ReaderFrom)
	if !ok {
		return w.copy(src)
	}
	if !w.complete {
		if n, err = w.copy(io.LimitReader(src, sniffSpace)); err != nil || n < sniffSpace {
			return n, err
		}
	}
	if err := w.FlushError(); err != nil {
		return n, err
	}
	if w.mode == sized || w.mode == untilClose {
		var m int64
		m, err = w.splice(kernel, src)
		n += m
		if err != nil || w.mode == untilClose || w.written < w.length {
			return n, err
		}
	}
	m, err := w.copy(src) // which refuses more than was declared
	return n + m, err
}

// splice copies no more than was declared.
func (w *response) splice(kernel io.ReaderFrom, src io.Reader) (int64, error) {
	if w.mode == sized {
		src = io.LimitReader(src, w.length-w.written)
	}
	n, err := kernel.ReadFrom(src)
	w.written += n
	if err != nil {
		_ = w.conn.fail(err)
	}
	return n, err
}

func (w *response) copy(src io.Reader) (int64, error) {
	return io.CopyBuffer(writeOnly{w}, src, make([]byte, copySpace))
}

// writeOnly hides ReadFrom.
type writeOnly struct{ io.Writer }

// Flush implements [http.Flusher].
func (w *response) Flush() { _ = w.FlushError() }

// FlushError is what [http.ResponseController] calls.
func (w *response) FlushError() error {
	if err := w.admit(0); err != nil {
		return err
	}
	err := w.release()
	w.completeHead(nil, false)
	if err != nil {
		return err
	}
	return w.flush()
}

func (w *response) flush() error { return w.conn.flush(w.buffers) }

// SetReadDeadline is for [http.ResponseController]. The whole body is there: no read of
// it waits.
func (w *response) SetReadDeadline(time.Time) error { return nil }

// SetWriteDeadline is for [http.ResponseController]. It ends with the request.
func (w *response) SetWriteDeadline(t time.Time) error {
	if w.over.Load() {
		return errOver
	}
	w.deadlined.Store(true)
	return w.conn.nc.SetWriteDeadline(t)
}

// EnableFullDuplex is for [http.ResponseController]. The request is there before the
// answer begins.
func (w *response) EnableFullDuplex() error { return nil }

// finish ends the answer and reports whether another may follow on the connection.
func (w *response) finish() bool {
	if w.status == 0 {
		w.WriteHeader(http.StatusOK)
	}
	b := w.buffers
	w.completeHead(b.body[:b.held], true)
	_ = w.release()
	if w.mode == chunked {
		b.out = append(b.out, "0\r\n"...)
		b.out = append(appendFields(b.out, w.finalTrailers(), nil), "\r\n"...)
	}
	err := w.flush()
	w.leave()
	short := !w.head && w.length >= 0 && bodyAllowed(w.status) && w.length != w.written
	return err == nil && !w.lastOne && !short
}

// abandon ends an answer that the handler did not end. What had been sent on when there
// was room for more is sent, and nothing else: the client sees that it is not whole.
func (w *response) abandon() {
	if w.complete {
		_ = w.flush()
	}
	w.leave()
}

// leave gives back what the answer needed.
func (w *response) leave() {
	w.over.Store(true)
	if w.deadlined.Load() {
		_ = w.conn.nc.SetWriteDeadline(time.Time{})
	}
	w.conn.server.giveBack(w.buffers)
	w.buffers = nil
}

// finalTrailers are the fields behind the last chunk; nil for none.
func (w *response) finalTrailers() http.Header {
	var t http.Header
	add := func(name string, values []string) {
		if len(values) == 0 || !trailerAllowed(name) {
			return
		}
		if t == nil {
			t = make(http.Header)
		}
		t[name] = append(t[name], values...)
	}
	for name, values := range w.header {
		if name, ok := strings.CutPrefix(name, http.TrailerPrefix); ok {
			add(name, values)
		}
	}
	for _, name := range w.trailers {
		add(name, w.header[name])
	}
	return t
}
