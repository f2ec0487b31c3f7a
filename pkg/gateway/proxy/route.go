package proxy

import (
	"cmp"
	"context"
	"errors"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel/trace"

	"github.com/keywarden/keywarden/pkg/gateway/forward"
	"github.com/keywarden/keywarden/pkg/gateway/policy"
	"github.com/keywarden/keywarden/pkg/gateway/proxy/pathrewrite"
	"github.com/keywarden/keywarden/pkg/gateway/upstream/http1"
	"github.com/keywarden/keywarden/pkg/header"
	"github.com/keywarden/keywarden/pkg/reqctx"
)

// RouteConfig is what a route says about forwarding.
type RouteConfig struct {
	// StripPrefix is removed from the path: decoded, canonical, without a slash at
	// its end. Every request of the route has it.
	StripPrefix string

	// AddPrefix is put before what stripping has left: escaped, canonical, without a
	// slash at its end.
	AddPrefix string

	// Rewrite makes the path, instead of stripping; nil for none.
	Rewrite *pathrewrite.Rewrite

	// Host is what the service is told as Host, and PreserveHost tells it that of the
	// client; otherwise it is told its own. TLS goes by the target in every case.
	Host         string
	PreserveHost bool

	// Mirrored says that the requests are copies: they are marked as such, and carry
	// no Authorization at all.
	Mirrored bool

	// Authenticated says that the route has established its caller: its identity is
	// forwarded, its credential is not.
	Authenticated bool

	// Optional says that the route may have established its caller: as Authenticated
	// where there is one, as an open route where there is none.
	Optional bool

	// Standing checks the caller of a request again, without a side effect; nil when
	// there is nothing to check. Streams end when it refuses.
	Standing policy.Check

	// Timeout bounds the exchange; 0 means no bound. It no longer counts once a
	// stream has begun: an upgraded connection or server-sent events.
	Timeout time.Duration
}

// Route forwards the requests of one route to its service. They have to be in
// canonical form.
type Route struct {
	service       *Service
	strip         string
	stripSegments int
	add           string
	rewrite       *pathrewrite.Rewrite
	host          string
	preserveHost  bool
	mirrored      bool
	authenticated bool
	optional      bool
	standing      policy.Check
	timeout       time.Duration
}

// Route makes the handler of a route.
func (s *Service) Route(c RouteConfig) *Route {
	return &Route{
		service:       s,
		strip:         c.StripPrefix,
		stripSegments: strings.Count(c.StripPrefix, "/"),
		add:           c.AddPrefix,
		rewrite:       c.Rewrite,
		host:          c.Host,
		preserveHost:  c.PreserveHost,
		mirrored:      c.Mirrored,
		authenticated: c.Authenticated,
		optional:      c.Optional,
		standing:      c.Standing,
		timeout:       c.Timeout,
	}
}

// ServeHTTP implements [http.Handler]. When the response breaks off, it panics
// with [http.ErrAbortHandler] to let the client see that it is not complete.
func (rt *Route) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	x := &exchange{
		route:  rt,
		w:      w,
		client: r.Context(),
		info:   reqctx.From(r.Context()),
		method: r.Method,
		start:  time.Now(),
	}
	err := rt.service.proxy.checkLoop(r.Header)
	if err == nil {
		err = x.setPath(r.URL)
	}
	if err != nil {
		policy.Refuse(w, r, "", err)
		return
	}
	x.forward.Host = rt.host
	if rt.preserveHost {
		x.forward.Host = r.Host
	}
	if rt.service.hash != nil {
		x.forward.Hash = rt.service.hash(r)
	}
	defer x.body.leave()
	rt.forward(w, r, x)
	x.endBody(r)
}

