package attacktest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"regexp"
	"strconv"
	"strings"
	"time"
)

const (
	dialTimeout  = 5 * time.Second
	sendTimeout  = 5 * time.Second // for each piece that is sent
	pollInterval = 200 * time.Millisecond
	// linger is how long a connection is watched after the responses that were
	// waited for: one more may come, or the end.
	linger           = 600 * time.Millisecond
	maxResponseBytes = 16 << 20 // of one exchange
)

// Response is one response as it was read. Body is what arrived of it, even if
// the connection ended early.
type Response struct {
	Status int
	Header []Field
	Body   string
}

// exchange is one connection's outcome.
type exchange struct {
	responses []Response
	closed    bool
}

// sendRaw opens a connection to addr, sends payload at the given pace, and reads
// until want final responses came and nothing follows them, timeout passed after
// the last byte was sent, or the gateway closed. It reads while it sends, so
// that an answer given early is not lost to the reset that may follow it.
func sendRaw(ctx context.Context, addr, payload string, p *pace, want int, timeout time.Duration) (exchange, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	dialer := net.Dialer{Timeout: dialTimeout}
	conn, err := dialer.DialContext(ctx, "tcp", addr)
	if err != nil {
		return exchange{}, fmt.Errorf("connect to the gateway: %w", err)
	}
	defer context.AfterFunc(ctx, func() { _ = conn.Close() })()
	sent := make(chan struct{})
	go func() {
		defer close(sent)
		send(ctx, conn, payload, p)
	}()
	src := &connSource{conn: conn, sent: sent, timeout: timeout}
	responses := readResponses(src, want)
	closed := src.closed // before cancel closes it too
	cancel()
	<-sent
	return exchange{responses: responses, closed: closed}, nil
}

// send writes payload. A refusal to take all of it is not an error: it may be
// what the case is about.
func send(ctx context.Context, conn net.Conn, payload string, p *pace) {
	step, pause := max(1, len(payload)), time.Duration(0)
	if p != nil {
		step, pause = p.size, p.pause
	}
	for rest := payload; rest != ""; {
		piece := rest[:min(step, len(rest))]
		rest = rest[len(piece):]
		_ = conn.SetWriteDeadline(time.Now().Add(sendTimeout))
		if _, err := conn.Write([]byte(piece)); err != nil {
			return
		}
		if pause == 0 {
			continue
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return
		}
	}
}

// source is where responses come from.
type source interface {
	// fill appends what has arrived, perhaps nothing, and reports whether it is
	// worth asking again.
	fill(buf []byte) ([]byte, bool)
	// lingered reports whether a source with nothing to wait for was watched
	// long enough.
	lingered() bool
}

// connSource is a connection that is still being written to.
type connSource struct {
	conn    net.Conn
	sent    <-chan struct{} // closed when everything was sent
	timeout time.Duration

	sentAt time.Time
	total  int
	closed bool
}

// fill reads for at most pollInterval.
func (s *connSource) fill(buf []byte) ([]byte, bool) {
	now := time.Now()
	if s.sinceSent(now) > s.timeout || s.closed || s.total > maxResponseBytes {
		return buf, false
	}
	_ = s.conn.SetReadDeadline(now.Add(pollInterval))
	piece := make([]byte, 64<<10)
	n, err := s.conn.Read(piece)
	s.total += n
	buf = append(buf, piece[:n]...)
	if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
		s.closed = true
	}
	return buf, n > 0 || !s.closed
}

// lingered counts from the last byte sent.
func (s *connSource) lingered() bool { return s.sinceSent(time.Now()) > linger }

// sinceSent is the time since everything was sent, zero before.
func (s *connSource) sinceSent(now time.Time) time.Duration {
	select {
	case <-s.sent:
		if s.sentAt.IsZero() {
			s.sentAt = now
		}
		return now.Sub(s.sentAt)
	default:
		return 0
	}
}

var statusLine = regexp.MustCompile(`^HTTP/1\.[01] ([0-9]{3})`)

