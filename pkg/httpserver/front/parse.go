package front

import (
	"bytes"
	"net/http"
)

const (
	// maxHead is the longest head of a plain request, in bytes. Places in it fit 16 bits.
	maxHead = 16 << 10

	// maxFields is how many fields a plain request has at most.
	maxFields = 100

	// maxBody is the longest body of a plain request, in bytes: all of it is there
	// before the handler is.
	maxBody = 16 << 10
)

// verdict is what is to be done with the bytes that are there.
type verdict uint8

const (
	more    verdict = iota // plain so far, and not complete
	plain                  // a whole head that net/http understands in the same way
	unusual                // for net/http to accept or refuse
)

// span is a part of a head of at most maxHead bytes: from, inclusive, to, exclusive.
type span struct{ from, to uint16 }

// field is one line of the header.
type field struct{ name, value span }

// head is what was found in a plain request. It has offsets alone, so that it can be
// made without an allocation before it is known whether it will be wanted.
type head struct {
	method string // a constant of net/http
	target span
	host   span
	length int // of the whole head, in bytes, with the empty line
	body   int // Content-Length; 0 without
	close  bool
	count  int
	fields [maxFields]field

	hosts, lengths, connections int // how often these were seen
}

// fieldKind is what a field means for the framing or the connection.
type fieldKind uint8

const (
	other fieldKind = iota
	hostField
	lengthField
	connectionField
	refusedField // makes the request unusual
)

// parse looks whether b begins with the head of a plain request, and describes it in h
// if it does. It accepts a subset of RFC 9112 in which nothing can be read in two ways:
// what is missing from that subset is not wrong, but it is somebody else's to judge.
//
// Lines are judged as they become complete, so that net/http can refuse a bad one at
// once instead of when the client has given up.
func (h *head) parse(b []byte) verdict {
	h.count, h.body, h.close, h.hosts, h.lengths, h.connections = 0, 0, false, 0, 0, 0
	end, v := line(b, 0)
	if v != plain {
		return v
	}
	if !h.requestLine(b[:end]) {
		return unusual
	}
	for at := end + 2; ; at = end + 2 {
		if end, v = line(b, at); v != plain {
			return v
		}
		if end == at {
			h.length = end + 2
			return h.whole()
		}
		if !h.fieldLine(b, at, end) {
			return unusual
		}
	}
}

// line finds the end of the line that begins at at: the place of its CR. A line that
// ends otherwise than with CRLF is unusual, and so is one beyond the longest head. A CR
// elsewhere is none of the bytes that may stand there.
func line(b []byte, at int) (end int, v verdict) {
	n := bytes.IndexByte(b[at:], '\n')
	if n < 0 {
		return 0, more
	}
	if n == 0 || b[at+n-1] != '\r' || at+n >= maxHead {
		return 0, unusual
	}
	return at + n - 1, plain
}

// requestLine takes "METHOD SP target SP HTTP/1.1".
func (h *head) requestLine(b []byte) bool {
	const version = " HTTP/1.1"
	if len(b) <= len(version) || string(b[len(b)-len(version):]) != version {
		return false
	}
	b = b[:len(b)-len(version)]
	n := bytes.IndexByte(b, ' ')
	if n < 0 {
		return false
	}
	if h.method = plainMethod(b[:n]); h.method == "" {
		return false
	}
	target := b[n+1:]
	if len(target) == 0 || target[0] != '/' {
		return false
	}
	for _, c := range target {
		if classes[c]&inTarget == 0 {
			return false
		}
	}
	h.target = span{uint16(n + 1), uint16(len(b))}
	return true
}

func plainMethod(b []byte) string {
	switch string(b) {
	case http.MethodGet:
		return http.MethodGet
	case http.MethodPost:
		return http.MethodPost
	case http.MethodPut:
		return http.MethodPut
	case http.MethodDelete:
		return http.MethodDelete
	case http.MethodPatch:
		return http.MethodPatch
	case http.MethodHead:
		return http.MethodHead
	case http.MethodOptions:
		return http.MethodOptions
	}
	return ""
}

// fieldLine takes "name: value", with spaces around the value alone.
func (h *head) fieldLine(b []byte, at, end int) bool {
	colon := at
	for colon < end && classes[b[colon]]&inName != 0 {
		colon++
	}
	if colon == at || colon == end || b[colon] != ':' || h.count == maxFields {
		return false
	}
	from, to := colon+1, end
	for from < to && b[from] == ' ' {
		from++
	}
	for to > from && b[to-1] == ' ' {
		to--
	}
	for _, c := range b[from:to] {
		if classes[c]&inValue == 0 {
			return false
		}
	}
	h.fields[h.count] = field{span{uint16(at), uint16(colon)}, span{uint16(from), uint16(to)}}
	h.count++
	return h.note(kindOf(b[at:colon]), b, from, to)
}

