package gateway_test

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// replica is one target of a service; what it does can be changed while it runs.
type replica struct {
	*httptest.Server
	name   string
	bodies sync.Map // each body that arrived, with how often
	asked  atomic.Int64
	behave atomic.Pointer[http.HandlerFunc]
}

func newReplica(t *testing.T, name string) *replica {
	t.Helper()
	r := &replica{name: name}
	r.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		r.asked.Add(1)
		body, _ := io.ReadAll(req.Body)
		if len(body) > 0 {
			n, _ := r.bodies.LoadOrStore(string(body), new(atomic.Int64))
			n.(*atomic.Int64).Add(1)
		}
		if behave := r.behave.Load(); behave != nil {
			(*behave)(w, req)
			return
		}
		fmt.Fprint(w, name)
	}))
	t.Cleanup(r.Close)
	return r
}

func (r *replica) does(h http.HandlerFunc) {
	if h == nil {
		r.behave.Store(nil)
		return
	}
	r.behave.Store(&h)
}

func answer(status int) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(status) }
}

func reset(w http.ResponseWriter, _ *http.Request) {
	conn, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		panic(err)
	}
	if tcp, ok := conn.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0)
	}
	_ = conn.Close()
}

// nobodyListens is an address where connections are refused.
func nobodyListens(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return "http://" + l.Addr().String()
}

// three is a document with a service of three targets; %s is more of the service.
func three(more string, targets ...string) string {
	return fmt.Sprintf(`
version: 1
services:
  - name: s
    targets: [{url: %q}, {url: %q}, {url: %q}]
%s
routes:
  - {name: r, service: s, auth: {mode: none}}
`, targets[0], targets[1], targets[2], more)
}

// three applies the document.
func (d *door) three(more string, targets ...string) {
	d.t.Helper()
	d.apply("%s", three(more, targets...))
}

func TestARefusingTargetIsNoticedByNobody(t *testing.T) {
	d := newDoor(t, 0)
	a, b := newReplica(t, "a"), newReplica(t, "b")
	d.three("", a.URL, nobodyListens(t), b.URL)
	for i := range 60 {
		body := fmt.Sprintf("order %d", i)
		if resp, text := d.call("POST", "x", "/", nil, strings.NewReader(body)); resp.StatusCode != 200 {
			t.Fatalf("request %d: %d %s", i, resp.StatusCode, text)
		}
		n := int64(0)
		for _, r := range []*replica{a, b} {
			if count, ok := r.bodies.Load(body); ok {
				n += count.(*atomic.Int64).Load()
			}
		}
		if n != 1 {
			t.Fatalf("request %d arrived %d times", i, n)
		}
	}
}

func TestAPostIsNotRepeatedOnceItMayHaveArrived(t *testing.T) {
	for name, trouble := range map[string]http.HandlerFunc{"reset": reset, "503": answer(503)} {
		t.Run(name, func(t *testing.T) {
			d := newDoor(t, 0)
			all := []*replica{newReplica(t, "a"), newReplica(t, "b"), newReplica(t, "c")}
			for _, r := range all {
				r.does(trouble)
			}
			d.three("    retry: {attempts: 3, on: [connect, reset, \"503\"], backoff: 1ms}", all[0].URL, all[1].URL, all[2].URL)
			resp, _ := d.call("POST", "x", "/", nil, strings.NewReader("order"))
			if resp.StatusCode < 500 {
				t.Errorf("status %d", resp.StatusCode)
			}
			if n := all[0].asked.Load() + all[1].asked.Load() + all[2].asked.Load(); n != 1 {
				t.Errorf("it was sent %d times, want once", n)
			}
		})
	}
}

func TestAGetIsRepeatedElsewhere(t *testing.T) {
	for name, trouble := range map[string]http.HandlerFunc{"reset": reset, "502": answer(502), "503": answer(503), "504": answer(504)} {
		t.Run(name, func(t *testing.T) {
			d := newDoor(t, 0)
			good, better, bad := newReplica(t, "good"), newReplica(t, "good"), newReplica(t, "bad")
			bad.does(trouble)
			d.three("    retry: {attempts: 3, backoff: 1ms, budget: 1.0}\n    health: {active: {type: tcp, interval: 1h}}", bad.URL, better.URL, good.URL)
			for range 6 {
				if resp, text := d.call("GET", "x", "/", nil, nil); resp.StatusCode != 200 || text != "good" {
					t.Fatalf("got %d %s", resp.StatusCode, text)
				}
			}
		})
	}
}

