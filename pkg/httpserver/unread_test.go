package httpserver_test

import (
	"bufio"
	"fmt"
	"net"
	"net/http"
	"testing"
	"time"

	"github.com/keywarden/keywarden/pkg/httpserver"
)

// A client that announces a body and does not send it gets its refusal, and cannot
// keep the connection for as long as it likes: there are only so many.
func TestABodyThatNobodyReadsIsNotWaitedForLong(t *testing.T) {
	refuse := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusUnauthorized) })
	srv := start(t, refuse, func(o *httpserver.Options) { o.UnreadBodyTimeout = 50 * time.Millisecond })
	for _, framing := range []string{"Content-Length: 10", "Transfer-Encoding: chunked", "Content-Length: 10\r\nExpect: 100-continue"} {
		t.Run(framing, func(t *testing.T) {
			conn, err := net.Dial("tcp", srv.addr)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			_ = conn.SetDeadline(time.Now().Add(5 * time.Second))
			fmt.Fprintf(conn, "POST / HTTP/1.1\r\nHost: a\r\n%s\r\n\r\n", framing)
			answers := bufio.NewReader(conn)
			resp, err := http.ReadResponse(answers, nil)
			if err != nil {
				t.Fatal(err)
			}
			resp.Body.Close()
			if resp.StatusCode != http.StatusUnauthorized || !resp.Close {
				t.Errorf("status %d, the connection is closed: %t", resp.StatusCode, resp.Close)
			}
			if _, err := answers.Peek(1); err == nil {
				t.Error("there is more")
			} else if timeout, ok := err.(net.Error); ok && timeout.Timeout() { //nolint:errorlint // it comes from the connection itself
				t.Error("the connection stays open")
			}
		})
	}
}

// The bound is of one request: a connection that goes on is as good as before.
func TestTheBoundOnUnreadBodiesEndsWithItsRequest(t *testing.T) {
	const bound = 20 * time.Millisecond
	srv := start(t, http.HandlerFunc(echo), func(o *httpserver.Options) { o.UnreadBodyTimeout = bound })
	conn, err := net.Dial("tcp", srv.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
	answers := bufio.NewReader(conn)
	for range 3 {
		fmt.Fprint(conn, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nbo")
		time.AfterFunc(3*bound, func() { fmt.Fprint(conn, "dy") })
		resp, err := http.ReadResponse(answers, nil)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := answers.Discard(int(resp.ContentLength)); err != nil || resp.StatusCode != http.StatusOK {
			t.Fatalf("status %d, %v", resp.StatusCode, err)
		}
	}
}
