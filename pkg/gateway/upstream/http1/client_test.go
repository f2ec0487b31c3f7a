package http1_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"net/textproto"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/keywarden/keywarden/pkg/gateway/upstream/http1"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func newClient(t testing.TB, addr string, change func(*http1.Config)) *http1.Client {
	t.Helper()
	c := http1.Config{
		Dial: (&net.Dialer{}).DialContext, Addr: addr, ResponseTimeout: 30 * time.Second, IdleTimeout: time.Minute,
		MaxIdle: 8, MaxHeader: 64 << 10, ReadBuffer: 4 << 10,
	}
	if change != nil {
		change(&c)
	}
	client := http1.New(c)
	t.Cleanup(client.CloseIdleConnections)
	return client
}

// raw is a service that speaks in bytes. answer gets each request of a connection
// and its number, and returns false to close the connection.
func raw(t *testing.T, answer func(conn net.Conn, n int, r *http.Request) bool) (addr string, connections *atomic.Int64) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	connections = &atomic.Int64{}
	var group sync.WaitGroup
	group.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			connections.Add(1)
			group.Go(func() {
				defer conn.Close()
				in := bufio.NewReader(conn)
				for n := 0; ; n++ {
					r, err := http.ReadRequest(in)
					if err != nil || !answer(conn, n, r) {
						return
					}
				}
			})
		}
	})
	t.Cleanup(func() { _ = l.Close(); group.Wait() })
	return l.Addr().String(), connections
}

