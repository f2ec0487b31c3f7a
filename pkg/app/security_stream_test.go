package app_test

import (
	"bufio"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/keywarden/keywarden/pkg/app/apptest"
)

// lasting is a backend whose answers last: event streams, and WebSockets that echo
// nothing. Each begins with a line.
func lasting(t *testing.T) *httptest.Server {
	t.Helper()
	backend := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Upgrade") == "" {
			w.Header().Set("Content-Type", "text/event-stream")
			_, _ = io.WriteString(w, "data: begun\n\n")
			_ = http.NewResponseController(w).Flush()
			<-r.Context().Done()
			return
		}
		conn, rw, err := http.NewResponseController(w).Hijack()
		if err != nil {
			return
		}
		defer func() { _ = conn.Close() }()
		_, _ = io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\nbegun\n")
		_, _ = io.Copy(io.Discard, rw)
	}))
	t.Cleanup(backend.Close)
	return backend
}

// openStream opens a stream and reads its first line. What it returns is closed when the
// stream ends.
func openStream(t *testing.T, addr, path string, lines ...string) <-chan struct{} {
	t.Helper()
	request := fmt.Sprintf("GET %s HTTP/1.1\r\nHost: client.test\r\n", path)
	for _, line := range lines {
		request += line + "\r\n"
	}
	conn := dialRaw(t, addr)
	if err := conn.SetDeadline(time.Time{}); err != nil { // it lasts
		t.Fatal(err)
	}
	if _, err := io.WriteString(conn, request+"\r\n"); err != nil {
		t.Fatal(err)
	}
	reader := bufio.NewReader(conn)
	for {
		line, err := reader.ReadString('\n')
		if err != nil {
			t.Fatalf("%s: the stream did not begin: %v", path, err)
		}
		if line == "begun\n" || line == "data: begun\n" {
			break
		}
	}
	ended := make(chan struct{})
	go func() { // ends with the connection, which dialRaw closes
		defer close(ended)
		_, _ = io.Copy(io.Discard, reader)
	}()
	return ended
}

// WS-05: what a credential has opened ends soon after the credential does.
func TestStreamsEndWithTheirCredential(t *testing.T) {
	backend := lasting(t)
	p := apptest.Start(t, apptest.Options{Set: roomy(), Gateway: fmt.Sprintf(`
version: 1
services: [{name: s, url: %q}]
routes:
  - {name: keyed, match: {path: {prefix: /stream}}, service: s}
  - {name: open, match: {path: {prefix: /open}}, service: s, auth: {mode: none}}
`, backend.URL)})
	for name, c := range map[string]struct {
		end func(t *testing.T, u *apptest.User, k apptest.Key)
		jwt bool
	}{
		"a key is revoked": {end: func(t *testing.T, u *apptest.User, k apptest.Key) {
			t.Helper()
			p.Want(t, http.StatusNoContent, "DELETE", "/api-keys/"+k.ID, nil, u.Auth()...)
		}},
		"a session ends": {jwt: true, end: func(t *testing.T, u *apptest.User, _ apptest.Key) {
			t.Helper()
			p.Want(t, http.StatusNoContent, "POST", "/auth/logout", nil, u.Auth()...)
		}},
	} {
		t.Run(name, func(t *testing.T) {
			u, other := p.User(t), p.User(t)
			k, others := p.Key(t, u, nil), p.Key(t, other, nil)
			credential := "X-API-Key: " + k.Secret
			if c.jwt {
				credential = "Authorization: Bearer " + u.Token
			}
			ending := map[string]<-chan struct{}{
				"an event stream": openStream(t, p.Addr, "/stream/a", credential),
				"a WebSocket":     openStream(t, p.Addr, "/stream/b", credential, handshake),
			}
			staying := map[string]<-chan struct{}{
				"somebody else's":   openStream(t, p.Addr, "/stream/c", "X-API-Key: "+others.Secret, handshake),
				"one without a key": openStream(t, p.Addr, "/open/d"),
			}
			c.end(t, u, k)
			for what, ended := range ending {
				select {
				case <-ended:
				case <-time.After(30 * time.Second):
					t.Errorf("%s goes on", what)
				}
			}
			for what, ended := range staying {
				select {
				case <-ended:
					t.Errorf("%s has ended, too", what)
				default:
				}
			}
		})
	}
}

// WS-06: a connection that was somebody's WebSocket is never used for anybody else.
func TestConnectionOfAWebSocketIsNeverUsedAgain(t *testing.T) {
	connections := make(chan string, 16)
	backend := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		connections <- r.RemoteAddr
		conn, rw, err := http.NewResponseController(w).Hijack()
		if err != nil {
			return
		}
		defer func() { _ = conn.Close() }()
		_, _ = io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\nbegun\n")
		_, _ = rw.ReadString('\n') // a line of the client ends it, and the connection with it
	}))
	t.Cleanup(backend.Close)
	p := apptest.Start(t, apptest.Options{Set: roomy(), Gateway: fmt.Sprintf(`
version: 1
services: [{name: s, url: %q}]
routes: [{name: r, match: {path: {prefix: /stream}}, service: s}]
`, backend.URL)})
	seen := map[string]bool{}
	for range 6 {
		u := p.User(t)
		openStream(t, p.Addr, "/stream/x", "X-API-Key: "+p.Key(t, u, nil).Secret, handshake)
		if from := <-connections; seen[from] {
			t.Errorf("the connection from %s is another user's", from)
		} else {
			seen[from] = true
		}
	}
}
