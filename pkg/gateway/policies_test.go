package gateway_test

import (
	"compress/gzip"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// preflight is the header of a preflight request; headers are those that the page
// wants to send.
func preflight(origin, method, headers string) http.Header {
	h := http.Header{"Origin": {origin}, "Access-Control-Request-Method": {method}}
	if headers != "" {
		h.Set("Access-Control-Request-Headers", headers)
	}
	return h
}

const crossOrigin = `
version: 1
services: [{name: a, url: "%s"}]
defaults:
  cors: {origins: ["https://app.example.com", "https://*.apps.test"], methods: [PUT], headers: [X-Api-Key], credentials: true, expose: [X-Request-Id]}
routes:
  - {name: keyed, match: {path: {prefix: /keyed}, methods: [GET, PUT]}, service: a, allow_methods: [GET]}
  - {name: any, match: {path: {prefix: /any}}, service: a, auth: {mode: none}}
  - {name: off, match: {path: {prefix: /off}, methods: [GET]}, service: a, cors: {mode: off}, auth: {mode: none}}
  - {name: watched, match: {path: {prefix: /watched}, methods: [GET]}, service: a, cors: {mode: shadow, origins: ["https://app.example.com"]}, auth: {mode: none}}
  - {name: some, match: {path: {prefix: /some}, methods: [GET]}, service: a, auth: {mode: none}, cors: {origins: ["https://app.example.com"], when: 'request.path != "/some/own"'}}
  - {name: own, match: {path: {prefix: /own}}, service: a, auth: {mode: none}, cors: {origins: ["https://app.example.com"], when: "false"}}
  - {name: inside, match: {path: {prefix: /inside}}, service: a, auth: {mode: none}, allow_ips: [192.0.2.0/24]}
  - {name: fixed, match: {path: {prefix: /fixed}}, respond: {status: 404, body: "no"}, auth: {mode: none}}
`

func TestPreflightRequestsAreAnsweredByTheRouteOfTheMethodAskedFor(t *testing.T) {
	var asked atomic.Int64
	service := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		asked.Add(1)
		w.WriteHeader(http.StatusTeapot)
	}))
	defer service.Close()
	d := newDoor(t, 0)
	d.apply(crossOrigin, service.URL)
	const app, evil = "https://app.example.com", "https://app.example.com.evil.test"
	for _, c := range []struct {
		name, path string
		header     http.Header
		want       string // status, code of the problem
		asked      int64  // requests that reach the service
	}{
		{"allowed", "/keyed/x", preflight(app, "PUT", "x-api-key"), "204", 0},
		{"below a wildcard", "/keyed/x", preflight("https://one.apps.test", "GET", ""), "204", 0},
		{"other origin", "/keyed/x", preflight(evil, "PUT", ""), "403 gateway.origin_not_allowed", 0},
		{"other field", "/keyed/x", preflight(app, "PUT", "x-evil"), "403 gateway.cross_origin_not_allowed", 0},
		{"method of no route", "/keyed/x", preflight(app, "DELETE", ""), "405 gateway.method_not_allowed", 0},
		{"no preflight", "/keyed/x", http.Header{"Origin": {app}}, "405 gateway.method_not_allowed", 0},
		{"a route for every method", "/any", preflight(app, "DELETE", ""), "403 gateway.cross_origin_not_allowed", 0},
		{"fixed answer", "/fixed", preflight(app, "GET", ""), "204", 0},
		{"off", "/off", preflight(app, "GET", ""), "405 gateway.method_not_allowed", 0},
		{"in shadow", "/watched", preflight(app, "GET", ""), "405 gateway.method_not_allowed", 0},
		{"condition holds", "/some/x", preflight(app, "GET", ""), "204", 0},
		{"condition does not hold, and OPTIONS has no route", "/some/own", preflight(app, "GET", ""), "405 gateway.method_not_allowed", 0},
		{"condition does not hold, and the service answers itself", "/own", preflight(app, "GET", ""), "418", 1},
		{"address is refused before", "/inside", preflight(app, "GET", ""), "403 gateway.address_not_allowed", 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			asked.Store(0)
			d.auth.asked.Store(0)
			resp, body := d.call("OPTIONS", "x", c.path, c.header, nil)
			got := fmt.Sprint(resp.StatusCode)
			if strings.HasPrefix(resp.Header.Get("Content-Type"), "application/problem") {
				got += " " + codeOf(t, body)
			}
			if got != c.want || asked.Load() != c.asked || d.auth.asked.Load() != 0 {
				t.Errorf("got %s, want %s; the service was asked %d times, the authenticator %d times", got, c.want, asked.Load(), d.auth.asked.Load())
			}
			if granted := resp.Header["Access-Control-Allow-Origin"] != nil; granted != (c.want == "204") {
				t.Errorf("the page may go on: %t", granted)
			}
		})
	}
}

func TestExplainStopsWhereAPreflightRequestIsAnswered(t *testing.T) {
	d := newDoor(t, 0)
	d.apply(crossOrigin, named(t, "a"))
	for origin, want := range map[string]string{"https://app.example.com": "", "https://evil.test": "gateway.origin_not_allowed"} {
		description := described(t, "OPTIONS", "http://x/keyed/x")
		description.Header = preflight(origin, "GET", "")
		got := d.gateway.Explain(t.Context(), description)
		code := ""
		if got.Refusal != nil {
			code = got.Refusal.Code
		}
		if code != want || got.Route != "keyed" || got.Service != "" || len(got.Policies) != 1 {
			t.Errorf("%s: %+v", origin, got)
		}
	}
}

