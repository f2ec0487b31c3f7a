package interoptest_test

import (
	"bufio"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"testing"
)

// TestTargetsReachTheServiceToTheByte sends the request targets of Kong's
// regressions in percent-encoding. The target goes out and arrives as bytes: no
// client library has its say.
func TestTargetsReachTheServiceToTheByte(t *testing.T) {
	arrived := make(chan string, 1)
	service := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { arrived <- r.RequestURI }))
	defer service.Close()
	srv := front(t, fmt.Sprintf(`version: 1
services: [{name: s, url: %q}]
routes:
  - {name: all, match: {path: {prefix: /}}, service: s, auth: {mode: none}}
  - {name: host, match: {hosts: [mock.example], path: {prefix: /}}, service: s, auth: {mode: none}, allow_encoded_slashes: true}
  - {name: strip, match: {path: {prefix: /stripped-path}}, service: s, strip_prefix: /stripped-path, auth: {mode: none}}
`, service.URL), false)
	for _, c := range []struct {
		name, host, sent, want string // without want: refused with 400
	}{
		{"encoded JSON in the query", "mock.example", "/get?limit=25&where=%7B%22or%22:%5B%7B%22name%22:%7B%22like%22:%22%25bac%25%22%7D%7D%5D%7D",
			"/get?limit=25&where=%7B%22or%22:%5B%7B%22name%22:%7B%22like%22:%22%25bac%25%22%7D%7D%5D%7D"},
		{"dots in the query", "mock.example", "/request?param=1.2.3", "/request?param=1.2.3"},
		{"encoded bar in the query", "mock.example", "/request?param=abc%7Cdef", "/request?param=abc%7Cdef"},
		{"encoded bar, route of the host", "mock.example", "/request/auth%7C123", "/request/auth%7C123"},
		{"encoded bar, route of the path", "other.example", "/request/auth%7C123", "/request/auth%7C123"},
		{"encoded bar, prefix stripped", "other.example", "/stripped-path/request/auth%7C123", "/request/auth%7C123"},
		{"encoded slash", "mock.example", "/request/foo%2Fbar", "/request/foo%2Fbar"},
		// It could be a slash to the service, so a route has to take it.
		{"encoded slash, route that does not take it", "other.example", "/request/foo%2Fbar", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			conn, err := net.Dial("tcp", srv.Listener.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			if _, err := fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n\r\n", c.sent, c.host); err != nil {
				t.Fatal(err)
			}
			resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
			if err != nil {
				t.Fatal(err)
			}
			resp.Body.Close()
			if c.want == "" {
				if resp.StatusCode != http.StatusBadRequest {
					t.Errorf("status %d, want 400", resp.StatusCode)
				}
				return
			}
			if resp.StatusCode != http.StatusOK {
				t.Fatalf("status %d", resp.StatusCode)
			}
			if got := <-arrived; got != c.want {
				t.Errorf("the service saw %s, want %s", got, c.want)
			}
		})
	}
}
