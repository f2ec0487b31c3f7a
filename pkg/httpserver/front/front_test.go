package front_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/keywarden/keywarden/pkg/httpserver"
	"github.com/keywarden/keywarden/pkg/httpserver/front"
)

const plainGet = "GET /a?b=c HTTP/1.1\r\nHost: a.test\r\nX-A: 1\r\n\r\n"

func needFront(t *testing.T) {
	t.Helper()
	if !front.Available {
		t.Skip("no front here")
	}
}

// certificate is what a server and a client show.
func certificate(t *testing.T) (server, client *tls.Config) {
	t.Helper()
	srv := httptest.NewTLSServer(http.NotFoundHandler())
	defer srv.Close()
	pool := x509.NewCertPool()
	pool.AddCert(srv.Certificate())
	server = &tls.Config{Certificates: srv.TLS.Certificates, NextProtos: []string{"h2", "http/1.1"}, ClientAuth: tls.RequestClientCert}
	return server, &tls.Config{RootCAs: pool, ServerName: "127.0.0.1", NextProtos: []string{"http/1.1"}, Certificates: srv.TLS.Certificates}
}

// client is a connection, with TLS or without, and its answers.
type client struct {
	net.Conn
	tcp *net.TCPConn
	in  *bufio.Reader
}

func connect(t *testing.T, addr string, config *tls.Config) *client {
	t.Helper()
	tcp := dial(t, addr)
	c := &client{Conn: tcp, tcp: tcp}
	if config != nil {
		c.Conn = tls.Client(tcp, config)
	}
	c.in = bufio.NewReader(c.Conn)
	return c
}

func (c *client) send(t *testing.T, text string) {
	t.Helper()
	if _, err := io.WriteString(c, text); err != nil {
		t.Fatal(err)
	}
}

func (c *client) answer(t *testing.T) (*http.Response, string) {
	t.Helper()
	res, err := http.ReadResponse(c.in, nil)
	if err != nil {
		t.Fatalf("no answer: %v", err)
	}
	body, err := io.ReadAll(res.Body)
	res.Body.Close()
	if err != nil {
		t.Fatalf("half an answer: %v", err)
	}
	return res, string(body)
}

// who says who serves, and what it knows of the client's certificate.
func who(w http.ResponseWriter, r *http.Request) {
	_, _ = io.Copy(io.Discard, r.Body)
	name := "net/http"
	if servedByFront(w) {
		name = "front"
	}
	if r.TLS != nil {
		name += fmt.Sprintf(" over TLS with %d certificates, %q", len(r.TLS.PeerCertificates), r.TLS.NegotiatedProtocol)
	}
	_, _ = io.WriteString(w, name)
}

func TestConnectionIsHandedOverAtTheFirstUnusualRequest(t *testing.T) {
	needFront(t)
	server, clientTLS := certificate(t)
	const chunks = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"
	for name, c := range map[string]struct {
		client *tls.Config
		suffix string
	}{"plain": {}, "TLS": {clientTLS, ` over TLS with 1 certificates, "http/1.1"`}} {
		t.Run(name, func(t *testing.T) {
			addr := serve(t, true, http.HandlerFunc(who), func(o *httpserver.Options) {
				if c.client != nil {
					o.TLS = server
				}
			})
			for _, together := range []bool{true, false} {
				conn := connect(t, addr, c.client)
				want := []string{"front", "front", "net/http"}
				if together {
					conn.send(t, plainGet+plainGet+chunks)
				}
				for i, request := range []string{plainGet, plainGet, chunks} {
					if !together {
						conn.send(t, request)
					}
					if _, got := conn.answer(t); got != want[i]+c.suffix {
						t.Errorf("%q, want %q", got, want[i]+c.suffix)
					}
				}
			}
		})
	}
}

// A body that does not come soon is net/http's, which does not need all of it before the
// handler. The handler then waits for the rest as always.
func TestSlowBodyIsHandedOver(t *testing.T) {
	needFront(t)
	server, clientTLS := certificate(t)
	for name, config := range map[string]*tls.Config{"plain": nil, "TLS": clientTLS} {
		t.Run(name, func(t *testing.T) {
			t.Parallel() // it waits until the front gives up
			entered := make(chan string, 1)
			addr := serve(t, true, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				entered <- fmt.Sprintf("%T", w)
				_, _ = io.Copy(w, r.Body)
			}), func(o *httpserver.Options) {
				if config != nil {
					o.TLS = server
				}
			})
			conn := connect(t, addr, config)
			conn.send(t, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhe")
			if got := <-entered; got != "*http.response" {
				t.Errorf("served by %s", got)
			}
			conn.send(t, "llo"+plainGet)
			if _, got := conn.answer(t); got != "hello" {
				t.Errorf("got %q", got)
			}
			<-entered
			conn.answer(t)
		})
	}
}