func request(t *testing.T, ctx context.Context, addr, path string) *http.Request {
	t.Helper()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+addr+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// fetch returns the body of the answer.
func fetch(t *testing.T, c *http1.Client, addr, path string) (string, error) {
	t.Helper()
	resp, err := c.RoundTrip(request(t, t.Context(), addr, path))
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	return string(text), err
}

const hello = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"

func TestAnswersOfAllFramings(t *testing.T) {
	answers := map[string]struct {
		text  string
		body  string
		again bool // the connection may be used again
	}{
		"/length":   {hello, "hello", true},
		"/empty":    {"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", "", true},
		"/none":     {"HTTP/1.1 204 No Content\r\n\r\n", "", true},
		"/same":     {"HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\n\r\n", "", true},
		"/chunked":  {"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nhel\r\n2\r\nlo\r\n0\r\n\r\n", "hello", true},
		"/close":    {"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello", "hello", false},
		"/old":      {"HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\nhello", "hello", false},
		"/extra":    {hello + "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil", "hello", false},
		"/extra/no": {"HTTP/1.1 204 No Content\r\n\r\nevil", "", false},
		"/switch":   {"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\n", "", false},
	}
	for path, want := range answers {
		t.Run(path, func(t *testing.T) {
			addr, connections := raw(t, func(conn net.Conn, _ int, r *http.Request) bool {
				_, _ = io.WriteString(conn, answers[r.URL.Path].text)
				return true
			})
			c := newClient(t, addr, nil)
			for range 3 {
				if got, err := fetch(t, c, addr, path); err != nil || got != want.body {
					t.Fatalf("got %q, %v", got, err)
				}
			}
			if n := connections.Load(); n != 1 && want.again || n != 3 && !want.again {
				t.Errorf("%d connections for three requests", n)
			}
		})
	}
}

func TestAnswerUntilTheEndOfTheConnection(t *testing.T) {
	addr, _ := raw(t, func(conn net.Conn, _ int, _ *http.Request) bool {
		_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\n\r\nhello")
		return false
	})
	c := newClient(t, addr, nil)
	for range 2 {
		if got, err := fetch(t, c, addr, "/"); err != nil || got != "hello" {
			t.Fatalf("got %q, %v", got, err)
		}
	}
}

func TestTrailersArrive(t *testing.T) {
	addr, _ := raw(t, func(conn net.Conn, _ int, _ *http.Request) bool {
		_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\nTrailer: X-Sum\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\nX-Sum: 1\r\n\r\n")
		return true
	})
	resp, err := newClient(t, addr, nil).RoundTrip(request(t, t.Context(), addr, "/"))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if _, err := io.ReadAll(resp.Body); err != nil || resp.Trailer.Get("X-Sum") != "1" {
		t.Errorf("trailers %v, %v", resp.Trailer, err)
	}
}

// TestUnaskedAnswerReachesNobody is about a service that writes a second answer
// later, when the connection is idle: the next request must not get it.
func TestUnaskedAnswerReachesNobody(t *testing.T) {
	written := make(chan struct{}, 1)
	addr, connections := raw(t, func(conn net.Conn, n int, _ *http.Request) bool {
		_, _ = io.WriteString(conn, hello)
		if n == 0 {
			go func() {
				time.Sleep(20 * time.Millisecond) // until the answer was read; earlier would be as wrong
				_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil")
				written <- struct{}{}
			}()
		}
		return true
	})
	c := newClient(t, addr, nil)
	for range 3 {
		if got, err := fetch(t, c, addr, "/"); err != nil || got != "hello" {
			t.Fatalf("got %q, %v", got, err)
		}
		<-written
	}
	if n := connections.Load(); n != 3 {
		t.Errorf("%d connections, want 3: one that spoke out of turn was used again", n)
	}
}

func TestIdleConnectionThatTheServiceClosedIsNotAnError(t *testing.T) {
	closed := make(chan struct{}, 1)
	addr, connections := raw(t, func(conn net.Conn, _ int, _ *http.Request) bool {
		_, _ = io.WriteString(conn, hello)
		_ = conn.Close()
		closed <- struct{}{}
		return false
	})
	c := newClient(t, addr, nil)
	for range 5 {
		if got, err := fetch(t, c, addr, "/"); err != nil || got != "hello" {
			t.Fatalf("got %q, %v", got, err)
		}
		<-closed
	}
	if n := connections.Load(); n != 5 {
		t.Errorf("%d connections, want 5", n)
	}
}

// TestRequestOnAConnectionThatIsJustClosedIsSentAgain is the race that no look at
// the connection can win: the service closes it when the request is on its way.
func TestRequestOnAConnectionThatIsJustClosedIsSentAgain(t *testing.T) {
	addr, connections := raw(t, func(conn net.Conn, n int, _ *http.Request) bool {
		if n == 1 {
			return false
		}
		_, _ = io.WriteString(conn, hello)
		return true
	})
	c := newClient(t, addr, nil)
	for range 4 {
		if got, err := fetch(t, c, addr, "/"); err != nil || got != "hello" {
			t.Fatalf("got %q, %v", got, err)
		}
	}
	if n := connections.Load(); n != 4 {
		t.Errorf("%d connections, want 4", n)
	}
}

// A request on which the service closes the connection is sent twice at most, not
// once for each idle connection: that would be a weapon.
func TestRequestThatTheServiceDoesNotAnswerUsesUpOneIdleConnection(t *testing.T) {
	const idle = 6
	var asked atomic.Int64
	together := make(chan struct{})
	addr, _ := raw(t, func(conn net.Conn, _ int, r *http.Request) bool {
		if r.URL.Path == "/deadly" {
			asked.Add(1)
			return false
		}
		<-together
		_, _ = io.WriteString(conn, hello)
		return true
	})
	c := newClient(t, addr, nil)
	var group sync.WaitGroup
	for range idle {
		group.Go(func() {
			if _, err := fetch(t, c, addr, "/"); err != nil {
				t.Error(err)
			}
		})
	}
	for range idle {
		together <- struct{}{}
	}
	group.Wait()
	if _, err := fetch(t, c, addr, "/deadly"); err == nil {
		t.Error("there was an answer")
	}
	if n := asked.Load(); n > 2 {
		t.Errorf("it was sent %d times", n)
	}
}

func TestFreshConnectionThatEndsIsAnErrorAndNotRepeated(t *testing.T) {
	var requests atomic.Int64
	addr, _ := raw(t, func(net.Conn, int, *http.Request) bool { requests.Add(1); return false })
	if _, err := fetch(t, newClient(t, addr, nil), addr, "/"); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("got %v", err)
	}
	if n := requests.Load(); n != 1 {
		t.Errorf("the request was sent %d times", n)
	}
}

