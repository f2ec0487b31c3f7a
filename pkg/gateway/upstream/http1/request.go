package http1

import (
	"net/http"
	"strings"
)

// Suits reports whether a request is a plain one: safe by its method, so that it
// can be sent again when an idle connection turns out to be closed; without a
// body, an upgrade, or anything else that takes more than one line to write; and
// with nothing in it that could be read in another way than it is meant.
func Suits(r *http.Request) bool {
	switch r.Method {
	case http.MethodGet, http.MethodHead, http.MethodOptions:
	default:
		return false
	}
	if r.Body != nil && r.Body != http.NoBody || r.ContentLength != 0 || r.Close || len(r.TransferEncoding) > 0 || len(r.Trailer) > 0 ||
		r.URL.Opaque != "" {
		return false
	}
	return plainHost(host(r)) && plainTarget(r.URL.RequestURI()) && plainHeader(r.Header)
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
		case "Connection", "Upgrade", "Expect", "Te", "Trailer", "Transfer-Encoding", "Content-Length", "Keep-Alive", "Proxy-Connection", "Host":
			return false
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
	for i := range len(v) {
		if c := v[i]; c < ' ' && c != '\t' || c == 0x7f {
			return false
		}
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
		if name == "User-Agent" && (len(values) == 0 || values[0] == "") {
			continue
		}
		for _, v := range values {
			b = append(b, name...)
			b = append(b, ": "...)
			b = append(b, v...)
			b = append(b, "\r\n"...)
		}
	}
	return append(b, "\r\n"...)
}