// What was read behind an upgrade belongs to whoever takes the connection over, by
// whichever way it reads.
func TestNothingIsLostBehindAnUpgrade(t *testing.T) {
	needFront(t)
	addr := serve(t, true, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		conn, rw, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer conn.Close()
		_, _ = rw.WriteString("HTTP/1.1 101 Switching Protocols\r\n\r\n")
		_, _ = io.CopyN(rw, rw, int64(rw.Reader.Buffered()))
		_ = rw.Flush()
		_, _ = io.Copy(conn, conn)
	}))
	const behind = 30_000
	got := talk(t, addr, []byte("GET / HTTP/1.1\r\nHost: a\r\nX: "+strings.Repeat("a", 5000)+"\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n"+string(content(behind))))
	if _, data, _ := strings.Cut(string(got), "\r\n\r\n"); data != string(content(behind)) {
		t.Errorf("%d bytes of %d came back", len(data), behind)
	}
}

func TestHTTP2IsHandedOver(t *testing.T) {
	needFront(t)
	server, clientTLS := certificate(t)
	addr := serve(t, true, http.HandlerFunc(who), func(o *httpserver.Options) { o.TLS = server })
	transport := &http.Transport{TLSClientConfig: clientTLS, ForceAttemptHTTP2: true}
	clientTLS.NextProtos = nil
	defer transport.CloseIdleConnections()
	res, err := (&http.Client{Transport: transport, Timeout: patience}).Get("https://" + addr)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if body, _ := io.ReadAll(res.Body); res.ProtoMajor != 2 || !strings.HasPrefix(string(body), "net/http over TLS") {
		t.Errorf("%s: %q", res.Proto, body)
	}
}

func TestPlainTextOnATLSListenerIsToldSo(t *testing.T) {
	needFront(t)
	server, _ := certificate(t)
	addr := serve(t, true, http.HandlerFunc(who), func(o *httpserver.Options) { o.TLS = server })
	if got := string(talk(t, addr, []byte(plainGet))); !strings.Contains(got, "Client sent an HTTP request to an HTTPS server") {
		t.Errorf("got %q", got)
	}
}