func TestAnswerThatBreaksOffIsNotRepeated(t *testing.T) {
	var requests atomic.Int64
	addr, _ := raw(t, func(conn net.Conn, n int, _ *http.Request) bool {
		requests.Add(1)
		if n == 0 {
			_, _ = io.WriteString(conn, hello)
			return true
		}
		_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\nConte")
		return false
	})
	c := newClient(t, addr, nil)
	if _, err := fetch(t, c, addr, "/"); err != nil {
		t.Fatal(err)
	}
	if got, err := fetch(t, c, addr, "/"); err == nil {
		t.Errorf("half a header was taken for the answer %q", got)
	}
	if n := requests.Load(); n != 2 {
		t.Errorf("%d requests arrived, want 2", n)
	}
}

func TestTruncatedBodyIsAnError(t *testing.T) {
	addr, connections := raw(t, func(conn net.Conn, _ int, _ *http.Request) bool {
		_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\nhello")
		return false
	})
	c := newClient(t, addr, nil)
	for range 2 {
		if got, err := fetch(t, c, addr, "/"); !errors.Is(err, io.ErrUnexpectedEOF) || got != "hello" {
			t.Errorf("got %q, %v", got, err)
		}
	}
	if connections.Load() != 2 {
		t.Error("the broken connection was used again")
	}
}

func TestServiceThatSaysNothingIsATimeout(t *testing.T) {
	for name, start := range map[string]string{"at all": "", "after a part": "HTTP/1.1 200 OK\r\nA: "} {
		t.Run(name, func(t *testing.T) {
			addr, _ := raw(t, func(conn net.Conn, _ int, _ *http.Request) bool {
				_, _ = io.WriteString(conn, start)
				return true
			})
			c := newClient(t, addr, func(c *http1.Config) { c.ResponseTimeout = 50 * time.Millisecond })
			_, err := fetch(t, c, addr, "/")
			var timeout net.Error
			if !errors.Is(err, os.ErrDeadlineExceeded) || !errors.As(err, &timeout) || !timeout.Timeout() {
				t.Errorf("got %v", err)
			}
		})
	}
}

func TestBodyMayTakeLongerThanTheHeader(t *testing.T) {
	addr, _ := raw(t, func(conn net.Conn, _ int, _ *http.Request) bool {
		_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhel")
		time.Sleep(200 * time.Millisecond) // longer than the time-out
		_, _ = io.WriteString(conn, "lo")
		return true
	})
	c := newClient(t, addr, func(c *http1.Config) { c.ResponseTimeout = 100 * time.Millisecond })
	if got, err := fetch(t, c, addr, "/"); err != nil || got != "hello" {
		t.Errorf("got %q, %v", got, err)
	}
}

func TestEndOfTheContextEndsTheExchange(t *testing.T) {
	cause := errors.New("the cause")
	t.Run("before the answer", func(t *testing.T) {
		arrived, hungUp := make(chan struct{}), make(chan error, 1)
		addr, _ := raw(t, func(conn net.Conn, _ int, _ *http.Request) bool {
			close(arrived)
			_, err := conn.Read(make([]byte, 1))
			hungUp <- err
			return false
		})
		ctx, cancel := context.WithCancelCause(t.Context())
		go func() { <-arrived; cancel(cause) }()
		if _, err := newClient(t, addr, nil).RoundTrip(request(t, ctx, addr, "/")); !errors.Is(err, cause) {
			t.Errorf("got %v", err)
		}
		if err := <-hungUp; err == nil {
			t.Error("the service was not told")
		}
	})
	t.Run("in the body", func(t *testing.T) {
		hungUp := make(chan error, 1)
		addr, _ := raw(t, func(conn net.Conn, _ int, _ *http.Request) bool {
			_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\nhello")
			_, err := conn.Read(make([]byte, 1))
			hungUp <- err
			return false
		})
		ctx, cancel := context.WithCancelCause(t.Context())
		resp, err := newClient(t, addr, nil).RoundTrip(request(t, ctx, addr, "/"))
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		if _, err := io.ReadFull(resp.Body, make([]byte, 5)); err != nil {
			t.Fatal(err)
		}
		cancel(cause)
		if _, err := io.ReadAll(resp.Body); !errors.Is(err, cause) {
			t.Errorf("got %v", err)
		}
		if err := <-hungUp; err == nil {
			t.Error("the service was not told")
		}
	})
	t.Run("already ended", func(t *testing.T) {
		addr, connections := raw(t, func(net.Conn, int, *http.Request) bool { return false })
		ctx, cancel := context.WithCancelCause(t.Context())
		cancel(cause)
		if _, err := newClient(t, addr, nil).RoundTrip(request(t, ctx, addr, "/")); !errors.Is(err, cause) || connections.Load() != 0 {
			t.Errorf("got %v after %d connections", err, connections.Load())
		}
	})
	t.Run("after the answer", func(t *testing.T) {
		addr, connections := raw(t, func(conn net.Conn, _ int, _ *http.Request) bool {
			_, _ = io.WriteString(conn, hello)
			return true
		})
		c := newClient(t, addr, nil)
		for range 20 {
			ctx, cancel := context.WithCancel(t.Context())
			resp, err := c.RoundTrip(request(t, ctx, addr, "/"))
			if err != nil {
				t.Fatal(err)
			}
			if _, err := io.ReadAll(resp.Body); err != nil {
				t.Fatal(err)
			}
			cancel()
			resp.Body.Close()
		}
		if connections.Load() != 1 {
			t.Errorf("%d connections: the end of a context that is over cut one", connections.Load())
		}
	})
}

