package cli_test

import (
	"bufio"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/keywarden/keywarden/pkg/app/apptest"
	"github.com/keywarden/keywarden/pkg/pglocal/pgtest"
	"github.com/keywarden/keywarden/pkg/seal"
)

// backend is a service behind the gateway.
func backend(tb testing.TB) *httptest.Server {
	tb.Helper()
	mux := http.NewServeMux()
	mux.HandleFunc("/echo", func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		_, _ = fmt.Fprintf(w, "%s %d", r.Method, len(body))
	})
	// Whole answers that take a while.
	mux.HandleFunc("/slow", func(w http.ResponseWriter, _ *http.Request) {
		for range 20 {
			_, _ = io.WriteString(w, "part\n")
			_ = http.NewResponseController(w).Flush()
			time.Sleep(50 * time.Millisecond)
		}
		_, _ = io.WriteString(w, "end\n")
	})
	// Answers that never end by themselves.
	mux.HandleFunc("/events", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		tick := time.NewTicker(20 * time.Millisecond)
		defer tick.Stop()
		for {
			_, _ = io.WriteString(w, "data: tick\n\n")
			_ = http.NewResponseController(w).Flush()
			select {
			case <-tick.C:
			case <-r.Context().Done():
				return
			}
		}
	})
	srv := httptest.NewServer(mux)
	tb.Cleanup(srv.Close)
	return srv
}

// behind is a document with one service at url, for every path below /b.
func behind(tb testing.TB, url string) string {
	tb.Helper()
	return writeFile(tb, filepath.Join(tb.TempDir(), "gateway.yaml"), fmt.Sprintf(`version: 1
services: [{name: b, url: %q}]
routes: [{name: b, match: {path: {prefix: /b}}, service: b, strip_prefix: /b}]
`, url))
}

// client is a client of HTTP/1.1 on connections that are kept alive. It is not
// net/http's, which quietly tries again what failed.
type client struct {
	addr     string
	header   string // lines of every request
	stopping *atomic.Bool
	think    time.Duration // longest pause between requests
	tls      *tls.Config   // nil: without TLS
	between  *sync.RWMutex // nil: nobody pauses the requests; else locked by who does

	conn  net.Conn
	in    *bufio.Reader
	used  bool     // the connection has had an answer
	done  int      // whole answers
	fails []string // requests without one
}

// work sends requests until the address refuses connections.
func (c *client) work(requests []string) {
	for i := 0; ; i++ {
		if c.conn == nil && !c.dial() {
			return
		}
		if c.think > 0 {
			time.Sleep(rand.N(c.think))
			if c.tls == nil && c.wasClosed() { // a time-out would be the end of a connection with TLS
				c.hangUp()
				continue
			}
		}
		request := requests[i%len(requests)]
		if c.between != nil {
			c.between.RLock()
		}
		err := c.exchange(request)
		if c.between != nil {
			c.between.RUnlock()
		}
		if errors.Is(err, errNoAnswer) && c.used && c.think > 0 && c.stopping.Load() {
			c.hangUp() // it was idle, and its end crossed the request: that one is sent again (RFC 9112 section 9.3.1)
			continue
		}
		if err != nil {
			line, _, _ := strings.Cut(request, " HTTP")
			c.fails = append(c.fails, fmt.Sprintf("%s: %v", line, err))
			c.hangUp()
		}
	}
}

// dial reports whether there is a connection; a refusal is only right once the
// program was told to stop.
func (c *client) dial() bool {
	conn, err := net.DialTimeout("tcp", c.addr, 20*time.Second)
	if err != nil {
		if !c.stopping.Load() || !errors.Is(err, syscall.ECONNREFUSED) {
			c.fails = append(c.fails, err.Error())
		}
		return false
	}
	if c.tls != nil {
		conn = tls.Client(conn, c.tls)
	}
	c.conn, c.in, c.used = conn, bufio.NewReader(conn), false
	return true
}

// wasClosed reports whether the server has ended a connection that was idle for
// long, which it may, and which a client is expected to notice (RFC 9112, section
// 9.5).
func (c *client) wasClosed() bool {
	_ = c.conn.SetReadDeadline(time.Now().Add(time.Millisecond))
	_, err := c.in.Peek(1)
	return !errors.Is(err, os.ErrDeadlineExceeded)
}

func (c *client) hangUp() {
	_ = c.conn.Close()
	c.conn = nil
}

// errNoAnswer is the end of a connection before the first byte of an answer.
var errNoAnswer = errors.New("no answer")

// exchange sends a request and reads its answer, all of it.
func (c *client) exchange(request string) error {
	_ = c.conn.SetDeadline(time.Now().Add(30 * time.Second))
	if _, err := io.WriteString(c.conn, strings.Replace(request, "\r\n\r\n", "\r\nHost: "+c.addr+c.header+"\r\n\r\n", 1)); err != nil {
		return fmt.Errorf("%w: %w", errNoAnswer, err)
	}
	if _, err := c.in.Peek(1); err != nil {
		return fmt.Errorf("%w: %w", errNoAnswer, err)
	}
	resp, err := http.ReadResponse(c.in, nil)
	if err != nil {
		return err
	}
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return fmt.Errorf("after %d bytes of the body: %w", len(body), err)
	}
	if resp.StatusCode >= http.StatusMultipleChoices {
		return fmt.Errorf("status %d: %s", resp.StatusCode, body)
	}
	c.done++
	c.used = true
	if resp.Close {
		c.hangUp()
	}
	return nil
}

