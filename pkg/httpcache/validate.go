package httpcache

import (
	"maps"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// Conditional are the conditions of a request that caches answer (RFC 9111 section
// 4.3.2); others are for the service.
var conditional = [...]string{"If-None-Match", "If-Modified-Since"}

// IsConditional reports whether a request has conditions that caches answer.
func IsConditional(h http.Header) bool {
	return len(h[conditional[0]]) > 0 || len(h[conditional[1]]) > 0
}

// SetConditions replaces the conditions in the header of a request by those that
// ask whether o is still what the service would answer; false when o has no
// validator. With a nil o they are removed.
func SetConditions(h http.Header, o *Object) bool {
	for _, name := range conditional {
		delete(h, name)
	}
	if o == nil {
		return false
	}
	tag, modified := o.Header["Etag"], o.Header["Last-Modified"]
	if len(tag) == 1 {
		h["If-None-Match"] = tag
	}
	if len(modified) == 1 {
		h["If-Modified-Since"] = modified
	}
	return o.validators()
}

// Freshen returns o as the 304 of the exchange makes it (RFC 9111 sections 3.2 and
// 4.3.4). keep is false when it may be given once more, but not be kept; same is
// false when the 304 speaks of another answer than o.
func (o *Object) Freshen(x Exchange, rules Rules) (fresh *Object, keep, same bool) {
	if tag := x.Header["Etag"]; len(tag) == 1 && len(o.Header["Etag"]) == 1 && weak(tag[0]) != weak(o.Header["Etag"][0]) {
		return nil, false, false
	}
	d := ParseResponse(x.Header)
	news := kept(x.Header, d.NoCacheFields)
	merged := maps.Clone(o.Header)
	delete(merged, "Date")
	for name, values := range news {
		switch name {
		case "Content-Encoding", "Content-Range", "Content-Length", "Cache-Status":
		default:
			merged[name] = values
		}
	}
	whole := Exchange{
		Method: http.MethodGet, Request: x.Request, Status: o.Status, Header: maps.Clone(merged), Requested: x.Requested, Received: x.Received,
	}
	if age := x.Header["Age"]; len(age) > 0 {
		whole.Header["Age"] = age
	}
	for _, name := range [...]string{"Set-Cookie", "Surrogate-Key", "Cache-Tag"} {
		if values := x.Header[name]; len(values) > 0 {
			whole.Header[name] = values
		}
	}
	fresh = New(whole, rules)
	keep = fresh != nil
	if !keep {
		fresh = &Object{Status: o.Status, Header: merged, Received: x.Received, Age: initialAge(whole), NoCache: true, MustValidate: true, Sharing: o.Sharing, Vary: o.Vary}
	}
	fresh.Body, fresh.Route, fresh.Host, fresh.Path = o.Body, o.Route, o.Host, o.Path
	if len(fresh.Tags) == 0 {
		fresh.Tags = o.Tags
	}
	return fresh, keep, true
}

// weak is an entity tag without its mark of weakness: for caches a weak comparison
// will do (RFC 9110 section 8.8.3.2).
func weak(tag string) string { return strings.TrimPrefix(strings.TrimSpace(tag), "W/") }

// NotModified reports whether the client has what o is, by the conditions of its
// request (RFC 9110 section 13.2.2).
func (o *Object) NotModified(h http.Header) bool {
	if o.Status != http.StatusOK {
		return false
	}
	if lines := h["If-None-Match"]; len(lines) > 0 {
		return o.tagIn(lines)
	}
	since := h["If-Modified-Since"]
	if len(since) != 1 {
		return false
	}
	at, err := http.ParseTime(since[0])
	if err != nil {
		return false
	}
	return !o.modified().After(at)
}

func (o *Object) tagIn(lines []string) bool {
	own := o.Header["Etag"]
	for _, line := range lines {
		for line != "" {
			var tag string
			tag, line, _ = cutItem(line)
			if tag = strings.TrimSpace(tag); tag == "*" || tag != "" && len(own) == 1 && weak(tag) == weak(own[0]) {
				return true
			}
		}
	}
	return false
}

// modified is when o was last modified; when it was made, if it does not say so
// (RFC 9111 section 4.3.2).
func (o *Object) modified() time.Time {
	for _, name := range [...]string{"Last-Modified", "Date"} {
		if values := o.Header[name]; len(values) == 1 {
			if at, err := http.ParseTime(values[0]); err == nil {
				return at
			}
		}
	}
	return o.Received
}

// Part is a range of bytes of a body.
type Part struct{ From, To int } // To is not in it

// Range reads a request for one part of o (RFC 9110 section 14.2). ok is false for
// whatever is better left to the service: several parts, other units, a part that
// is not there, an answer that is not the plain one.
func (o *Object) Range(h http.Header) (p Part, ok bool) {
	lines := h["Range"]
	if o.Status != http.StatusOK || len(lines) != 1 || !o.inRange(h["If-Range"]) {
		return p, false
	}
	spec, ok := strings.CutPrefix(lines[0], "bytes=")
	first, last, dash := strings.Cut(spec, "-")
	if !ok || !dash {
		return p, false
	}
	size := len(o.Body)
	from, fromErr := position(first)
	to, toErr := position(last)
	switch {
	case first == "" && toErr && to > 0:
		return Part{max(0, size-to), size}, size > 0
	case fromErr && last == "" && from < size:
		return Part{from, size}, true
	case fromErr && toErr && from <= to && from < size:
		return Part{from, min(to+1, size)}, true
	}
	return p, false
}

// position reads a number of digits alone, up to 10^15.
func position(s string) (int, bool) {
	if s == "" || len(s) > 15 || strings.Trim(s, "0123456789") != "" {
		return 0, false
	}
	n, err := strconv.Atoi(s)
	return n, err == nil
}

// inRange reports whether the condition of a request for a part holds: by a strong
// tag, which is equal to the letter, or by the very date.
func (o *Object) inRange(condition []string) bool {
	if len(condition) == 0 {
		return true
	}
	tag, date := o.Header["Etag"], o.Header["Last-Modified"]
	switch {
	case len(condition) > 1:
		return false
	case strings.HasPrefix(condition[0], `"`):
		return len(tag) == 1 && tag[0] == condition[0]
	default:
		return len(date) == 1 && date[0] == condition[0]
	}
}