func TestBodyThatIsNotReadClosesItsConnection(t *testing.T) {
	addr, connections := raw(t, func(conn net.Conn, _ int, _ *http.Request) bool {
		_, _ = io.WriteString(conn, hello)
		return true
	})
	c := newClient(t, addr, nil)
	for range 2 {
		resp, err := c.RoundTrip(request(t, t.Context(), addr, "/"))
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(resp.Body.Close(), resp.Body.Close()); err != nil {
			t.Fatal(err)
		}
	}
	if connections.Load() != 2 {
		t.Error("a connection with the rest of an answer was used again")
	}
}

func TestCloseEndsAReadInAnotherGoroutine(t *testing.T) {
	addr, _ := raw(t, func(conn net.Conn, _ int, _ *http.Request) bool {
		_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\nhello")
		return true
	})
	resp, err := newClient(t, addr, nil).RoundTrip(request(t, t.Context(), addr, "/"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(resp.Body, make([]byte, 5)); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() {
		_, err := resp.Body.Read(make([]byte, 1))
		ended <- err
	}()
	_ = resp.Body.Close()
	if err := <-ended; err == nil || errors.Is(err, io.EOF) {
		t.Errorf("the read ended with %v", err)
	}
}

func TestHeaderOfTheAnswerIsBounded(t *testing.T) {
	for name, text := range map[string]string{
		"fields":  "HTTP/1.1 200 OK\r\n" + strings.Repeat("A: b\r\n", 10_000),
		"interim": strings.Repeat("HTTP/1.1 103 Early Hints\r\nLink: <a>\r\n\r\n", 10_000),
		"status":  "HTTP/1.1 200 " + strings.Repeat("x", 64<<10),
	} {
		t.Run(name, func(t *testing.T) {
			addr, _ := raw(t, func(conn net.Conn, _ int, _ *http.Request) bool {
				_, _ = io.WriteString(conn, text)
				return true
			})
			c := newClient(t, addr, func(c *http1.Config) { c.MaxHeader = 32 << 10 })
			if _, err := fetch(t, c, addr, "/"); err == nil || !strings.Contains(err.Error(), "too large") && !strings.Contains(err.Error(), "without end") {
				t.Errorf("got %v", err)
			}
		})
	}
}

func TestMalformedAnswersAreErrors(t *testing.T) {
	for _, text := range []string{
		"nonsense\r\n\r\n", "HTTP/1.1 2000 OK\r\n\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
		"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n", "HTTP/1.1 200 OK\r\nbad field\r\n\r\n", "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n",
	} {
		addr, _ := raw(t, func(conn net.Conn, _ int, _ *http.Request) bool {
			_, _ = io.WriteString(conn, text)
			return true
		})
		if got, err := fetch(t, newClient(t, addr, nil), addr, "/"); err == nil {
			t.Errorf("%q was taken for %q", text, got)
		}
	}
}

func TestInterimAnswersReachTheTrace(t *testing.T) {
	addr, _ := raw(t, func(conn net.Conn, _ int, _ *http.Request) bool {
		_, _ = io.WriteString(conn, "HTTP/1.1 103 Early Hints\r\nLink: <a>\r\n\r\n"+hello)
		return true
	})
	var seen []string
	ctx := httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{Got1xxResponse: func(code int, h textproto.MIMEHeader) error {
		seen = append(seen, fmt.Sprint(code, h.Get("Link")))
		return nil
	}})
	c := newClient(t, addr, nil)
	for range 2 {
		resp, err := c.RoundTrip(request(t, ctx, addr, "/"))
		if err != nil {
			t.Fatal(err)
		}
		text, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		if string(text) != "hello" {
			t.Errorf("got %q", text)
		}
	}
	if diff := cmp.Diff([]string{"103<a>", "103<a>"}, seen); diff != "" {
		t.Error(diff)
	}
}

func TestIdleConnectionsAreFewAndGrowOld(t *testing.T) {
	var open atomic.Int64
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "hello") }))
	srv.Config.ConnState = func(_ net.Conn, s http.ConnState) {
		switch s {
		case http.StateNew:
			open.Add(1)
		case http.StateClosed, http.StateHijacked:
			open.Add(-1)
		case http.StateActive, http.StateIdle:
		}
	}
	srv.Start()
	defer srv.Close()
	addr := srv.Listener.Addr().String()
	c := newClient(t, addr, func(c *http1.Config) { c.MaxIdle, c.IdleTimeout = 2, 100*time.Millisecond })
	var responses []*http.Response
	for range 5 {
		resp, err := c.RoundTrip(request(t, t.Context(), addr, "/"))
		if err != nil {
			t.Fatal(err)
		}
		responses = append(responses, resp)
	}
	for _, resp := range responses {
		_, _ = io.ReadAll(resp.Body)
		resp.Body.Close()
	}
	for _, want := range []int64{2, 0} {
		for deadline := time.Now().Add(30 * time.Second); open.Load() > want; time.Sleep(time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("%d connections are open, want %d", open.Load(), want)
			}
		}
	}
}

