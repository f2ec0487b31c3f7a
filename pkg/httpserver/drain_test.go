package httpserver_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/keywarden/keywarden/pkg/httpserver"
)

// hammer sends requests over raw connections until the port is closed. Whatever
// was written on a connection must get a whole answer: anything else is a
// request that was lost.
type hammer struct {
	addr    string
	tls     *tls.Config // nil for plain
	oneEach bool        // a new connection for each request

	answered atomic.Int64
	mu       sync.Mutex
	lost     []error
}

func (h *hammer) fail(format string, args ...any) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.lost = append(h.lost, fmt.Errorf(format, args...))
}

func (h *hammer) run(workers int) *sync.WaitGroup {
	var wg sync.WaitGroup
	for i := range workers {
		wg.Go(func() {
			for h.connection(i) {
			}
		})
	}
	return &wg
}

// connection uses one connection until it is to be closed, and reports whether
// another should be tried.
func (h *hammer) connection(worker int) bool {
	c, err := net.Dial("tcp", h.addr)
	if errors.Is(err, syscall.ECONNREFUSED) {
		return false // the server is gone, and says so
	}
	if err != nil {
		h.fail("dial: %w", err)
		return false
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(patience))
	if h.tls != nil {
		t := tls.Client(c, h.tls)
		if err := t.Handshake(); err != nil {
			h.fail("handshake: %w", err)
			return false
		}
		c = t
	}
	in := bufio.NewReader(c)
	for n := 0; ; n++ {
		want := fmt.Sprintf("worker %d request %d", worker, n)
		if _, err := fmt.Fprintf(c, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n%s", len(want), want); err != nil {
			h.fail("write of request %d: %w", n, err)
			return false
		}
		res, err := http.ReadResponse(in, nil)
		if err != nil {
			h.fail("answer of request %d: %w", n, err)
			return false
		}
		got, err := io.ReadAll(res.Body)
		res.Body.Close()
		if err != nil || string(got) != want {
			h.fail("body of request %d: %q, %w", n, got, err)
			return false
		}
		h.answered.Add(1)
		if res.Close || h.oneEach {
			return true
		}
	}
}

// slowEcho takes a moment, so that shutdown meets requests at every stage.
func slowEcho(w http.ResponseWriter, r *http.Request) {
	time.Sleep(time.Duration(rand.IntN(3000)) * time.Microsecond)
	echo(w, r)
}

func TestShutdownUnderLoadLosesNoRequest(t *testing.T) {
	certs := newPair(t, "a")
	for name, c := range map[string]struct {
		tls     *tls.Config
		oneEach bool
		grace   time.Duration
	}{
		"keep-alive":                     {},
		"keep-alive with grace":          {grace: 100 * time.Millisecond},
		"connection per request":         {oneEach: true},
		"tls":                            {tls: certs.config("http/1.1")},
		"tls and connection per request": {tls: certs.config("http/1.1"), oneEach: true, grace: 50 * time.Millisecond},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel() // most of the time is spent waiting
			for range 3 {
				srv := start(t, http.HandlerFunc(slowEcho), func(o *httpserver.Options) {
					o.DrainGrace = c.grace
					if c.tls != nil {
						certs.use(o)
					}
				})
				h := &hammer{addr: srv.addr, tls: c.tls, oneEach: c.oneEach}
				wg := h.run(24)
				eventually(t, "the load is on", func() bool { return h.answered.Load() > 200 })
				srv.shutDown(t)
				wg.Wait()
				for _, err := range h.lost {
					t.Errorf("a request was lost: %v", err)
				}
			}
		})
	}
}

