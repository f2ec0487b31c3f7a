package gateway_test

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// blackhole is an address that accepts no more connections and refuses none: a
// listener with the shortest queue, which the test fills.
func blackhole(t *testing.T) string {
	t.Helper()
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { syscall.Close(fd) })
	if err := errors.Join(syscall.Bind(fd, &syscall.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}), syscall.Listen(fd, 0)); err != nil {
		t.Fatal(err)
	}
	name, err := syscall.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	address := netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), uint16(name.(*syscall.SockaddrInet4).Port)).String()
	for range 100 {
		conn, err := net.DialTimeout("tcp", address, 200*time.Millisecond)
		var timeout net.Error
		if errors.As(err, &timeout) && timeout.Timeout() {
			return "http://" + address
		}
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
	}
	t.Skip("this system's queue of connections has no end")
	return ""
}

// breaksOff begins an answer and resets the connection in the middle of it.
func breaksOff(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Length", "1000")
	fmt.Fprint(w, "the beginning")
	_ = http.NewResponseController(w).Flush()
	reset(w, r)
}

// load is what became of many requests at once.
type load struct {
	sent, failed atomic.Int64 // failed: another status than 200, or half an answer
	bodies       sync.Map     // of each POST
}

// run has so many clients send so many requests each, GET and POST in turn.
func (d *door) run(clients, each int, l *load) {
	var all sync.WaitGroup
	for c := range clients {
		all.Go(func() {
			for i := range each {
				method, body := "GET", ""
				if i%2 == 1 {
					method, body = "POST", fmt.Sprintf("order %d of client %d, %p", i, c, l)
					l.bodies.Store(body, true)
				}
				l.sent.Add(1)
				if !d.succeeds(method, body) {
					l.failed.Add(1)
				}
			}
		})
	}
	all.Wait()
}

func (d *door) succeeds(method, body string) bool {
	r, err := http.NewRequestWithContext(d.t.Context(), method, d.URL, strings.NewReader(body))
	if err != nil {
		return false
	}
	resp, err := d.Client().Do(r)
	if err != nil {
		return false
	}
	defer resp.Body.Close()
	_, err = io.Copy(io.Discard, resp.Body)
	return err == nil && resp.StatusCode == 200
}

// atMostOnce checks that no body has arrived twice, anywhere.
func (l *load) atMostOnce(t *testing.T, all ...*replica) {
	t.Helper()
	l.bodies.Range(func(body, _ any) bool {
		n := int64(0)
		for _, r := range all {
			if count, ok := r.bodies.Load(body); ok {
				n += count.(*atomic.Int64).Load()
			}
		}
		if n > 1 {
			t.Errorf("%q has arrived %d times", body, n)
		}
		return true
	})
}

const careful = "    retry: {attempts: 3, on: [connect, reset, timeout, \"502\", \"503\", \"504\"], backoff: 1ms, budget: 1.0}\n" +
	"    health: {passive: {failures: 5, eject_for: 1h}}\n    response_timeout: 1s\n    connect_timeout: 100ms"

// With one of three targets in trouble, the errors are those few that show the
// trouble, and no POST arrives twice.
func TestOneOfThreeTargetsInTrouble(t *testing.T) {
	for name, c := range map[string]struct {
		trouble http.HandlerFunc
		most    int64 // failed requests
	}{
		// A request of which a target may have seen something is an error: five of them
		// in a row, and what was under way by then with eight clients.
		"hung":               {func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }, 5 + 8},
		"resetting":          {reset, 5 + 8},
		"resetting mid-body": {breaksOff, 5 + 8},
		"answering 500":      {answer(500), 5 + 8},
	} {
		t.Run(name, func(t *testing.T) {
			d := newDoor(t, 0)
			all := []*replica{newReplica(t, "a"), newReplica(t, "b"), newReplica(t, "c")}
			d.three(careful, all[0].URL, all[1].URL, all[2].URL)
			all[1].does(c.trouble)
			var l load
			d.run(8, 40, &l)
			if n := l.failed.Load(); n > c.most {
				t.Errorf("%d of %d requests failed, want at most %d", n, l.sent.Load(), c.most)
			}
			l.atMostOnce(t, all...)
			if asked := all[1].asked.Load(); asked > 5+8 {
				t.Errorf("the target in trouble was asked %d times", asked)
			}
			var after load
			d.run(4, 20, &after)
			if after.failed.Load() != 0 {
				t.Errorf("afterwards %d requests failed", after.failed.Load())
			}
		})
	}
}

// A target that is slow, and not too slow, fails nobody.
func TestASlowTargetFailsNobody(t *testing.T) {
	d := newDoor(t, 0)
	all := []*replica{newReplica(t, "a"), newReplica(t, "b"), newReplica(t, "c")}
	d.three(careful+"\n    balance: {policy: least_connections}", all[0].URL, all[1].URL, all[2].URL)
	all[1].does(func(w http.ResponseWriter, r *http.Request) {
		select {
		case <-time.After(100 * time.Millisecond):
		case <-r.Context().Done():
		}
	})
	var l load
	d.run(8, 40, &l)
	if l.failed.Load() != 0 {
		t.Errorf("%d requests failed", l.failed.Load())
	}
	if slow := all[1].asked.Load(); slow > l.sent.Load()/4 {
		t.Errorf("the slow one got %d of %d requests", slow, l.sent.Load())
	}
	l.atMostOnce(t, all...)
}