func TestManyAtOnceGetTheirOwnAnswers(t *testing.T) {
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, r.URL.Path) }))
	defer srv.Close()
	addr := srv.Listener.Addr().String()
	c := newClient(t, addr, nil)
	var group sync.WaitGroup
	for i := range 16 {
		group.Go(func() {
			for j := range 200 {
				ctx, cancel := context.WithCancel(t.Context())
				if j%7 == 0 {
					go cancel() // at any moment
				}
				path := fmt.Sprintf("/%d/%d", i, j)
				r, _ := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+addr+path, nil)
				resp, err := c.RoundTrip(r)
				if err == nil {
					var text []byte
					text, err = io.ReadAll(resp.Body)
					resp.Body.Close()
					if err == nil && string(text) != path {
						t.Errorf("%s got the answer of %s", path, text)
					}
				}
				if err != nil && ctx.Err() == nil {
					t.Errorf("%s: %v", path, err)
				}
				cancel()
			}
		})
	}
	group.Wait()
}

func TestSuits(t *testing.T) {
	base := func(change func(*http.Request)) *http.Request {
		r := httptest.NewRequest(http.MethodGet, "http://service/a?b=c", nil)
		r.Body = nil
		if change != nil {
			change(r)
		}
		return r
	}
	for name, c := range map[string]struct {
		want   bool
		change func(*http.Request)
	}{
		"plain":   {true, nil},
		"HEAD":    {true, func(r *http.Request) { r.Method = http.MethodHead }},
		"POST":    {true, func(r *http.Request) { r.Method = http.MethodPost }},
		"CONNECT": {false, func(r *http.Request) { r.Method = http.MethodConnect }},
		"small body": {true, func(r *http.Request) {
			r.Body, r.ContentLength = io.NopCloser(strings.NewReader("a")), 1
		}},
		"large body": {true, func(r *http.Request) {
			r.Body, r.ContentLength = io.NopCloser(strings.NewReader("a")), http1.MaxBody+1
		}},
		"length unknown": {false, func(r *http.Request) {
			r.Body, r.ContentLength = io.NopCloser(strings.NewReader("a")), -1
		}},
		"unknown method":    {false, func(r *http.Request) { r.Method = "GET / HTTP/1.1\r\nX" }},
		"body":              {false, func(r *http.Request) { r.Body = io.NopCloser(strings.NewReader("a")) }},
		"length":            {false, func(r *http.Request) { r.ContentLength = 1 }},
		"upgrade":           {false, func(r *http.Request) { r.Header["Upgrade"] = []string{"websocket"} }},
		"connection":        {false, func(r *http.Request) { r.Header["Connection"] = []string{"a"} }},
		"expect":            {false, func(r *http.Request) { r.Header["Expect"] = []string{"100-continue"} }},
		"framing":           {true, func(r *http.Request) { r.Header["Content-Length"] = []string{"5"} }},
		"split value":       {false, func(r *http.Request) { r.Header["A"] = []string{"b\r\nc: d"} }},
		"split name":        {false, func(r *http.Request) { r.Header["A: b\r\nC"] = []string{"d"} }},
		"nul":               {false, func(r *http.Request) { r.Header["A"] = []string{"\x00"} }},
		"blank around":      {false, func(r *http.Request) { r.Header["A"] = []string{" b"} }},
		"split host":        {false, func(r *http.Request) { r.Host = "a\r\nb" }},
		"no host":           {false, func(r *http.Request) { r.Host, r.URL.Host = "", "" }},
		"international":     {false, func(r *http.Request) { r.Host = "bücher.example" }},
		"split query":       {false, func(r *http.Request) { r.URL.RawQuery = "a b" }},
		"opaque":            {false, func(r *http.Request) { r.URL.Opaque = "x" }},
		"close":             {false, func(r *http.Request) { r.Close = true }},
		"value of any byte": {true, func(r *http.Request) { r.Header["A"] = []string{"b\tc \xff"} }},
	} {
		if got := http1.Suits(base(c.change)); got != c.want {
			t.Errorf("%s: %t, want %t", name, got, c.want)
		}
	}
}