// What the front takes and what not, one reason each.
func TestUnusualRequestsAreHandedOver(t *testing.T) {
	needFront(t)
	addr := serve(t, true, http.HandlerFunc(who))
	const host = "Host: a\r\n"
	for name, c := range map[string]struct {
		text string
		want string // "" for net/http's refusal
	}{
		"plain":                      {"GET / HTTP/1.1\r\n" + host + "\r\n", "front"},
		"body":                       {"PUT / HTTP/1.1\r\n" + host + "Content-Length: 3\r\n\r\nabc", "front"},
		"obs-text":                   {"GET / HTTP/1.1\r\n" + host + "X: \xff\r\n\r\n", "front"},
		"close":                      {"GET / HTTP/1.1\r\n" + host + "Connection: close\r\n\r\n", "front"},
		"version":                    {"GET / HTTP/1.0\r\n" + host + "\r\n", "net/http"},
		"method":                     {"TRACE / HTTP/1.1\r\n" + host + "\r\n", "net/http"},
		"absolute":                   {"GET http://a/ HTTP/1.1\r\n" + host + "\r\n", "net/http"},
		"asterisk":                   {"OPTIONS * HTTP/1.1\r\n" + host + "\r\n", "net/http"},
		"fragment":                   {"GET /#a HTTP/1.1\r\n" + host + "\r\n", "net/http"},
		"bad escape":                 {"GET /%zz HTTP/1.1\r\n" + host + "\r\n", ""},
		"LF":                         {"GET / HTTP/1.1\n" + host + "\r\n", "net/http"},
		"tab":                        {"GET / HTTP/1.1\r\n" + host + "X:\ta\r\n\r\n", "net/http"},
		"folded":                     {"GET / HTTP/1.1\r\n" + host + "X: a\r\n b\r\n\r\n", "net/http"},
		"CR":                         {"GET / HTTP/1.1\r\n" + host + "X: a\rb\r\n\r\n", ""},
		"space":                      {"GET / HTTP/1.1\r\n" + host + "X : a\r\n\r\n", ""},
		"no host":                    {"GET / HTTP/1.1\r\n\r\n", ""},
		"two hosts":                  {"GET / HTTP/1.1\r\n" + host + host + "\r\n", ""},
		"strange host":               {"GET / HTTP/1.1\r\nHost: a,b\r\n\r\n", "net/http"},
		"upgrade":                    {"GET / HTTP/1.1\r\n" + host + "Upgrade: x\r\n\r\n", "net/http"},
		"te":                         {"GET / HTTP/1.1\r\n" + host + "TE: trailers\r\n\r\n", "net/http"},
		"trailer":                    {"GET / HTTP/1.1\r\n" + host + "Trailer: X\r\n\r\n", "net/http"},
		"expect":                     {"GET / HTTP/1.1\r\n" + host + "Expect: 100-continue\r\n\r\n", "net/http"},
		"settings":                   {"GET / HTTP/1.1\r\n" + host + "HTTP2-Settings: x\r\n\r\n", "net/http"},
		"keep-alive":                 {"GET / HTTP/1.1\r\n" + host + "Keep-Alive: 5\r\n\r\n", "net/http"},
		"proxy-connection":           {"GET / HTTP/1.1\r\n" + host + "Proxy-Connection: x\r\n\r\n", "net/http"},
		"pragma":                     {"GET / HTTP/1.1\r\n" + host + "Pragma: no-cache\r\n\r\n", "net/http"},
		"options of the connection":  {"GET / HTTP/1.1\r\n" + host + "Connection: x\r\n\r\n", "net/http"},
		"two connections":            {"GET / HTTP/1.1\r\n" + host + "Connection: close\r\nConnection: close\r\n\r\n", "net/http"},
		"chunks":                     {"POST / HTTP/1.1\r\n" + host + "Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "net/http"},
		"two lengths":                {"POST / HTTP/1.1\r\n" + host + "Content-Length: 1\r\nContent-Length: 1\r\n\r\na", "net/http"},
		"length with zeroes":         {"POST / HTTP/1.1\r\n" + host + "Content-Length: 01\r\n\r\na", "net/http"},
		"bad length":                 {"POST / HTTP/1.1\r\n" + host + "Content-Length: +1\r\n\r\na", ""},
		"long body":                  {"POST / HTTP/1.1\r\n" + host + "Content-Length: 16385\r\n\r\n" + strings.Repeat("a", 16385), "net/http"},
		"longest body":               {"POST / HTTP/1.1\r\n" + host + "Content-Length: 16384\r\n\r\n" + strings.Repeat("a", 16384), "front"},
		"many fields":                {"GET / HTTP/1.1\r\n" + host + strings.Repeat("X: a\r\n", 100) + "\r\n", "net/http"},
		"large head":                 {"GET / HTTP/1.1\r\n" + host + "X: " + strings.Repeat("a", 10000) + "\r\n\r\n", "front"},
		"largest head":               {"GET / HTTP/1.1\r\n" + host + "X: " + strings.Repeat("a", 16384-32) + "\r\n\r\n", "front"},
		"head larger than the front": {"GET / HTTP/1.1\r\n" + host + "X: " + strings.Repeat("a", 16384-31) + "\r\n\r\n", "net/http"},
		"the rest does not come":     {"GET / HTTP/1.1\r\n" + host, ""},
		"half a body":                {"POST / HTTP/1.1\r\n" + host + "Content-Length: 3\r\n\r\na", "net/http"},
	} {
		t.Run(name, func(t *testing.T) {
			all := answers(talk(t, addr, []byte(c.text)))
			if len(all) != 1 {
				t.Fatalf("%d answers: %v", len(all), all)
			}
			if got := all[0].body; got != c.want && (c.want != "" || !strings.HasPrefix(all[0].line, "HTTP/1.1 400 ")) {
				t.Errorf("%v, want %q", all[0], c.want)
			}
		})
	}
}

// The limit is net/http's to enforce, also where it is lower than what the front could read.
func TestHeadsBeyondTheLimitAreHandedOver(t *testing.T) {
	needFront(t)
	addr := serve(t, true, http.HandlerFunc(who), func(o *httpserver.Options) { o.MaxHeaderBytes = 8 << 10 })
	for n, want := range map[int]string{8 << 10: "front", 8<<10 + 1: "431 Request Header Fields Too Large"} {
		const start = "GET / HTTP/1.1\r\nHost: a\r\nX: "
		conn := connect(t, addr, nil)
		conn.send(t, start+strings.Repeat("a", n-len(start)-4)+"\r\n\r\n")
		if _, got := conn.answer(t); got != want {
			t.Errorf("%d bytes: %q, want %q", n, got, want)
		}
	}
}

func TestALargeHeadIsFollowedBySmallOnes(t *testing.T) {
	needFront(t)
	addr := serve(t, true, http.HandlerFunc(who))
	conn := connect(t, addr, nil)
	large := "GET / HTTP/1.1\r\nHost: a\r\nX: " + strings.Repeat("a", 12000) + "\r\n\r\n"
	for _, text := range []string{large + plainGet + large + large, plainGet, large, plainGet + large} {
		conn.send(t, text)
		for range strings.Count(text, "GET ") {
			if _, got := conn.answer(t); got != "front" {
				t.Errorf("got %q", got)
			}
		}
	}
}

func TestRequestIsCanceledWhenItsClientHasGone(t *testing.T) {
	needFront(t)
	server, clientTLS := certificate(t)
	for name, c := range map[string]struct {
		tls  bool
		text string
		half bool   // the client only says that it sends nothing more
		stay bool   // it counts as there
		late string // sent when the handler runs
	}{
		"closed":               {},
		"half closed":          {half: true},
		"closed over TLS":      {tls: true},
		"another request came": {text: plainGet + plainGet, half: true, stay: true},
		"its beginning came":   {text: plainGet + plainGet[:5], half: true, stay: true},
		"another comes later":  {late: plainGet, half: true, stay: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel() // most of the time is spent waiting
			entered, leave, left := make(chan struct{}, 2), make(chan struct{}), make(chan error, 2)
			h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if !servedByFront(w) {
					return
				}
				entered <- struct{}{}
				select {
				case <-r.Context().Done():
				case <-leave:
				}
				left <- r.Context().Err()
			})
			var config *tls.Config
			addr := serve(t, true, h, func(o *httpserver.Options) {
				if c.tls {
					o.TLS, config = server, clientTLS
				}
			})
			conn := connect(t, addr, config)
			if c.text == "" {
				c.text = plainGet
			}
			conn.send(t, c.text)
			<-entered
			conn.send(t, c.late)
			if c.half {
				_ = conn.tcp.CloseWrite()
			} else {
				_ = conn.Close()
			}
			if c.stay {
				select {
				case <-left:
					t.Error("canceled")
				case <-time.After(800 * time.Millisecond): // three looks
				}
				close(leave)
				return
			}
			select {
			case err := <-left:
				if !errors.Is(err, context.Canceled) {
					t.Error(err)
				}
			case <-time.After(patience):
				t.Error("not canceled")
			}
		})
	}
}

