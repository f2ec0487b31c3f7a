package proxy_test

import (
	"bufio"
	"fmt"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"
)

// dialBeforeNobody connects to a front whose service is not there.
func dialBeforeNobody(t *testing.T) (net.Conn, *bufio.Reader) {
	t.Helper()
	nobody, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	target := "http://" + nobody.Addr().String()
	_ = nobody.Close()
	f := newFront(t, target, setup{})
	conn, err := net.Dial("tcp", f.addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(30 * time.Second))
	return conn, bufio.NewReader(conn)
}

// wantBadGateway reads one answer, body included.
func wantBadGateway(t *testing.T, answers *bufio.Reader) {
	t.Helper()
	resp, err := http.ReadResponse(answers, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := answers.Discard(int(resp.ContentLength)); err != nil || resp.StatusCode != http.StatusBadGateway {
		t.Fatalf("status %d, %v", resp.StatusCode, err)
	}
}

// A body that nobody has read, since there was no service to read it, is in
// nobody's way: the next request on the connection is answered too.
func TestUnreadBodyLeavesTheConnectionUsable(t *testing.T) {
	conn, answers := dialBeforeNobody(t)
	for round := range 5 {
		body := strings.Repeat("x", 1+round*1000)
		if _, err := fmt.Fprintf(conn, "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s", len(body), body); err != nil {
			t.Fatal(err)
		}
		wantBadGateway(t, answers)
	}
}

// A client that keeps the body back until it is asked for gets its answer all the
// same.
func TestAnswerDoesNotWaitForABodyThatIsNotSent(t *testing.T) {
	for _, expect := range []string{"", "Expect: 100-continue\r\n"} {
		conn, answers := dialBeforeNobody(t)
		if _, err := fmt.Fprintf(conn, "POST / HTTP/1.1\r\nHost: x\r\n%sContent-Length: 1000\r\n\r\n", expect); err != nil {
			t.Fatal(err)
		}
		wantBadGateway(t, answers)
		_ = conn.Close()
	}
}
