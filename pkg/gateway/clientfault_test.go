package gateway_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/keywarden/keywarden/pkg/gateway"
)

// rawConn is a connection to the gateway on which the client says what it likes.
func rawConn(t *testing.T, d *door) (net.Conn, *bufio.Reader) {
	t.Helper()
	conn, err := net.Dial("tcp", d.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
	return conn, bufio.NewReader(conn)
}

func echoing(w http.ResponseWriter, r *http.Request) { _, _ = io.Copy(w, r.Body) }

// spoiled are bodies that do not end as they should.
var spoiled = []struct {
	name, body string
	half       bool // the client closes its direction
	status     int
}{
	{"malformed", "Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\nzz\r\n", false, 400},
	{"malformed at once", "Transfer-Encoding: chunked\r\n\r\n0x3\r\nabc\r\n0\r\n\r\n", false, 400},
	{"bad trailer", "Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nno trailer\r\n\r\n", false, 400},
	{"too long", "Transfer-Encoding: chunked\r\n\r\n2000\r\n" + strings.Repeat("a", 0x2000) + "\r\n", false, 413},
	{"incomplete", "Content-Length: 10\r\n\r\nabc", true, 400},
	{"slow", "Content-Length: 100\r\n\r\nabc", false, 408},
	{"slow chunk", "Transfer-Encoding: chunked\r\n\r\n64\r\nabc", false, 408},
}

// What is left on a connection after such a body is no request: behind a proxy
// that takes it for the rest of the body, the next client would get its answer.
func TestNothingAfterASpoiledBodyIsTakenForARequest(t *testing.T) {
	for _, c := range spoiled {
		for _, bound := range []struct{ service, route string }{{"idle_timeout: 100ms", ""}, {"idle_timeout: 1h", ", timeout: 100ms"}} {
			t.Run(c.name+" "+bound.service, func(t *testing.T) {
				d, a := newDoor(t, 4096), newReplica(t, "a")
				var smuggled atomic.Bool
				a.does(func(w http.ResponseWriter, r *http.Request) {
					if r.URL.Path == "/smuggled" {
						smuggled.Store(true)
					}
					echoing(w, r)
				})
				d.apply(bounded, a.URL, bound.service, bound.route)
				conn, answers := rawConn(t, d)
				fmt.Fprint(conn, "POST / HTTP/1.1\r\nHost: x\r\n"+c.body)
				if c.half {
					_ = conn.(*net.TCPConn).CloseWrite()
				}
				resp, err := http.ReadResponse(answers, nil)
				if err != nil {
					t.Fatal(err)
				}
				_, _ = io.Copy(io.Discard, resp.Body)
				resp.Body.Close()
				if resp.StatusCode != c.status || !resp.Close {
					t.Errorf("status %d, the connection is closed: %t; want %d, true", resp.StatusCode, resp.Close, c.status)
				}
				fmt.Fprint(conn, "GET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n")
				if resp, err := http.ReadResponse(answers, nil); err == nil {
					resp.Body.Close()
					t.Errorf("what came after it was answered with %d", resp.StatusCode)
				}
				if smuggled.Load() {
					t.Error("what came after it reached the service")
				}
			})
		}
	}
}

// hasty is a service that answers before it has read anything, and reads on.
func hasty(t *testing.T, answer string) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				in := bufio.NewReader(conn)
				if _, err := http.ReadRequest(in); err == nil {
					fmt.Fprint(conn, answer)
					_, _ = io.Copy(io.Discard, in)
				}
			}()
		}
	}()
	return "http://" + l.Addr().String()
}

// The same, when the answer is there before the body goes wrong.
func TestNothingAfterABodySpoiledDuringTheAnswerIsTakenForARequest(t *testing.T) {
	for name, end := range map[string]string{"malformed": "zz\r\n", "slow": ""} {
		t.Run(name, func(t *testing.T) {
			d := newDoor(t, 0)
			d.apply(bounded, hasty(t, "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nwhole"), "response_timeout: 10s", "")
			conn, answers := rawConn(t, d)
			fmt.Fprint(conn, "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n")
			resp, err := http.ReadResponse(answers, nil)
			if err != nil {
				t.Fatal(err)
			}
			if body, err := io.ReadAll(resp.Body); err != nil || string(body) != "whole" {
				t.Fatalf("%q, %v", body, err)
			}
			resp.Body.Close()
			if end == "" { // until nobody waits for it any more
				_, _ = answers.Peek(1)
			}
			fmt.Fprint(conn, end+"GET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n")
			if resp, err := http.ReadResponse(answers, nil); err == nil {
				resp.Body.Close()
				t.Errorf("what came after it was answered with %d", resp.StatusCode)
			}
		})
	}
}

// watchful is a service of two targets that notes the first failure.
const watchful = `
version: 1
services:
  - name: s
    targets: [{url: %s}, {url: %s}]
    breaker: {error_rate: 0.1, min_requests: 2, window: 1h, open_for: 1h}
    health: {passive: {failures: 1, eject_for: 1h}}
routes: [{name: r, service: s, auth: {mode: none}, timeout: 100ms}]
`

func (d *door) wantNoBlame() {
	d.t.Helper()
	eventually(d.t, "the requests have ended", func() bool {
		return !slices.ContainsFunc(d.backend("s").Targets, func(s gateway.TargetState) bool { return s.InFlight > 0 })
	})
	state := d.backend("s")
	if state.Breaker != "closed" {
		d.t.Errorf("the breaker is %s", state.Breaker)
	}
	for _, target := range state.Targets {
		if target.Ejected {
			d.t.Errorf("%s is kept out", target.URL)
		}
	}
}