// forward exchanges the request for an answer of the service.
func (rt *Route) forward(w http.ResponseWriter, r *http.Request, x *exchange) {
	defer func() { x.forward.End(x.broken()) }()
	short := rt.service.ordinary(r) == ""
	ctx := x.begin(r, short, short && !hasBody(r) && !rt.service.backend.Load().Queues())
	defer x.end()

	x.out = *r.WithContext(ctx)
	out := &x.out
	if hasBody(r) {
		x.body.ReadCloser = r.Body
		out.Body, x.forward.Body = &x.body, &x.body
		// A service may answer before it has read everything. net/http would then
		// swallow a part of the body and the service would get the rest without it.
		_ = http.NewResponseController(w).EnableFullDuplex() // HTTP/2 always is
	}
	switch {
	case short:
		rt.service.relay(w, out, x)
	case len(r.Header["Expect"]) > 0:
		x.keepHeader()
		rt.service.reverse.ServeHTTP(oneContinue{w}, out)
	default:
		x.keepHeader()
		rt.service.reverse.ServeHTTP(w, out)
	}
	x.complete = true
}

func hasBody(r *http.Request) bool { return r.Body != nil && r.ContentLength != 0 }

// oneContinue keeps the service's own 100 from the client: net/http sends one as
// soon as the body is read, which is when the service wants it, and with the
// service's there would now and then be two.
type oneContinue struct{ http.ResponseWriter }

// WriteHeader implements [http.ResponseWriter].
func (w oneContinue) WriteHeader(status int) {
	if status != http.StatusContinue {
		w.ResponseWriter.WriteHeader(status)
	}
}

// Unwrap serves [http.ResponseController].
func (w oneContinue) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// exchange is one request on its way to the service and back. It travels in the
// context, because one [httputil.ReverseProxy] serves all routes of a service. It
// belongs to the request's goroutine, except for the body.
type exchange struct {
	route  *Route
	w      http.ResponseWriter
	client context.Context // ends when the client goes away
	info   *reqctx.Info
	method string
	start  time.Time
	span   trace.Span // nil unless it is recorded

	path, rawPath string // of the outbound URL
	url           url.URL
	carried       carrier
	body          watchedBody
	answer        answerBody
	forward       forward.Exchange
	timer         *time.Timer     // nil without a bound on the whole
	bounded       context.Context // nil without any bound
	cancel        context.CancelCauseFunc
	in            *http.Request // as the route got it
	calls         bool          // it is a call of gRPC; known where there is a bound
	out           http.Request  // to the service
	fields        header.List   // the outbound header, where that is a list
	answered      header.List   // the header of the answer, where that is a list
	lasting       bool          // the answer is a stream
	kept          []keptField   // nil where nothing has emptied the response's header, nor will

	short   bool          // it takes the short way
	light   bool          // nothing but the connection to the service bounds it
	silence time.Duration // that is allowed to the service in a light one; 0: any
	late    error         // the bound that a light one has reached
	over    chan struct{} // closed with a light one whose stream is watched; else nil
	revoked atomic.Bool   // a light one was ended with the credential of its stream

	sent     bool // an outbound request was made
	complete bool // the exchange ended as HTTP foresees
}

type exchangeKey struct{}

// carrier is the context of a request with its exchange in it, made together with that.
type carrier struct {
	context.Context
	x *exchange
}

// Value implements [context.Context].
func (c *carrier) Value(key any) any {
	switch key.(type) {
	case exchangeKey, http1.InterimKey:
		return c.x
	}
	return c.Context.Value(key)
}

func exchangeFrom(ctx context.Context) *exchange {
	x, _ := ctx.Value(exchangeKey{}).(*exchange)
	return x
}

// errTimeout is the cause of a context that the route's bound has ended.
var errTimeout = errors.New("the exchange took longer than the route allows")