// TestHammerSeesLostRequests keeps the test above honest: the same
// hammer must see what http.Server.Shutdown does to it.
func TestHammerSeesLostRequests(t *testing.T) {
	for range 50 {
		plain := &http.Server{Handler: http.HandlerFunc(slowEcho)}
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		go func() { _ = plain.Serve(ln) }()
		h := &hammer{addr: ln.Addr().String()}
		wg := h.run(24)
		eventually(t, "the load is on", func() bool { return h.answered.Load() > 200 })
		if err := plain.Shutdown(within(t)); err != nil {
			t.Fatal(err)
		}
		wg.Wait()
		if len(h.lost) > 0 {
			return
		}
	}
	t.Error("the hammer found nothing wrong with http.Server.Shutdown")
}

func TestShutdownUnderLoadLosesNoHTTP2Request(t *testing.T) {
	certs := newPair(t, "a")
	srv := start(t, http.HandlerFunc(slowEcho), func(o *httpserver.Options) {
		certs.use(o)
		o.DrainGrace = 200 * time.Millisecond
	})
	transport := &http.Transport{TLSClientConfig: certs.config(), ForceAttemptHTTP2: true}
	defer transport.CloseIdleConnections()
	web := &http.Client{Transport: transport, Timeout: patience}

	var answered atomic.Int64
	var wg sync.WaitGroup
	for range 16 {
		wg.Go(func() {
			for {
				// A GET without body: what GOAWAY says was not taken, and nothing
				// else, is sent again by the transport.
				res, err := web.Get("https://" + srv.addr)
				if errors.Is(err, syscall.ECONNREFUSED) {
					return
				}
				if err != nil {
					t.Errorf("a request was lost: %v", err)
					return
				}
				if res.ProtoMajor != 2 {
					t.Errorf("got %s", res.Proto)
				}
				if _, err := io.ReadAll(res.Body); err != nil {
					t.Errorf("an answer was cut off: %v", err)
				}
				res.Body.Close()
				answered.Add(1)
			}
		})
	}
	eventually(t, "the load is on", func() bool { return answered.Load() > 200 })
	srv.shutDown(t)
	wg.Wait()
}

func TestRequestOnAnIdleConnectionDuringShutdownIsAnswered(t *testing.T) {
	srv := start(t, http.HandlerFunc(echo), func(o *httpserver.Options) { o.IdleGrace = patience })
	c := dial(t, srv.addr)
	c.send(t, hello)
	if res, _ := c.answer(t); res.Close {
		t.Error("asked to close before the shutdown")
	}
	done := shutDownLater(t, srv)
	<-srv.Draining()
	eventually(t, "the port is closed", func() bool { return refused(srv.addr) })

	c.send(t, hello)
	if res, body := c.answer(t); !res.Close || body != "hello" {
		t.Errorf("got %q, asked to close: %v", body, res.Close)
	}
	if err := c.closed(t); !errors.Is(err, io.EOF) {
		t.Errorf("closed with %v", err)
	}
	<-done
}

// shutDownLater runs the shutdown beside the test.
func shutDownLater(t *testing.T, srv *running) <-chan struct{} {
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := srv.Shutdown(within(t)); err != nil {
			t.Errorf("Shutdown: %v", err)
		}
	}()
	return done
}

func refused(addr string) bool {
	c, err := net.Dial("tcp", addr)
	if err == nil {
		c.Close()
	}
	return errors.Is(err, syscall.ECONNREFUSED)
}

func TestSilentConnectionsAreClosedCleanly(t *testing.T) {
	certs := newPair(t, "a")
	for name, use := range map[string]func(*httpserver.Options){"plain": nil, "tls": certs.use} {
		t.Run(name, func(t *testing.T) {
			srv := start(t, http.HandlerFunc(echo), use)
			idle, fresh := dial(t, srv.addr), dial(t, srv.addr)
			if use != nil {
				wrapTLS(t, idle, certs)
			}
			idle.send(t, hello)
			idle.answer(t)
			srv.shutDown(t) // ends although nobody closed
			if err := idle.closed(t); !errors.Is(err, io.EOF) {
				t.Errorf("idle connection closed with %v", err)
			}
			if err := fresh.closed(t); !errors.Is(err, io.EOF) {
				t.Errorf("fresh connection closed with %v", err)
			}
		})
	}
}

