package http1_test

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/keywarden/keywarden/pkg/gateway/upstream/http1"
)

// post is a request with a body that says to have length bytes.
func post(t *testing.T, addr, body string, length int64) *http.Request {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://"+addr+"/", io.NopCloser(strings.NewReader(body)))
	if err != nil {
		t.Fatal(err)
	}
	r.ContentLength = length
	return r
}

func TestSmallBodiesArrive(t *testing.T) {
	addr, connections := raw(t, func(conn net.Conn, _ int, r *http.Request) bool {
		body, _ := io.ReadAll(r.Body)
		_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n"+string(rune('0'+len(body)%10))+"\r\n0\r\n\r\n")
		return true
	})
	c := newClient(t, addr, nil)
	for _, size := range []int{1, 5, 1000, http1.MaxBody} {
		r := post(t, addr, strings.Repeat("x", size), int64(size))
		if !http1.Suits(r) {
			t.Fatalf("%d bytes do not suit", size)
		}
		resp, err := c.RoundTrip(r)
		if err != nil {
			t.Fatal(err)
		}
		if text, err := io.ReadAll(resp.Body); err != nil || string(text) != string(rune('0'+size%10)) {
			t.Errorf("%d bytes: %q, %v", size, text, err)
		}
	}
	if n := connections.Load(); n != 1 {
		t.Errorf("%d connections, want 1", n)
	}
}

// Without a body a POST says so: some servers wait for one otherwise.
func TestMissingBodyIsSaid(t *testing.T) {
	for method, want := range map[string]bool{"POST": true, "PUT": true, "PATCH": true, "GET": false, "DELETE": false} {
		r, err := http.NewRequestWithContext(t.Context(), method, "http://service/", nil)
		if err != nil {
			t.Fatal(err)
		}
		if got := strings.Contains(string(http1.Encode(r)), "\r\nContent-Length: 0\r\n"); got != want {
			t.Errorf("%s: a length of zero is said: %t", method, got)
		}
	}
}

// What may have been done is not done again: only the client knows whether it may be.
func TestPostIsNotSentAgain(t *testing.T) {
	var posts atomic.Int64
	addr, _ := raw(t, func(conn net.Conn, n int, r *http.Request) bool {
		if r.Method == http.MethodPost {
			posts.Add(1)
			return false
		}
		_, _ = io.WriteString(conn, hello)
		return true
	})
	c := newClient(t, addr, nil)
	if _, err := fetch(t, c, addr, "/"); err != nil { // a connection that is used again
		t.Fatal(err)
	}
	if _, err := c.RoundTrip(post(t, addr, "x", 1)); err == nil {
		t.Error("a request without an answer has none")
	}
	if n := posts.Load(); n != 1 {
		t.Errorf("sent %d times", n)
	}
}

func TestBodyOfAnotherLengthIsNotSent(t *testing.T) {
	for name, c := range map[string]struct {
		body   string
		length int64
	}{"shorter": {"abc", 5}, "longer": {"abcdef", 5}} {
		addr, _ := raw(t, func(_ net.Conn, _ int, r *http.Request) bool {
			t.Errorf("%s: %s arrived", name, r.Method)
			return false
		})
		if _, err := newClient(t, addr, nil).RoundTrip(post(t, addr, c.body, c.length)); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

// A client that takes its time for the body may outlive an idle connection. Nothing was
// sent on that, so another is no second try.
func TestConnectionThatEndsBeforeTheBodyIsThere(t *testing.T) {
	var first net.Conn
	addr, connections := raw(t, func(conn net.Conn, _ int, _ *http.Request) bool {
		first = conn
		_, _ = io.WriteString(conn, hello)
		return true
	})
	gone := make(chan struct{})
	var ours net.Conn
	c := newClient(t, addr, func(c *http1.Config) {
		dial := c.Dial
		c.Dial = func(ctx context.Context, network, addr string) (net.Conn, error) {
			select {
			case <-gone:
				return nil, errors.New("no connection any more")
			default:
			}
			conn, err := dial(ctx, network, addr)
			ours = conn
			return conn, err
		}
	})
	if _, err := fetch(t, c, addr, "/"); err != nil {
		t.Fatal(err)
	}
	end := func() { // the connection is closed, and we have been told
		_ = first.Close()
		_, _ = ours.Read(make([]byte, 1))
	}
	r := post(t, addr, "", 4)
	r.Body = io.NopCloser(io.MultiReader(strings.NewReader("bo"), after{end}, strings.NewReader("dy")))
	resp, err := c.RoundTrip(r)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadAll(resp.Body); err != nil || connections.Load() != 2 {
		t.Errorf("%v over %d connections", err, connections.Load())
	}

	// When there is no other connection either, the body is there for another address.
	r = post(t, addr, "", 4)
	r.Body = io.NopCloser(io.MultiReader(strings.NewReader("bo"), after{func() { close(gone); end() }}, strings.NewReader("dy")))
	if _, err := c.RoundTrip(r); err == nil {
		t.Fatal("an answer without a connection")
	}
	if body, err := io.ReadAll(r.Body); err != nil || string(body) != "body" {
		t.Errorf("left of the body is %q, %v", body, err)
	}
}

// after calls do when it is read.
type after struct{ do func() }

func (a after) Read([]byte) (int, error) { a.do(); return 0, io.EOF }
