package cli_test

import (
	"bufio"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/keywarden/keywarden/pkg/pglocal/pgtest"
	"github.com/keywarden/keywarden/pkg/seal"
)

// soaking reports whether the soaks are to take their full time, which they do not
// in CI: there each has to show only that it works.
func soaking() bool { return os.Getenv("KEYWARDEN_TEST_LONG") != "" }

// streaming is a service with short answers, event streams and WebSockets.
func streaming(tb testing.TB) *httptest.Server {
	tb.Helper()
	mux := http.NewServeMux()
	mux.HandleFunc("/echo", func(w http.ResponseWriter, r *http.Request) {
		n, _ := io.Copy(io.Discard, r.Body)
		_, _ = fmt.Fprintf(w, "%s %d", r.Method, n)
	})
	events := func(w http.ResponseWriter, r *http.Request, most int) {
		w.Header().Set("Content-Type", "text/event-stream")
		for range most {
			_, _ = io.WriteString(w, "data: tick\n\n")
			_ = http.NewResponseController(w).Flush()
			select {
			case <-time.After(20 * time.Millisecond):
			case <-r.Context().Done():
				return
			}
		}
		_, _ = io.WriteString(w, "data: end\n\n")
	}
	mux.HandleFunc("/events", func(w http.ResponseWriter, r *http.Request) { events(w, r, 1<<30) })
	mux.HandleFunc("/events/few", func(w http.ResponseWriter, r *http.Request) { events(w, r, 10) })
	mux.HandleFunc("/socket", func(w http.ResponseWriter, _ *http.Request) {
		conn, in, err := http.NewResponseController(w).Hijack()
		if err != nil {
			return
		}
		defer func() { _ = conn.Close() }()
		_, _ = io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n")
		_, _ = io.Copy(conn, in) // what is in the frames is not the gateway's business
	})
	srv := httptest.NewServer(mux)
	tb.Cleanup(srv.Close)
	return srv
}

// upgrade is the request for a WebSocket, without the headers all have.
const upgrade = "GET /b/socket HTTP/1.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"

// openStream sends a request on a connection of its own and returns it once the
// answer has begun with status. It may be called from any goroutine.
func (c *client) openStream(request string, status int) error {
	if c.conn == nil && !c.dial() {
		return syscall.ECONNREFUSED
	}
	_ = c.conn.SetDeadline(time.Now().Add(30 * time.Second))
	if _, err := io.WriteString(c.conn, strings.Replace(request, "\r\n\r\n", "\r\nHost: "+c.addr+c.header+"\r\n\r\n", 1)); err != nil {
		return err
	}
	resp, err := http.ReadResponse(c.in, nil)
	if err != nil {
		return err
	}
	if resp.StatusCode != status {
		return fmt.Errorf("status %d, want %d", resp.StatusCode, status)
	}
	return nil
}

// echo sends a word through an open WebSocket and waits for it.
func (c *client) echo(word string) error {
	_ = c.conn.SetDeadline(time.Now().Add(30 * time.Second))
	if _, err := io.WriteString(c.conn, word); err != nil {
		return err
	}
	got := make([]byte, len(word))
	if _, err := io.ReadFull(c.in, got); err != nil {
		return err
	}
	if string(got) != word {
		return fmt.Errorf("sent %q, got %q", word, got)
	}
	return nil
}

// usage is what a process holds.
type usage struct{ goroutines, files, resident uint64 }

// usageOf takes the median of some looks, after a garbage collection.
func usageOf(t *testing.T, pid int, metrics string) usage {
	t.Helper()
	const looks = 15
	var goroutines, files, resident []uint64
	for range looks {
		_ = number(t, "http://"+metrics+"/debug/pprof/heap?debug=1&gc=1", `(?m)^# HeapInuse = (\d+)$`)
		goroutines = append(goroutines, number(t, "http://"+metrics+"/debug/pprof/goroutine?debug=1", `total (\d+)`))
		list, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
		if err != nil {
			t.Skip("no /proc to count descriptors in")
		}
		files = append(files, uint64(len(list)))
		resident = append(resident, residentBytes(t, pid))
		time.Sleep(20 * time.Millisecond)
	}
	middle := func(list []uint64) uint64 { slices.Sort(list); return list[looks/2] }
	return usage{middle(goroutines), middle(files), middle(resident)}
}

// grown reports whether a number has grown by more than 5 % and slack.
func grown(before, after, slack uint64) bool { return after > before+before/20+slack }

