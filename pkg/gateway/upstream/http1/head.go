package http1

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"net/http"
	"net/textproto"
	"strconv"
	"strings"
)

// errMalformed is an answer that is not HTTP/1.1 as RFC 9112 has it. What of it was
// meant cannot be known, so nothing of it is passed on.
var errMalformed = errors.New("http1: malformed answer")

func malformed(what string) error { return fmt.Errorf("%w: %s", errMalformed, what) }

// readHead reads the head of a message, of most bytes.
func readHead(in *bufio.Reader, most int) (string, error) {
	here, _ := in.Peek(in.Buffered())
	end := bytes.Index(here, []byte("\r\n\r\n")) + 4
	if end < 4 { // not all of it is here, or it has no lines at all
		head, err := readLines(in, most)
		return string(head), err
	}
	if end > most {
		return "", errHeaderTooLarge
	}
	head := string(here[:end])
	_, err := in.Discard(end)
	return head, err
}

// readLines reads lines up to the empty one, of most bytes together. A line ends with
// CRLF: a lone LF is an end to some readers and not to others, and RFC 9112 section 2.2
// lets a recipient refuse it.
func readLines(in *bufio.Reader, most int) ([]byte, error) {
	var head []byte
	for {
		start := len(head)
		for full := true; full; {
			piece, err := in.ReadSlice('\n')
			if len(head)+len(piece) > most {
				return head, errHeaderTooLarge
			}
			head = append(head, piece...)
			if full = errors.Is(err, bufio.ErrBufferFull); err != nil && !full {
				return head, err
			}
		}
		switch line := head[start:]; {
		case len(line) < 2 || line[len(line)-2] != '\r':
			return head, malformed("a line that ends without CR")
		case len(line) == 2:
			return head, nil
		}
	}
}

// parseHead makes an answer of its head. How its body is framed is in ContentLength and
// TransferEncoding, and Close, as [http.ReadResponse] has them. Header values are parts
// of head and share its memory.
func (a *answer) parseHead(head string, r *http.Request) error {
	line, rest, err := cutLine(head)
	if err != nil {
		return err
	}
	a.Request = r
	if err := parseStatus(line, &a.Response); err != nil {
		return err
	}
	lines := strings.Count(rest, "\n") - 1
	h := make(http.Header, lines)
	a.Header = h
	values := a.values[:0]
	if lines > len(a.values) {
		values = make([]string, 0, lines)
	}
	for {
		if line, rest, err = cutLine(rest); err != nil {
			return err
		}
		if line == "" {
			return a.frame()
		}
		name, value, err := parseField(line)
		if err != nil {
			return err
		}
		if before := h[name]; before != nil {
			h[name] = append(before, value)
			continue
		}
		values = append(values, value)
		h[name] = values[len(values)-1 : len(values) : len(values)]
	}
}

// cutLine returns the first line of text, which has one, and what is behind it.
func cutLine(text string) (line, rest string, err error) {
	at := strings.IndexByte(text, '\r')
	if at < 0 || at+1 >= len(text) || text[at+1] != '\n' {
		return "", "", malformed("a line that ends without CR and LF")
	}
	return text[:at], text[at+2:], nil // an LF in between is a control character
}

// parseStatus reads a status line (RFC 9112 section 4). The reason may be missing, and
// so may the space before it, as many servers have it.
func parseStatus(line string, resp *http.Response) error {
	const version = "HTTP/1."
	if len(line) < len("HTTP/1.1 200") || line[:len(version)] != version || line[8] != ' ' {
		return malformed("no status line")
	}
	switch line[7] {
	case '0':
		resp.Proto, resp.ProtoMinor = "HTTP/1.0", 0
	case '1':
		resp.Proto, resp.ProtoMinor = "HTTP/1.1", 1
	default:
		return malformed("another version of HTTP")
	}
	resp.ProtoMajor = 1
	code := line[9:12]
	if code[0] < '1' || code[0] > '9' || !isDigit(code[1]) || !isDigit(code[2]) || len(line) > 12 && line[12] != ' ' || !plainText(line[12:]) {
		return malformed("no status")
	}
	resp.Status = line[9:]
	resp.StatusCode = int(code[0]-'0')*100 + int(code[1]-'0')*10 + int(code[2]-'0')
	return nil
}

