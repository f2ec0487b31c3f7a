package front

import (
	"net/http"
	"strconv"
	"strings"

	"golang.org/x/net/http/httpguts"
)

func appendStatus(b []byte, status int) []byte {
	b = append(b, "HTTP/1.1 "...)
	b = strconv.AppendInt(b, int64(status), 10)
	b = append(b, ' ')
	if text := http.StatusText(status); text != "" {
		b = append(b, text...)
	} else {
		b = strconv.AppendInt(append(b, "status code "...), int64(status), 10)
	}
	return append(b, "\r\n"...)
}

func appendLength(b []byte, n int64) []byte {
	return append(strconv.AppendInt(append(b, "Content-Length: "...), n, 10), "\r\n"...)
}

// appendFields appends the fields of h in any order, without those that leave says (nil for
// none) and those whose names are none. What would end a line in a value becomes a space.
func appendFields(b []byte, h http.Header, leave func(name string) bool) []byte {
	for name, values := range h {
		if !validName(name) || leave != nil && leave(name) {
			continue
		}
		b = appendField(b, name, values)
	}
	return b
}

func appendField(b []byte, name string, values []string) []byte {
	for _, value := range values {
		b = append(append(b, name...), ": "...)
		b = append(appendValue(b, trim(value)), "\r\n"...)
	}
	return b
}

func appendValue(b []byte, value string) []byte {
	if strings.IndexByte(value, '\n') < 0 && strings.IndexByte(value, '\r') < 0 {
		return append(b, value...)
	}
	for _, c := range []byte(value) {
		if c == '\n' || c == '\r' {
			c = ' '
		}
		b = append(b, c)
	}
	return b
}

func validName(name string) bool {
	for i := range len(name) {
		if classes[name[i]]&inName == 0 {
			return false
		}
	}
	return name != ""
}

// trim removes what may stand around a value.
func trim(s string) string {
	for s != "" && isSpace(s[0]) {
		s = s[1:]
	}
	for s != "" && isSpace(s[len(s)-1]) {
		s = s[:len(s)-1]
	}
	return s
}

func isSpace(c byte) bool { return c == ' ' || c == '\t' || c == '\n' || c == '\r' }

// firstOf is the first of the values of a field, or "".
func firstOf(values []string) string {
	if len(values) > 0 {
		return values[0]
	}
	return ""
}

// saysClose reports whether Connection has the option close.
func saysClose(values []string) bool {
	return len(values) > 0 && httpguts.HeaderValuesContainsToken(values, "close")
}

// trailerAllowed reports whether a field may come behind the body (RFC 9110 section
// 6.5.1): nothing about framing, routing or credentials.
func trailerAllowed(name string) bool { return httpguts.ValidTrailerHeader(name) }

// bodyAllowed reports whether an answer may have a body (RFC 9110 section 6.4.1).
func bodyAllowed(status int) bool {
	return status >= 200 && status != http.StatusNoContent && status != http.StatusNotModified
}
