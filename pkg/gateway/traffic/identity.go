package traffic

import (
	"encoding/binary"
	"net/http"
	"net/textproto"
	"strings"

	"github.com/keywarden/keywarden/pkg/access"
	"github.com/keywarden/keywarden/pkg/gateway/balance"
	"github.com/keywarden/keywarden/pkg/reqctx"
)

// Identity is a hash of what requests that are to stay together have in common. A
// request that does not have it goes by its client's address. It does not
// allocate.
type Identity func(r *http.Request, info *reqctx.Info) uint64

// ByClient goes by the address of the client.
func ByClient() Identity {
	return func(_ *http.Request, info *reqctx.Info) uint64 { return client(info) }
}

// ByUser goes by the authenticated user, whatever the credential.
func ByUser() Identity {
	return func(r *http.Request, info *reqctx.Info) uint64 {
		if p := access.PrincipalFrom(r.Context()); p != nil {
			return balance.Hash(p.UserID)
		}
		return client(info)
	}
}

// ByHeader goes by the first value of a header field.
func ByHeader(name string) Identity {
	name = http.CanonicalHeaderKey(name)
	return func(r *http.Request, info *reqctx.Info) uint64 {
		if values := r.Header[name]; len(values) > 0 && values[0] != "" {
			return balance.Hash(values[0])
		}
		return client(info)
	}
}

// ByCookie goes by the value of a cookie.
func ByCookie(name string) Identity {
	return func(r *http.Request, info *reqctx.Info) uint64 {
		if value, ok := cookie(r.Header, name); ok && value != "" {
			return balance.Hash(value)
		}
		return client(info)
	}
}

func client(info *reqctx.Info) uint64 {
	address := info.Client.As16()
	high, low := binary.BigEndian.Uint64(address[:8]), binary.BigEndian.Uint64(address[8:])
	return balance.Mix(balance.Mix(high) ^ low)
}

// cookie is the value of the first cookie of that name. Unlike
// [http.Request.Cookie] it does not read all of them.
func cookie(h http.Header, name string) (value string, ok bool) {
	for _, line := range h["Cookie"] {
		for rest, more := line, true; more; {
			var pair string
			pair, rest, more = strings.Cut(rest, ";")
			key, value, found := strings.Cut(textproto.TrimString(pair), "=")
			if !found || textproto.TrimString(key) != name {
				continue
			}
			if value = textproto.TrimString(value); len(value) > 1 && value[0] == '"' && value[len(value)-1] == '"' {
				value = value[1 : len(value)-1]
			}
			return value, true
		}
	}
	return "", false
}