// TestSoakReloads applies documents one after the other while requests, an event
// stream and a WebSocket go on, and looks at what is left of them.
func TestSoakReloads(t *testing.T) {
	reloads, every := 100, time.Duration(0)
	if soaking() {
		reloads, every = 1000, 60*time.Millisecond
	}
	service := streaming(t)
	metrics := freeAddress(t)
	r := &reloading{t: t, file: t.TempDir() + "/gateway.yaml", services: map[string]*httptest.Server{"a": named(t, "a"), "b": named(t, "b")}}
	document := func(name string) string {
		return strings.Replace(r.document(name), "routes:\n", fmt.Sprintf("  - {name: s, url: %q}\nroutes:\n"+
			"  - {name: s, match: {path: {prefix: /b}}, service: s, strip_prefix: /b, auth: {mode: none}}\n", service.URL), 1)
	}
	r.write(document("a"))
	r.server = serve(t, serving(pgtest.New(t), seal.NewMasterKey(), "gateway.file="+r.file, "gateway.watch=false", "server.metrics_addr="+metrics))
	r.serves("a")

	var over atomic.Bool
	stream := &client{addr: r.Addr, stopping: &over}
	if err := stream.openStream(request("GET", "/b/events", ""), http.StatusOK); err != nil {
		t.Fatal(err)
	}
	socket := &client{addr: r.Addr, stopping: &over}
	if err := socket.openStream(upgrade, http.StatusSwitchingProtocols); err != nil {
		t.Fatal(err)
	}
	var load sync.WaitGroup
	var events atomic.Int64
	load.Go(func() {
		body := bufio.NewReader(httputil.NewChunkedReader(stream.in))
		for {
			_ = stream.conn.SetDeadline(time.Now().Add(30 * time.Second))
			if _, err := body.ReadString('\n'); err != nil {
				if !over.Load() {
					t.Errorf("the event stream ended: %v", err)
				}
				return
			}
			events.Add(1)
		}
	})
	const workers = 16
	var clients []*client
	var between sync.RWMutex
	for i := range workers {
		c := &client{addr: r.Addr, stopping: &over, between: &between, think: 14 * time.Millisecond} // together about 2,000 requests a second
		clients = append(clients, c)
		load.Go(func() {
			c.work([]string{request("GET", []string{"/stable", "/moved", "/b/echo"}[i%3], ""), request("POST", "/b/echo", "some")})
		})
	}
	reload := func(n int) {
		name := []string{"b", "a"}[n%2]
		began := time.Now()
		r.write(document(name))
		r.signal(syscall.SIGHUP)
		r.serves(name)
		if err := socket.echo(fmt.Sprintf("reload %d.", n)); err != nil {
			t.Fatalf("the WebSocket ended: %v", err)
		}
		time.Sleep(every - time.Since(began))
	}
	warm := reloads / 5 // caches and buffers have their sizes then
	for n := range warm {
		reload(n)
	}
	quiet := func() usage {
		between.Lock()
		defer between.Unlock()
		return usageOf(t, r.cmd.Process.Pid, metrics)
	}
	before := quiet()
	seen := events.Load()
	for n := range reloads - warm {
		reload(warm + n)
	}
	// Nothing is on its way, but each worker may have needed one more connection to
	// either backend at the same time as the others, with two goroutines for each. The
	// reloads are many more than that, and what they had left behind would stay.
	const connections, goroutines, someBytes, looks = 2 * workers, 4 * workers, 4 << 20, 10
	after := quiet()
	grew := func() bool {
		return grown(before.goroutines, after.goroutines, goroutines) || grown(before.files, after.files, connections) ||
			grown(before.resident, after.resident, someBytes)
	}
	for look := 0; look < looks && grew(); look++ {
		time.Sleep(100 * time.Millisecond)
		after = quiet()
	}
	if events.Load() == seen {
		t.Error("the event stream stands still")
	}
	over.Store(true)
	_ = socket.conn.Close()
	_ = stream.conn.Close()
	r.stop()
	load.Wait()
	done := 0
	for _, c := range clients {
		done += c.done
		for _, fail := range c.fails {
			t.Errorf("a request failed: %s", fail)
		}
	}
	t.Logf("%d reloads under %d requests; goroutines %d, then %d; descriptors %d, then %d; resident %.1f MiB, then %.1f MiB", reloads, done,
		before.goroutines, after.goroutines, before.files, after.files, float64(before.resident)/(1<<20), float64(after.resident)/(1<<20))
	if grew() {
		t.Errorf("it grows with the reloads: %+v, then %+v", before, after)
	}
}

// TestSoakTerm stops the program under HTTP/1, HTTP/2, event streams and
// WebSockets, all over TLS, until there were requests enough.
func TestSoakTerm(t *testing.T) {
	wanted := 1
	if soaking() {
		wanted = 100_000
	}
	service := streaming(t)
	in := serving(pgtest.New(t), seal.NewMasterKey(), "gateway.file="+behindOpen(t, service.URL))
	roots, certFile, keyFile := certificate(t)
	in.args = append(in.args, "--set", "server.tls.cert_file="+certFile, "--set", "server.tls.key_file="+keyFile)
	done := 0
	for round := 0; done < wanted && !t.Failed(); round++ {
		if round%2 == 1 {
			in.args = append(in.args, "--set", "server.shutdown_delay=300ms")
		}
		done += termUnderTLS(t, in, roots)
	}
	t.Logf("%d whole answers", done)
}