func TestRetriesStayWithinTheirBudget(t *testing.T) {
	d := newDoor(t, 0)
	all := []*replica{newReplica(t, "a"), newReplica(t, "b"), newReplica(t, "c")}
	for _, r := range all {
		r.does(answer(503))
	}
	d.three("    retry: {attempts: 10, backoff: 1ms, budget: 0.2}\n    health: {active: {type: tcp, interval: 1h}}", all[0].URL, all[1].URL, all[2].URL)
	const offered = 200
	for range offered {
		if resp, _ := d.call("GET", "x", "/", nil, nil); resp.StatusCode != 503 {
			t.Fatalf("status %d", resp.StatusCode)
		}
	}
	if n := all[0].asked.Load() + all[1].asked.Load() + all[2].asked.Load(); n > offered*120/100+1 {
		t.Errorf("the service got %d requests for %d, want at most 1.2 times as many", n, offered)
	}
}

func TestATargetThatFailsIsKeptOut(t *testing.T) {
	d := newDoor(t, 0)
	a, b, c := newReplica(t, "a"), newReplica(t, "b"), newReplica(t, "c")
	b.does(answer(500))
	d.three("    health: {passive: {failures: 3, eject_for: 1h}}", a.URL, b.URL, c.URL)
	failed := 0
	for range 90 {
		if resp, _ := d.call("GET", "x", "/", nil, nil); resp.StatusCode == 500 {
			failed++
		}
	}
	if failed != 3 || b.asked.Load() != 3 {
		t.Errorf("%d requests failed, want the three that ejected it", failed)
	}
	for _, target := range d.gateway.State().Backends[0].Targets {
		if want := target.URL == b.URL; target.Ejected != want || target.Available == want {
			t.Errorf("state %+v", target)
		}
	}
}

func TestActiveChecksMoveTheTraffic(t *testing.T) {
	d := newDoor(t, 0)
	a, b, c := newReplica(t, "a"), newReplica(t, "b"), newReplica(t, "c")
	const document = "    health: {active: {path: /well, interval: 10ms, timeout: 10ms, unhealthy_after: 1, healthy_after: 1}}"
	sick := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/well" {
			w.WriteHeader(500)
		}
		fmt.Fprint(w, "b")
	})
	b.does(sick)
	d.three(document, a.URL, b.URL, c.URL)
	down := func() bool {
		for _, target := range d.gateway.State().Backends[0].Targets {
			if target.URL == b.URL {
				return target.Down
			}
		}
		return false
	}
	eventually(t, "the sick one is down", down)
	for range 20 {
		if _, text := d.call("GET", "x", "/", nil, nil); text == "b" {
			t.Fatal("the sick one is asked")
		}
	}
	b.does(nil)
	eventually(t, "it comes back", func() bool { return !down() })
	eventually(t, "it is asked", func() bool { _, text := d.call("GET", "x", "/", nil, nil); return text == "b" })
}

func TestAnOpenBreakerAsksNobody(t *testing.T) {
	d := newDoor(t, 0)
	a, b, c := newReplica(t, "a"), newReplica(t, "b"), newReplica(t, "c")
	for _, r := range []*replica{a, b, c} {
		r.does(answer(500))
	}
	d.three("    breaker: {error_rate: 0.5, min_requests: 5, window: 1h, open_for: 1h}", a.URL, b.URL, c.URL)
	for range 5 {
		d.call("GET", "x", "/", nil, nil)
	}
	before := a.asked.Load() + b.asked.Load() + c.asked.Load()
	resp, text := d.call("GET", "x", "/", nil, nil)
	if resp.StatusCode != 503 || codeOf(t, text) != "gateway.circuit_open" || resp.Header.Get("Retry-After") == "" {
		t.Errorf("got %d %s with Retry-After %q", resp.StatusCode, text, resp.Header.Get("Retry-After"))
	}
	if after := a.asked.Load() + b.asked.Load() + c.asked.Load(); after != before {
		t.Error("somebody was asked")
	}
	if state := d.gateway.State().Backends[0].Breaker; state != "open" {
		t.Errorf("the state says %q", state)
	}
}

