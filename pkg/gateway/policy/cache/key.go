package cache

import (
	"crypto/sha256"
	"encoding/binary"
	"net/http"
	"strings"

	"github.com/keywarden/keywarden/pkg/access"
	"github.com/keywarden/keywarden/pkg/header"
	"github.com/keywarden/keywarden/pkg/httpcache"
	"github.com/keywarden/keywarden/pkg/reqctx"
)

// question is a request, as the cache sees it.
type question struct {
	info       *reqctx.Info
	directives httpcache.Directives
	rules      httpcache.Rules
	key        httpcache.Key
	alone      bool // the request has credentials that are not in the key
}

// appendText appends s with its length, so that no two lists of texts are the same
// bytes.
func appendText(b []byte, s string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

// keyBegin is the part of the key that is the same for all requests of the route.
func (s *step) keyBegin() []byte {
	b := appendText(nil, "2 GET") // the version of this form, and the method: HEAD is answered from GET
	b = appendText(b, s.Route)
	b = appendText(b, s.Service)
	b = append(b, boolByte(s.Public))
	for _, name := range s.VaryByHeaders {
		b = appendText(b, name)
	}
	return append(b, 0)
}

func boolByte(b bool) byte {
	if b {
		return 1
	}
	return 0
}

// ask works out the key of a request and what an answer has to say to be kept for
// it. The service is told the Host as it came, so that stands in the key beside its
// canonical form; else one caller could have it write links to another port that
// all others are given.
func (s *step) ask(r *http.Request, space []byte) question {
	q := question{info: reqctx.From(r.Context()), rules: s.rules}
	caller := access.PrincipalFrom(r.Context())
	known := caller != nil
	b := append(space[:0], s.begin...)
	b = appendText(b, q.info.Scheme)
	b = appendText(b, q.info.Host)
	b = appendText(b, r.Host)
	b = appendText(b, r.URL.Path)
	b = appendText(b, r.URL.RawPath)
	b = append(b, boolByte(r.URL.ForceQuery))
	b = appendText(b, r.URL.RawQuery)
	if s.Public {
		caller = nil
	}
	b = appendCaller(b, caller)
	if len(s.VaryByHeaders) > 0 {
		b = httpcache.AppendVariant(b, s.VaryByHeaders, r.Header)
	}
	q.key = httpcache.Key{Entry: sha256.Sum256(b), Resource: httpcache.ResourceOf(q.info.Host, r.URL.Path)}
	q.rules.Need = s.need(r, known)
	q.alone = len(r.Header["Cookie"]) > 0 || !known && q.rules.Need > httpcache.Unsaid
	return q
}

// appendCaller appends everything that the service is told of the caller: when a
// role changes, what was answered to the old one is another's.
func appendCaller(b []byte, p *access.Principal) []byte {
	if p == nil {
		return append(b, 0)
	}
	b = append(b, 1)
	for _, text := range [...]string{string(p.Kind), p.UserID, string(p.Role), p.SessionID, p.KeyID, p.KeyName, p.App} {
		b = appendText(b, text)
	}
	b = binary.AppendUvarint(b, uint64(len(p.Scopes)))
	for _, scope := range p.Scopes {
		b = appendText(b, scope)
	}
	return b
}

// need is what an answer has to say to be kept for the request, and to be given to
// it: what is made for credentials that are not in the key must be for others, too.
// Nobody but the service knows whom a cookie stands for.
func (s *step) need(r *http.Request, known bool) httpcache.Sharing {
	switch {
	case len(r.Header["Cookie"]) > 0, known && s.Public:
		return httpcache.Shared
	case !known && len(r.Header["Authorization"]) > 0:
		return httpcache.Revalidatable
	default:
		return httpcache.Unsaid
	}
}

// variant is the key of the answer that goes by the fields.
func (q *question) variant(names []string, h http.Header) httpcache.Key {
	if len(names) == 0 {
		return q.key
	}
	b := append([]byte("variant"), q.key.Entry[:]...)
	return httpcache.Key{Entry: sha256.Sum256(httpcache.AppendVariant(b, names, h)), Resource: q.key.Resource}
}

// seen reports whether all fields that an answer goes by are seen here: those
// that only the gateway sets are not in the request yet.
func (s *step) seen(names []string) bool {
	for _, name := range names {
		switch lower := strings.ToLower(name); {
		case lower == "x-forwarded-host", lower == "x-forwarded-proto", lower == "x-forwarded-prefix": // in the key
		case strings.HasPrefix(lower, "x-consumer") && !s.Public: // in the key
		case header.Reserved(name), lower == "traceparent", lower == "tracestate":
			return false
		}
	}
	return true
}