// A request whose body is spoiled says nothing about the service: else whoever may
// send one could have the service kept out, for everybody.
func TestASpoiledBodyCountsAgainstNoTarget(t *testing.T) {
	for _, c := range spoiled {
		t.Run(c.name, func(t *testing.T) {
			d, a, b := newDoor(t, 4096), newReplica(t, "a"), newReplica(t, "b")
			a.does(echoing)
			b.does(echoing)
			d.apply(watchful, a.URL, b.URL)
			for range 4 {
				conn, answers := rawConn(t, d)
				fmt.Fprint(conn, "POST / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"+c.body)
				if c.half {
					_ = conn.(*net.TCPConn).CloseWrite()
				}
				_, _ = io.Copy(io.Discard, answers)
			}
			d.wantNoBlame()
		})
	}
}

// The same for one that is spoiled when the answer has begun, which then ends early.
func TestABodySpoiledDuringTheAnswerCountsAgainstNoTarget(t *testing.T) {
	const half = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nd\r\nthe beginning\r\n"
	for name, end := range map[string]string{"malformed": "zz\r\n", "slow": ""} {
		t.Run(name, func(t *testing.T) {
			d := newDoor(t, 4096)
			d.apply(watchful, hasty(t, half), hasty(t, half))
			for range 4 {
				conn, answers := rawConn(t, d)
				fmt.Fprint(conn, "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n")
				if _, err := http.ReadResponse(answers, nil); err != nil {
					t.Fatal(err)
				}
				fmt.Fprint(conn, end)
				_, _ = io.Copy(io.Discard, answers)
			}
			d.wantNoBlame()
		})
	}
}

// The bound on an exchange holds for a client that does not send its body, too: it
// must not keep a place at the service, or at the gateway, for as long as it likes.
func TestTheTimeoutCutsAnUploadThatStands(t *testing.T) {
	d, a := newDoor(t, 0), newReplica(t, "a")
	a.does(echoing)
	d.apply(bounded, a.URL, "bulkhead: {max_in_flight: 1}", ", timeout: 100ms")
	conn, answers := rawConn(t, d)
	fmt.Fprint(conn, "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nabc")
	resp, err := http.ReadResponse(answers, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, _ := io.ReadAll(resp.Body)
	if resp.StatusCode != 408 || codeOf(t, string(body)) != "request.body_timeout" {
		t.Errorf("%d %s", resp.StatusCode, body)
	}
	eventually(t, "its place is free", func() bool { return d.succeeds("GET", "") })
}

// A client may keep its side of a gRPC call open until the answer is there: when the
// time is over, it is the service that was waited for.
func TestTheTimeoutOfACallIsTheServices(t *testing.T) {
	d, a, b := newDoor(t, 0), newReplica(t, "a"), newReplica(t, "b")
	d.apply(watchful, a.URL, b.URL)
	conn, answers := rawConn(t, d)
	fmt.Fprint(conn, "POST / HTTP/1.1\r\nHost: x\r\nContent-Type: application/grpc\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n")
	resp, err := http.ReadResponse(answers, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, _ := io.ReadAll(resp.Body)
	if resp.StatusCode != 504 || codeOf(t, string(body)) != "gateway.upstream_timeout" || !resp.Close {
		t.Errorf("%d %s, the connection is closed: %t", resp.StatusCode, body, resp.Close)
	}
	ejected := 0
	for _, target := range d.backend("s").Targets {
		if target.Ejected {
			ejected++
		}
	}
	if ejected != 1 {
		t.Errorf("%d targets are kept out, want 1", ejected)
	}
}

// A method that the service does not know is the client's choice, too (RFC 9110
// section 15.6.2).
func TestAnUnknownMethodCountsAgainstNoTarget(t *testing.T) {
	d, a, b := newDoor(t, 0), newReplica(t, "a"), newReplica(t, "b")
	a.does(answer(http.StatusNotImplemented))
	b.does(answer(http.StatusNotImplemented))
	d.apply(watchful, a.URL, b.URL)
	for range 4 {
		if resp, _ := d.call("BREW", "x", "/", nil, nil); resp.StatusCode != http.StatusNotImplemented {
			t.Fatalf("status %d", resp.StatusCode)
		}
	}
	d.wantNoBlame()
}

// Trailer fields that say how a message is framed or to be read are not passed on:
// who merges them into the header would read another message (RFC 9110 section
// 6.5.1).
func TestTrailersOfTheServiceSayNothingOfTheFraming(t *testing.T) {
	d := newDoor(t, 0)
	d.apply(bounded, hasty(t, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nwhole\r\n0\r\n"+
		"X-Sum: 1\r\nContent-Length: 7\r\nTransfer-Encoding: x\r\nConnection: close\r\nContent-Encoding: gzip\r\n\r\n"), "response_timeout: 10s", "")
	for _, method := range []string{"GET", "BREW"} { // which take different ways to the service
		resp, body := sendRaw(t, d, method, "x", "/", "")
		if body != "whole" || len(resp.Trailer) != 1 || resp.Trailer.Get("X-Sum") != "1" {
			t.Errorf("%s: %q, trailers %v", method, body, resp.Trailer)
		}
	}
}
