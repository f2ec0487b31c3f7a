package proxy_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	metricnoop "go.opentelemetry.io/otel/metric/noop"
	"go.opentelemetry.io/otel/propagation"
	tracenoop "go.opentelemetry.io/otel/trace/noop"
	"go.uber.org/goleak"

	"github.com/keywarden/keywarden/pkg/access"
	"github.com/keywarden/keywarden/pkg/canonical"
	"github.com/keywarden/keywarden/pkg/gateway/balance"
	"github.com/keywarden/keywarden/pkg/gateway/credential"
	"github.com/keywarden/keywarden/pkg/gateway/forward"
	"github.com/keywarden/keywarden/pkg/gateway/policy"
	"github.com/keywarden/keywarden/pkg/gateway/policy/bodylimit"
	"github.com/keywarden/keywarden/pkg/gateway/proxy"
	"github.com/keywarden/keywarden/pkg/gateway/upstream"
	"github.com/keywarden/keywarden/pkg/httpserver"
	"github.com/keywarden/keywarden/pkg/problem"
	"github.com/keywarden/keywarden/pkg/reqctx"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(allWays{m}) }

// allWays runs all tests once for each way to a service, and once more for clients of the
// platform's own server.
type allWays struct{ *testing.M }

func (b allWays) Run() int {
	if code := b.M.Run(); code != 0 || testing.Short() {
		return code
	}
	ownServer = true
	if code := b.M.Run(); code != 0 {
		return code
	}
	ownServer, ordinaryWay = false, true
	return b.M.Run()
}

var (
	ordinaryWay bool // services are asked by net/http's own transport
	ownServer   bool // clients are served by package httpserver, with its front
)

// front is a server whose only route leads to one service.
type front struct {
	URL, addr string
	client    *http.Client
	handler   http.Handler

	t    *testing.T
	mu   sync.Mutex
	last reqctx.Info // of the last request that has ended
}

// setup is how a front differs from the usual one.
type setup struct {
	route     proxy.RouteConfig
	options   func(*proxy.Options)
	identity  func(*upstream.Identity)
	principal *access.Principal
	bodyLimit int64
	retired   bool // the pool is retired before the first request
	http2     bool // over TLS
	outer     func(http.Handler) http.Handler

	credential *credential.Credential
}

func newFront(t *testing.T, target string, s setup) *front {
	t.Helper()
	options := proxy.Options{
		Ordinary:   ordinaryWay,
		Logger:     slog.New(slog.DiscardHandler),
		Meter:      metricnoop.Meter{},
		Tracer:     tracenoop.Tracer{},
		Propagator: propagation.TraceContext{},
	}
	if s.options != nil {
		s.options(&options)
	}
	p, err := proxy.New(options)
	if err != nil {
		t.Fatal(err)
	}
	u, err := url.Parse(target)
	if err != nil {
		t.Fatal(err)
	}
	id := upstream.Identity{Scheme: u.Scheme, Host: u.Host, ConnectTimeout: 5 * time.Second, ResponseTimeout: 10 * time.Second}
	if s.identity != nil {
		s.identity(&id)
	}
	var pools upstream.Pools
	t.Cleanup(func() { pools.Keep(nil) })
	pool, err := pools.Get(id)
	if err != nil {
		t.Fatal(err)
	}
	config := serviceOf(t, u, pool)
	config.Credential = s.credential
	var h http.Handler = p.Service(config).Route(s.route)
	if s.retired {
		pools.Keep(nil)
	}
	if s.bodyLimit > 0 {
		step, err := bodylimit.New(s.bodyLimit)
		if err != nil {
			t.Fatal(err)
		}
		h = policy.Chain(h, nil, policy.Rule{Name: "max_body", Step: step})
	}
	h = canonical.Middleware(h)
	if s.outer != nil {
		h = s.outer(h)
	}
	f := &front{t: t}
	f.handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		info := &reqctx.Info{ID: "request-1", Client: netip.MustParseAddr("127.0.0.1"), Scheme: "http"}
		defer func() {
			f.mu.Lock()
			defer f.mu.Unlock()
			f.last = *info
		}()
		w.Header().Set("X-Request-Id", info.ID)
		ctx := reqctx.With(r.Context(), info)
		if s.principal != nil {
			ctx = access.WithPrincipal(ctx, s.principal)
		}
		h.ServeHTTP(w, r.WithContext(ctx))
	})
	if ownServer && !s.http2 {
		f.startOwn()
	} else {
		f.start(s.http2)
	}
	return f
}