func isDigit(c byte) bool { return '0' <= c && c <= '9' }

// parseField reads a field line (RFC 9112 section 5). A space before the colon, or at
// the beginning, which once continued the line before, is refused.
func parseField(line string) (name, value string, err error) {
	at := strings.IndexByte(line, ':')
	if at < 0 {
		return "", "", malformed("a field without a name")
	}
	if name = canonicalName(line[:at]); name == "" {
		return "", "", malformed("a field without a name")
	}
	if value = line[at+1:]; !plainText(value) {
		return "", "", malformed("a field value with a control character")
	}
	for value != "" && blank(value[0]) {
		value = value[1:]
	}
	for value != "" && blank(value[len(value)-1]) {
		value = value[:len(value)-1]
	}
	return name, value, nil
}

// frame finds out how the body is framed (RFC 9112 section 6.3). Where two fields say
// two things, or one says something unknown, nothing is guessed: who gets it wrong
// takes a part of one answer for the next.
func (a *answer) frame() error {
	resp, h := &a.Response, a.Header
	resp.Close = closes(resp)
	lengths, codings := h["Content-Length"], h["Transfer-Encoding"]
	length, err := contentLength(lengths)
	if err != nil {
		return err
	}
	if len(lengths) > 1 { // the same several times
		h["Content-Length"] = lengths[:1]
	}
	if codings != nil {
		switch {
		case len(codings) != 1 || !strings.EqualFold(codings[0], "chunked"):
			return malformed("a transfer coding other than chunked")
		case resp.ProtoMinor == 0:
			return malformed("a transfer coding in HTTP/1.0")
		case lengths != nil:
			return malformed("both a length and a transfer coding")
		}
		delete(h, "Transfer-Encoding")
		a.coding[0] = "chunked"
		resp.TransferEncoding = a.coding[:]
		announced(resp)
	}
	switch resp.ContentLength = length; {
	case resp.Request.Method == http.MethodHead: // that of the body there would have been
	case bodyless(resp):
		resp.ContentLength = 0
	case length < 0 && codings == nil:
		resp.Close = true // the body goes on until the connection ends
	}
	return nil
}

// bodyless reports whether an answer has no body, whatever its header says of one.
func bodyless(resp *http.Response) bool {
	return resp.StatusCode < http.StatusOK || resp.StatusCode == http.StatusNoContent || resp.StatusCode == http.StatusNotModified ||
		resp.Request.Method == http.MethodHead
}

// closes reports whether the connection ends with the answer (RFC 9112 section 9.3).
func closes(resp *http.Response) bool {
	keep := resp.ProtoMinor > 0
	for _, value := range resp.Header["Connection"] {
		for option := range strings.SplitSeq(value, ",") {
			if strings.EqualFold(textproto.TrimString(option), "close") {
				keep = false
			}
		}
	}
	return !keep
}

// contentLength is -1 without the field.
func contentLength(values []string) (int64, error) {
	if len(values) == 0 {
		return -1, nil
	}
	for _, other := range values[1:] {
		if other != values[0] {
			return 0, malformed("two lengths")
		}
	}
	if values[0] == "" || !isDigit(values[0][0]) { // ParseInt takes a sign
		return 0, malformed("no length")
	}
	n, err := strconv.ParseInt(values[0], 10, 64)
	if err != nil {
		return 0, malformed("no length")
	}
	return n, nil
}

// announced moves the names of trailers that are to come from the header to where they
// will be.
func announced(resp *http.Response) {
	for _, value := range resp.Header["Trailer"] {
		for name := range strings.SplitSeq(value, ",") {
			name = textproto.CanonicalMIMEHeaderKey(textproto.TrimString(name))
			switch name {
			case "", "Transfer-Encoding", "Trailer", "Content-Length":
				continue
			}
			if resp.Trailer == nil {
				resp.Trailer = http.Header{}
			}
			resp.Trailer[name] = nil
		}
	}
	delete(resp.Header, "Trailer")
}