// FuzzRequestIsReadAsItWasMeant compares what arrives with what http.Transport
// would have sent.
func FuzzRequestIsReadAsItWasMeant(f *testing.F) {
	f.Add("GET", "/a/b%2Fc", "x=y&z", "host:80", "Accept", "*/*")
	f.Add("HEAD", "/", "", "host", "User-Agent", "")
	f.Add("OPTIONS", "/ü", "ü", "[::1]:80", "X-A", "a b\t c")
	f.Fuzz(func(t *testing.T, method, path, query, host, name, value string) {
		r := httptest.NewRequest(http.MethodGet, "http://service/", nil)
		r.Method, r.Host, r.Body = method, host, nil
		r.URL.Path, r.URL.RawQuery, r.URL.Host = path, query, "service"
		r.Header = http.Header{name: {value, value}}
		if !http1.Suits(r) {
			return
		}
		var theirs bytes.Buffer
		if err := r.Write(&theirs); err != nil {
			t.Skip()
		}
		ours := http1.Encode(r)
		a, errA := http.ReadRequest(bufio.NewReader(bytes.NewReader(ours)))
		b, errB := http.ReadRequest(bufio.NewReader(&theirs))
		if errA != nil || errB != nil {
			t.Fatalf("%v, %v: %q", errA, errB, ours)
		}
		if name == "User-Agent" || len(r.Header["User-Agent"]) == 0 {
			a.Header.Del("User-Agent")
			b.Header.Del("User-Agent") // net/http adds its own; the proxy forbids it
		}
		if a.Method != b.Method || a.RequestURI != b.RequestURI || a.Host != b.Host || !cmp.Equal(a.Header, b.Header) {
			t.Errorf("ours %q\ntheirs %v %v %v %v", ours, b.Method, b.RequestURI, b.Host, b.Header)
		}
		if rest, _ := io.ReadAll(a.Body); len(rest) != 0 {
			t.Errorf("a body of %d bytes", len(rest))
		}
	})
}
