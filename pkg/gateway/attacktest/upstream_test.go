package attacktest

import (
	"bufio"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// dial connects to up for the length of the test.
func dial(t *testing.T, up *Upstream) (net.Conn, *bufio.Reader) {
	t.Helper()
	conn, err := net.Dial("tcp", up.Addr())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	return conn, bufio.NewReader(conn)
}

// ask sends a request for target and reads the answer.
func ask(t *testing.T, conn net.Conn, br *bufio.Reader, method, target string) (*http.Response, string) {
	t.Helper()
	req, err := http.NewRequest(method, "http://gw/", nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(conn, method+" "+target+" HTTP/1.1\r\nHost: gw\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	resp, err := http.ReadResponse(br, req)
	if err != nil {
		t.Fatalf("%s %s: %v", method, target, err)
	}
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatalf("%s %s: %v", method, target, err)
	}
	_ = resp.Body.Close()
	return resp, string(body)
}

func TestUpstreamEchoesAndRecords(t *testing.T) {
	up := Start(t, "127.0.0.1:0")
	conn, br := dial(t, up)
	mark := up.Mark()
	resp, text := ask(t, conn, br, "GET", "/a?b=%2F")
	if resp.StatusCode != 200 || resp.Header.Get("Content-Type") != "application/json" {
		t.Errorf("got %d %q", resp.StatusCode, resp.Header)
	}
	var echo struct {
		Upstream bool        `json:"upstream"`
		N        int         `json:"n"`
		Method   string      `json:"method"`
		Target   string      `json:"target"`
		Headers  [][2]string `json:"headers"`
		BodyLen  *int        `json:"body_len"`
	}
	if err := json.Unmarshal([]byte(text), &echo); err != nil {
		t.Fatalf("%v in %s", err, text)
	}
	if !echo.Upstream || echo.N != 1 || echo.Method != "GET" || echo.Target != "/a?b=%2F" || len(echo.Headers) != 1 || echo.BodyLen == nil {
		t.Errorf("echo %s", text)
	}
	for _, want := range []string{`"upstream": true`, `"body_len": 0`} {
		if !strings.Contains(text, want) {
			t.Errorf("echo %s lacks %s, which cases look for", text, want)
		}
	}
	ask(t, conn, br, "GET", "/second")
	got := up.Since(mark)
	if len(got) != 2 || got[0].Target != "/a?b=%2F" || got[0].Seq != 0 || got[1].Target != "/second" || got[1].Seq != 1 {
		t.Errorf("recorded %+v", got)
	}
	if left := up.Since(up.Mark()); len(left) != 0 {
		t.Errorf("a new mark sees %d old requests", len(left))
	}
}

func TestUpstreamObeysItsControls(t *testing.T) {
	up := Start(t, "127.0.0.1:0")
	conn, br := dial(t, up)

	if resp, _ := ask(t, conn, br, "GET", "/x?status=418"); resp.StatusCode != 418 {
		t.Errorf("status: got %d", resp.StatusCode)
	}
	for i, want := range []int{503, 503, 200} {
		if resp, _ := ask(t, conn, br, "GET", "/x?fail=2&id=a"); resp.StatusCode != want {
			t.Errorf("fail: request %d got %d, want %d", i, resp.StatusCode, want)
		}
	}
	if resp, _ := ask(t, conn, br, "GET", "/x?fail=1&id=b"); resp.StatusCode != 503 {
		t.Errorf("fail: another id got %d, want 503", resp.StatusCode)
	}
	resp, _ := ask(t, conn, br, "GET", "/x?hdr=Set-Cookie:%20s%3D1&hdr=X-A%3A2")
	if resp.Header.Get("Set-Cookie") != "s=1" || resp.Header.Get("X-A") != "2" {
		t.Errorf("hdr: got %v", resp.Header)
	}
	if resp, text := ask(t, conn, br, "HEAD", "/x"); resp.ContentLength <= 0 || text != "" {
		t.Errorf("HEAD: length %d, body %q", resp.ContentLength, text)
	}
	raw := base64.URLEncoding.EncodeToString([]byte("HTTP/1.1 299 ???\r\nContent-Length: 2\r\n\r\nok"))
	if resp, text := ask(t, conn, br, "GET", "/x?raw="+raw); resp.StatusCode != 299 || text != "ok" {
		t.Errorf("raw: got %d %q", resp.StatusCode, text)
	}
	if resp, _ := ask(t, conn, br, "GET", "/x?close=1&raw="+raw); resp.StatusCode != 299 {
		t.Errorf("raw and close: got %d", resp.StatusCode)
	}
	if _, err := br.ReadByte(); err != io.EOF {
		t.Errorf("raw and close: the connection is still open (%v)", err)
	}
}

func TestUpstreamResetsWhenAsked(t *testing.T) {
	up := Start(t, "127.0.0.1:0")
	conn, br := dial(t, up)
	if _, err := io.WriteString(conn, "GET /x?reset=1 HTTP/1.1\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	if _, err := br.ReadByte(); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("got %v, want a reset", err)
	}
	if got := up.Since(0); len(got) != 1 {
		t.Errorf("recorded %d requests, want the one that was reset", len(got))
	}
}

func TestUpstreamClosesAfterControlsThatMeanNothing(t *testing.T) {
	up := Start(t, "127.0.0.1:0")
	for _, target := range []string{"/x?status=abc", "/x?delay=soon", "/x?raw=*", "/x?fail=no"} {
		conn, br := dial(t, up)
		if _, err := io.WriteString(conn, "GET "+target+" HTTP/1.1\r\n\r\n"); err != nil {
			t.Fatal(err)
		}
		if _, err := br.ReadByte(); err != io.EOF {
			t.Errorf("%s: got %v, want the end of the connection", target, err)
		}
	}
}

func TestUpstreamRecordsABrokenRequestAndCloses(t *testing.T) {
	up := Start(t, "127.0.0.1:0")
	conn, br := dial(t, up)
	if _, err := io.WriteString(conn, "POST /x HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0x3\r\nabc\r\n0\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	if _, err := br.ReadByte(); err == nil {
		t.Error("a broken request was answered")
	}
	if got := up.Since(0); len(got) != 1 || len(got[0].Anomalies) != 1 {
		t.Errorf("recorded %+v, want one request with an anomaly", got)
	}
}

func TestUpstreamDelayIsBounded(t *testing.T) {
	if got := parseControls("/x?delay=3600").delay; got != maxDelay {
		t.Errorf("got %v, want %v", got, maxDelay)
	}
	if got := parseControls("/x?delay=0.25").delay; got != 250*time.Millisecond {
		t.Errorf("got %v, want 250ms", got)
	}
}

func TestUpstreamRemembersABoundedNumberOfRequests(t *testing.T) {
	up := &Upstream{}
	for range maxRequests {
		up.record(Request{Target: "/old"})
	}
	mark := up.Mark()
	up.record(Request{Target: "/new"})
	if got := up.Since(mark); len(got) != 1 || got[0].Target != "/new" {
		t.Errorf("a mark from before sees %d requests, want the new one", len(got))
	}
	if len(up.requests) > maxRequests {
		t.Errorf("%d requests are kept, want at most %d", len(up.requests), maxRequests)
	}
}

// TestSettleWaitsForWhatIsUnderWay shows, on a fake clock, that settling waits
// for a request that has begun, ends once it is quiet, and never waits for ever.
func TestSettleWaitsForWhatIsUnderWay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		up := &Upstream{}
		up.note(1)
		go func() {
			time.Sleep(100 * time.Millisecond)
			up.record(Request{Target: "/late"})
			up.note(-1)
		}()
		start := time.Now()
		up.Settle(t.Context())
		if len(up.Since(0)) != 1 {
			t.Error("settled before the request under way was recorded")
		}
		if took := time.Since(start); took > 100*time.Millisecond+2*quiet {
			t.Errorf("took %v, want the request's time and a quiet moment", took)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		up := &Upstream{}
		up.note(1)
		start := time.Now()
		up.Settle(t.Context())
		if took := time.Since(start); took > settleLimit+quiet {
			t.Errorf("took %v with a request that never ends, want about %v", took, settleLimit)
		}
	})
}

func TestListenWaitsForAnotherProcess(t *testing.T) {
	held, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := listen(held.Addr().String(), 0); !errors.Is(err, syscall.EADDRINUSE) {
		t.Errorf("without patience: got %v, want EADDRINUSE", err)
	}
	timer := time.AfterFunc(100*time.Millisecond, func() { _ = held.Close() })
	defer timer.Stop()
	l, err := listen(held.Addr().String(), 30*time.Second)
	if err != nil {
		t.Fatalf("with patience: %v", err)
	}
	_ = l.Close()
}