// start serves by net/http.
func (f *front) start(http2 bool) {
	server := httptest.NewUnstartedServer(f.handler)
	f.t.Cleanup(server.Close)
	if http2 {
		server.EnableHTTP2 = true
		server.StartTLS()
	} else {
		server.Start()
	}
	f.URL, f.addr, f.client = server.URL, server.Listener.Addr().String(), server.Client()
}

// startOwn serves by the platform's own server.
func (f *front) startOwn() {
	server, err := httpserver.New(httpserver.Options{
		Addr: "127.0.0.1:0", Handler: f.handler, Logger: slog.New(slog.DiscardHandler), Front: true,
	})
	if err == nil {
		err = server.Listen()
	}
	if err != nil {
		f.t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- server.Serve() }()
	transport := &http.Transport{}
	f.addr = server.Addr().String()
	f.URL, f.client = "http://"+f.addr, &http.Client{Transport: transport}
	f.t.Cleanup(func() {
		transport.CloseIdleConnections()
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		_ = server.Shutdown(ctx)
		<-served
	})
}

func (f *front) info() reqctx.Info {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.last
}

// do sends a request and reads the whole answer.
func (f *front) do(method, path string, body io.Reader, header http.Header) (*http.Response, string) {
	f.t.Helper()
	r, err := http.NewRequestWithContext(f.t.Context(), method, f.URL+path, body)
	if err != nil {
		f.t.Fatal(err)
	}
	for name, values := range header {
		r.Header[name] = values
	}
	resp, err := f.client.Do(r)
	if err != nil {
		f.t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		f.t.Fatal(err)
	}
	return resp, string(text)
}

// wantProblem checks an answer of the gateway's own.
func (f *front) wantProblem(resp *http.Response, body string, status int, code string) {
	f.t.Helper()
	var doc problem.Document
	if err := json.Unmarshal([]byte(body), &doc); err != nil {
		f.t.Fatalf("status %d, body %q: %v", resp.StatusCode, body, err)
	}
	if resp.StatusCode != status || doc.Code != code || doc.RequestID != "request-1" {
		f.t.Errorf("got %d %s (request %s), want %d %s", resp.StatusCode, doc.Code, doc.RequestID, status, code)
	}
	if got := resp.Header.Values("X-Request-Id"); len(got) != 1 || got[0] != "request-1" {
		f.t.Errorf("X-Request-Id is %q", got)
	}
	eventually(f.t, "code in the access log", func() bool { return f.info().Code == code })
	if f.info().Err == nil {
		f.t.Error("no error for the access log")
	}
}

// dial opens a raw connection to the front.
func (f *front) dial() (net.Conn, *bufio.Reader) {
	f.t.Helper()
	conn, err := net.Dial("tcp", f.addr)
	if err != nil {
		f.t.Fatal(err)
	}
	f.t.Cleanup(func() { conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		f.t.Fatal(err)
	}
	return conn, bufio.NewReader(conn)
}

// raw sends bytes and reads one answer.
func (f *front) raw(request string) (*http.Response, string) {
	f.t.Helper()
	conn, br := f.dial()
	send(f.t, conn, request)
	resp, err := http.ReadResponse(br, nil)
	if err != nil {
		f.t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		f.t.Fatal(err)
	}
	return resp, string(body)
}

func send(t *testing.T, w io.Writer, text string) {
	t.Helper()
	if _, err := io.WriteString(w, text); err != nil {
		t.Fatal(err)
	}
}

// eventually polls until ok holds.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("never happened: %s", what)
		}
	}
}

// backend is a service made of a handler.
func backend(t *testing.T, h http.HandlerFunc) string {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return s.URL
}

// rawBackend is a service that handles each connection by itself, for answers
// that no HTTP library gives.
func rawBackend(t *testing.T, handle func(conn net.Conn, br *bufio.Reader)) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer conn.Close()
				_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
				handle(conn, bufio.NewReader(conn))
			})
		}
	})
	t.Cleanup(func() { l.Close(); wg.Wait() })
	return "http://" + l.Addr().String()
}

// answer reads one request and writes text.
func answer(text string) func(net.Conn, *bufio.Reader) {
	return func(conn net.Conn, br *bufio.Reader) {
		r, err := http.ReadRequest(br)
		if err != nil {
			return
		}
		_, _ = io.Copy(io.Discard, r.Body)
		_, _ = io.WriteString(conn, text)
	}
}

// seenRequest is what a recording service got.
type seenRequest struct {
	Method, Target, Host string
	Header               http.Header
	Trailer              http.Header
	Body                 string
}