func TestContextEndsWithTheHandler(t *testing.T) {
	needFront(t)
	kept := make(chan context.Context, 2)
	addr := serve(t, true, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { kept <- r.Context() }))
	conn := connect(t, addr, nil)
	conn.send(t, plainGet)
	conn.answer(t)
	first := <-kept
	if first.Err() == nil {
		t.Error("the context of a request that was answered goes on")
	}
	conn.send(t, plainGet)
	conn.answer(t)
	if second := <-kept; second == first {
		t.Error("two requests have one context")
	}
}

// Whoever keeps a request, its body or its ResponseWriter, sees nothing of the next one,
// and does nothing to it.
func TestWhatAHandlerKeepsIsNotUsedAgain(t *testing.T) {
	needFront(t)
	type kept struct {
		r    *http.Request
		w    http.ResponseWriter
		body io.ReadCloser
	}
	var mu sync.Mutex
	var all []kept
	addr := serve(t, true, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		all = append(all, kept{r, w, r.Body})
		for _, k := range all[:len(all)-1] {
			if n, err := k.w.Write([]byte("from another")); n != 0 || err == nil {
				t.Errorf("wrote %d, %v", n, err)
			}
			k.w.WriteHeader(http.StatusTeapot)
			if _, err := k.body.Read(make([]byte, 1)); !errors.Is(err, http.ErrBodyReadAfterClose) {
				t.Errorf("read: %v", err)
			}
		}
		_, _ = io.Copy(w, r.Body)
		_ = http.NewResponseController(w).Flush() // of unknown length: there is room for more
	}))
	conn := connect(t, addr, nil)
	for i := range 5 {
		conn.send(t, fmt.Sprintf("POST /%d HTTP/1.1\r\nHost: a\r\nX-N: %d\r\nContent-Length: 1\r\n\r\n%d", i, i, i))
		if res, body := conn.answer(t); body != fmt.Sprint(i) || res.StatusCode != http.StatusOK {
			t.Errorf("answer %d: %d %q", i, res.StatusCode, body)
		}
	}
	for i, k := range all {
		if k.r.URL.Path != fmt.Sprintf("/%d", i) || k.r.Header.Get("X-N") != fmt.Sprint(i) {
			t.Errorf("request %d has become %s %s", i, k.r.URL, k.r.Header)
		}
	}
}

