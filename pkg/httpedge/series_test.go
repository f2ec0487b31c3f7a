package httpedge

import (
	"fmt"
	"net/http"
	"sync"
	"testing"

	"go.opentelemetry.io/otel/metric/noop"
)

func TestSeriesOfAWarmRouteIsNotBuiltAgain(t *testing.T) {
	c := newSeriesCache(noop.Float64Histogram{})
	k := seriesKey{route: "/api/users/{id}", status: 200, method: 1}
	if first := c.series(k); first != c.series(k) {
		t.Error("built twice")
	}
	if n := testing.AllocsPerRun(100, func() { c.series(k) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func TestSeriesCacheIsBounded(t *testing.T) {
	c := newSeriesCache(noop.Float64Histogram{})
	for i := range 3 * seriesShards * seriesPerShard {
		c.series(seriesKey{route: fmt.Sprint("/", i)})
	}
	n := 0
	for i := range c.shards {
		n += len(*c.shards[i].live.Load())
	}
	if n > seriesShards*seriesPerShard {
		t.Errorf("%d series are kept", n)
	}
}

func TestSeriesCacheIsSafeForConcurrentUse(t *testing.T) {
	c := newSeriesCache(noop.Float64Histogram{})
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for i := range 2000 {
				if c.series(seriesKey{route: fmt.Sprint("/", i%300), status: 200}) == nil {
					t.Error("no series")
				}
			}
		})
	}
	wg.Wait()
}

func TestMethodsHaveBoundedNames(t *testing.T) {
	for name, want := range map[string]string{
		"GET": "GET", "POST": "POST", "PUT": "PUT", "DELETE": "DELETE", "PATCH": "PATCH", "HEAD": "HEAD",
		"OPTIONS": "OPTIONS", "CONNECT": "CONNECT", "TRACE": "TRACE", "QUERY": "QUERY",
		"get": "_OTHER", "PROPFIND": "_OTHER", "": "_OTHER", "_OTHER": "_OTHER",
	} {
		if got := methodOf(name).String(); got != want {
			t.Errorf("%q is %s, want %s", name, got, want)
		}
	}
}

func TestProtocolVersions(t *testing.T) {
	for want, r := range map[string]*http.Request{
		"1.0": {ProtoMajor: 1, ProtoMinor: 0},
		"1.1": {ProtoMajor: 1, ProtoMinor: 1},
		"2":   {ProtoMajor: 2},
		"3":   {ProtoMajor: 3},
	} {
		if got := protocolOf(r).String(); got != want {
			t.Errorf("HTTP/%d.%d is %s, want %s", r.ProtoMajor, r.ProtoMinor, got, want)
		}
	}
	if got := protocolOf(&http.Request{ProtoMajor: 1, ProtoMinor: 7}).String(); got != "1.1" {
		t.Errorf("HTTP/1.7 is %s", got)
	}
}
