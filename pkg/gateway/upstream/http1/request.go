package http1

import (
	"errors"
	"io"
	"net/http"
	"strconv"
	"strings"
)

// MaxBody is the most of a body, in bytes, with which a request is plain: it is read as
// a whole before anything is sent, so that the answer need not be awaited meanwhile.
const MaxBody = 16 << 10

// Suits reports whether a request is a plain one: without a body or with a small one of
// known length; without an upgrade, or anything else that takes more than one line to
// write; and with nothing in it that could be read in another way than it is meant.
func Suits(r *http.Request) bool {
	switch r.Method {
	case http.MethodGet, http.MethodHead, http.MethodOptions, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete:
	default:
		return false
	}
	if r.Close || len(r.TransferEncoding) > 0 || len(r.Trailer) > 0 || r.URL.Opaque != "" || r.ContentLength < 0 || r.ContentLength > MaxBody ||
		(r.ContentLength > 0) != hasBody(r) {
		return false
	}
	return plainHost(host(r)) && plainTarget(r.URL.RequestURI()) && plainHeader(r.Header)
}

func hasBody(r *http.Request) bool { return r.Body != nil && r.Body != http.NoBody }

// safe reports whether a method can be sent again, whatever became of the first.
func safe(method string) bool {
	return method == http.MethodGet || method == http.MethodHead || method == http.MethodOptions
}

// errBodyLength is a body that is longer than it was said to be.
var errBodyLength = errors.New("http1: the body is longer than its length")

// readBody reads the body of r into space, which is longer.
func readBody(r *http.Request, space []byte) ([]byte, error) {
	defer func() { _ = r.Body.Close() }()
	n, err := io.ReadFull(r.Body, space[:r.ContentLength])
	if err != nil {
		return nil, err
	}
	switch more, err := r.Body.Read(space[n : n+1]); { // its end, so that everybody knows of it
	case more > 0:
		return nil, errBodyLength
	case err != nil && !errors.Is(err, io.EOF):
		return nil, err
	}
	return space[:n], nil
}

func host(r *http.Request) string {
	if r.Host != "" {
		return r.Host
	}
	return r.URL.Host
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

// plainTarget accepts what is printed ASCII and begins with a slash.
func plainTarget(target string) bool {
	if target == "" || target[0] != '/' {
		return false
	}
	for i := range len(target) {
		if target[i] <= ' ' || target[i] >= 0x7f {
			return false
		}
	}
	return true
}

// plainHeader refuses fields that say something about the connection or about a
// body, and everything that is no token or no field value of RFC 9110 sections
// 5.1 and 5.5.
func plainHeader(h http.Header) bool {
	for name, values := range h {
		if !plainName(name) {
			return false
		}
		switch name {
		case "Connection", "Upgrade", "Expect", "Te", "Trailer", "Transfer-Encoding", "Keep-Alive", "Proxy-Connection", "Host":
			return false
		case fieldContentLength:
			continue // written from what is known
		}
		for _, v := range values {
			if !plainValue(v) {
				return false
			}
		}
	}
	return true
}

func plainName(name string) bool {
	for i := range len(name) {
		c := name[i]
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == '-':
		case strings.IndexByte("!#$%&'*+.^_`|~", c) >= 0:
		default:
			return false
		}
	}
	return name != ""
}

func plainValue(v string) bool {
	if !plainText(v) {
		return false
	}
	// net/http trims such values; so does whoever reads them.
	return v == "" || v[0] != ' ' && v[0] != '\t' && v[len(v)-1] != ' ' && v[len(v)-1] != '\t'
}

// appendRequest writes the header of a request that suits.
func appendRequest(b []byte, r *http.Request) []byte {
	b = append(b, r.Method...)
	b = append(b, ' ')
	b = append(b, r.URL.RequestURI()...)
	b = append(b, " HTTP/1.1\r\nHost: "...)
	b = append(b, host(r)...)
	b = append(b, "\r\n"...)
	for name, values := range r.Header {
		// net/http takes an empty User-Agent for the wish to send none.
		if name == "User-Agent" && (len(values) == 0 || values[0] == "") || name == fieldContentLength {
			continue
		}
		for _, v := range values {
			b = append(b, name...)
			b = append(b, ": "...)
			b = append(b, v...)
			b = append(b, "\r\n"...)
		}
	}
	if r.ContentLength > 0 || mayHaveBody(r.Method) {
		b = append(b, fieldContentLength+": "...)
		b = strconv.AppendInt(b, r.ContentLength, 10)
		b = append(b, "\r\n"...)
	}
	return append(b, "\r\n"...)
}

const fieldContentLength = "Content-Length"

// mayHaveBody reports whether a length of zero is to be said (RFC 9110 section 8.6).
func mayHaveBody(method string) bool {
	return method == http.MethodPost || method == http.MethodPut || method == http.MethodPatch
}