// recorder is a service that answers with what it got.
func recorder(t *testing.T) string {
	return backend(t, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		_ = json.NewEncoder(w).Encode(seenRequest{
			Method: r.Method, Target: r.RequestURI, Host: r.Host, Header: r.Header, Trailer: r.Trailer, Body: string(body),
		})
	})
}

func decode(t *testing.T, body string) seenRequest {
	t.Helper()
	var got seenRequest
	if err := json.Unmarshal([]byte(body), &got); err != nil {
		t.Fatalf("%q: %v", body, err)
	}
	return got
}

func TestForwardsMethodPathQueryAndBody(t *testing.T) {
	for _, c := range []struct {
		name, base, strip, target, want string
	}{
		{"as it is", "", "", "/open/x", "/open/x"},
		{"root", "", "", "/", "/"},
		{"query untouched", "", "", "/x?a=1&b=%2F%20c&a=2", "/x?a=1&b=%2F%20c&a=2"},
		{"odd query untouched", "", "", "/x?a;b&c=%zz&d", "/x?a;b&c=%zz&d"},
		{"empty query", "", "", "/x?", "/x?"},
		{"escaped path", "", "", "/caf%C3%A9%20x", "/caf%C3%A9%20x"},
		{"kept escaping", "", "", "/a%2cb/c,d", "/a%2Cb/c,d"},
		{"normalised", "", "", "/%70rivate", "/private"},
		{"double encoding stays", "", "", "/%252e%252e/x", "/%252e%252e/x"},
		{"strip", "", "/svc", "/svc/x", "/x"},
		{"strip all", "", "/svc", "/svc", "/"},
		{"strip all with slash", "", "/svc", "/svc/", "/"},
		{"strip two segments", "", "/api/v1", "/api/v1/users/", "/users/"},
		{"strip an escaped prefix", "", "/a,b", "/a%2Cb/c%2Cd", "/c%2Cd"},
		{"strip keeps escaping", "", "/svc", "/svc/a%2Cb%20c", "/a%2Cb%20c"},
		{"base", "/v1", "", "/x", "/v1/x"},
		{"base at root", "/v1", "", "/", "/v1/"},
		{"base and strip", "/v1", "/api", "/api/x", "/v1/x"},
		{"base and strip all", "/v1", "/api", "/api", "/v1"},
		{"base and strip all with slash", "/v1", "/api", "/api/", "/v1/"},
		{"escaped base", "/a%2Cb", "", "/c", "/a%2Cb/c"},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := newFront(t, recorder(t)+c.base, setup{route: proxy.RouteConfig{StripPrefix: c.strip}})
			_, body := f.raw("POST " + c.target + " HTTP/1.1\r\nHost: client.test:81\r\nContent-Length: 4\r\nConnection: close\r\n\r\nbody")
			got := decode(t, body)
			if got.Target != c.want || got.Method != "POST" || got.Body != "body" {
				t.Errorf("the service got %s %s with %q, want %s", got.Method, got.Target, got.Body, c.want)
			}
			if got.Host == "client.test:81" || got.Header.Get("X-Forwarded-Host") != "client.test:81" {
				t.Errorf("host %q, forwarded host %q", got.Host, got.Header.Get("X-Forwarded-Host"))
			}
			if got.Header.Get("X-Forwarded-Prefix") != c.strip {
				t.Errorf("forwarded prefix %q, want %q", got.Header.Get("X-Forwarded-Prefix"), c.strip)
			}
		})
	}
}

func TestAnswersPassUnchanged(t *testing.T) {
	f := newFront(t, backend(t, func(w http.ResponseWriter, _ *http.Request) {
		h := w.Header()
		h.Add("Set-Cookie", "a=1")
		h.Add("Set-Cookie", "b=2")
		h.Set("Www-Authenticate", `Basic realm="service"`)
		h.Set("X-Request-Id", "of-the-service")
		h.Set("Alt-Svc", `h3=":443"`)
		h.Set("Keep-Alive", "timeout=5")
		h.Set("Connection", "X-Hop")
		h.Set("X-Hop", "1")
		h.Set("X-End", "1")
		w.WriteHeader(http.StatusUnauthorized)
		fmt.Fprint(w, "text")
	}), setup{})
	resp, body := f.do("GET", "/", nil, nil)
	if resp.StatusCode != 401 || body != "text" {
		t.Errorf("got %d %q", resp.StatusCode, body)
	}
	for name, want := range map[string]string{
		"Set-Cookie": "a=1|b=2", "Www-Authenticate": `Basic realm="service"`, "X-End": "1", "X-Request-Id": "request-1",
		"Alt-Svc": "", "Keep-Alive": "", "X-Hop": "", "Server": "",
	} {
		if got := strings.Join(resp.Header.Values(name), "|"); got != want {
			t.Errorf("%s is %q, want %q", name, got, want)
		}
	}
	if info := f.info(); info.Code != "" || info.Err != nil {
		t.Errorf("the access log was told %q, %v", info.Code, info.Err)
	}
}