func wrapTLS(t *testing.T, c *client, certs *pair) {
	t.Helper()
	conn := tls.Client(c.Conn, certs.config("http/1.1"))
	if err := conn.Handshake(); err != nil {
		t.Fatal(err)
	}
	c.Conn, c.in = conn, bufio.NewReader(conn)
}

func TestRequestsInFlightEndBeforeShutdownDoes(t *testing.T) {
	entered, release := make(chan struct{}), make(chan struct{})
	srv := start(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		close(entered)
		<-release
		echo(w, r)
	}), nil)
	c := dial(t, srv.addr)
	c.send(t, hello)
	<-entered
	done := shutDownLater(t, srv)
	eventually(t, "the port is closed", func() bool { return refused(srv.addr) })
	select {
	case <-done:
		t.Fatal("Shutdown did not wait")
	default:
	}
	close(release)
	if _, body := c.answer(t); body != "hello" {
		t.Errorf("got %q", body)
	}
	// This request began before the shutdown, so its client was not told.
	c.send(t, "GET / HTTP/1.1\r\n") // the next one has begun, and stops
	<-done
}

func TestDrainDelayServesAsUsual(t *testing.T) {
	srv := start(t, http.HandlerFunc(echo), func(o *httpserver.Options) { o.DrainDelay = patience })
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); _ = srv.Shutdown(ctx) }()
	for range 20 {
		c := dial(t, srv.addr)
		for range 2 {
			c.send(t, hello)
			if res, _ := c.answer(t); res.Close {
				t.Error("asked to close during the delay")
			}
		}
	}
	select {
	case <-srv.Draining():
		t.Error("draining during the delay")
	default:
	}
	cancel()
	<-done
}

func TestDrainGraceStillAccepts(t *testing.T) {
	srv := start(t, http.HandlerFunc(echo), func(o *httpserver.Options) { o.DrainGrace = patience })
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); _ = srv.Shutdown(ctx) }()
	<-srv.Draining()
	for range 20 {
		c := dial(t, srv.addr)
		c.send(t, hello)
		if res, body := c.answer(t); !res.Close || body != "hello" {
			t.Errorf("got %q, asked to close: %v", body, res.Close)
		}
	}
	cancel()
	<-done
}

// takeOver is a handler that hijacks and echoes bytes until the end.
func takeOver(t *testing.T) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		conn, rw, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer conn.Close()
		fmt.Fprint(rw, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
		_ = rw.Flush()
		_, _ = io.Copy(conn, rw)
	}
}

func upgrade(t *testing.T, addr string) *client {
	t.Helper()
	c := dial(t, addr)
	c.send(t, "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
	if res, err := http.ReadResponse(c.in, nil); err != nil || res.StatusCode != http.StatusSwitchingProtocols {
		t.Fatalf("got %v, %v", res, err)
	}
	return c
}

func (c *client) ping(t *testing.T) {
	t.Helper()
	c.send(t, "ping")
	got := make([]byte, 4)
	if _, err := io.ReadFull(c.in, got); err != nil || string(got) != "ping" {
		t.Fatalf("got %q, %v", got, err)
	}
}

func TestHijackedConnectionsGetTheDrainTime(t *testing.T) {
	srv := start(t, takeOver(t), nil)
	c := upgrade(t, srv.addr)
	done := shutDownLater(t, srv)
	eventually(t, "the port is closed", func() bool { return refused(srv.addr) })
	c.ping(t)
	c.Close()
	<-done // and not before
}

func TestHijackedConnectionsAreCutOffAtTheEnd(t *testing.T) {
	srv := start(t, takeOver(t), nil)
	c := upgrade(t, srv.addr)
	ctx, cancel := context.WithCancel(context.Background())
	result := make(chan error)
	go func() { result <- srv.Shutdown(ctx) }()
	eventually(t, "the port is closed", func() bool { return refused(srv.addr) })
	c.ping(t)
	cancel()
	if err := <-result; !errors.Is(err, context.Canceled) {
		t.Errorf("Shutdown: %v", err)
	}
	c.closed(t)
	srv.ended(t)
}

func TestUpgradeDuringDrainIsNotSpoiled(t *testing.T) {
	srv := start(t, takeOver(t), func(o *httpserver.Options) { o.DrainGrace = patience })
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); _ = srv.Shutdown(ctx) }()
	<-srv.Draining()
	upgrade(t, srv.addr).ping(t)
	cancel()
	<-done
}

