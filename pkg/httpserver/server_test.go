package httpserver_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"

	"github.com/keywarden/keywarden/pkg/httpserver"
	"github.com/keywarden/keywarden/pkg/telemetry"
)

func options() httpserver.Options {
	return httpserver.Options{Addr: "127.0.0.1:0", Handler: http.HandlerFunc(echo), Logger: slog.New(slog.DiscardHandler), Front: withFront}
}

func TestSlowHeaderIsCutOff(t *testing.T) {
	srv := start(t, http.HandlerFunc(echo), func(o *httpserver.Options) { o.ReadHeaderTimeout = 100 * time.Millisecond })
	c := dial(t, srv.addr)
	c.send(t, "GET / HTTP/1.1\r\nHost: a\r\n")
	// A byte now and then must not extend the time.
	for {
		if _, err := c.Write([]byte("X")); err != nil {
			return
		}
		_ = c.SetReadDeadline(time.Now().Add(5 * time.Millisecond))
		if _, err := c.in.ReadByte(); err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
			return
		}
	}
}

func TestSilentHandshakeIsCutOff(t *testing.T) {
	certs := newPair(t, "a")
	srv := start(t, http.HandlerFunc(echo), func(o *httpserver.Options) {
		certs.use(o)
		o.ReadHeaderTimeout = 100 * time.Millisecond
	})
	dial(t, srv.addr).closed(t)
}

func TestIdleConnectionIsClosed(t *testing.T) {
	srv := start(t, http.HandlerFunc(echo), func(o *httpserver.Options) { o.IdleTimeout = 50 * time.Millisecond })
	c := dial(t, srv.addr)
	c.send(t, hello)
	c.answer(t)
	if err := c.closed(t); !errors.Is(err, io.EOF) {
		t.Errorf("got %v", err)
	}
}

func TestHeaderBytesAreLimited(t *testing.T) {
	const limit = 16 << 10
	for name, c := range map[string]struct {
		size, status int
	}{
		"at the limit":   {limit, http.StatusOK},
		"one byte above": {limit + 1, http.StatusRequestHeaderFieldsTooLarge},
		"far above":      {10 * limit, http.StatusRequestHeaderFieldsTooLarge},
	} {
		t.Run(name, func(t *testing.T) {
			srv := start(t, http.HandlerFunc(echo), func(o *httpserver.Options) { o.MaxHeaderBytes = limit })
			conn := dial(t, srv.addr)
			const start, end = "GET / HTTP/1.1\r\nHost: a\r\nX: ", "\r\n\r\n"
			request := start + strings.Repeat("x", c.size-len(start)-len(end)) + end
			_, _ = conn.Write([]byte(request)) // the server may hang up while we write
			if res, _ := conn.answer(t); res.StatusCode != c.status {
				t.Errorf("got %d, want %d", res.StatusCode, c.status)
			}
		})
	}
}

func TestClientThatStopsReadingIsCutOff(t *testing.T) {
	wrote := make(chan error, 1)
	srv := start(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		buf := make([]byte, 1<<20)
		for {
			if _, err := w.Write(buf); err != nil {
				wrote <- err
				return
			}
		}
	}), func(o *httpserver.Options) { o.WriteStallTimeout = 500 * time.Millisecond })
	c := dial(t, srv.addr)
	c.send(t, "GET / HTTP/1.1\r\nHost: a\r\n\r\n")
	select {
	case <-wrote:
	case <-time.After(patience):
		t.Error("the handler still writes to a client that does not read")
	}
}

func TestClientThatReadsSlowlyIsServed(t *testing.T) {
	const size = 4 << 20
	srv := start(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = w.Write(make([]byte, size))
	}), func(o *httpserver.Options) { o.WriteStallTimeout = 500 * time.Millisecond })
	c := dial(t, srv.addr)
	if err := c.Conn.(*net.TCPConn).SetReadBuffer(16 << 10); err != nil {
		t.Fatal(err)
	}
	c.send(t, "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
	n := 0
	buf := make([]byte, 128<<10)
	for {
		m, err := c.in.Read(buf)
		n += m
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatalf("after %d bytes: %v", n, err)
		}
		time.Sleep(5 * time.Millisecond) // several stall times in all, none at once
	}
	if n < size {
		t.Errorf("got %d bytes", n)
	}
}