func TestInterimResponsesPassAndLeaveTheHeaderAlone(t *testing.T) {
	f := newFront(t, backend(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Link", "</style.css>; rel=preload")
		w.WriteHeader(http.StatusEarlyHints)
		w.Header().Del("Link")
		fmt.Fprint(w, "ok")
	}), setup{})
	conn, br := f.dial()
	send(t, conn, "GET / HTTP/1.1\r\nHost: a\r\n\r\n")
	interim, err := http.ReadResponse(br, nil)
	if err != nil {
		t.Fatal(err)
	}
	if interim.StatusCode != 103 || interim.Header.Get("Link") == "" {
		t.Errorf("first came %d %v", interim.StatusCode, interim.Header)
	}
	final, err := http.ReadResponse(br, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer final.Body.Close()
	if final.StatusCode != 200 || final.Header.Get("Link") != "" {
		t.Errorf("then came %d %v", final.StatusCode, final.Header)
	}
	if got := final.Header.Values("X-Request-Id"); len(got) != 1 || got[0] != "request-1" {
		t.Errorf("X-Request-Id is %q", got)
	}
}

func TestResponseTrailersPass(t *testing.T) {
	f := newFront(t, backend(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Trailer", "Grpc-Status")
		fmt.Fprint(w, "ok")
		w.Header().Set("Grpc-Status", "0")
	}), setup{})
	resp, _ := f.do("GET", "/", nil, nil)
	if resp.Trailer.Get("Grpc-Status") != "0" {
		t.Errorf("trailers %v", resp.Trailer)
	}
}

func TestEventsArriveBeforeTheResponseEnds(t *testing.T) {
	for _, c := range []struct{ name, contentType string }{
		{"server-sent events", "text/event-stream; charset=utf-8"},
		{"unknown length", "application/x-ndjson"},
	} {
		t.Run(c.name, func(t *testing.T) {
			next := make(chan struct{})
			f := newFront(t, backend(t, func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Content-Type", c.contentType)
				for i := range 3 {
					fmt.Fprintf(w, "data: %d\n\n", i)
					_ = http.NewResponseController(w).Flush()
					<-next // the service goes on only when the client has the event
				}
			}), setup{})
			conn, br := f.dial()
			send(t, conn, "GET / HTTP/1.1\r\nHost: a\r\n\r\n")
			resp, err := http.ReadResponse(br, nil)
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			lines := bufio.NewReader(resp.Body)
			for i := range 3 {
				line, err := lines.ReadString('\n')
				if err != nil || line != fmt.Sprintf("data: %d\n", i) {
					t.Fatalf("event %d is %q, %v", i, line, err)
				}
				if _, err := lines.ReadString('\n'); err != nil {
					t.Fatal(err)
				}
				next <- struct{}{}
			}
		})
	}
}

func TestHeaderArrivesBeforeTheBody(t *testing.T) {
	release := make(chan struct{})
	f := newFront(t, backend(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		_ = http.NewResponseController(w).Flush()
		<-release
	}), setup{})
	conn, br := f.dial()
	send(t, conn, "GET / HTTP/1.1\r\nHost: a\r\n\r\n")
	resp, err := http.ReadResponse(br, nil)
	if err != nil {
		t.Fatal(err)
	}
	close(release)
	resp.Body.Close()
}

// TestUploadsAreStreamed proves back-pressure: while the service does not read,
// the client cannot send more than the buffers on the way hold. A proxy that
// buffers would take it all.
func TestUploadsAreStreamed(t *testing.T) {
	const size = 256 << 20
	begin, received := make(chan struct{}), make(chan int64, 1)
	f := newFront(t, backend(t, func(_ http.ResponseWriter, r *http.Request) {
		<-begin
		n, _ := io.Copy(io.Discard, r.Body)
		received <- n
	}), setup{})
	body := &counted{limit: size}
	done := make(chan error, 1)
	go func() {
		r, err := http.NewRequestWithContext(t.Context(), "POST", f.URL, body)
		if err != nil {
			done <- err
			return
		}
		resp, err := f.client.Do(r)
		if err == nil {
			resp.Body.Close()
		}
		done <- err
	}()
	body.waitUntilStuck(t)
	if n := body.count(); n > 64<<20 {
		t.Errorf("%d MiB left the client although the service reads nothing", n>>20)
	}
	close(begin)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if n := <-received; n != size {
		t.Errorf("the service received %d bytes of %d", n, size)
	}
}