// behindOpen is a document with one open route below /b.
func behindOpen(tb testing.TB, url string) string {
	tb.Helper()
	return writeFile(tb, tb.TempDir()+"/gateway.yaml", fmt.Sprintf(`version: 1
services: [{name: b, url: %q}]
routes: [{name: b, match: {path: {prefix: /b}}, service: b, strip_prefix: /b, auth: {mode: none}}]
`, url))
}

func termUnderTLS(t *testing.T, in invocation, config *tls.Config) (done int) {
	t.Helper()
	s := serve(t, in)
	var stopping atomic.Bool
	var load sync.WaitGroup
	var clients []*client
	add := func(n int, work func(c *client)) {
		for range n {
			c := &client{addr: s.Addr, stopping: &stopping, tls: config}
			clients = append(clients, c)
			load.Go(func() { work(c) })
		}
	}
	add(6, func(c *client) {
		c.work([]string{request("GET", "/b/echo", ""), request("POST", "/b/echo", strings.Repeat("x", 5_000))})
	})
	add(2, func(c *client) { c.think = 50 * time.Millisecond; c.work([]string{request("GET", "/b/echo", "")}) })
	add(2, func(c *client) { c.work([]string{request("GET", "/b/events/few", "")}) })
	add(2, func(c *client) { c.sockets() })
	h2 := &http.Transport{TLSClientConfig: config.Clone(), ForceAttemptHTTP2: true}
	h2.TLSClientConfig.NextProtos = []string{"h2"}
	defer h2.CloseIdleConnections()
	add(6, func(c *client) { c.overHTTP2(h2) })

	time.Sleep(700*time.Millisecond + rand.N(300*time.Millisecond)) // the moment is what is random here
	stopping.Store(true)
	s.stop()
	load.Wait()
	for _, c := range clients {
		done += c.done
		for _, fail := range c.fails {
			t.Errorf("a request failed: %s", fail)
		}
	}
	if done < 10*len(clients) {
		t.Errorf("only %d requests: that was no load", done)
	}
	return done
}

// sockets opens WebSockets, says some words on each and closes it, until the
// address refuses connections.
func (c *client) sockets() {
	for c.dial() {
		err := c.openStream(upgrade, http.StatusSwitchingProtocols)
		for i := 0; i < 5 && err == nil; i++ {
			err = c.echo(fmt.Sprintf("word %d.", i))
			time.Sleep(10 * time.Millisecond)
		}
		if err != nil {
			c.fails = append(c.fails, fmt.Sprintf("WebSocket: %v", err))
		} else {
			c.done++
		}
		c.hangUp()
	}
}

// overHTTP2 sends requests through a transport that others share. What GOAWAY says
// was not taken is sent again by it, as by every client of HTTP/2.
func (c *client) overHTTP2(transport *http.Transport) {
	for i := 0; ; i++ {
		method, body := http.MethodGet, io.Reader(nil)
		if i%3 == 0 {
			method, body = http.MethodPut, strings.NewReader(strings.Repeat("x", 5_000))
		}
		req, err := http.NewRequest(method, "https://"+c.addr+"/b/echo", body)
		if err != nil {
			c.fails = append(c.fails, err.Error())
			return
		}
		resp, err := transport.RoundTrip(req)
		var refused bool
		if err == nil {
			_, err = io.Copy(io.Discard, resp.Body)
			_ = resp.Body.Close()
			if err == nil && (resp.StatusCode != http.StatusOK || resp.ProtoMajor != 2) {
				err = fmt.Errorf("%s %d", resp.Proto, resp.StatusCode)
			}
		} else {
			refused = c.stopping.Load() && errors.Is(err, syscall.ECONNREFUSED)
		}
		switch {
		case refused:
			return
		case err != nil:
			c.fails = append(c.fails, fmt.Sprintf("HTTP/2 %s: %v", method, err))
			return
		}
		c.done++
	}
}

// certificate is a certificate for 127.0.0.1 in files, and what trusts it.
func certificate(t *testing.T) (client *tls.Config, certFile, keyFile string) {
	t.Helper()
	srv := httptest.NewUnstartedServer(http.NotFoundHandler())
	srv.StartTLS()
	defer srv.Close()
	pair := srv.TLS.Certificates[0]
	certFile, keyFile = t.TempDir()+"/cert.pem", t.TempDir()+"/key.pem"
	writePair(t, certFile, keyFile, pair)
	trusted := srv.Client().Transport.(*http.Transport).TLSClientConfig
	return &tls.Config{RootCAs: trusted.RootCAs, ServerName: "example.com", MinVersion: tls.VersionTLS12}, certFile, keyFile
}

// writePair writes a certificate with its key as PEM files.
func writePair(t *testing.T, certFile, keyFile string, pair tls.Certificate) {
	t.Helper()
	key, err := x509.MarshalPKCS8PrivateKey(pair.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	writeFile(t, certFile, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: pair.Certificate[0]})))
	writeFile(t, keyFile, string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key})))
}