func TestConnectionsAreCapped(t *testing.T) {
	loopback := []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}
	for name, c := range map[string]struct {
		change func(*httpserver.Options)
		cap    string
		refuse bool
	}{
		"in all":              {func(o *httpserver.Options) { o.MaxConnections = 3 }, "total", true},
		"per address":         {func(o *httpserver.Options) { o.MaxConnectionsPerIP = 3 }, "ip", true},
		"not for a proxy":     {func(o *httpserver.Options) { o.MaxConnectionsPerIP, o.Uncapped = 3, loopback }, "ip", false},
		"in all with proxies": {func(o *httpserver.Options) { o.MaxConnections, o.Uncapped = 3, loopback }, "total", true},
	} {
		t.Run(name, func(t *testing.T) {
			metrics := sdkmetric.NewManualReader()
			srv := start(t, http.HandlerFunc(echo), func(o *httpserver.Options) {
				c.change(o)
				o.Name = "public"
				o.MeterProvider = sdkmetric.NewMeterProvider(sdkmetric.WithReader(metrics))
			})
			var open []*client
			for range 3 {
				conn := dial(t, srv.addr)
				conn.send(t, hello)
				conn.answer(t)
				open = append(open, conn)
			}
			if got := served(srv.addr); got == c.refuse {
				t.Fatalf("the fourth was served: %v", got)
			}
			if !c.refuse {
				return
			}
			if got := connections(t, metrics); got["refused "+c.cap] != 1 || got["open"] != 3 {
				t.Errorf("counted %v", got)
			}
			open[0].Close()
			eventually(t, "a place is free again", func() bool { return served(srv.addr) })
		})
	}
}

// served reports whether a new connection gets an answer.
func served(addr string) bool {
	conn, err := net.Dial("tcp", addr)
	if err != nil { // a reset can come before Dial returns
		return false
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(patience))
	fmt.Fprint(conn, hello)
	n, _ := conn.Read(make([]byte, 1))
	return n == 1
}

func connections(t *testing.T, r *sdkmetric.ManualReader) map[string]int64 {
	t.Helper()
	var rm metricdata.ResourceMetrics
	if err := r.Collect(context.Background(), &rm); err != nil {
		t.Fatal(err)
	}
	out := map[string]int64{}
	for _, m := range rm.ScopeMetrics[0].Metrics {
		for _, p := range m.Data.(metricdata.Sum[int64]).DataPoints {
			if v, _ := p.Attributes.Value("keywarden.listener"); v.AsString() != "public" {
				t.Errorf("listener %q", v.AsString())
			}
			if m.Name == "keywarden.server.connections" {
				out["open"] = p.Value
				continue
			}
			v, _ := p.Attributes.Value("cap")
			out["refused "+v.AsString()] = p.Value
		}
	}
	return out
}

func TestCertificateIsReloaded(t *testing.T) {
	certs := newPair(t, "first")
	var log lockedBuffer
	srv := start(t, http.HandlerFunc(echo), func(o *httpserver.Options) {
		o.Logger = telemetry.NewLogger(&log, slog.LevelInfo, telemetry.FormatJSON)
		certs.use(o)
	})
	if got := certs.served(t, srv.addr); got != "first" {
		t.Errorf("serves %q", got)
	}
	cert, key := certs.make(t, "second", time.Now().Add(time.Hour))
	certs.write(t, cert, key)
	eventually(t, "the second certificate is served", func() bool { return certs.served(t, srv.addr) == "second" })
	if !strings.Contains(log.String(), "TLS certificate reloaded") {
		t.Errorf("log: %s", log.String())
	}
}

func TestNewRefusesWhatCannotServe(t *testing.T) {
	for name, change := range map[string]func(*httpserver.Options){
		"no handler": func(o *httpserver.Options) { o.Handler = nil },
		"no logger":  func(o *httpserver.Options) { o.Logger = nil },
	} {
		t.Run(name, func(t *testing.T) {
			o := options()
			change(&o)
			if _, err := httpserver.New(o); err == nil {
				t.Error("no error")
			}
		})
	}
}