// TestDownloadsAreStreamed is the same in the other direction.
func TestDownloadsAreStreamed(t *testing.T) {
	const size = 256 << 20
	body := &counted{limit: size}
	f := newFront(t, backend(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", fmt.Sprint(size))
		_, _ = io.Copy(w, body)
	}), setup{})
	r, err := http.NewRequestWithContext(t.Context(), "GET", f.URL, nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := f.client.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body.waitUntilStuck(t)
	if n := body.count(); n > 64<<20 {
		t.Errorf("%d MiB left the service although the client reads nothing", n>>20)
	}
	if n, err := io.Copy(io.Discard, resp.Body); err != nil || n != size {
		t.Errorf("received %d bytes of %d, %v", n, size, err)
	}
}

// counted is an endless body up to limit that knows how much of it was taken.
type counted struct {
	mu    sync.Mutex
	taken int64
	limit int64
}

func (c *counted) Read(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := min(int64(len(p)), c.limit-c.taken)
	if n == 0 {
		return 0, io.EOF
	}
	c.taken += n
	return int(n), nil
}

func (c *counted) count() int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.taken
}

// waitUntilStuck returns when nothing was taken for a while, or everything.
func (c *counted) waitUntilStuck(t *testing.T) {
	t.Helper()
	last, since := c.count(), time.Now()
	eventually(t, "the sender has to wait", func() bool {
		if n := c.count(); n != last || n == 0 {
			last, since = n, time.Now()
		}
		return time.Since(since) > 300*time.Millisecond
	})
}

