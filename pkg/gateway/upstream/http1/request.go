package http1

import (
	"errors"
	"io"
	"net/http"
	"slices"
	"strconv"

	"github.com/keywarden/keywarden/pkg/gateway/upstream/http1/text"
	"github.com/keywarden/keywarden/pkg/header"
)

// MaxBody is the most of a body, in bytes, that is read as a whole before anything is
// sent. A longer one is sent while the answer is awaited.
const MaxBody = 16 << 10

// ErrUnsuitable is a request that is not a plain one. Nothing was sent, and nothing of its
// body was read.
var ErrUnsuitable = errors.New("http1: not a plain request")

func hasBody(r *http.Request) bool { return r.Body != nil && r.Body != http.NoBody }

// safe reports whether a method can be sent again, whatever became of the first.
func safe(method string) bool {
	return method == http.MethodGet || method == http.MethodHead || method == http.MethodOptions
}

// errBodyLength is a body that is longer than it was said to be.
var errBodyLength = errors.New("http1: the body is longer than its length")

// appendBody adds the body of r, which is to be sent as a whole, and closes it.
func appendBody(b []byte, r *http.Request) ([]byte, error) {
	defer func() { _ = r.Body.Close() }()
	length := int(r.ContentLength)
	b = slices.Grow(b, length+1)
	end := len(b) + length
	if _, err := io.ReadFull(r.Body, b[len(b):end]); err != nil {
		return b, err
	}
	return b[:end], atEnd(r.Body, b[end:end+1])
}

// atEnd asks a body for its end, so that everybody knows of it.
func atEnd(body io.Reader, space []byte) error {
	switch more, err := body.Read(space); {
	case more > 0:
		return errBodyLength
	case err != nil && !errors.Is(err, io.EOF):
		return err
	}
	return nil
}

// appendRequest writes the header of a plain request. It reports whether r is one:
// without a body, or with one of known length; without an upgrade, or anything else that
// takes more than one line to write; and with nothing in it that could be read in
// another way than it is meant.
func appendRequest(b []byte, r *http.Request, list header.List) ([]byte, bool) {
	switch r.Method {
	case http.MethodGet, http.MethodHead, http.MethodOptions, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete:
	default:
		return b, false
	}
	if r.Close || len(r.TransferEncoding) > 0 || len(r.Trailer) > 0 || r.ContentLength < 0 || (r.ContentLength > 0) != hasBody(r) {
		return b, false
	}
	host := r.Host
	if host == "" {
		host = r.URL.Host
	}
	if !plainHost(host) {
		return b, false
	}
	b = append(b, r.Method...)
	b = append(b, ' ')
	b, ok := appendTarget(b, r)
	if !ok {
		return b, false
	}
	b = append(b, " HTTP/1.1\r\nHost: "...)
	b = append(b, host...)
	b = append(b, "\r\n"...)
	if list != nil {
		b, ok = appendFields(b, list)
	} else {
		b, ok = appendHeader(b, r.Header)
	}
	if !ok {
		return b, false
	}
	if r.ContentLength > 0 || mayHaveBody(r.Method) {
		b = append(b, fieldContentLength+": "...)
		b = strconv.AppendInt(b, r.ContentLength, 10)
		b = append(b, "\r\n"...)
	}
	return append(b, "\r\n"...), true
}

// Names of fields that frame a message.
const (
	fieldContentLength    = "Content-Length"
	fieldTransferEncoding = "Transfer-Encoding"
	fieldTrailer          = "Trailer"
)

// mayHaveBody reports whether a length of zero is to be said (RFC 9110 section 8.6).
func mayHaveBody(method string) bool {
	return method == http.MethodPost || method == http.MethodPut || method == http.MethodPatch
}

// plainHost accepts names and addresses with a port, which need no encoding.
func plainHost(host string) bool {
	for i := range len(host) {
		c := host[i]
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == '.', c == '-', c == '_', c == ':', c == '[', c == ']':
		default:
			return false
		}
	}
	return host != ""
}

// appendTarget writes what [url.URL.RequestURI] returns, and accepts it when it is printed
// ASCII and begins with a slash.
func appendTarget(b []byte, r *http.Request) ([]byte, bool) {
	if r.URL.Opaque != "" {
		return b, false
	}
	path := r.URL.EscapedPath()
	if path == "" {
		path = "/"
	}
	if path[0] != '/' || !printed(path) || !printed(r.URL.RawQuery) {
		return b, false
	}
	b = append(b, path...)
	if r.URL.ForceQuery || r.URL.RawQuery != "" {
		b = append(b, '?')
		b = append(b, r.URL.RawQuery...)
	}
	return b, true
}

func printed(s string) bool {
	for i := range len(s) {
		if s[i] <= ' ' || s[i] >= 0x7f {
			return false
		}
	}
	return true
}

// appendHeader refuses fields that say something about the connection or about a body,
// and everything that is no token or no field value of RFC 9110 sections 5.1 and 5.5.
func appendHeader(b []byte, h http.Header) ([]byte, bool) {
	for name, values := range h {
		switch name {
		case fieldContentLength:
			continue // written from what is known
		case "User-Agent":
			// net/http takes an empty one for the wish to send none.
			if len(values) == 0 || values[0] == "" {
				continue
			}
		}
		if !sendable(name) {
			return b, false
		}
		for _, v := range values {
			if !plainValue(v) {
				return b, false
			}
			b = appendField(b, name, v)
		}
	}
	return b, true
}

// sendable reports whether a name, which is in canonical form, is one, and of a field that
// is not about the connection or the framing.
func sendable(name string) bool {
	switch name {
	case "Connection", "Upgrade", "Expect", "Te", "Trailer", "Transfer-Encoding", "Keep-Alive", "Proxy-Connection", "Host":
		return false
	}
	return text.IsToken(name)
}

func appendField(b []byte, name, value string) []byte {
	b = append(append(b, name...), ": "...)
	return append(append(b, value...), "\r\n"...)
}

// plainValue reports whether a value arrives as it is: net/http trims blanks around one,
// and so does whoever reads it.
func plainValue(v string) bool {
	return v == "" || !blank(v[0]) && !blank(v[len(v)-1]) && text.IsPlain(v)
}

func blank(c byte) bool { return c == ' ' || c == '\t' }
