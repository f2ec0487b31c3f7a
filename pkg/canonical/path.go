package canonical

import (
	"strings"
	"unicode"
	"unicode/utf8"
)

// Path returns the canonical form of a path as it stands in a request target:
// decoded once, for comparisons, and escaped, for the wire. Both have the same
// number of segments, and escaping never changes what [net/url] decodes.
//
// Normalised are percent-encodings of unreserved characters (decoded), other
// percent-encodings (upper-case digits), and characters that a path may not
// hold but clients send, such as quotes, brackets or letters outside of ASCII
// (encoded). Encoded delimiters like %2C stay encoded: RFC 3986 section 2.2 does
// not make them equal to the plain character.
//
// Refused, with [ErrPath], are: no leading slash, an empty segment other than
// the last, dot segments, a slash in encoded form, backslash, semicolon, number
// sign and control characters in any form, a space, bytes that are not UTF-8,
// and malformed percent-encodings.
func Path(received string) (decoded, escaped string, err error) {
	return form(received, false)
}

// PathWithSlashes is [Path] for routes that take slashes in encoded form: these
// stay what they are, a part of their segment. In decoded each is [EncodedSlash],
// so that decoded and escaped still have the same number of segments, and nothing
// that goes by segments sees one more; in escaped it is as it was received.
//
// The service may decode them nevertheless. What that makes of the path has to be
// canonical as well: no dot segment and no empty one may stand beside an encoded
// slash, and no percent-encoding that is encoded itself may stand in such a path,
// so that decoded has one reading only.
func PathWithSlashes(received string) (decoded, escaped string, err error) {
	return form(received, true)
}

// EncodedSlash is what stands in the decoded form for a slash that was encoded.
const EncodedSlash = "%2F"

// DecodeSlashes returns a decoded path as a service reads it that takes encoded
// slashes for slashes.
func DecodeSlashes(decoded string) string { return strings.ReplaceAll(decoded, EncodedSlash, "/") }

// CountSlashes is the number of encoded slashes in an escaped path.
func CountSlashes(escaped string) int {
	return strings.Count(escaped, "%2F") + strings.Count(escaped, "%2f")
}

func form(received string, slashes bool) (decoded, escaped string, err error) {
	if received == "" || received[0] != '/' {
		return "", "", refused("it does not begin with a slash")
	}
	if isPlain(received) {
		decoded, escaped = received, received
	} else if decoded, escaped, err = recode(received, slashes); err != nil {
		return "", "", err
	}
	reading := decoded
	if slashes && CountSlashes(escaped) > 0 {
		if countEncodings(decoded) > CountSlashes(escaped) {
			return "", "", refused("it holds a percent-encoding that is encoded itself")
		}
		reading = DecodeSlashes(decoded)
	}
	if err := checkSegments(reading); err != nil {
		return "", "", err
	}
	return decoded, escaped, nil
}

// countEncodings counts what reads as a percent-encoding.
func countEncodings(s string) int {
	n := 0
	for i := range len(s) - 2 {
		if s[i] == '%' && isHex(s[i+1]) && isHex(s[i+2]) {
			n++
		}
	}
	return n
}

// Reason is the cause of [ErrPath] and [ErrHost]: why there is no canonical form,
// as the end of a sentence about the path or the host.
type Reason string

// reasonSlash is the one reason that a route can do without.
const reasonSlash Reason = "it holds an encoded slash"

// Error is the reason itself.
func (r Reason) Error() string { return string(r) }

func refused(reason Reason) error {
	return ErrPath.WithDetail("The path of the request is not acceptable: %s.", reason).With(reason)
}

// isPlain reports whether s consists of characters that stay as they are.
func isPlain(s string) bool {
	for i := range len(s) {
		if s[i] != '/' && !isPathChar(s[i]) {
			return false
		}
	}
	return true
}

// recode decodes and escapes byte by byte, but for encoded slashes where they are
// taken.
func recode(received string, slashes bool) (decoded, escaped string, err error) {
	var dec, esc strings.Builder
	dec.Grow(len(received))
	esc.Grow(len(received) + 16)
	for i := 0; i < len(received); i++ {
		c, encoded := received[i], false
		if c == '%' {
			if i+2 >= len(received) || !isHex(received[i+1]) || !isHex(received[i+2]) {
				return "", "", refused("a percent sign is not followed by two hexadecimal digits")
			}
			c, encoded = unhex(received[i+1])<<4|unhex(received[i+2]), true
			i += 2
		}
		if c == '/' && encoded && slashes {
			dec.WriteString(EncodedSlash)
			esc.WriteString(received[i-2 : i+1])
			continue
		}
		if reason := forbidden(c, encoded); reason != "" {
			return "", "", refused(reason)
		}
		dec.WriteByte(c)
		if isUnreserved(c) || !encoded && (c == '/' || isPathChar(c)) {
			esc.WriteByte(c)
		} else {
			esc.WriteByte('%')
			esc.WriteByte(upperHex[c>>4])
			esc.WriteByte(upperHex[c&15])
		}
	}
	if err := checkText(dec.String()); err != nil {
		return "", "", err
	}
	return dec.String(), esc.String(), nil
}

// forbidden says why the byte c is refused, or nothing.
func forbidden(c byte, encoded bool) Reason {
	switch {
	case c < 0x20 || c == 0x7f:
		return "it holds a control character"
	case c == '\\':
		return "it holds a backslash"
	case c == ';':
		return "it holds a semicolon"
	case c == '/' && encoded:
		return reasonSlash
	case c == '#' && !encoded:
		return "it holds a fragment"
	case c == '?' && !encoded: // cannot come from a request; Path has other callers
		return "it holds a query"
	case c == ' ' && !encoded:
		return "it holds a space"
	default:
		return ""
	}
}

// checkText refuses what is not UTF-8, so that no overlong form of a refused
// character passes, and the control characters beyond ASCII.
func checkText(decoded string) error {
	if !utf8.ValidString(decoded) {
		return refused("it is not UTF-8")
	}
	if strings.IndexFunc(decoded, unicode.IsControl) >= 0 {
		return refused("it holds a control character")
	}
	return nil
}

// checkSegments refuses dot segments and empty segments within the path.
func checkSegments(decoded string) error {
	for rest, more := decoded[1:], true; more; {
		var segment string
		segment, rest, more = strings.Cut(rest, "/")
		switch {
		case segment == "." || segment == "..":
			return refused("it holds a dot segment")
		case segment == "" && more:
			return refused("it holds a double slash")
		}
	}
	return nil
}

// isPathChar reports whether c is a pchar of RFC 3986 that may stand in a
// canonical path as it is; the semicolon may not.
func isPathChar(c byte) bool {
	switch c {
	case '!', '$', '&', '\'', '(', ')', '*', '+', ',', '=', ':', '@':
		return true
	}
	return isUnreserved(c)
}

func isUnreserved(c byte) bool {
	switch {
	case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9':
		return true
	}
	return c == '-' || c == '.' || c == '_' || c == '~'
}

const upperHex = "0123456789ABCDEF"

func isHex(c byte) bool {
	return '0' <= c && c <= '9' || 'a' <= c && c <= 'f' || 'A' <= c && c <= 'F'
}

func unhex(c byte) byte {
	switch {
	case c <= '9':
		return c - '0'
	case c <= 'F':
		return c - 'A' + 10
	default:
		return c - 'a' + 10
	}
}