func TestBothDirectionsAtOnce(t *testing.T) {
	f := newFront(t, rawBackend(t, func(conn net.Conn, br *bufio.Reader) {
		r, err := http.ReadRequest(br)
		if err != nil {
			return
		}
		_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
		lines := bufio.NewReader(r.Body)
		for {
			line, err := lines.ReadString('\n')
			if err != nil {
				break
			}
			fmt.Fprintf(conn, "%x\r\n%s\r\n", len(line), line)
		}
		_, _ = io.WriteString(conn, "0\r\n\r\n")
	}), setup{})
	conn, br := f.dial()
	send(t, conn, "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
	send(t, conn, "4\r\none\n\r\n")
	resp, err := http.ReadResponse(br, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	lines := bufio.NewReader(resp.Body)
	for _, word := range []string{"one\n", "two\n"} {
		if line, err := lines.ReadString('\n'); err != nil || line != word {
			t.Fatalf("got %q, %v; want %q", line, err, word)
		}
		if word == "one\n" {
			send(t, conn, "4\r\ntwo\n\r\n")
		}
	}
	send(t, conn, "0\r\n\r\n")
	if _, err := io.ReadAll(lines); err != nil {
		t.Error(err)
	}
}

func TestTruncatedAnswersStayTruncated(t *testing.T) {
	for _, c := range []struct{ name, answer string }{
		{"known length", "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nabc"},
		{"chunked", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n"},
		{"bad chunk", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\nzz\r\n"},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := newFront(t, rawBackend(t, answer(c.answer)), setup{})
			conn, br := f.dial()
			send(t, conn, "GET / HTTP/1.1\r\nHost: a\r\n\r\n")
			resp, err := http.ReadResponse(br, nil)
			if err == nil {
				defer resp.Body.Close()
				_, err = io.ReadAll(resp.Body)
			}
			if err == nil {
				t.Error("the client takes the answer for complete")
			}
			eventually(t, "reason in the access log", func() bool { return f.info().Err != nil })
		})
	}
}

func TestConnectionOfAnOddAnswerIsNotUsedAgain(t *testing.T) {
	for _, c := range []struct {
		name, answer string
		status       int
	}{
		{"bytes after the answer", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison", 200},
		{"204 with a body", "HTTP/1.1 204 No Content\r\nContent-Length: 6\r\n\r\npoison", 204},
		{"two lengths", "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd", 502},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := newFront(t, rawBackend(t, func(conn net.Conn, br *bufio.Reader) {
				for {
					r, err := http.ReadRequest(br)
					if err != nil {
						return
					}
					text := c.answer
					if r.URL.Path == "/next" {
						text = "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nnext"
					}
					_, _ = io.WriteString(conn, text)
				}
			}), setup{})
			if resp, body := f.do("GET", "/odd", nil, nil); resp.StatusCode != c.status || strings.Contains(body, "poison") {
				t.Errorf("got %d %q, want %d", resp.StatusCode, body, c.status)
			}
			for range 3 {
				if resp, body := f.do("GET", "/next", nil, nil); resp.StatusCode != 200 || body != "next" {
					t.Errorf("the next client got %d %q", resp.StatusCode, body)
				}
			}
		})
	}
}

func TestClientThatGoesAwayEndsTheRequestUpstream(t *testing.T) {
	for _, c := range []struct {
		name  string
		begun bool
	}{{"before the answer", false}, {"during the answer", true}} {
		t.Run(c.name, func(t *testing.T) {
			reached, ended := make(chan struct{}), make(chan struct{})
			f := newFront(t, backend(t, func(w http.ResponseWriter, r *http.Request) {
				if c.begun {
					fmt.Fprint(w, "begin")
					_ = http.NewResponseController(w).Flush()
				}
				close(reached)
				<-r.Context().Done()
				close(ended)
			}), setup{})
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			r, err := http.NewRequestWithContext(ctx, "GET", f.URL, nil)
			if err != nil {
				t.Fatal(err)
			}
			go func() {
				<-reached
				cancel()
			}()
			if resp, err := f.client.Do(r); err == nil {
				_, _ = io.ReadAll(resp.Body)
				resp.Body.Close()
			}
			<-ended
			eventually(t, "reason in the access log", func() bool { return f.info().Err != nil })
			if code := f.info().Code; !c.begun && code != "request.canceled" {
				t.Errorf("the access log was told %q", code)
			}
		})
	}
}

func TestFailuresOfTheService(t *testing.T) {
	closed := func(t *testing.T) string {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		return "http://" + l.Addr().String()
	}
	for _, c := range []struct {
		name    string
		service func(*testing.T) string
		status  int
		code    string
	}{
		{"connection refused", closed, 502, "gateway.upstream_unreachable"},
		{"not TLS", func(t *testing.T) string {
			return strings.Replace(backend(t, func(http.ResponseWriter, *http.Request) {}), "http:", "https:", 1)
		}, 502, "gateway.upstream_unreachable"},
		{"unknown certificate", func(t *testing.T) string {
			s := httptest.NewUnstartedServer(http.NotFoundHandler())
			s.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, 0)
			s.StartTLS()
			t.Cleanup(s.Close)
			return s.URL
		}, 502, "gateway.upstream_unreachable"},
		{"closes at once", func(t *testing.T) string { return rawBackend(t, answer("")) }, 502, "gateway.upstream_reset"},
		{"closes within the header", func(t *testing.T) string { return rawBackend(t, answer("HTTP/1.1 200 OK\r\n")) }, 502, "gateway.upstream_reset"},
		{"resets", func(t *testing.T) string {
			return rawBackend(t, func(conn net.Conn, br *bufio.Reader) {
				_, _ = http.ReadRequest(br)
				_ = conn.(*net.TCPConn).SetLinger(0)
			})
		}, 502, "gateway.upstream_reset"},
		{"not HTTP", func(t *testing.T) string { return rawBackend(t, answer("SSH-2.0-x\r\n\r\n")) }, 502, "gateway.upstream_invalid"},
		{"bad header", func(t *testing.T) string { return rawBackend(t, answer("HTTP/1.1 200 OK\r\nno colon\r\n\r\n")) }, 502, "gateway.upstream_invalid"},
		{"odd status", func(t *testing.T) string { return rawBackend(t, answer("HTTP/1.1 042 Odd\r\n\r\n")) }, 502, "gateway.upstream_invalid"},
		{"two lengths", func(t *testing.T) string {
			return rawBackend(t, answer("HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd"))
		}, 502, "gateway.upstream_invalid"},
		{"huge header", func(t *testing.T) string {
			return rawBackend(t, answer("HTTP/1.1 200 OK\r\nX-A: "+strings.Repeat("a", 1<<20)+"\r\n\r\n"))
		}, 502, "gateway.upstream_invalid"},
		{"resets after early hints", func(t *testing.T) string {
			return rawBackend(t, answer("HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n"))
		}, 502, "gateway.upstream_reset"},
		{"unasked upgrade", func(t *testing.T) string {
			return rawBackend(t, answer("HTTP/1.1 101 Switching Protocols\r\n\r\n"))
		}, 502, "gateway.upstream_invalid"},
		{"unasked upgrade to WebSocket", func(t *testing.T) string {
			return rawBackend(t, answer("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"))
		}, 502, "gateway.upstream_invalid"},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := newFront(t, c.service(t), setup{})
			resp, body := f.do("GET", "/", nil, nil)
			f.wantProblem(resp, body, c.status, c.code)
			if strings.Contains(body, "127.0.0.1") {
				t.Errorf("the answer tells the service's address: %s", body)
			}
		})
	}
}