// request is a request line with a body, without the headers all have.
func request(method, path, body string) string {
	return fmt.Sprintf("%s %s HTTP/1.1\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", method, path, len(body), body)
}

func TestTermUnderLoadFailsNoRequest(t *testing.T) {
	rounds := 2
	if long() {
		rounds = 6
	}
	b := backend(t)
	in := serving(pgtest.New(t), seal.NewMasterKey(), "gateway.file="+behind(t, b.URL), "keys.max_per_user=100000")
	in.race = true
	first := serve(t, in)
	u := first.User(t)
	key := first.Key(t, u, nil)
	first.stop()
	for _, delay := range []string{"0s", "300ms"} {
		t.Run("shutdown_delay "+delay, func(t *testing.T) {
			in := in
			in.args = append(in.args[:len(in.args):len(in.args)], "--set", "server.shutdown_delay="+delay)
			for range rounds {
				termUnderLoad(t, in, u, key)
			}
		})
	}
}

// termUnderLoad stops the program while clients of all kinds use it.
func termUnderLoad(t *testing.T, in invocation, u *apptest.User, key apptest.Key) {
	t.Helper()
	s := serve(t, in)
	var stopping atomic.Bool
	kinds := []struct {
		think    time.Duration
		header   string
		requests []string
	}{
		{0, "\r\nX-API-Key: " + key.Secret, []string{request("GET", "/api/test", ""), request("GET", "/b/echo", "")}},
		{0, "\r\nAuthorization: Bearer " + u.Token, []string{
			request("POST", "/b/echo", strings.Repeat("x", 20_000)), request("POST", "/api-keys", `{"name":"k"}`), request("GET", "/users/me", ""),
		}},
		{100 * time.Millisecond, "\r\nX-API-Key: " + key.Secret, []string{request("GET", "/api/test", ""), request("GET", "/b/echo", "")}},
		{900 * time.Millisecond, "\r\nX-API-Key: " + key.Secret, []string{request("GET", "/b/echo", "")}},
		{0, "\r\nConnection: close\r\nX-API-Key: " + key.Secret, []string{request("GET", "/b/echo", "")}},
		{0, "\r\nX-API-Key: " + key.Secret, []string{request("GET", "/b/slow", "")}},
	}
	const each = 2
	var clients []*client
	var load sync.WaitGroup
	for _, kind := range kinds {
		for range each {
			c := &client{addr: s.Addr, header: kind.header, think: kind.think, stopping: &stopping}
			clients = append(clients, c)
			load.Go(func() { c.work(kind.requests) })
		}
	}
	time.Sleep(300*time.Millisecond + rand.N(300*time.Millisecond)) // the moment is what is random here
	stopping.Store(true)
	s.stop()
	load.Wait()
	done := 0
	for _, c := range clients {
		done += c.done
		for _, fail := range c.fails {
			t.Errorf("a request failed: %s", fail)
		}
	}
	if done < 10*len(clients) {
		t.Errorf("only %d requests: that was no load", done)
	}
	t.Logf("%d whole answers to %d clients", done, len(clients))
}

func TestTermGivesStreamsTheDrainTime(t *testing.T) {
	b := backend(t)
	const drain = 2 * time.Second
	s := serve(t, serving(pgtest.New(t), seal.NewMasterKey(), "gateway.file="+behind(t, b.URL), "server.drain_timeout="+drain.String()))
	key := s.Key(t, s.User(t), nil)
	open := func(path string) *bufio.Reader {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, s.URL+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("X-API-Key", key.Secret)
		resp, err := http.DefaultTransport.RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = resp.Body.Close() })
		r := bufio.NewReader(resp.Body)
		if _, err := r.ReadString('\n'); err != nil || resp.StatusCode != http.StatusOK {
			t.Fatalf("%s does not begin: status %d, %v", path, resp.StatusCode, err)
		}
		return r
	}
	events, slow := open("/b/events"), open("/b/slow")
	s.signal(syscall.SIGTERM)
	s.logged("stopping", nil)
	began := time.Now()

	whole, err := io.ReadAll(slow)
	if err != nil || !strings.HasSuffix(string(whole), "end\n") {
		t.Errorf("an answer in flight was cut: %v, %q", err, whole)
	}
	// The stream goes on until the time is over, then it is cut: a client must not
	// take it for a whole one.
	n := 0
	for err = error(nil); err == nil; n++ {
		_, err = events.ReadString('\n')
	}
	lasted := time.Since(began)
	if errors.Is(err, io.EOF) {
		t.Errorf("the stream that was cut looks like one that ended")
	}
	if n < 20 || lasted < drain/2 {
		t.Errorf("the stream was cut after %v and %d lines, want about %v", lasted, n, drain)
	}
	if code := s.wait(); code != 0 {
		t.Errorf("exit code %d, want 0", code)
	}
	s.logged("not everything in flight ended in time", nil)
}

func TestReadinessIsWithdrawnBeforeTheListenerCloses(t *testing.T) {
	s := serve(t, serving(pgtest.New(t), seal.NewMasterKey(), "server.shutdown_delay=1s"))
	s.Want(t, http.StatusOK, http.MethodGet, "/readyz", nil)
	s.signal(syscall.SIGTERM)
	s.logged("stopping", nil)
	for path, want := range map[string]int{"/readyz": http.StatusServiceUnavailable, "/healthz": http.StatusOK} {
		apptest.Eventually(t, path+" answers on a new connection", func() bool {
			status, _, err := get(t.Context(), s.URL+path)
			return err == nil && status == want
		})
	}
	if code := s.wait(); code != 0 {
		t.Errorf("exit code %d, want 0", code)
	}
}