// TestPagesCanReadEveryAnswerOfTheRoute also holds that nothing is left of what
// the service says about it.
func TestPagesCanReadEveryAnswerOfTheRoute(t *testing.T) {
	service := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/any/broken" {
			panic(http.ErrAbortHandler)
		}
		w.Header()["access-control-allow-origin"] = []string{"https://evil.test"} // as it is on the wire
		w.Header().Set("Access-Control-Allow-Credentials", "true")
		w.Header().Set("Access-Control-Allow-Private-Network", "true")
	}))
	defer service.Close()
	d := newDoor(t, 0)
	d.apply(crossOrigin, service.URL)
	for _, c := range []struct {
		method, path, key string
		status            int
	}{
		{"GET", "/any", "", 200},
		{"GET", "/keyed", "good", 200},
		{"GET", "/keyed", "bad", 401},
		{"PUT", "/keyed", "good", 405},
		{"GET", "/any/broken", "", 502},
		{"GET", "/fixed", "", 404},
	} {
		for origin, allowed := range map[string]bool{"https://app.example.com": true, "https://evil.test": false, "null": false} {
			resp, _ := d.call(c.method, "x", c.path, http.Header{"Origin": {origin}, "X-Api-Key": {c.key}}, nil)
			got := http.Header{}
			for name, values := range resp.Header {
				if strings.HasPrefix(name, "Access-Control-") || name == "Vary" {
					got[name] = values
				}
			}
			want := http.Header{"Vary": {"Origin"}}
			if allowed {
				want.Set("Access-Control-Allow-Origin", origin)
				want.Set("Access-Control-Allow-Credentials", "true")
				want.Set("Access-Control-Expose-Headers", "X-Request-Id")
			}
			if diff := cmp.Diff(want, got); diff != "" || resp.StatusCode != c.status {
				t.Errorf("%s %s from %s: %d, want %d, header (-want +got):\n%s", c.method, c.path, origin, resp.StatusCode, c.status, diff)
			}
		}
	}
}

const plain = `
version: 1
services: [{name: a, url: "%s"}]
defaults: {auth: {mode: none}}
routes:
  - {name: small, match: {path: {prefix: /small}}, service: a, compress: {types: [text/*], min_size: 1KiB}}
  - {name: late, match: {path: {prefix: /late}}, service: a, fault: {percent: 100, delay: 1m}}
  - {name: broken, match: {path: {prefix: /broken}}, service: a, fault: {percent: 100, abort: 418}}
  - {name: drill, match: {path: {prefix: /drill}}, service: a, fault: {percent: 100, abort: 500, mode: shadow}}
  - {name: typed, match: {path: {prefix: /typed}}, service: a, media_types: [application/json]}
`

// TestStreamsAreCompressedAsTheyCome has the service wait until the client has what
// it sent so far.
func TestStreamsAreCompressedAsTheyCome(t *testing.T) {
	more := make(chan struct{})
	service := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/plain")
		for range 3 {
			fmt.Fprintln(w, "line")
			_ = http.NewResponseController(w).Flush()
			<-more
		}
	}))
	defer service.Close()
	d := newDoor(t, 0)
	d.apply(plain, service.URL)
	r, err := http.NewRequestWithContext(t.Context(), "GET", d.URL+"/small", nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Accept-Encoding", "gzip")
	resp, err := d.Client().Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.Header.Get("Content-Encoding") != "gzip" || resp.Header.Get("Vary") != "Accept-Encoding" {
		t.Fatalf("not compressed: %v", resp.Header)
	}
	unzip, err := gzip.NewReader(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		line := make([]byte, len("line\n"))
		if _, err := io.ReadFull(unzip, line); err != nil {
			t.Fatal(err)
		}
		more <- struct{}{}
	}
	if rest, err := io.ReadAll(unzip); err != nil || len(rest) != 0 {
		t.Errorf("then %q, %v", rest, err)
	}
}

func TestADelayEndsWithTheClientAndNothingReachesTheService(t *testing.T) {
	var asked atomic.Int64
	service := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { asked.Add(1) }))
	defer service.Close()
	d := newDoor(t, 0)
	d.apply(plain, service.URL)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, "GET", d.URL+"/late", nil)
	if err != nil {
		t.Fatal(err)
	}
	if resp, err := d.Client().Do(r); err == nil {
		resp.Body.Close()
		t.Fatalf("answered with %d", resp.StatusCode)
	}
	deadline := time.Now().Add(10 * time.Second)
	for d.info().Code == "" && time.Now().Before(deadline) {
		time.Sleep(time.Millisecond)
	}
	if got := d.info().Code; got != "request.canceled" || asked.Load() != 0 {
		t.Errorf("recorded as %q, the service was asked %d times", got, asked.Load())
	}
}

func TestDrillsAndMediaTypes(t *testing.T) {
	d := newDoor(t, 0)
	d.apply(plain, named(t, "a"))
	for _, c := range []struct {
		path, kind string
		want       string
	}{
		{"/broken", "", "418 gateway.fault_injected"},
		{"/drill", "", "200"},
		{"/typed", "text/plain", "415 gateway.media_type_not_accepted application/json"},
		{"/typed", "application/json", "200"},
	} {
		resp, body := d.call("POST", "x", c.path, http.Header{"Content-Type": {c.kind}}, strings.NewReader("{}"))
		got := fmt.Sprint(resp.StatusCode)
		if resp.StatusCode != 200 {
			got = strings.TrimSpace(got + " " + codeOf(t, body) + " " + resp.Header.Get("Accept"))
		}
		if got != c.want {
			t.Errorf("%s: %s, want %s", c.path, got, c.want)
		}
	}
}