func TestServiceThatDoesNotAnswerInTime(t *testing.T) {
	for _, c := range []struct {
		name  string
		setup setup
	}{
		{"response timeout of the service", setup{identity: func(id *upstream.Identity) { id.ResponseTimeout = 50 * time.Millisecond }}},
		{"timeout of the route", setup{route: proxy.RouteConfig{Timeout: 50 * time.Millisecond}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := newFront(t, backend(t, func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }), c.setup)
			resp, body := f.do("GET", "/", nil, nil)
			f.wantProblem(resp, body, 504, "gateway.upstream_timeout")
		})
	}
}

// TestConnectTimeout connects to a listener whose queue is full, which answers
// nothing, as an address behind a firewall does.
func TestConnectTimeout(t *testing.T) {
	f := newFront(t, "http://"+blackhole(t), setup{identity: func(id *upstream.Identity) { id.ConnectTimeout = 100 * time.Millisecond }})
	resp, body := f.do("GET", "/", nil, nil)
	f.wantProblem(resp, body, 504, "gateway.upstream_timeout")
}

func TestRouteTimeoutCutsASlowBodyButNoStream(t *testing.T) {
	const limit = 500 * time.Millisecond
	slow := func(contentType string) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", contentType)
			fmt.Fprint(w, "begin\n")
			_ = http.NewResponseController(w).Flush()
			select {
			case <-time.After(2 * limit):
				fmt.Fprint(w, "end\n")
			case <-r.Context().Done():
			}
		}
	}
	read := func(t *testing.T, f *front) (string, error) {
		conn, br := f.dial()
		send(t, conn, "GET / HTTP/1.1\r\nHost: a\r\n\r\n")
		resp, err := http.ReadResponse(br, nil)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		return string(body), err
	}
	route := setup{route: proxy.RouteConfig{Timeout: limit}}
	if body, err := read(t, newFront(t, backend(t, slow("application/json")), route)); err == nil {
		t.Errorf("a slow body came through: %q", body)
	}
	if body, err := read(t, newFront(t, backend(t, slow("text/event-stream")), route)); err != nil || body != "begin\nend\n" {
		t.Errorf("an event stream was cut: %q, %v", body, err)
	}
}

func TestBodyBeyondTheLimitIs413(t *testing.T) {
	f := newFront(t, backend(t, func(w http.ResponseWriter, r *http.Request) {
		n, err := io.Copy(io.Discard, r.Body)
		if err == nil {
			fmt.Fprint(w, n)
		}
	}), setup{bodyLimit: 1024})
	for _, c := range []struct {
		name string
		body io.Reader
		ok   bool
	}{
		{"announced, within", strings.NewReader(strings.Repeat("a", 1024)), true},
		{"announced, beyond", strings.NewReader(strings.Repeat("a", 1025)), false},
		{"chunked, within", io.MultiReader(strings.NewReader(strings.Repeat("a", 1024))), true},
		{"chunked, beyond", io.MultiReader(strings.NewReader(strings.Repeat("a", 200_000))), false},
	} {
		t.Run(c.name, func(t *testing.T) {
			f.t = t
			resp, body := f.do("POST", "/", c.body, nil)
			if !c.ok {
				f.wantProblem(resp, body, 413, "request.body_too_large")
			} else if resp.StatusCode != 200 || body != "1024" {
				t.Errorf("got %d %q", resp.StatusCode, body)
			}
		})
	}
}

func TestBrokenRequestBodiesAreTheClientsFault(t *testing.T) {
	for _, c := range []struct{ name, request string }{
		{"bad chunk size", "Transfer-Encoding: chunked\r\n\r\n0x3\r\nabc\r\n0\r\n\r\n"},
		{"chunk size with a sign", "Transfer-Encoding: chunked\r\n\r\n+3\r\nabc\r\n0\r\n\r\n"},
		{"huge chunk size", "Transfer-Encoding: chunked\r\n\r\nFFFFFFFFFFFFFFFFF\r\nabc\r\n0\r\n\r\n"},
		{"no chunk size", "Transfer-Encoding: chunked\r\n\r\n\r\nabc\r\n0\r\n\r\n"},
		{"long chunk extension", "Transfer-Encoding: chunked\r\n\r\n3;" + strings.Repeat("a", 100_000) + "\r\nabc\r\n0\r\n\r\n"},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := newFront(t, recorder(t), setup{})
			resp, body := f.raw("POST / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n" + c.request)
			f.wantProblem(resp, body, 400, "request.body_invalid")
		})
	}
}

