package proxy_test

import (
	"bufio"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/keywarden/keywarden/pkg/gateway/proxy"
)

const upgradeRequest = "GET /ws/x HTTP/1.1\r\nHost: a\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n" +
	"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"

// echoSocket switches to WebSocket and sends back what it gets. The frames are
// opaque to it, as they are to the gateway.
func echoSocket(t *testing.T) string {
	return backend(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Upgrade") != "websocket" || r.Header.Get("Connection") != "Upgrade" {
			t.Errorf("upgrade %q, connection %q", r.Header.Get("Upgrade"), r.Header.Get("Connection"))
		}
		if r.Header.Get("Sec-Websocket-Version") != "13" {
			w.Header().Set("Sec-WebSocket-Version", "13")
			http.Error(w, "version", http.StatusUpgradeRequired)
			return
		}
		conn, rw, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer conn.Close()
		_, _ = io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nX-Request-Id: theirs\r\n\r\nhello,")
		_, _ = io.Copy(conn, rw)
	})
}

func TestWebSocketPasses(t *testing.T) {
	f := newFront(t, echoSocket(t), setup{})
	conn, br := openSocket(t, f)
	for _, text := range []string{"first", strings.Repeat("x", 1<<20), "last"} {
		go func() { _, _ = io.WriteString(conn, text) }()
		got := make([]byte, len(text))
		if _, err := io.ReadFull(br, got); err != nil || string(got) != text {
			t.Fatalf("echo failed: %v", err)
		}
	}
	// The end of one direction reaches the other side and comes back.
	if err := conn.(*net.TCPConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if _, err := br.ReadByte(); !errors.Is(err, io.EOF) {
		t.Errorf("after the end came %v", err)
	}
}

// openSocket upgrades a connection and reads the greeting.
func openSocket(t *testing.T, f *front) (net.Conn, *bufio.Reader) {
	t.Helper()
	conn, br := f.dial()
	send(t, conn, upgradeRequest)
	resp, err := http.ReadResponse(br, nil)
	if err != nil {
		t.Fatal(err)
	}
	if resp.StatusCode != http.StatusSwitchingProtocols || resp.Header.Get("Upgrade") != "websocket" {
		t.Fatalf("got %d %v", resp.StatusCode, resp.Header)
	}
	if got := resp.Header.Values("X-Request-Id"); len(got) != 1 || got[0] != "request-1" {
		t.Errorf("X-Request-Id is %q", got)
	}
	greeting := make([]byte, len("hello,"))
	if _, err := io.ReadFull(br, greeting); err != nil || string(greeting) != "hello," {
		t.Fatalf("greeting %q, %v", greeting, err)
	}
	return conn, br
}

// TestWebSocketOutlivesTheRoutesTimeout waits for the bound to pass by watching
// another exchange run into it.
func TestWebSocketOutlivesTheRoutesTimeout(t *testing.T) {
	echo := echoSocket(t)
	f := newFront(t, echo, setup{route: proxy.RouteConfig{Timeout: 500 * time.Millisecond}})
	conn, br := openSocket(t, f)
	slow := newFront(t, backend(t, func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }),
		setup{route: proxy.RouteConfig{Timeout: 600 * time.Millisecond}})
	if resp, _ := slow.do("GET", "/", nil, nil); resp.StatusCode != 504 {
		t.Fatalf("got %d", resp.StatusCode)
	}
	send(t, conn, "still here")
	got := make([]byte, len("still here"))
	if _, err := io.ReadFull(br, got); err != nil || string(got) != "still here" {
		t.Errorf("got %q, %v", got, err)
	}
}

func TestRefusedUpgradeOpensNoTunnel(t *testing.T) {
	f := newFront(t, echoSocket(t), setup{})
	conn, br := f.dial()
	send(t, conn, strings.Replace(upgradeRequest, "Version: 13", "Version: 777", 1))
	resp, err := http.ReadResponse(br, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if _, err := io.ReadAll(resp.Body); err != nil {
		t.Fatal(err)
	}
	if resp.StatusCode != http.StatusUpgradeRequired {
		t.Errorf("got %d, want 426", resp.StatusCode)
	}
	// The connection speaks HTTP on: the gateway answers what follows by itself.
	send(t, conn, "GET //refused HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
	next, err := http.ReadResponse(br, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer next.Body.Close()
	if next.StatusCode != http.StatusBadRequest {
		t.Errorf("got %d, want 400", next.StatusCode)
	}
}

func TestUpgradeToAnotherProtocolThanAskedForIsRefused(t *testing.T) {
	f := newFront(t, rawBackend(t, answer("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n")), setup{})
	resp, body := f.raw(upgradeRequest)
	f.wantProblem(resp, body, 502, "gateway.upstream_invalid")
}

func TestUpgradeFieldThatIsNoTokenIsRefused(t *testing.T) {
	f := newFront(t, recorder(t), setup{})
	resp, body := f.raw("GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: \xff\xfe\r\n\r\n")
	f.wantProblem(resp, body, 400, "request.upgrade_invalid")
}

// TestServiceThatGoesAwayEndsTheTunnel keeps clients from waiting for ever.
func TestServiceThatGoesAwayEndsTheTunnel(t *testing.T) {
	f := newFront(t, rawBackend(t, answer("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nX-Request-Id: x\r\n\r\nhello,")), setup{})
	_, br := openSocket(t, f)
	if _, err := br.ReadByte(); !errors.Is(err, io.EOF) {
		t.Errorf("after the end came %v", err)
	}
}