// begin returns the context of the outbound request. A light exchange, which is one in
// the short way without a body to be read, is bounded by whoever waits for the service,
// and needs neither timers nor a context that can be cancelled; see [exchange.Bounds].
func (x *exchange) begin(r *http.Request, short, light bool) context.Context {
	x.carried = carrier{r.Context(), x}
	ctx := context.Context(&x.carried)
	x.short, x.light, x.in = short, light, r
	limit, idle := cmp.Or(x.info.Timeout, x.route.timeout, x.route.service.timeout), x.route.service.idle
	if short && limit > 0 {
		x.forward.Deadline = x.start.Add(limit)
	}
	if light {
		x.silence = idle
		return x.startSpan(ctx)
	}
	if limit > 0 || idle > 0 || x.route.standing != nil {
		ctx, x.cancel = context.WithCancelCause(ctx)
		x.bounded = ctx
		x.calls = strings.HasPrefix(r.Header.Get("Content-Type"), "application/grpc")
	}
	if limit > 0 {
		x.timer = time.AfterFunc(limit, func() { x.cut(x.cancel, errTimeout, errBodyLate) })
	}
	if idle > 0 {
		x.startIdle(r, x.cancel, idle)
	}
	return x.startSpan(ctx)
}

// end ends what begin has begun.
func (x *exchange) end() {
	if x.timer != nil {
		x.timer.Stop()
	}
	x.stopIdle()
	if !x.complete {
		x.brokenOff()
	}
	if x.cancel != nil {
		x.cancel(nil)
	}
	if x.over != nil {
		close(x.over)
	}
	x.endSpan()
}

// Bounds implements [http1.Caller]: when an exchange in the short way has to be over, and
// for how long the service may be silent in a light one.
func (x *exchange) Bounds() (deadline time.Time, silence time.Duration) {
	return x.forward.Deadline, x.silence
}

// drainTime bounds the wait for the end of a body that nobody wants any more.
const drainTime = 5 * time.Second

// endBody looks for the end of a body that the service did not want. net/http
// does so only after the handler, and in full duplex it then mistakes its own
// watch for the end of the connection for a read of the body, and panics. The
// answer goes first: the client may wait for it before it sends the rest.
//
// Where there is no end, what is left on the connection must not be taken for the
// next request. In full duplex net/http does not see to that.
func (x *exchange) endBody(r *http.Request) {
	if r.ProtoMajor != 1 || x.body.ReadCloser == nil || x.body.ended.Load() {
		return
	}
	until := time.Now().Add(drainTime)
	if x.body.lost() {
		until = time.Now()
		closeAfterAnswer(x.w)
	}
	connection := http.NewResponseController(x.w)
	_ = connection.Flush()
	_ = connection.SetReadDeadline(until)
	if err := x.body.Close(); err != nil || x.body.lost() {
		closeAfterAnswer(x.w)
		return
	}
	_ = connection.SetReadDeadline(time.Time{})
}

// closeAfterAnswer has the server close the connection of an HTTP/1 request when
// its answer is out. Once the header is, net/http has but one word for that: a body
// that is longer than it may be.
func closeAfterAnswer(w http.ResponseWriter) {
	for {
		outer, ok := w.(interface{ Unwrap() http.ResponseWriter })
		if !ok {
			break
		}
		w = outer.Unwrap()
	}
	var one [1]byte
	_, _ = http.MaxBytesReader(w, io.NopCloser(strings.NewReader("1")), 0).Read(one[:])
}

// keptField is a field of the response that was there before the proxy.
type keptField struct {
	name   string
	values []string
}

// keepHeader remembers what outer handlers have put into the response: an
// interim response empties it.
func (x *exchange) keepHeader() {
	if x.kept != nil {
		return
	}
	x.kept = make([]keptField, 0, len(x.w.Header()))
	for name, values := range x.w.Header() {
		x.kept = append(x.kept, keptField{name, values})
	}
}

// restoreHeader brings back what keepHeader has seen.
func (x *exchange) restoreHeader() {
	h := x.w.Header()
	for _, f := range x.kept {
		h[f.name] = f.values
	}
}

// brokenOff notes why the response is incomplete, for the access log.
func (x *exchange) brokenOff() {
	switch {
	case x.info.Err != nil:
	case x.client.Err() != nil:
		x.info.Err = errClientGone
	case x.cause() != nil:
		x.info.Err = x.cause()
	default:
		x.info.Err = errBrokenOff
	}
}
