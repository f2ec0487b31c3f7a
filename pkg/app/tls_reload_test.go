package app_test

import (
	"bufio"
	"crypto/tls"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/keywarden/keywarden/pkg/app/apptest"
)

// ticker is a backend with endless streams of events, by path.
type ticker struct {
	*httptest.Server
	events map[string]chan string
}

func newTicker(t *testing.T) *ticker {
	t.Helper()
	b := &ticker{events: map[string]chan string{"/stream/1": make(chan string), "/stream/2": make(chan string)}}
	b.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		events, stream := b.events[r.URL.Path]
		if !stream {
			_, _ = io.WriteString(w, "ok")
			return
		}
		w.Header().Set("Content-Type", "text/event-stream")
		w.WriteHeader(http.StatusOK)
		_ = http.NewResponseController(w).Flush()
		for {
			select {
			case <-r.Context().Done():
				return
			case text := <-events:
				_, _ = fmt.Fprintf(w, "data: %s\n\n", text)
				_ = http.NewResponseController(w).Flush()
			}
		}
	}))
	t.Cleanup(b.Close)
	return b
}

// connection is one connection to the program, that is never replaced.
type connection struct {
	*http.ClientConn
	url string
}

func connect(t *testing.T, p *apptest.Program, a *authority, h2 bool) *connection {
	t.Helper()
	transport := httpsClient(t, a.config(), h2).Transport.(*http.Transport)
	conn, err := transport.NewClientConn(t.Context(), "https", p.Addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return &connection{conn, "https://" + p.Addr}
}

func (c *connection) get(t *testing.T, path string) *http.Response {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, c.url+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := c.RoundTrip(req)
	if err != nil {
		t.Fatalf("%s on a connection from before: %v", path, err)
	}
	t.Cleanup(func() { _ = resp.Body.Close() })
	if resp.StatusCode != http.StatusOK {
		t.Fatalf("%s: status %d", path, resp.StatusCode)
	}
	return resp
}

// ask is a short call on the connection.
func (c *connection) ask(t *testing.T) {
	t.Helper()
	resp := c.get(t, "/x")
	if body, err := io.ReadAll(resp.Body); err != nil || string(body) != "ok" {
		t.Fatalf("%q, %v", body, err)
	}
	_ = resp.Body.Close()
}

// shownTo is the serial number of the certificate that a new connection gets.
func shownTo(t *testing.T, p *apptest.Program, c *tls.Config) string {
	t.Helper()
	conn, err := tls.Dial("tcp", p.Addr, c)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	return conn.ConnectionState().PeerCertificates[0].SerialNumber.String()
}

// TestARenewedCertificateDropsNoConnection: connections from before the renewal,
// idle or in the middle of a stream, go on; new ones get the new certificate; and
// files that cannot be used change nothing.
func TestARenewedCertificateDropsNoConnection(t *testing.T) {
	backend, servers := newTicker(t), newAuthority(t, "servers")
	pair := newKeyPair(t, servers)
	p := apptest.Start(t, apptest.Options{Set: pair.options(nil), Gateway: fmt.Sprintf(`
version: 1
services: [{name: backend, url: %q}]
routes: [{name: all, match: {path: {prefix: /}}, service: backend, auth: {mode: none}}]
`, backend.URL)})

	connections := map[string]*connection{"HTTP/1.1": connect(t, p, servers, false), "HTTP/2": connect(t, p, servers, true)}
	streams := map[string]*bufio.Reader{
		"a stream in HTTP/1.1":                      bufio.NewReader(connect(t, p, servers, false).get(t, "/stream/1").Body),
		"a stream in HTTP/2, beside other requests": bufio.NewReader(connections["HTTP/2"].get(t, "/stream/2").Body),
	}
	round := 0
	alive := func(when string) {
		t.Helper()
		for _, c := range connections {
			c.ask(t)
		}
		round++
		for path, events := range backend.events {
			select {
			case events <- fmt.Sprint(round):
			case <-time.After(patience):
				t.Fatalf("%s: nobody listens to %s any more", when, path)
			}
		}
		for name, s := range streams {
			for _, want := range []string{fmt.Sprintf("data: %d\n", round), "\n"} {
				if line, err := s.ReadString('\n'); err != nil || line != want {
					t.Fatalf("%s, %s: %q, %v", when, name, line, err)
				}
			}
		}
	}
	alive("before")

	renew := func() (serial string) {
		t.Helper()
		next := servers.issue(named("gateway.test"))
		pair.write(t, next)
		serial = next.Leaf.SerialNumber.String()
		apptest.Eventually(t, "a new connection gets the new certificate", func() bool {
			return shownTo(t, p, servers.config()) == serial
		})
		return serial
	}
	for n := range 3 {
		renew()
		alive(fmt.Sprintf("after renewal %d", n+1))
	}
	for what, spoil := range map[string]func(){
		"no PEM":                  func() { replace(t, pair.cert, "nonsense") },
		"the key of another pair": func() { keyPair{pair.cert + ".other", pair.key}.write(t, servers.issue(named("gateway.test"))) },
		"half a file":             func() { replace(t, pair.cert, read(t, pair.cert)[:60]) },
		"no file":                 func() { _ = os.Remove(pair.cert) },
	} {
		t.Run(what, func(t *testing.T) {
			good := renew()
			complaints := strings.Count(p.Log.String(), "the old one stays")
			spoil()
			apptest.Eventually(t, "the files are complained of", func() bool {
				if got := shownTo(t, p, servers.config()); got != good {
					t.Fatalf("another certificate: %s", got)
				}
				return strings.Count(p.Log.String(), "the old one stays") > complaints
			})
			alive("with " + what)
		})
	}
	renew()
	alive("at the end")
}

func replace(t *testing.T, file, text string) {
	t.Helper()
	if err := os.WriteFile(file+".new", []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(file+".new", file); err != nil {
		t.Fatal(err)
	}
}

func read(t *testing.T, file string) string {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}