// A target that dies under load breaks what it was working on, and nothing else.
func TestATargetThatIsKilledUnderLoad(t *testing.T) {
	d := newDoor(t, 0)
	all := []*replica{newReplica(t, "a"), newReplica(t, "b"), newReplica(t, "c")}
	d.three(careful, all[0].URL, all[1].URL, all[2].URL)
	var l load
	var killed sync.WaitGroup
	killed.Go(func() {
		eventually(t, "it works", func() bool { return all[1].asked.Load() > 20 })
		_ = all[1].Listener.Close()
		all[1].CloseClientConnections()
	})
	d.run(8, 60, &l)
	killed.Wait()
	if n := l.failed.Load(); n > 8 {
		t.Errorf("%d of %d requests failed, want at most those that were under way", n, l.sent.Load())
	}
	l.atMostOnce(t, all...)
}

// Nothing is sent to a target to which there is no connection: its requests go to
// others, POST included, and it is kept out soon; never are more than half.
func TestABlackholeIsKeptOut(t *testing.T) {
	d := newDoor(t, 0)
	a, b, hole := newReplica(t, "a"), newReplica(t, "b"), blackhole(t)
	d.three("    connect_timeout: 50ms\n    health: {passive: {failures: 3, eject_for: 1h}}", a.URL, hole, b.URL)
	var l load
	d.run(4, 20, &l)
	if l.failed.Load() != 0 {
		t.Errorf("%d requests failed", l.failed.Load())
	}
	l.atMostOnce(t, a, b)
	for _, target := range d.backend("s").Targets {
		if want := target.URL == hole; target.Ejected != want {
			t.Errorf("state %+v", target)
		}
	}
	d.three("    connect_timeout: 50ms\n    health: {passive: {failures: 1, eject_for: 1h}}", hole, blackhole(t), blackhole(t))
	if resp, text := d.call("POST", "x", "/", nil, strings.NewReader("order")); resp.StatusCode != 504 || codeOf(t, text) != "gateway.upstream_timeout" {
		t.Errorf("nobody can be reached: %d %s", resp.StatusCode, text)
	}
	ejected := 0
	for _, target := range d.backend("s").Targets {
		if target.Ejected {
			ejected++
		}
	}
	if ejected > 1 {
		t.Errorf("%d of 3 are ejected", ejected)
	}
}

// An answer that breaks off counts for the breaker, and it lets the service have a
// try later.
func TestTheBreakerCountsAnswersThatBreakOffAndCloses(t *testing.T) {
	d, a := newDoor(t, 0), newReplica(t, "a")
	d.apply(bounded, a.URL, "breaker: {error_rate: 0.9, min_requests: 5, window: 1h, open_for: 100ms, probes: 1}", "")
	a.does(breaksOff)
	for i := range 5 {
		if d.succeeds("GET", "") {
			t.Fatalf("request %d looks whole", i)
		}
	}
	if state := d.backend("s").Breaker; state != "open" {
		t.Errorf("the breaker is %s after five answers that broke off", state)
	}
	asked := a.asked.Load()
	if resp, text := d.call("GET", "x", "/", nil, nil); resp.StatusCode != 503 || codeOf(t, text) != "gateway.circuit_open" || a.asked.Load() != asked {
		t.Errorf("%d %s", resp.StatusCode, text)
	}
	a.does(nil)
	eventually(t, "it closes", func() bool { return d.succeeds("GET", "") && d.backend("s").Breaker == "closed" })
}

// A client that goes away in the middle of an answer says nothing about the
// service.
func TestClientsThatGoAwayOpenNoBreaker(t *testing.T) {
	d, a := newDoor(t, 0), newReplica(t, "a")
	d.apply(bounded, a.URL, "breaker: {error_rate: 0.1, min_requests: 2, window: 1h, open_for: 1h}", "")
	a.does(halfway("application/octet-stream"))
	for range 6 {
		_ = d.begun().Body.Close()
	}
	eventually(t, "the requests have ended", func() bool { return d.backend("s").Targets[0].InFlight == 0 })
	if state := d.backend("s").Breaker; state != "closed" {
		t.Errorf("the breaker is %s", state)
	}
}

// Whatever many clients offer, a service that fails gets at most a fifth more.
// RTY-06.
func TestAStormOfRetriesIsStopped(t *testing.T) {
	for name, trouble := range map[string]http.HandlerFunc{"503": answer(503), "reset": reset} {
		t.Run(name, func(t *testing.T) {
			d := newDoor(t, 0)
			all := []*replica{newReplica(t, "a"), newReplica(t, "b"), newReplica(t, "c")}
			for _, r := range all {
				r.does(trouble)
			}
			d.three("    retry: {attempts: 10, on: [reset, \"503\"], backoff: 1ms, budget: 0.2}\n    health: {active: {type: tcp, interval: 1h}}",
				all[0].URL, all[1].URL, all[2].URL)
			var clients sync.WaitGroup
			const offered = 400
			for range 8 {
				clients.Go(func() {
					for range offered / 8 {
						d.succeeds("GET", "")
					}
				})
			}
			clients.Wait()
			if n := all[0].asked.Load() + all[1].asked.Load() + all[2].asked.Load(); n > offered*120/100+1 {
				t.Errorf("the service got %d requests for %d", n, offered)
			}
		})
	}
}