// readResponses reads responses until the source is exhausted, or until want
// final ones came and the source lingered. It stops at bytes that are no
// response. It does not know what was asked, so a response to HEAD with a
// Content-Length is read as one with a body.
func readResponses(src source, want int) []Response {
	r := responseReader{src: src, want: want}
	for r.next() {
	}
	return r.out
}

// responseReader holds what was read and not yet understood.
type responseReader struct {
	src  source
	want int
	buf  []byte
	out  []Response
}

// next reads one response; false means there is none.
func (r *responseReader) next() bool {
	head, ok := r.head()
	if !ok {
		return false
	}
	lines := strings.Split(latin1(head), "\r\n")
	m := statusLine.FindStringSubmatch(lines[0])
	if m == nil {
		return false
	}
	resp := Response{}
	resp.Status, _ = strconv.Atoi(m[1]) // three digits
	for _, line := range lines[1:] {
		name, value, _ := strings.Cut(line, ":")
		resp.Header = append(resp.Header, Field{Name: name, Value: strings.TrimSpace(value)})
	}
	resp.Body = string(r.body(resp))
	r.out = append(r.out, resp)
	return resp.Status != 101 // what follows is another protocol
}

// head reads up to the empty line.
func (r *responseReader) head() ([]byte, bool) {
	for {
		if head, rest, found := bytes.Cut(r.buf, []byte("\r\n\r\n")); found {
			r.buf = rest
			return head, true
		}
		if !r.fill() {
			return nil, false
		}
		if r.finals() >= r.want && len(r.buf) == 0 && r.src.lingered() {
			return nil, false
		}
	}
}

// finals counts the responses that are not interim.
func (r *responseReader) finals() int {
	n := 0
	for _, resp := range r.out {
		if resp.Status >= 200 {
			n++
		}
	}
	return n
}

// body reads what resp's header announces, or what there is of it.
func (r *responseReader) body(resp Response) []byte {
	if resp.Status < 200 || resp.Status == 204 || resp.Status == 304 {
		return nil
	}
	if coding := last(values(resp.Header, "Transfer-Encoding", strings.ToLower)); coding == "chunked" {
		return r.chunks()
	}
	if length := last(values(resp.Header, "Content-Length", strings.ToLower)); length != "" {
		n, err := strconv.Atoi(length)
		if err != nil || n < 0 {
			n = maxResponseBytes
		}
		return r.take(n)
	}
	for r.fill() {
	}
	return r.take(len(r.buf))
}

// chunks reads a chunked body and drops its trailers.
func (r *responseReader) chunks() []byte {
	var body []byte
	for {
		line, ok := r.line()
		if !ok {
			return body
		}
		size, _, _ := strings.Cut(line, ";")
		n, err := strconv.ParseUint(strings.TrimSpace(size), 16, 31)
		if err != nil {
			return body
		}
		if n == 0 {
			break
		}
		body = append(body, r.take(int(n))...)
		if end, ok := r.line(); !ok || end != "" {
			return body
		}
	}
	for line, ok := r.line(); ok && line != ""; line, ok = r.line() {
	}
	return body
}

// line reads one line without its end.
func (r *responseReader) line() (string, bool) {
	for {
		if line, rest, found := bytes.Cut(r.buf, []byte("\r\n")); found {
			r.buf = rest
			return string(line), true
		}
		if !r.fill() {
			return "", false
		}
	}
}

// take removes n bytes from the front, or all there will be.
func (r *responseReader) take(n int) []byte {
	for len(r.buf) < n && r.fill() {
	}
	n = min(n, len(r.buf))
	out := r.buf[:n:n]
	r.buf = r.buf[n:]
	return out
}

// fill asks the source for more.
func (r *responseReader) fill() (more bool) {
	r.buf, more = r.src.fill(r.buf)
	return more
}

// last is the last of several values, as a lenient client would choose.
func last(values []string) string {
	if len(values) == 0 {
		return ""
	}
	return values[len(values)-1]
}
