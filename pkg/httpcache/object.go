// Package httpcache is the part of a shared HTTP cache (RFC 9111) that needs no
// connection: which answers may be kept and for whom, how old and how fresh they
// are, what a request lets be done with one, how a 304 makes one fresh again, what
// a purge takes away, and the store in memory.
//
// It does not know routes and callers, who decides what belongs into a key, and
// asks no service: package gateway/policy/cache does. Other stores are adapters.
package httpcache

import (
	"net/http"
	"net/textproto"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Object is an answer that is kept, or, with status 0, only what the answers of a
// resource vary by. Objects are immutable once they are in a store: many requests
// read the same one.
type Object struct {
	Status int
	Header http.Header // without what belongs to a connection or to one caller
	Body   []byte

	Received time.Time     // when the answer began to arrive
	Age      time.Duration // that it had then (RFC 9111 section 4.2.3)

	Lifetime             time.Duration // for which it is fresh, from an age of 0
	StaleWhileRevalidate time.Duration // for which it may be given while a fresh one is fetched
	StaleIfError         time.Duration // for which it may be given when that fails
	MustValidate         bool          // once it is stale, whatever the client accepts
	NoCache              bool          // not even fresh without being validated
	Sharing              Sharing       // what the service says of other callers

	Vary []string // canonical names of the fields of the request that it goes by

	// What a purge can name it by.
	Route string
	Host  string
	Path  string
	Tags  []string // surrogate keys
}

// Sharing is how explicitly an answer says that it is for more callers than the
// one that it was made for.
type Sharing uint8

// What answers say.
const (
	Unsaid        Sharing = iota
	Revalidatable         // must-revalidate, which is enough for Authorization (RFC 9111 section 3.5)
	Shared                // public or s-maxage
)

// Exchange is a request and the answer of the service.
type Exchange struct {
	Method    string
	Request   http.Header
	Status    int
	Header    http.Header // of the answer
	Requested time.Time
	Received  time.Time
}

// Rules are those of a route.
type Rules struct {
	DefaultTTL           time.Duration // for which an answer is fresh that does not say so; 0: it is not
	StaleWhileRevalidate time.Duration // where the answer does not say
	StaleIfError         time.Duration // likewise

	// Need is what an answer has to say to be kept: more than nothing where the
	// request had credentials and the copy is for others, too.
	Need Sharing
}

// Bounds of what is kept.
const (
	maxVary  = 16
	maxTags  = 64
	maxTag   = 256       // bytes
	maxShown = 64 << 10  // bytes of all fields together
	validFor = time.Hour // how long a stale answer with a validator is kept
	maxKept  = 30 * 24 * time.Hour
)

// New returns what is kept of an answer, without its body, or nil when it must not
// be kept, or when that would be of no use (RFC 9111 section 3).
func New(x Exchange, rules Rules) *Object {
	d := ParseResponse(x.Header)
	switch {
	case x.Method != http.MethodGet, !cacheable(x.Status), len(x.Request["Range"]) > 0:
		return nil
	case d.NoStore, d.Private, ParseRequest(x.Request).NoStore:
		return nil
	case d.MustUnderstand && !understood(x.Status):
		return nil
	case len(x.Header["Set-Cookie"]) > 0, len(x.Header["Trailer"]) > 0, len(x.Header["Content-Range"]) > 0, IsEventStream(x.Header):
		return nil
	}
	vary, ok := varyOf(x.Header)
	if !ok {
		return nil
	}
	o := &Object{Status: x.Status, Received: x.Received, Age: initialAge(x), Vary: vary, Sharing: sharing(d), Tags: Tags(x.Header)}
	if o.Sharing < rules.Need {
		return nil
	}
	o.fresh(x, d, rules)
	o.Header = kept(x.Header, d.NoCacheFields)
	if o.Header != nil && len(o.Header["Date"]) == 0 { // RFC 9110 section 6.6.1
		o.Header["Date"] = []string{x.Received.UTC().Format(http.TimeFormat)}
	}
	if o.Header == nil || o.Keep(x.Received) <= 0 {
		return nil
	}
	return o
}

// fresh works out how long o may be used.
func (o *Object) fresh(x Exchange, d Directives, rules Rules) {
	lifetime, said := lifetime(x, d)
	if !said && heuristic(x.Status, d) {
		lifetime = rules.DefaultTTL
	}
	o.Lifetime = lifetime
	o.NoCache = d.NoCache
	strict := d.MustRevalidate || d.ProxyRevalidate || d.NoCache
	o.MustValidate = strict || d.SMaxAge.Given
	o.StaleWhileRevalidate, o.StaleIfError = 0, 0
	if strict {
		return
	}
	// A service that says s-maxage and how long stale answers may be given means
	// both; what the route adds is for answers that do not mind.
	o.StaleWhileRevalidate = orRule(d.StaleWhileRevalidate, rules.StaleWhileRevalidate, o.MustValidate)
	o.StaleIfError = orRule(d.StaleIfError, rules.StaleIfError, o.MustValidate)
}

// orRule is what the answer says, else what the route does.
func orRule(own Span, rule time.Duration, strict bool) time.Duration {
	switch {
	case own.Given:
		return own.Value
	case strict:
		return 0
	default:
		return rule
	}
}

func sharing(d Directives) Sharing {
	switch {
	case d.Public || d.SMaxAge.Given:
		return Shared
	case d.MustRevalidate:
		return Revalidatable
	default:
		return Unsaid
	}
}

// Keep is for how long o is of use from now on: while it is fresh, may be given
// stale, or can be validated.
func (o *Object) Keep(now time.Time) time.Duration {
	extra := max(o.StaleWhileRevalidate, o.StaleIfError)
	if o.validators() {
		extra = max(extra, validFor)
	}
	return min(max(0, o.Lifetime)+extra-o.AgeAt(now), maxKept)
}

func (o *Object) validators() bool {
	return len(o.Header["Etag"]) == 1 || len(o.Header["Last-Modified"]) == 1
}

// Size is about how much memory o takes, in bytes.
func (o *Object) Size() int {
	n := len(o.Body) + len(o.Route) + len(o.Host) + len(o.Path)
	for name, values := range o.Header {
		n += len(name) + 64
		for _, v := range values {
			n += len(v) + 16
		}
	}
	for _, t := range o.Tags {
		n += len(t) + 16
	}
	return n
}

// cacheable reports whether answers of a status can be kept: final ones that are
// whole by themselves.
func cacheable(status int) bool {
	return status >= 200 && status <= 999 && status != http.StatusPartialContent && status != http.StatusNotModified
}

// understood are the statuses whose meaning for caches is known here (RFC 9111
// section 5.2.2.3).
func understood(status int) bool { return http.StatusText(status) != "" && cacheable(status) }

// heuristic reports whether a lifetime may be assumed for an answer that does not
// say one (RFC 9111 section 4.2.2, RFC 9110 section 15.1). Of those that the RFC
// names 405, 414 and 501 are left out: a request that is odd enough gets them for a
// path where others get what they came for.
func heuristic(status int, d Directives) bool {
	switch status {
	case 200, 203, 204, 300, 301, 308, 404, 410:
		return true
	}
	return d.Public && status < http.StatusInternalServerError
}

// IsEventStream reports whether an answer is a stream of events, which lasts.
func IsEventStream(h http.Header) bool {
	const events = "text/event-stream"
	for _, v := range h["Content-Type"] {
		if len(v) >= len(events) && strings.EqualFold(v[:len(events)], events) {
			return true
		}
	}
	return false
}

// notKept are fields that belong to a connection, to one caller, or to the gateway.
func notKept(name string) bool {
	switch name {
	case "Connection", "Keep-Alive", "Proxy-Connection", "Te", "Trailer", "Transfer-Encoding", "Upgrade",
		"Proxy-Authenticate", "Proxy-Authentication-Info", "Proxy-Authorization", "Authentication-Info",
		"Set-Cookie", "Set-Cookie2", "Alt-Svc", "X-Request-Id", "Age",
		"Ratelimit", "Ratelimit-Policy", "Ratelimit-Limit", "Ratelimit-Remaining", "Ratelimit-Reset",
		"X-Ratelimit-Limit", "X-Ratelimit-Remaining", "X-Ratelimit-Reset", "X-Ratelimit-Scope",
		"Surrogate-Key", "Cache-Tag":
		return true
	}
	return strings.HasPrefix(name, http.TrailerPrefix)
}

// kept copies the fields that are kept; nil when they are too many.
func kept(h http.Header, without []string) http.Header {
	for _, line := range h["Connection"] {
		for name := range strings.SplitSeq(line, ",") {
			without = append(without, textproto.CanonicalMIMEHeaderKey(strings.TrimSpace(name)))
		}
	}
	copied := make(http.Header, len(h))
	size := 0
	for name, values := range h {
		if notKept(textproto.CanonicalMIMEHeaderKey(name)) || slices.Contains(without, textproto.CanonicalMIMEHeaderKey(name)) {
			continue
		}
		copied[name] = slices.Clip(slices.Clone(values))
		for _, v := range values {
			size += len(name) + len(v)
		}
	}
	if size > maxShown {
		return nil
	}
	return copied
}

// Tags are the surrogate keys of an answer: the words of Surrogate-Key, and the
// list of Cache-Tag. Those that are too long or too many are left out.
func Tags(h http.Header) (tags []string) {
	add := func(tag string) {
		if tag != "" && len(tag) <= maxTag && len(tags) < maxTags && !slices.Contains(tags, tag) {
			tags = append(tags, tag)
		}
	}
	for _, line := range h["Surrogate-Key"] {
		for tag := range strings.FieldsSeq(line) {
			add(tag)
		}
	}
	for _, line := range h["Cache-Tag"] {
		for tag := range strings.SplitSeq(line, ",") {
			add(strings.TrimSpace(tag))
		}
	}
	return tags
}

// Complete returns o with its body, or nil when the body is not as long as the
// answer says.
func (o *Object) Complete(body []byte) *Object {
	if length := o.Header["Content-Length"]; len(length) > 0 {
		if n, err := strconv.Atoi(length[0]); len(length) > 1 || err != nil || n != len(body) {
			return nil
		}
	}
	whole := *o
	whole.Body = body
	return &whole
}