func TestValuesOfOneFieldDoNotRunIntoTheNext(t *testing.T) {
	needFront(t)
	addr := serve(t, true, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		r.Header.Add("A", "more")
		fmt.Fprint(w, r.Header["A"], r.Header["B"], r.Header["C"])
	}))
	conn := connect(t, addr, nil)
	conn.send(t, "GET / HTTP/1.1\r\nA: 1\r\nHost: a\r\nB: 2\r\na: 3\r\nC: 4\r\n\r\n")
	if _, got := conn.answer(t); got != "[1 3 more] [2] [4]" {
		t.Errorf("got %q", got)
	}
}

func TestResponseController(t *testing.T) {
	needFront(t)
	addr := serve(t, true, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		control := http.NewResponseController(w)
		_, _, hijack := control.Hijack()
		fmt.Fprint(w, control.EnableFullDuplex(), control.SetReadDeadline(time.Now().Add(-time.Hour)), errors.Is(hijack, http.ErrNotSupported))
		if err := control.Flush(); err != nil {
			t.Error(err)
		}
		if err := control.SetWriteDeadline(time.Now().Add(-time.Hour)); err != nil {
			t.Error(err)
		}
	}))
	conn := connect(t, addr, nil)
	conn.send(t, plainGet)
	// The last chunk is too late, so the connection ends. What came before is there.
	res, err := http.ReadResponse(conn.in, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if body, err := io.ReadAll(res.Body); string(body) != "<nil> <nil> true" || err == nil {
		t.Errorf("got %q, %v", body, err)
	}
}

func TestADeadlineForWritingEndsWithItsRequest(t *testing.T) {
	needFront(t)
	const bound = 50 * time.Millisecond
	addr := serve(t, true, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPut {
			_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(bound))
			return
		}
		<-time.After(2 * bound)
	}))
	conn := connect(t, addr, nil)
	conn.send(t, "PUT / HTTP/1.1\r\nHost: a\r\n\r\n"+plainGet)
	conn.answer(t)
	conn.answer(t)
}

// What a handler sends on is with the client while the handler runs.
func TestInterimAnswersAndFlushedPiecesAreSentAtOnce(t *testing.T) {
	needFront(t)
	server, clientTLS := certificate(t)
	for name, config := range map[string]*tls.Config{"plain": nil, "TLS": clientTLS} {
		t.Run(name, func(t *testing.T) {
			step := make(chan struct{})
			addr := serve(t, true, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				w.WriteHeader(http.StatusEarlyHints)
				<-step
				control := http.NewResponseController(w)
				for range 3 {
					_, _ = io.WriteString(w, "data: x\n\n")
					_ = control.Flush()
					<-step
				}
			}), func(o *httpserver.Options) {
				if config != nil {
					o.TLS = server
				}
			})
			conn := connect(t, addr, config)
			conn.send(t, plainGet)
			if res, err := http.ReadResponse(conn.in, nil); err != nil || res.StatusCode != http.StatusEarlyHints {
				t.Fatalf("%v, %v", res, err)
			}
			step <- struct{}{}
			res, err := http.ReadResponse(conn.in, nil)
			if err != nil {
				t.Fatal(err)
			}
			defer res.Body.Close()
			for range 3 {
				event := make([]byte, len("data: x\n\n"))
				if _, err := io.ReadFull(res.Body, event); err != nil || string(event) != "data: x\n\n" {
					t.Fatalf("%q, %v", event, err)
				}
				step <- struct{}{}
			}
			if rest, err := io.ReadAll(res.Body); len(rest) > 0 || err != nil {
				t.Errorf("%q, %v", rest, err)
			}
		})
	}
}

func TestSuperfluousStatusIsLoggedWithItsCaller(t *testing.T) {
	needFront(t)
	var log lockedBuffer
	addr := serve(t, true, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusNotFound)
		w.WriteHeader(http.StatusOK)
	}), func(o *httpserver.Options) { o.Logger = slog.New(slog.NewTextHandler(&log, nil)) })
	conn := connect(t, addr, nil)
	conn.send(t, plainGet)
	if res, _ := conn.answer(t); res.StatusCode != http.StatusNotFound {
		t.Errorf("got %d", res.StatusCode)
	}
	if got := log.String(); !strings.Contains(got, "superfluous response.WriteHeader") || !strings.Contains(got, "front_test.go:") {
		t.Errorf("logged %q", got)
	}
}

type lockedBuffer struct {
	mu sync.Mutex
	b  strings.Builder
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}
