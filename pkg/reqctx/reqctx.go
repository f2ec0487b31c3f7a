// Package reqctx carries what every layer needs to know about the request at
// hand: its id, the caller's address, and, once known, the route and the
// caller. It is one struct behind one context key; it imports no feature.
package reqctx

import (
	"context"
	"net/http"
	"net/netip"
	"time"

	"github.com/keywarden/keywarden/pkg/problem"
	"github.com/keywarden/keywarden/pkg/seal"
)

// Info is one request's facts. The outermost middleware makes it; inner layers
// fill in what they find out. It belongs to the request's goroutine: code that
// starts another goroutine copies what it needs.
type Info struct {
	ID     string     // X-Request-Id of request and answer
	Client netip.Addr // the caller's address, after trusted proxies
	Start  time.Time  // when the request was read; the request's only clock reading where milliseconds do not matter
	Scheme string     // "http" or "https", as the client used it
	Host   string     // canonical: lower case, no port, no trailing dot
	Path   string     // as the caller who showed a key asked for it; empty where none did

	// Caller is who was let in, an *access.Principal; nil before, and for nobody. It is
	// for access.Admit and access.PrincipalFrom.
	Caller any

	blank      bool // see Carrier.Blank
	clientText string
	values     [8]string // see Values
	valuesUsed int

	// EncodedSlash is the refusal of a request whose path holds an encoded slash, due
	// unless its route takes them; nil for all other requests.
	EncodedSlash *problem.Error

	Route   string // template of the matched route, for labels and logs; empty until matched
	Service string // the backend's name, for proxied requests
	Subject string // id of the authenticated user; empty when anonymous
	KeyID   string // id of the API key that authenticated, if one did
	App     string // id of the app that the key belongs to, if it does
	Product string // by whose subscription the app was let in, if it was
	Code    string // code of the problem that was answered, if one was
	Policy  string // name of the policy that refused, if one did
	Err     error  // what to log beside the answer; never sent

	// Flow is the flow of the route that the request takes, counted from 1; 0 is none.
	// It counts once FlowChosen is set.
	Flow       int
	FlowChosen bool

	// Timeout is what a policy allows for the exchange with the service; 0 is what
	// the service allows.
	Timeout time.Duration

	// Stream is when an answer of the service began that is meant to last: an event
	// stream, or what follows on an upgrade. It is zero for others.
	Stream time.Time

	// Authorization is what a policy presents to the service in the field of that
	// name, in place of the caller's; empty for nothing.
	Authorization seal.Secret

	// Sealed are fields for the service whose values nothing else may see. The request
	// has what may be shown of them, until it leaves.
	Sealed []SealedField

	// TraceID and SpanID are of a request that is traced, but not recorded here: for those
	// that are called, and for the log. They are zero where there is a span, or no tracing.
	TraceID [16]byte
	SpanID  [8]byte

	// Fields are what policies add to the access log: at most [MaxFields], each value
	// of at most [MaxFieldValue] bytes.
	Fields []Field

	// Decide records a refusal and returns the id under which it can be explained;
	// nil where nothing can.
	Decide func(r *http.Request, p *problem.Error) string
}

// Bounds of [Info.Fields].
const (
	MaxFields     = 16
	MaxFieldValue = 256 // bytes
)

// SealedField is a header field for the service.
type SealedField struct {
	Name  string      // in canonical form
	Shown string      // stands for the value in the fields of the request
	Value seal.Secret // never empty
}

// Field is a name and a value of the access log.
type Field struct{ Name, Value string }

// maxFieldName bounds the name of a field, in bytes.
const maxFieldName = 40

// IsFieldName reports whether the access log can have a field of this name beside
// its own: lower-case letters, digits and underscores, beginning with a letter.
func IsFieldName(s string) bool {
	switch s {
	case "", "time", "level", "msg", "source", "method", "path", "status", "bytes", "duration_ms", "client", "host", "route",
		"service", "subject", "key_id", "code", "policy", "decision_id", "outcome", "err", "error", "request_id", "trace_id", "span_id",
		"trace_flags", "instance", "version":
		return false
	}
	for i := range len(s) {
		switch c := s[i]; {
		case 'a' <= c && c <= 'z', i > 0 && ('0' <= c && c <= '9' || c == '_'):
		default:
			return false
		}
	}
	return len(s) <= maxFieldName
}

// ClientText is the client's address as text, empty where it is not known.
func (i *Info) ClientText() string {
	if i.clientText == "" && i.Client.IsValid() {
		i.clientText = i.Client.String()
	}
	return i.clientText
}

// SetClient sets the client's address, with its text where that is known to be the
// canonical one.
func (i *Info) SetClient(addr netip.Addr, text string) { i.Client, i.clientText = addr, text }

// Values returns n empty strings, for values of fields that live as long as the request. A
// slice is of its own: what is appended to it goes elsewhere.
func (i *Info) Values(n int) []string {
	end := i.valuesUsed + n
	if end > len(i.values) {
		return make([]string, n)
	}
	v := i.values[i.valuesUsed:end:end]
	i.valuesUsed = end
	return v
}

type key struct{}

// CallerKey is the key of the caller of a request in its context: package access
// owns what is behind it.
type CallerKey struct{}

// Carrier is a context with an Info. What else is known of every request is in the
// Info, too, so that it costs no context of its own. It can be a part of something bigger
// that is made for each request; see [Carrier.Blank].
type Carrier struct {
	context.Context
	info *Info
	own  Info // where info is, unless it is somebody else's
}

// Value implements [context.Context].
func (c *Carrier) Value(k any) any {
	switch k.(type) {
	case key:
		return c.info
	case CallerKey:
		if c.info.Caller != nil {
			return c.info.Caller
		}
	}
	return c.Context.Value(k)
}

// New returns ctx carrying an Info that is made with it, and that; the context is ctx when
// that is a blank [Carrier].
func New(ctx context.Context) (context.Context, *Info) {
	if info := Carried(ctx); info != nil && info.blank {
		info.blank = false
		return ctx, info
	}
	c := &Carrier{Context: ctx}
	c.info = &c.own
	return c, c.info
}

// Blank makes c, which is new, carry an Info that nobody has filled in yet, and returns it:
// [New] takes that Info, so that the request need not be given another context.
func (c *Carrier) Blank(ctx context.Context) context.Context {
	c.Context, c.info = ctx, &c.own
	c.own.blank = true
	return c
}

// With returns ctx carrying info.
func With(ctx context.Context, info *Info) context.Context {
	return &Carrier{Context: ctx, info: info}
}

// Carried is the Info of ctx, nil outside a request.
func Carried(ctx context.Context) *Info {
	info, _ := ctx.Value(key{}).(*Info)
	return info
}

// From returns the request's facts. Outside a request it returns a fresh empty
// Info, never nil, so that callers need no check.
func From(ctx context.Context) *Info {
	if info := Carried(ctx); info != nil {
		return info
	}
	return &Info{}
}
