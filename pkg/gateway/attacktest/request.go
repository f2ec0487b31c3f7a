package attacktest

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

const (
	maxHead   = 4 << 20 // bytes of one request's header block, and of one chunk line
	keptBody  = 4096    // bytes of a body that a [Request] holds
	keptLines = 1000    // trailers that a [Request] holds
)

var (
	requestLine   = regexp.MustCompile(`^(\S+) (\S+) HTTP/1\.[01]$`)
	fieldName     = regexp.MustCompile("^[!#$%&'*+.^_`|~0-9A-Za-z-]+$")
	contentLength = regexp.MustCompile(`^[0-9]{1,18}$`)
	chunkSize     = regexp.MustCompile(`^([0-9a-fA-F]{1,8})(;.*)?$`)
)

// Field is one header field as it stood on the wire, without the blanks around
// its value.
type Field struct{ Name, Value string }

// Request is one request that reached the backend. Method, target, header and
// trailers are read as ISO 8859-1, so that every byte is kept and printable.
type Request struct {
	Method    string
	Target    string // the request target, byte for byte
	Header    []Field
	BodyLen   int64
	Body      string // the first 4 KiB, as bytes
	Trailers  []string
	Anomalies []string  // what a well-behaved gateway never sends, in order of appearance
	Seq       int       // position on its connection, from 0
	At        time.Time // when it had been read
}

// anomaly notes a defect once; a thousand chunk extensions are one defect.
func (r *Request) anomaly(format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	if !slices.Contains(r.Anomalies, text) {
		r.Anomalies = append(r.Anomalies, text)
	}
}

// field returns the values of one field, whatever its letters' case.
func (r *Request) field(name string) []string { return values(r.Header, name, strings.ToLower) }

// malformedError says that a request was read as far as its framing made sense.
// It is worth recording, and nothing after it on the connection is worth reading.
type malformedError struct{ reason string }

func (e *malformedError) Error() string { return e.reason }

// readRequest reads one request strictly: it accepts what a lax server would,
// and notes each thing that a strict one would refuse. A request that ends early
// is an error; one with a broken chunk is returned together with one.
func readRequest(br *bufio.Reader) (*Request, error) {
	head, err := readUntil(br, "\r\n\r\n")
	if err != nil {
		return nil, err
	}
	req := parseHead(head)
	coding, length := req.field("Transfer-Encoding"), req.field("Content-Length")
	req.noteFraming(coding, length)
	switch {
	case coding != nil:
		err = req.readChunks(br)
	case length != nil && contentLength.MatchString(length[0]):
		n, _ := strconv.ParseInt(length[0], 10, 64) // 18 digits fit
		err = req.readBody(br, n)
	}
	return req, err
}

// readUntil reads up to and including end, which must close with a line feed,
// and returns what stood before it.
func readUntil(br *bufio.Reader, end string) ([]byte, error) {
	var out []byte
	for {
		part, err := br.ReadSlice('\n')
		out = append(out, part...)
		if err != nil && err != bufio.ErrBufferFull { //nolint:errorlint // documented to be this value
			return nil, err
		}
		if bytes.HasSuffix(out, []byte(end)) {
			return out[:len(out)-len(end)], nil
		}
		if len(out) > maxHead {
			return nil, fmt.Errorf("more than %d bytes without an end", maxHead)
		}
	}
}

// parseHead reads the request line and the header fields.
func parseHead(head []byte) *Request {
	req := &Request{Method: "?", Target: "?"}
	if bytes.ContainsAny(bytes.ReplaceAll(head, []byte("\r\n"), nil), "\r\n") {
		req.anomaly("bare-cr-or-lf")
	}
	lines := strings.Split(string(head), "\r\n")
	if m := requestLine.FindStringSubmatch(lines[0]); m != nil {
		req.Method, req.Target = latin1([]byte(m[1])), latin1([]byte(m[2]))
	} else {
		req.anomaly("bad-request-line:%.80q", lines[0])
	}
	for _, line := range lines[1:] {
		if strings.HasPrefix(line, " ") || strings.HasPrefix(line, "\t") {
			req.anomaly("obs-fold")
		}
		name, value, found := strings.Cut(line, ":")
		if !found || !fieldName.MatchString(name) {
			req.anomaly("bad-header-name:%.40q", name)
		}
		req.Header = append(req.Header, Field{Name: latin1([]byte(name)), Value: latin1([]byte(strings.Trim(value, " \t")))})
	}
	return req
}

// noteFraming notes what makes two readers disagree about where the body ends.
func (r *Request) noteFraming(coding, length []string) {
	if coding != nil && length != nil {
		r.anomaly("cl-and-te")
	}
	if len(length) > 1 {
		r.anomaly("dup-cl")
	}
	if coding != nil && !slices.Equal(coding, []string{"chunked"}) {
		r.anomaly("te:%q", coding)
	}
	if length != nil && !contentLength.MatchString(length[0]) {
		r.anomaly("cl:%s", length[0])
	}
}

// readBody reads n bytes, keeping the first of them.
func (r *Request) readBody(br *bufio.Reader, n int64) error {
	keep := min(n, int64(keptBody-len(r.Body)))
	kept := make([]byte, keep)
	if _, err := io.ReadFull(br, kept); err != nil {
		return err
	}
	if _, err := io.CopyN(io.Discard, br, n-keep); err != nil {
		return err
	}
	r.Body += string(kept)
	r.BodyLen += n
	return nil
}

// readChunks reads a chunked body and its trailer section.
func (r *Request) readChunks(br *bufio.Reader) error {
	for {
		line, err := readUntil(br, "\r\n")
		if err != nil {
			return err
		}
		m := chunkSize.FindSubmatch(line)
		if m == nil {
			r.anomaly("bad-chunk-size:%.30q", line)
			return &malformedError{reason: "bad chunk size"}
		}
		if m[2] != nil {
			r.anomaly("chunk-ext")
		}
		n, _ := strconv.ParseInt(string(m[1]), 16, 64) // 8 digits fit
		if n == 0 {
			return r.readTrailers(br)
		}
		if err := r.readBody(br, n); err != nil {
			return err
		}
		if err := r.endChunk(br); err != nil {
			return err
		}
	}
}

// endChunk reads the line end that follows a chunk's data.
func (r *Request) endChunk(br *bufio.Reader) error {
	var end [2]byte
	if _, err := io.ReadFull(br, end[:]); err != nil {
		return err
	}
	if end != [2]byte{'\r', '\n'} {
		r.anomaly("bad-chunk-end:%q", end[:])
		return &malformedError{reason: "bad chunk end"}
	}
	return nil
}

// readTrailers reads lines up to the empty one.
func (r *Request) readTrailers(br *bufio.Reader) error {
	for {
		line, err := readUntil(br, "\r\n")
		if err != nil {
			return err
		}
		if len(line) == 0 {
			return nil
		}
		if len(r.Trailers) >= keptLines {
			return &malformedError{reason: "too many trailers"}
		}
		r.Trailers = append(r.Trailers, latin1(line))
	}
}
