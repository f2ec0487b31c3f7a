package httpedge

import (
	"hash/maphash"
	"maps"
	"net/http"
	"strconv"
	"sync"
	"sync/atomic"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"

	"github.com/keywarden/keywarden/pkg/telemetry/bound"
)

// method is a request method of bounded variety.
type method uint8

// methodOther stands for every method that the conventions do not know, so
// that nobody can make series by inventing some.
const methodOther method = 0

// methodCount is the number of methods, methodOther included.
const methodCount = 11

func methodOf(name string) method {
	for m := methodOther + 1; m < methodCount; m++ {
		if methodNames[m] == name {
			return m
		}
	}
	return methodOther
}

// String is the value of http.request.method.
func (m method) String() string { return methodNames[m] }

var methodNames = [methodCount]string{
	"_OTHER", http.MethodGet, http.MethodPost, http.MethodPut, http.MethodDelete, http.MethodPatch,
	http.MethodHead, http.MethodOptions, http.MethodConnect, http.MethodTrace, "QUERY",
}

// protocol is a version of HTTP.
type protocol uint8

const (
	http11 protocol = iota
	http10
	http2
	http3
)

// protocolOf is that of r. Go's server accepts HTTP/1.7 too; by RFC 9110 section 2.5 that
// is treated as 1.1.
func protocolOf(r *http.Request) protocol {
	switch {
	case r.ProtoMajor == 2:
		return http2
	case r.ProtoMajor == 3:
		return http3
	case r.ProtoMinor == 0:
		return http10
	}
	return http11
}

// String is the value of network.protocol.version.
func (p protocol) String() string {
	return [...]string{http11: "1.1", http10: "1.0", http2: "2", http3: "3"}[p]
}

// outcome says how an exchange ended.
type outcome uint8

const (
	completed  outcome = iota // the whole answer was handed over
	aborted                   // cut off on our side: the client got half an answer or none
	clientGone                // cut off because the client went away
)

// errorType is the value of error.type, empty when there was no error. Client
// errors are none of the server's (HTTP conventions).
func errorType(status int, o outcome) string {
	switch {
	case o == aborted:
		return "aborted"
	case o == clientGone:
		return "client_disconnected"
	case status >= http.StatusInternalServerError:
		return strconv.Itoa(status)
	}
	return ""
}

// seriesKey is everything that makes one time series of the request metrics. Each
// part is bounded: nothing in it is the client's own text.
type seriesKey struct {
	route   string
	status  int
	method  method
	https   bool
	proto   protocol
	outcome outcome
}

// attributes are those of the series.
func (k seriesKey) attributes() attribute.Set {
	attrs := []attribute.KeyValue{
		semconv.HTTPRequestMethodKey.String(k.method.String()),
		semconv.URLScheme(schemeName(k.https)),
		semconv.NetworkProtocolVersion(k.proto.String()),
	}
	if k.route != "" {
		attrs = append(attrs, semconv.HTTPRoute(k.route))
	}
	if k.status != 0 {
		attrs = append(attrs, semconv.HTTPResponseStatusCode(k.status))
	}
	if e := errorType(k.status, k.outcome); e != "" {
		attrs = append(attrs, semconv.ErrorTypeKey.String(e))
	}
	return attribute.NewSet(attrs...)
}

func schemeName(https bool) string {
	if https {
		return "https"
	}
	return "http"
}

const (
	seriesShards   = 64
	seriesPerShard = 256
)

// seriesCache keeps the series seen, since finding one by its attributes costs
// more than the measurement. Reading takes no lock: a shard's map is replaced,
// never changed. A shard that is full starts anew, so that routes which are
// gone do not keep their place.
type seriesCache struct {
	duration metric.Float64Histogram
	seed     maphash.Seed
	shards   [seriesShards]seriesShard
}

type seriesShard struct {
	live atomic.Pointer[map[seriesKey]*bound.Series]
	mu   sync.Mutex // serialises replacing live
}

func newSeriesCache(duration metric.Float64Histogram) *seriesCache {
	return &seriesCache{duration: duration, seed: maphash.MakeSeed()}
}

func (c *seriesCache) series(k seriesKey) *bound.Series {
	shard := &c.shards[maphash.String(c.seed, k.route)%seriesShards]
	if live := shard.live.Load(); live != nil {
		if s, ok := (*live)[k]; ok {
			return s
		}
	}
	return shard.add(k, c.duration)
}

func (s *seriesShard) add(k seriesKey, duration metric.Float64Histogram) *bound.Series {
	s.mu.Lock()
	defer s.mu.Unlock()
	next := make(map[seriesKey]*bound.Series)
	if live := s.live.Load(); live != nil {
		if o, ok := (*live)[k]; ok {
			return o // another request was faster
		}
		if len(*live) < seriesPerShard {
			maps.Copy(next, *live)
		}
	}
	o := bound.Bind(duration, k.attributes())
	next[k] = o
	s.live.Store(&next)
	return o
}