func TestListenTellsTheAddressAndWhenItIsTaken(t *testing.T) {
	first := start(t, http.HandlerFunc(echo), nil)
	o := options()
	o.Addr = first.addr
	second, err := httpserver.New(o)
	if err != nil {
		t.Fatal(err)
	}
	if second.Addr() != nil {
		t.Errorf("address before Listen: %v", second.Addr())
	}
	if err := second.Listen(); err == nil || !strings.Contains(err.Error(), first.addr) {
		t.Errorf("got %v", err)
	}
}

func TestOldTLSIsRefused(t *testing.T) {
	certs := newPair(t, "a")
	srv := start(t, http.HandlerFunc(echo), certs.use)
	for version, want := range map[uint16]bool{tls.VersionTLS11: false, tls.VersionTLS12: true, tls.VersionTLS13: true} {
		config := certs.config()
		config.MinVersion, config.MaxVersion = tls.VersionTLS10, version
		c, err := (&tls.Dialer{Config: config}).DialContext(within(t), "tcp", srv.addr)
		if err == nil {
			c.Close()
		}
		if got := err == nil; got != want {
			t.Errorf("%s accepted: %v (%v)", tls.VersionName(version), got, err)
		}
	}
}

// The frames of HTTP/2 that the tests look at (RFC 9113 section 6).
const (
	frameSettings = 0x4
	frameGoAway   = 0x7

	preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
)

// dialHTTP2 opens a connection and sends what a client has to begin with.
func dialHTTP2(t *testing.T, addr string, certs *pair) *client {
	t.Helper()
	c := dial(t, addr)
	conn := tls.Client(c.Conn, certs.config("h2"))
	if err := conn.Handshake(); err != nil {
		t.Fatal(err)
	}
	if got := conn.ConnectionState().NegotiatedProtocol; got != "h2" {
		t.Fatalf("negotiated %q", got)
	}
	c.Conn = conn
	c.in.Reset(conn)
	c.send(t, "%s", preface+"\x00\x00\x00\x04\x00\x00\x00\x00\x00") // empty SETTINGS
	return c
}

func (c *client) frame(t *testing.T) (kind byte, payload []byte) {
	t.Helper()
	var head [9]byte
	if _, err := io.ReadFull(c.in, head[:]); err != nil {
		t.Fatalf("no frame: %v", err)
	}
	payload = make([]byte, int(head[0])<<16|int(head[1])<<8|int(head[2]))
	if _, err := io.ReadFull(c.in, payload); err != nil {
		t.Fatal(err)
	}
	return head[3], payload
}

func TestHTTP2StreamsAreLimited(t *testing.T) {
	certs := newPair(t, "a")
	srv := start(t, http.HandlerFunc(echo), certs.use)
	kind, settings := dialHTTP2(t, srv.addr, certs).frame(t)
	maxStreams := []byte{0, 3, 0, 0, 0, 100} // SETTINGS_MAX_CONCURRENT_STREAMS
	if kind != frameSettings || !bytes.Contains(settings, maxStreams) {
		t.Errorf("frame %d: %x", kind, settings)
	}
}

func TestHTTP2NeedsTLS(t *testing.T) {
	srv := start(t, http.HandlerFunc(echo), nil)
	c := dial(t, srv.addr)
	c.send(t, "%s", preface)
	answer, _ := io.ReadAll(c.in)
	if !strings.HasPrefix(string(answer), "HTTP/1.1 ") {
		t.Errorf("got %q", answer)
	}
}

func TestBothProtocolsAreServedOverTLS(t *testing.T) {
	certs := newPair(t, "a")
	srv := start(t, http.HandlerFunc(echo), certs.use)
	for _, h2 := range []bool{false, true} {
		transport := &http.Transport{TLSClientConfig: certs.config(), ForceAttemptHTTP2: h2}
		res, err := (&http.Client{Transport: transport}).Post("https://"+srv.addr, "text/plain", strings.NewReader("hello"))
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(res.Body)
		res.Body.Close()
		if err != nil || string(body) != "hello" || (res.ProtoMajor == 2) != h2 {
			t.Errorf("%s: %q, %v", res.Proto, body, err)
		}
		transport.CloseIdleConnections()
	}
	srv.shutDown(t)
}