func TestOfferOfH2CIsNoUpgrade(t *testing.T) {
	srv := start(t, http.HandlerFunc(echo), func(o *httpserver.Options) { o.DrainGrace = patience })
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); _ = srv.Shutdown(ctx) }()
	<-srv.Draining()
	c := dial(t, srv.addr)
	c.send(t, "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n")
	if res, _ := c.answer(t); !res.Close {
		t.Error("the client was not asked to close")
	}
	cancel()
	<-done
}

func TestDeadlineCutsOffWhatIsLeft(t *testing.T) {
	entered := make(chan struct{})
	var cause atomic.Value
	srv := start(t, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		close(entered)
		<-r.Context().Done()
		cause.Store(r.Context().Err())
	}), nil)
	c := dial(t, srv.addr)
	c.send(t, hello)
	<-entered
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	if err := srv.Shutdown(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Shutdown: %v", err)
	}
	if cause.Load() == nil {
		t.Error("Shutdown returned before the handler")
	}
	c.closed(t)
	srv.ended(t)
	if !refused(srv.addr) {
		t.Error("the port is still open")
	}
}

func TestIdleHTTP2ConnectionIsToldToGoAway(t *testing.T) {
	certs := newPair(t, "a")
	srv := start(t, http.HandlerFunc(echo), certs.use)
	c := dialHTTP2(t, srv.addr, certs)
	done := shutDownLater(t, srv)
	for {
		if kind, _ := c.frame(t); kind == frameGoAway {
			break
		}
	}
	<-done // without waiting for the client to close
}

func TestShutdownWorksAtAnyTime(t *testing.T) {
	newServer := func() *httpserver.Server {
		srv, err := httpserver.New(options())
		if err != nil {
			t.Fatal(err)
		}
		return srv
	}
	t.Run("before Listen", func(t *testing.T) {
		srv := newServer()
		if err := srv.Shutdown(within(t)); err != nil {
			t.Error(err)
		}
		if err := srv.Serve(); !errors.Is(err, http.ErrServerClosed) {
			t.Errorf("Serve: %v", err)
		}
	})
	t.Run("before Serve", func(t *testing.T) {
		srv := newServer()
		if err := srv.Listen(); err != nil {
			t.Fatal(err)
		}
		if err := srv.Shutdown(within(t)); err != nil {
			t.Error(err)
		}
		if !refused(srv.Addr().String()) {
			t.Error("the port is still open")
		}
	})
	t.Run("twice", func(t *testing.T) {
		srv := start(t, http.HandlerFunc(echo), nil)
		var wg sync.WaitGroup
		for range 3 {
			wg.Go(func() {
				if err := srv.Shutdown(within(t)); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		srv.ended(t)
	})
	t.Run("with Serve at the same moment", func(t *testing.T) {
		for range 50 {
			srv := newServer()
			if err := srv.Listen(); err != nil {
				t.Fatal(err)
			}
			served := make(chan error, 1)
			go func() { served <- srv.Serve() }()
			if err := srv.Shutdown(within(t)); err != nil {
				t.Error(err)
			}
			if err := <-served; err != nil && !errors.Is(err, http.ErrServerClosed) {
				t.Errorf("Serve: %v", err)
			}
		}
	})
}
