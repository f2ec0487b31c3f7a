package gateway_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// bounded is a document with one service; more is of the service, route of its
// route.
const bounded = `
version: 1
services: [{name: s, url: %s, %s}]
routes: [{name: r, service: s, auth: {mode: none}%s}]
`

// halfway sends the header and a part of the body, and then nothing for as long as
// the client waits.
func halfway(kind string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", kind)
		fmt.Fprint(w, "the beginning\n")
		_ = http.NewResponseController(w).Flush()
		<-r.Context().Done()
	}
}

// begun calls the door and reads what halfway has sent.
func (d *door) begun() *http.Response {
	d.t.Helper()
	r, err := http.NewRequestWithContext(d.t.Context(), "GET", d.URL, nil)
	if err != nil {
		d.t.Fatal(err)
	}
	resp, err := d.Client().Do(r)
	if err != nil {
		d.t.Fatal(err)
	}
	d.t.Cleanup(func() { _ = resp.Body.Close() })
	if _, err := io.ReadFull(resp.Body, make([]byte, len("the beginning\n"))); err != nil {
		d.t.Fatal(err)
	}
	return resp
}

func TestABodyThatStopsIsCutAndAStreamIsNot(t *testing.T) {
	d, a := newDoor(t, 0), newReplica(t, "a")
	d.apply(bounded, a.URL, "idle_timeout: 60ms", "")
	a.does(halfway("application/octet-stream"))
	cut := d.begun()
	if _, err := io.ReadAll(cut.Body); err == nil {
		t.Error("the half looks whole")
	}
	eventually(t, "the reason is known", func() bool {
		info := d.info()
		return info.Err != nil && strings.Contains(info.Err.Error(), "silent")
	})
	a.does(halfway("text/event-stream; charset=utf-8"))
	stream := d.begun()
	a.does(halfway("application/octet-stream"))
	if _, err := io.ReadAll(d.begun().Body); err == nil { // another pause has passed by then
		t.Error("the half looks whole")
	}
	ended := make(chan error, 1)
	go func() { _, err := stream.Body.Read(make([]byte, 1)); ended <- err }()
	select {
	case err := <-ended:
		t.Errorf("the stream was cut: %v", err)
	default:
	}
	_ = stream.Body.Close()
	<-ended
}

// What comes slowly but steadily takes as long as it takes.
func TestASlowBodyIsNotCut(t *testing.T) {
	d, a := newDoor(t, 0), newReplica(t, "a")
	d.apply(bounded, a.URL, "idle_timeout: 400ms", "")
	const pieces = 60
	a.does(func(w http.ResponseWriter, r *http.Request) {
		for range pieces {
			fmt.Fprint(w, ".")
			_ = http.NewResponseController(w).Flush()
			select {
			case <-time.After(10 * time.Millisecond):
			case <-r.Context().Done():
				return
			}
		}
	})
	if resp, text := d.call("GET", "x", "/", nil, nil); resp.StatusCode != 200 || len(text) != pieces {
		t.Errorf("%d with %d bytes", resp.StatusCode, len(text))
	}
}

func TestAnUploadThatTheServiceDoesNotTakeIsCut(t *testing.T) {
	d := newDoor(t, 0)
	l, err := net.Listen("tcp", "127.0.0.1:0") // its connections are never read
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	d.apply(bounded, "http://"+l.Addr().String(), "idle_timeout: 100ms", "")
	resp, text := d.call("POST", "x", "/", nil, bytes.NewReader(make([]byte, 64<<20)))
	if resp.StatusCode != 504 || codeOf(t, text) != "gateway.upstream_timeout" {
		t.Errorf("%d %s", resp.StatusCode, text)
	}
}

// The target is not to blame for a client that stops sending.
func TestAnUploadThatTheClientDoesNotSendIsCut(t *testing.T) {
	d, a, b := newDoor(t, 0), newReplica(t, "a"), newReplica(t, "b")
	d.apply(`
version: 1
services:
  - {name: s, targets: [{url: %s}, {url: %s}], idle_timeout: 60ms, health: {passive: {failures: 1, eject_for: 1h}}}
routes: [{name: r, service: s, auth: {mode: none}}]
`, a.URL, b.URL)
	body, w := io.Pipe()
	defer w.Close()
	go func() { _, _ = w.Write([]byte("the beginning")) }()
	resp, text := d.call("POST", "x", "/", nil, io.Reader(body))
	if resp.StatusCode != 408 || codeOf(t, text) != "request.body_timeout" {
		t.Errorf("%d %s", resp.StatusCode, text)
	}
	for _, target := range d.backend("s").Targets {
		if target.Ejected {
			t.Errorf("%s pays for it", target.URL)
		}
	}
}

func TestAnOpenedWebSocketMayBeSilent(t *testing.T) {
	d, a := newDoor(t, 0), newReplica(t, "a")
	d.apply(bounded, a.URL, "idle_timeout: 30ms, timeout: 60ms", "")
	a.does(func(w http.ResponseWriter, _ *http.Request) {
		conn, rw, err := http.NewResponseController(w).Hijack()
		if err != nil {
			panic(err)
		}
		defer conn.Close()
		fmt.Fprint(rw, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
		_ = rw.Flush()
		_, _ = io.Copy(conn, rw)
	})
	conn, err := net.Dial("tcp", d.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprint(conn, "GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
	buffer := make([]byte, 512)
	if n, err := conn.Read(buffer); err != nil || !strings.HasPrefix(string(buffer[:n]), "HTTP/1.1 101 ") {
		t.Fatalf("%q %v", buffer[:n], err)
	}
	_ = conn.SetReadDeadline(time.Now().Add(200 * time.Millisecond))
	var timeout net.Error
	if _, err := conn.Read(buffer); !errors.As(err, &timeout) || !timeout.Timeout() {
		t.Fatalf("it was cut: %v", err)
	}
	_ = conn.SetReadDeadline(time.Now().Add(20 * time.Second))
	fmt.Fprint(conn, "still there?")
	if n, err := conn.Read(buffer); err != nil || string(buffer[:n]) != "still there?" {
		t.Errorf("%q %v", buffer[:n], err)
	}
}

func TestTheServiceBoundsTheExchangeWhereTheRouteDoesNot(t *testing.T) {
	d, a := newDoor(t, 0), newReplica(t, "a")
	var gone atomic.Int64
	a.does(func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done(); gone.Add(1) })
	d.apply(bounded, a.URL, "timeout: 50ms", "")
	if resp, text := d.call("GET", "x", "/", nil, nil); resp.StatusCode != 504 || codeOf(t, text) != "gateway.upstream_timeout" {
		t.Errorf("by the service: %d %s", resp.StatusCode, text)
	}
	eventually(t, "the service hears of it", func() bool { return gone.Load() == 1 })
	d.apply(bounded, a.URL, "timeout: 24h", ", timeout: 50ms")
	if resp, _ := d.call("GET", "x", "/", nil, nil); resp.StatusCode != 504 {
		t.Errorf("by the route: %d", resp.StatusCode)
	}
	a.does(halfway("application/octet-stream"))
	d.apply(bounded, a.URL, "timeout: 50ms", "")
	if _, err := io.ReadAll(d.begun().Body); err == nil {
		t.Error("the half looks whole")
	}
}
