package http1

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"net/http"
	"net/textproto"
	"slices"
	"strconv"
	"strings"

	"github.com/keywarden/keywarden/pkg/gateway/upstream/http1/text"
	"github.com/keywarden/keywarden/pkg/header"
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
// TransferEncoding, and Close, as [http.ReadResponse] has them. Names and values of fields are
// parts of head and share its memory.
func (a *answer) parseHead(head string, r *http.Request) error {
	line, rest, err := cutLine(head)
	if err != nil {
		return err
	}
	a.Request = r
	if err := parseStatus(line, &a.Response); err != nil {
		return err
	}
	fields := a.space[:0]
	for {
		if line, rest, err = cutLine(rest); err != nil {
			return err
		}
		if line == "" {
			return a.frame(fields)
		}
		name, value, err := parseField(line)
		if err != nil {
			return err
		}
		fields = append(fields, header.Field{Name: name, Value: value})
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
	if code[0] < '1' || code[0] > '9' || !isDigit(code[1]) || !isDigit(code[2]) || len(line) > 12 && line[12] != ' ' || !text.IsPlain(line[12:]) {
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
	if name = text.Canonical(line[:at]); name == "" {
		return "", "", malformed("a field without a name")
	}
	if value = line[at+1:]; !text.IsPlain(value) {
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
// takes a part of one answer for the next. The other fields are left in a.fields.
func (a *answer) frame(fields header.List) error {
	resp, length, coded := &a.Response, int64(-1), false
	resp.Close = resp.ProtoMinor == 0
	kept := fields[:0]
	for _, f := range fields {
		switch f.Name {
		case fieldContentLength:
			n, err := contentLength(f.Value)
			if err != nil {
				return err
			}
			if length >= 0 { // the same several times
				if kept.Get(fieldContentLength) != f.Value {
					return malformed("two lengths")
				}
				continue
			}
			length = n
		case fieldTransferEncoding:
			switch {
			case coded || !strings.EqualFold(f.Value, "chunked"):
				return malformed("a transfer coding other than chunked")
			case resp.ProtoMinor == 0:
				return malformed("a transfer coding in HTTP/1.0")
			}
			coded = true
			continue
		case "Connection":
			resp.Close = resp.Close || closes(f.Value)
		}
		kept = append(kept, f)
	}
	if coded {
		if length >= 0 {
			return malformed("both a length and a transfer coding")
		}
		a.coding[0] = "chunked"
		resp.TransferEncoding = a.coding[:]
		kept = announced(resp, kept)
	}
	a.fields = kept
	switch resp.ContentLength = length; {
	case resp.Request.Method == http.MethodHead: // that of the body there would have been
	case bodyless(resp):
		resp.ContentLength = 0
	case length < 0 && !coded:
		resp.Close = true // the body goes on until the connection ends
	}
	return nil
}

// bodyless reports whether an answer has no body, whatever its header says of one.
func bodyless(resp *http.Response) bool {
	return resp.StatusCode < http.StatusOK || resp.StatusCode == http.StatusNoContent || resp.StatusCode == http.StatusNotModified ||
		resp.Request.Method == http.MethodHead
}

// closes reports whether the field Connection says that the connection ends with the
// answer (RFC 9112 section 9.3).
func closes(value string) bool {
	for option := range strings.SplitSeq(value, ",") {
		if strings.EqualFold(textproto.TrimString(option), "close") {
			return true
		}
	}
	return false
}

// contentLength reads the field of that name.
func contentLength(value string) (int64, error) {
	if value == "" || !isDigit(value[0]) { // ParseInt takes a sign
		return 0, malformed("no length")
	}
	n, err := strconv.ParseInt(value, 10, 64)
	if err != nil {
		return 0, malformed("no length")
	}
	return n, nil
}

// announced moves the names of trailers that are to come from the header to where they
// will be, and returns the rest of the header.
func announced(resp *http.Response, fields header.List) header.List {
	fields.Tokens(fieldTrailer, func(name string) bool {
		switch name = textproto.CanonicalMIMEHeaderKey(name); name {
		case fieldTransferEncoding, fieldTrailer, fieldContentLength:
			return true
		}
		if resp.Trailer == nil {
			resp.Trailer = http.Header{}
		}
		resp.Trailer[name] = nil
		return true
	})
	return slices.DeleteFunc(fields, func(f header.Field) bool { return f.Name == fieldTrailer })
}