func TestShortRequestBodyIsTheClientsFault(t *testing.T) {
	f := newFront(t, recorder(t), setup{})
	conn, br := f.dial()
	send(t, conn, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\nConnection: close\r\n\r\nabc")
	if err := conn.(*net.TCPConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	resp, err := http.ReadResponse(br, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	f.wantProblem(resp, string(body), 400, "request.body_invalid")
}

func TestExpectContinueReachesTheService(t *testing.T) {
	f := newFront(t, recorder(t), setup{})
	conn, br := f.dial()
	send(t, conn, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nExpect: 100-continue\r\nConnection: close\r\n\r\n")
	interim, err := http.ReadResponse(br, nil)
	if err != nil || interim.StatusCode != http.StatusContinue {
		t.Fatalf("got %+v, %v", interim, err)
	}
	send(t, conn, "body")
	resp, err := http.ReadResponse(br, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	if got := decode(t, string(text)); got.Body != "body" {
		t.Errorf("the service got %q", got.Body)
	}
}

func TestTheClientIsToldToContinueOnce(t *testing.T) {
	const goOn = "HTTP/1.1 100 Continue\r\n\r\n"
	f := newFront(t, rawBackend(t, func(conn net.Conn, br *bufio.Reader) {
		req, err := http.ReadRequest(br)
		if err != nil {
			return
		}
		_, _ = io.WriteString(conn, goOn)
		if _, err := io.ReadAll(req.Body); err == nil {
			_, _ = io.WriteString(conn, goOn+"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n")
		}
	}), setup{})
	conn, br := f.dial()
	send(t, conn, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nExpect: 100-continue\r\nConnection: close\r\n\r\n")
	for i, want := range []int{http.StatusContinue, http.StatusEarlyHints, http.StatusNoContent} {
		resp, err := http.ReadResponse(br, nil)
		if err != nil || resp.StatusCode != want {
			t.Fatalf("answer %d: %+v, %v; want %d", i, resp, err, want)
		}
		resp.Body.Close()
		if i == 0 {
			send(t, conn, "body")
		}
	}
}

// TestPanicsWithAbortHandler is what an outer recovery has to let through.
func TestPanicsWithAbortHandler(t *testing.T) {
	panicked := make(chan any, 1)
	f := newFront(t, rawBackend(t, answer("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nabc")), setup{
		outer: func(h http.Handler) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				defer func() {
					p := recover()
					panicked <- p
					panic(p)
				}()
				h.ServeHTTP(w, r)
			})
		},
	})
	conn, br := f.dial()
	send(t, conn, "GET / HTTP/1.1\r\nHost: a\r\n\r\n")
	if resp, err := http.ReadResponse(br, nil); err == nil {
		_, _ = io.ReadAll(resp.Body)
		resp.Body.Close()
	}
	if p := <-panicked; p != http.ErrAbortHandler { //nolint:errorlint // a panic value
		t.Errorf("panicked with %v", p)
	}
}

// TestLateRequestLeavesNoConnection is about a request whose route was just
// removed: it is served, and nothing of it stays behind.
func TestLateRequestLeavesNoConnection(t *testing.T) {
	end := make(chan error, 1)
	f := newFront(t, rawBackend(t, func(conn net.Conn, br *bufio.Reader) {
		answer("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")(conn, br)
		_, err := br.ReadByte()
		end <- err
	}), setup{retired: true})
	if resp, body := f.do("GET", "/", nil, nil); resp.StatusCode != 200 || body != "ok" {
		t.Errorf("got %d %q", resp.StatusCode, body)
	}
	if err := <-end; !errors.Is(err, io.EOF) {
		t.Errorf("the connection ended with %v, want it closed by the gateway", err)
	}
}

func TestNewNeedsAllOptions(t *testing.T) {
	if _, err := proxy.New(proxy.Options{}); err == nil {
		t.Error("accepted nothing")
	}
}

// serviceOf is a service with the one target u.
func serviceOf(t *testing.T, u *url.URL, pool *upstream.Pool) proxy.ServiceConfig {
	t.Helper()
	target := balance.Target{State: balance.NewState(u.Host), Weight: 1}
	balancer, err := balance.New(balance.Options{}, []balance.Target{target})
	if err != nil {
		t.Fatal(err)
	}
	host := &url.URL{Scheme: u.Scheme, Host: u.Host}
	return proxy.ServiceConfig{Name: "test-service", Base: u.EscapedPath(), Backend: forward.New(forward.Config{
		Targets: []*forward.Target{{Target: target, URL: host, Pool: pool}}, Balancer: balancer,
		Retry: forward.Retry{Attempts: 1}, Now: time.Now,
	})}
}
