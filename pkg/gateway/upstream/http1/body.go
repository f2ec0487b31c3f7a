package http1

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"time"

	"github.com/keywarden/keywarden/pkg/gateway/upstream/http1/text"
	"github.com/keywarden/keywarden/pkg/splice"
)

// body is the body of an answer. It is read by one goroutine; any may close it. It
// implements [Bounded] and [splice.Source].
type body struct {
	client *Client
	conn   *connection
	resp   *http.Response
	upload *upload     // nil: the request was sent before
	again  bool        // the connection may be used again
	over   atomic.Bool // it was given back or closed

	left   int64 // bytes up to the end, or to that of the chunk; negative: nobody knows
	chunks bool
	inside bool // a chunk: its end is a line break
	excess int  // bytes of chunk lines that are out of proportion
	err    error
}

// Read implements [io.Reader].
func (b *body) Read(p []byte) (int, error) {
	if b.err != nil {
		return 0, b.err
	}
	if b.over.Load() {
		return 0, http.ErrBodyReadAfterClose
	}
	n, err := b.read(p)
	return n, b.noteEnd(err)
}

// noteEnd ends the body with the first error, if it is one, and returns what that is for
// the reader.
func (b *body) noteEnd(err error) error {
	if err == nil {
		return nil
	}
	whole := errors.Is(err, io.EOF)
	if !whole {
		err = b.upload.cause(err)
	}
	if ctx := b.conn.wire.reads.ctx; !whole && ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	b.err = err
	b.finish(whole)
	return err
}

// CanFill implements [splice.Source]: what is left is known, worth it, and nothing of it
// is here already.
func (b *body) CanFill() bool {
	return b.err == nil && !b.over.Load() && !b.chunks && b.left >= splice.Worth &&
		b.conn.state == nil && b.conn.wire.poll.raw != nil && b.conn.in.Buffered() == 0
}

// FillPipe implements [splice.Source].
func (b *body) FillPipe(p *splice.Pipe) (int, error) {
	n, err := b.conn.wire.fill(p, b.left)
	if errors.Is(err, splice.ErrUnavailable) {
		return 0, err // the body is as it was
	}
	return n, b.noteEnd(b.count(n, err))
}

// count takes n bytes of those that are left, and says what err means then.
func (b *body) count(n int, err error) error {
	b.left -= int64(n)
	switch {
	case errors.Is(err, io.EOF) && (b.left > 0 || b.chunks):
		return io.ErrUnexpectedEOF
	case b.left == 0 && !b.chunks:
		return io.EOF
	}
	return err
}

// SetBounds implements [Bounded].
func (b *body) SetBounds(deadline time.Time, idle time.Duration) {
	if !b.over.Load() {
		b.conn.wire.reads.bound(deadline, idle)
	}
}

// read returns io.EOF at the end of the body only.
func (b *body) read(p []byte) (int, error) {
	if b.chunks {
		if err := b.nextChunk(); err != nil {
			return 0, err
		}
	}
	if b.left < 0 {
		return b.conn.in.Read(p)
	}
	if int64(len(p)) > b.left {
		p = p[:b.left]
	}
	n, err := b.conn.in.Read(p)
	return n, b.count(n, err)
}

// Bounds of what frames a chunked body.
const (
	maxChunkDigits = 16
	maxChunkExcess = 16 << 10 // bytes, beyond a share of the data
)

// nextChunk reads the frame between two chunks where one has ended (RFC 9112 section
// 7.1). It returns io.EOF after the last, when the trailers have been read.
func (b *body) nextChunk() error {
	if b.left > 0 {
		return nil
	}
	in := b.conn.in
	if b.inside {
		if line, err := readLine(in.ReadSlice('\n')); err != nil {
			return err
		} else if line != "" {
			return malformed("a chunk that is longer than it says")
		}
	}
	line, err := readLine(in.ReadSlice('\n'))
	if err != nil {
		return err
	}
	if b.left, err = chunkSize(line); err != nil {
		return err
	}
	// Small chunks and long extensions make a reader work for nothing.
	b.excess += len(line) + 2 - 16 - 2*int(min(b.left, maxChunkExcess))
	b.excess = max(b.excess, 0)
	if b.excess > maxChunkExcess {
		return malformed("chunks that hold next to nothing")
	}
	if b.inside = b.left > 0; b.inside {
		return nil
	}
	if err := b.trailers(); err != nil {
		return err
	}
	return io.EOF
}

// readLine is a line without its CRLF.
func readLine(slice []byte, err error) (string, error) {
	switch end := len(slice) - 2; {
	case errors.Is(err, io.EOF):
		return "", io.ErrUnexpectedEOF
	case err != nil:
		return "", err
	case end < 0 || slice[end] != '\r':
		return "", malformed("a line that ends without CR")
	default:
		return string(slice[:end]), nil
	}
}

// chunkSize reads the line before a chunk; extensions are left alone.
func chunkSize(line string) (size int64, err error) {
	digits, extension, _ := strings.Cut(line, ";")
	digits = strings.TrimRight(digits, " \t")
	if digits == "" || len(digits) > maxChunkDigits || !text.IsPlain(extension) {
		return 0, malformed("no size of a chunk")
	}
	for i := range len(digits) {
		c := digits[i]
		switch {
		case isDigit(c):
			c -= '0'
		case 'a' <= c|0x20 && c|0x20 <= 'f':
			c = c | 0x20 - 'a' + 10
		default:
			return 0, malformed("no size of a chunk")
		}
		if size = size<<4 | int64(c); size < 0 || size > 1<<62 {
			return 0, malformed("a chunk without end")
		}
	}
	return size, nil
}

// trailers reads the fields after the last chunk.
func (b *body) trailers() error {
	head, err := readLines(b.conn.in, int(b.client.config.MaxHeader))
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	if err != nil {
		return err
	}
	for line := range strings.SplitSeq(string(head[:len(head)-2]), "\r\n") {
		if line == "" {
			break
		}
		name, value, err := parseField(line)
		if err != nil {
			return err
		}
		if b.resp.Trailer == nil {
			b.resp.Trailer = http.Header{}
		}
		b.resp.Trailer[name] = append(b.resp.Trailer[name], value)
	}
	return nil
}

// Ready reports whether the next Read would not wait: a part of the body is here
// already, or its end. It is for the goroutine that reads.
func (b *body) Ready() bool {
	if b.over.Load() {
		return true
	}
	in := b.conn.in
	if !b.chunks || b.left > 0 {
		return in.Buffered() > 0
	}
	here, _ := in.Peek(in.Buffered())
	if b.inside { // the line break after the chunk
		here = here[min(2, len(here)):]
	}
	line, rest, found := bytes.Cut(here, []byte("\n"))
	if bytes.HasPrefix(line, []byte("0")) { // as a rule the last one, which trailers follow
		return bytes.HasPrefix(rest, []byte("\r\n")) || bytes.Contains(rest, []byte("\r\n\r\n"))
	}
	return found && len(rest) > 0
}

// Close implements [io.Closer]. What is left of the body is not waited for.
func (b *body) Close() error {
	b.finish(false)
	return nil
}

// finish gives the connection back after a whole answer with nothing behind it,
// and closes it otherwise: what came unasked must not become somebody's answer.
func (b *body) finish(whole bool) {
	if !b.over.CompareAndSwap(false, true) {
		return
	}
	if whole && b.again && b.conn.in.Buffered() == 0 && b.upload.over() {
		b.client.idle.put(b.conn, b.conn.wire.end())
		return
	}
	b.conn.close()
}
