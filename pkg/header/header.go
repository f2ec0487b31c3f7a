// Package header says what the names of header fields and query parameters mean to
// the gateway: which are names at all, which only the gateway may set, and which
// carry credentials. It also reads media types. It touches no request.
package header

import (
	"bytes"
	"strings"
)

// MaxName bounds the name of a field, in bytes. A longer one is never shown to
// expressions and templates.
const MaxName = 128

// MaxValue bounds a value that the document sets, in bytes.
const MaxValue = 8 << 10

// IsName reports whether s is the name of a field: a token (RFC 9110 section
// 5.6.2) of at most [MaxName] bytes.
func IsName(s string) bool {
	for i := range len(s) {
		switch c := s[i]; {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9':
		case strings.IndexByte("!#$%&'*+-.^_`|~", c) >= 0:
		default:
			return false
		}
	}
	return s != "" && len(s) <= MaxName
}

// IsValue reports whether s can be the value of a field as it is: no control
// characters, no space around it, at most [MaxValue] bytes.
func IsValue(s string) bool {
	for i := range len(s) {
		if s[i] < ' ' || s[i] == 0x7F {
			return false
		}
	}
	return len(s) <= MaxValue && strings.Trim(s, " ") == s
}

// Reserved reports whether a field of a request is one that only the gateway may
// set, or one that would make the service see another request than the one that
// was decided on. It looks at a name the way CGI-like servers do, to which
// X_Consumer and X.Consumer are X-Consumer. Names with an underscore are reserved
// altogether.
func Reserved(name string) bool {
	if name == "" || strings.IndexByte(name, '_') >= 0 {
		return true
	}
	switch fold(name[0]) {
	case 'x':
		return beginsWith(name, "x-consumer") || beginsWith(name, "x-forwarded") ||
			is(name, "x-real-ip") || is(name, "x-api-key") || is(name, "x-request-id") || is(name, "x-mirrored") ||
			is(name, "x-keywarden-identity") ||
			is(name, "x-http-method-override") || is(name, "x-http-method") || is(name, "x-method-override") ||
			is(name, "x-original-url") || is(name, "x-rewrite-url") || is(name, "x-original-host") ||
			is(name, "x-client-ip") || is(name, "x-cluster-client-ip") || is(name, "x-original-forwarded-for") ||
			beginsWith(name, "x-client-cert") || beginsWith(name, "x-ssl-client") || beginsWith(name, "x-tls-client") ||
			beginsWith(name, "x-amzn-mtls") || is(name, "x-arr-clientcert")
	case 'c':
		return beginsWith(name, "client-cert") || // a proxy's word on the client's certificate (RFC 9440), and its older names
			is(name, "client-ip") || beginsWith(name, "cf-connecting-ip") // and on its address, which the gateway tells itself
	case 's':
		return beginsWith(name, "ssl-client")
	case 'f':
		return is(name, "forwarded") || is(name, "fastly-client-ip") || is(name, "fly-client-ip")
	case 'p':
		return is(name, "proxy") // becomes HTTP_PROXY in CGI programs
	case 't':
		return is(name, "te") || // the proxy set it, but trailers of requests are dropped
			is(name, "true-client-ip")
	case 'h':
		return is(name, "http2-settings") // belongs to the upgrade to h2c
	default:
		return false
	}
}

// HopByHop reports whether a field is about the connection or the framing of one
// message rather than about the message (RFC 9110 section 7.6.1), so that nothing
// but the proxy itself may touch it.
func HopByHop(name string) bool {
	for _, folded := range [...]string{
		"connection", "proxy-connection", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade",
		"content-length", "host", "http2-settings", "expect",
	} {
		if is(name, folded) {
			return true
		}
	}
	return false
}

// credentialWords make a name one that carries a credential, wherever they stand
// in it.
var credentialWords = [...][]byte{
	[]byte("authorization"), []byte("cookie"), []byte("password"), []byte("passwd"), []byte("secret"),
	[]byte("credential"), []byte("api-key"), []byte("apikey"), []byte("token"), []byte("signature"),
	[]byte("session-id"), []byte("sessionid"), []byte("client-cert"), []byte("assertion"),
}

// Credential reports whether a field or a query parameter of this name carries a
// credential, as far as a name can tell. Such values are never shown to
// expressions and templates, and so never get into logs and other fields.
func Credential(name string) bool {
	if len(name) > MaxName {
		return true
	}
	var space [MaxName]byte
	folded := space[:len(name)]
	for i := range len(name) {
		folded[i] = fold(name[i])
	}
	switch string(folded) {
	case "key", "sig", "jwt", "auth", "pwd", "pass", "x-auth", "x-session":
		return true
	}
	for _, word := range credentialWords {
		if bytes.Contains(folded, word) {
			return true
		}
	}
	return false
}

// Visible reports whether expressions and templates may see a field of a request:
// it carries no credential, and is none of those whose spoofed value the service
// will never see.
func Visible(name string) bool { return !Reserved(name) && !Credential(name) }

// Same reports whether two names are one to servers that turn names into
// variables, as CGI does.
func Same(a, b string) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range len(a) {
		if fold(a[i]) != fold(b[i]) {
			return false
		}
	}
	return true
}

// Plain reports whether name has only letters, digits and hyphens, so that it is
// the same as another one only when it differs by case.
func Plain(name string) bool {
	for i := range len(name) {
		if name[i] != '-' && fold(name[i]) == '-' {
			return false
		}
	}
	return true
}

func is(name, folded string) bool { return len(name) == len(folded) && beginsWith(name, folded) }

func beginsWith(name, folded string) bool {
	if len(name) < len(folded) {
		return false
	}
	for i := range len(folded) {
		if fold(name[i]) != folded[i] {
			return false
		}
	}
	return true
}

// fold maps letters to lower case and everything but letters and digits to a
// hyphen.
func fold(c byte) byte {
	switch {
	case 'a' <= c && c <= 'z', '0' <= c && c <= '9':
		return c
	case 'A' <= c && c <= 'Z':
		return c + 'a' - 'A'
	default:
		return '-'
	}
}