func TestAFullBulkheadRefusesAtOnce(t *testing.T) {
	d := newDoor(t, 0)
	a := newReplica(t, "a")
	inside, goOn := make(chan struct{}), make(chan struct{})
	a.does(func(http.ResponseWriter, *http.Request) { inside <- struct{}{}; <-goOn })
	d.apply(`
version: 1
services: [{name: s, url: %s, bulkhead: {max_in_flight: 1}}]
routes: [{name: r, service: s, auth: {mode: none}}]
`, a.URL)
	var first sync.WaitGroup
	first.Go(func() { d.call("GET", "x", "/", nil, nil) })
	<-inside
	resp, text := d.call("GET", "x", "/", nil, nil)
	if resp.StatusCode != 503 || codeOf(t, text) != "gateway.overloaded" {
		t.Errorf("got %d %s", resp.StatusCode, text)
	}
	close(goOn)
	first.Wait()
	a.does(nil)
	if resp, _ := d.call("GET", "x", "/", nil, nil); resp.StatusCode != 200 {
		t.Errorf("after the first has ended: %d", resp.StatusCode)
	}
}

// What is known of targets, and an open breaker, survive a document that changes
// something else.
func TestStateSurvivesAnotherDocument(t *testing.T) {
	d := newDoor(t, 0)
	a, b, c := newReplica(t, "a"), newReplica(t, "b"), newReplica(t, "c")
	b.does(answer(500))
	const health = "    health: {passive: {failures: 1, eject_for: 1h}}\n    breaker: {min_requests: 1000}\n"
	d.three(health, a.URL, b.URL, c.URL)
	for range 9 {
		d.call("GET", "x", "/", nil, nil)
	}
	d.three(health+"    response_timeout: 7s", a.URL, b.URL, c.URL) // the service itself changed
	d.apply("%s", strings.Replace(three(health+"    response_timeout: 7s", a.URL, b.URL, c.URL), "name: r", "name: other", 1))
	asked := b.asked.Load()
	for range 9 {
		d.call("GET", "x", "/", nil, nil)
	}
	if b.asked.Load() != asked {
		t.Error("a reload brought the ejected target back")
	}
}

func TestConsistentHashKeepsAHeaderTogether(t *testing.T) {
	d := newDoor(t, 0)
	a, b, c := newReplica(t, "a"), newReplica(t, "b"), newReplica(t, "c")
	d.three("    balance: {policy: consistent_hash, hash: {by: header, name: X-Tenant}}", a.URL, b.URL, c.URL)
	seen := map[string]bool{}
	for tenant := range 20 {
		header := http.Header{"X-Tenant": {fmt.Sprint("tenant ", tenant)}}
		_, first := d.call("GET", "x", "/", header, nil)
		seen[first] = true
		for range 5 {
			if _, again := d.call("GET", "x", "/", header, nil); again != first {
				t.Fatalf("tenant %d went to %s, then to %s", tenant, first, again)
			}
		}
	}
	if len(seen) != 3 {
		t.Errorf("20 tenants went to %d of 3 targets", len(seen))
	}
}

func TestPriorityIsAFailover(t *testing.T) {
	d := newDoor(t, 0)
	main, spare := newReplica(t, "main"), newReplica(t, "spare")
	d.apply(`
version: 1
services:
  - name: s
    targets: [{url: %s}, {url: %s, priority: 1}]
    health: {passive: {failures: 1, eject_for: 1h}}
routes: [{name: r, service: s, auth: {mode: none}}]
`, main.URL, spare.URL)
	for range 10 {
		if _, text := d.call("GET", "x", "/", nil, nil); text != "main" {
			t.Fatalf("%s is asked while main is well", text)
		}
	}
	main.does(answer(503))
	d.call("GET", "x", "/", nil, nil)
	for range 10 {
		if _, text := d.call("GET", "x", "/", nil, nil); text != "spare" {
			t.Fatalf("%q answers, want the spare", text)
		}
	}
}

// What is left of an answer that is not given is not waited for.
func TestARetryDoesNotWaitForTheBodyOfTheFailure(t *testing.T) {
	d := newDoor(t, 0)
	stalls := hasty(t, "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 10\r\n\r\nabc")
	b := newReplica(t, "b")
	d.apply(`
version: 1
services:
  - name: s
    targets: [{url: %s}, {url: %s}]
    retry: {attempts: 2, on: ["503"], backoff: 1ms, budget: 1}
    health: {passive: {failures: 1000, eject_for: 1s}}
routes: [{name: r, service: s, auth: {mode: none}}]
`, stalls, b.URL)
	done := make(chan bool, 4)
	for range cap(done) {
		go func() { done <- d.succeeds("GET", "") }()
	}
	for range cap(done) {
		select {
		case ok := <-done:
			if !ok {
				t.Error("a request failed")
			}
		case <-time.After(10 * time.Second):
			t.Fatal("a request waits for the end of an answer that nobody wants")
		}
	}
}