// note keeps what a field says about the framing and the connection.
func (h *head) note(kind fieldKind, b []byte, from, to int) bool {
	switch kind {
	case other:
		return true
	case hostField:
		h.hosts++
		h.host = span{uint16(from), uint16(to)}
		return plainHost(b[from:to])
	case lengthField:
		h.lengths++
		return h.contentLength(b[from:to])
	case connectionField:
		h.connections++
		h.close = foldedEqual(b[from:to], "close")
		return h.close || foldedEqual(b[from:to], "keep-alive")
	default:
		return false
	}
}

// whole judges a head that has ended: RFC 9112 section 3.2 wants one Host. A field that
// came twice is for net/http to refuse or to unite.
func (h *head) whole() verdict {
	if h.hosts != 1 || h.lengths > 1 || h.connections > 1 {
		return unusual
	}
	return plain
}

// plainHost takes names and addresses with or without a port, and no more.
func plainHost(b []byte) bool {
	for _, c := range b {
		if classes[c]&inHost == 0 {
			return false
		}
	}
	return len(b) > 0
}

// contentLength takes digits that mean the same to everybody: none in front that does
// not count, and none too many.
func (h *head) contentLength(b []byte) bool {
	if len(b) == 0 || len(b) > len("16384") || b[0] == '0' && len(b) > 1 {
		return false
	}
	n := 0
	for _, c := range b {
		if c < '0' || c > '9' {
			return false
		}
		n = 10*n + int(c-'0')
	}
	h.body = n
	return n <= maxBody
}

// kindOf knows the fields that matter for the framing or the connection, in any case. A
// request with one that asks for something (an upgrade, an interim answer, trailers) is
// unusual, and so is one with Pragma, of which net/http makes a Cache-Control.
func kindOf(name []byte) fieldKind {
	switch len(name) {
	case len("te"):
		return refusedIf(name, "te")
	case len("host"):
		if foldedEqual(name, "host") {
			return hostField
		}
	case len("expect"):
		return refusedIf(name, "expect", "pragma")
	case len("trailer"):
		return refusedIf(name, "trailer", "upgrade")
	case len("connection"):
		if foldedEqual(name, "connection") {
			return connectionField
		}
		return refusedIf(name, "keep-alive")
	case len("content-length"):
		if foldedEqual(name, "content-length") {
			return lengthField
		}
		return refusedIf(name, "http2-settings")
	case len("proxy-connection"):
		return refusedIf(name, "proxy-connection")
	case len("transfer-encoding"):
		return refusedIf(name, "transfer-encoding")
	}
	return other
}

func refusedIf(name []byte, names ...string) fieldKind {
	for _, n := range names {
		if foldedEqual(name, n) {
			return refusedField
		}
	}
	return other
}

// foldedEqual compares b, which has visible ASCII alone, with s, which has small
// letters, digits and hyphens alone: only a letter becomes another one of these by the
// bit of 0x20.
func foldedEqual(b []byte, s string) bool {
	if len(b) != len(s) {
		return false
	}
	for i, c := range b {
		if c|0x20 != s[i] {
			return false
		}
	}
	return true
}

// Where a byte may stand.
const (
	inName   = 1 << iota // a tchar of RFC 9110 section 5.6.2
	inTarget             // visible ASCII without '#'
	inValue              // visible ASCII, space, obs-text
	inHost               // of a name or an address, or of a port
	inPath               // of a path that means itself, byte by byte
)

// classes says where each byte may stand.
var classes = makeClasses()

func makeClasses() (t [256]uint8) {
	for c := 0x20; c < 0x100; c++ {
		if c != 0x7f {
			t[c] |= inValue
		}
		if c > 0x20 && c < 0x7f && c != '#' {
			t[c] |= inTarget
		}
	}
	const alphanumeric = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
	for set, more := range map[uint8]string{
		inName: "!#$%&'*+-.^_`|~",
		inHost: "-._:[]",
		inPath: "-._~/$&+,:;=@",
	} {
		for _, c := range []byte(alphanumeric + more) {
			t[c] |= set
		}
	}
	return t
}