func TestOptionsOfTheServerReachTheHandler(t *testing.T) {
	srv := start(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusTeapot) }), nil)
	c := dial(t, srv.addr)
	c.send(t, "OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n")
	if res, _ := c.answer(t); res.StatusCode != http.StatusTeapot {
		t.Errorf("got %d", res.StatusCode)
	}
}

func TestServerLogKnowsNoiseFromFaults(t *testing.T) {
	certs := newPair(t, "a")
	var log lockedBuffer
	level := new(slog.LevelVar)
	srv := start(t, http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic("boom") }), func(o *httpserver.Options) {
		certs.use(o)
		o.Logger = telemetry.NewLogger(&log, level, telemetry.FormatJSON)
	})
	scan := func() {
		c := dial(t, srv.addr)
		c.send(t, "GET / HTTP/1.1\r\n\r\n")
		_, _ = io.ReadAll(c.in)
	}
	scan()
	transport := &http.Transport{TLSClientConfig: certs.config()}
	if res, err := (&http.Client{Transport: transport}).Get("https://" + srv.addr); err == nil {
		res.Body.Close()
		t.Error("got an answer")
	}
	eventually(t, "the panic is logged", func() bool { return strings.Contains(log.String(), "panic serving") })
	if !strings.Contains(log.String(), `"level":"ERROR"`) || strings.Contains(log.String(), "handshake") {
		t.Errorf("log: %s", log.String())
	}
	level.Set(slog.LevelDebug)
	scan()
	eventually(t, "the scan can be seen", func() bool { return strings.Contains(log.String(), "TLS handshake error") })
}

func TestLargeBodiesStream(t *testing.T) {
	const size = 32 << 20
	file := filepath.Join(t.TempDir(), "large")
	if err := os.WriteFile(file, make([]byte, size), 0o600); err != nil {
		t.Fatal(err)
	}
	srv := start(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { http.ServeFile(w, r, file) }), nil)
	c := dial(t, srv.addr)
	c.send(t, "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
	res, err := http.ReadResponse(c.in, nil)
	if err != nil {
		t.Fatal(err)
	}
	if n, err := io.Copy(io.Discard, res.Body); n != size || err != nil {
		t.Errorf("got %d bytes, %v", n, err)
	}
}

// BenchmarkKeepAliveRequest is one connection, on which one request follows the answer of
// the last. Its client costs the same with and without the front.
func BenchmarkKeepAliveRequest(b *testing.B) {
	kilobyte := bytes.Repeat([]byte("x"), 1<<10)
	answer := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header()["Content-Type"] = []string{"text/plain"}
		_, _ = w.Write(kilobyte)
	})
	const get = "GET /some/path?query=1 HTTP/1.1\r\nHost: a.test\r\nUser-Agent: benchmark/1.0\r\nAccept: */*\r\nX-Api-Key: 0123456789abcdef\r\n\r\n"
	for _, c := range []struct {
		name, request string
		handler       http.Handler
	}{{"echo", hello, http.HandlerFunc(echo)}, {"1KB", get, answer}} {
		for name, front := range map[string]bool{"nethttp": false, "front": true} {
			b.Run(c.name+"/"+name, func(b *testing.B) { benchmarkKeepAlive(b, c.request, c.handler, front) })
		}
	}
}

func benchmarkKeepAlive(b *testing.B, request string, handler http.Handler, front bool) {
	o := options()
	o.Handler, o.Front = handler, front
	srv, err := httpserver.New(o)
	if err != nil {
		b.Fatal(err)
	}
	if err := srv.Listen(); err != nil {
		b.Fatal(err)
	}
	go func() { _ = srv.Serve() }()
	defer func() {
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		_ = srv.Shutdown(ctx)
	}()
	conn, err := net.Dial("tcp", srv.Addr().String())
	if err != nil {
		b.Fatal(err)
	}
	defer conn.Close()
	buf := make([]byte, 4096)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := io.WriteString(conn, request); err != nil {
			b.Fatal(err)
		}
		if _, err := conn.Read(buf); err != nil {
			b.Fatal(err)
		}
	}
}
