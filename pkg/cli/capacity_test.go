package cli_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/keywarden/keywarden/pkg/faulttest"
	"github.com/keywarden/keywarden/pkg/loadtest"
	"github.com/keywarden/keywarden/pkg/pglocal/pgtest"
	"github.com/keywarden/keywarden/pkg/seal"
)

// roomy are the options of a server that one machine may use up alone.
func roomy(document, metrics string) []string {
	return []string{"gateway.file=" + document, "server.metrics_addr=" + metrics, "server.max_connections=100000", "server.max_connections_per_ip=0"}
}

// TestSoakIdleConnections holds connections on which one request was made.
func TestSoakIdleConnections(t *testing.T) {
	connections := 500
	if soaking() {
		connections = 10_000
	}
	var files syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &files); err != nil || files.Cur < uint64(connections)+200 {
		t.Skipf("the limit of open files is %d", files.Cur)
	}
	service := streaming(t)
	metrics := freeAddress(t)
	s := serve(t, serving(pgtest.New(t), seal.NewMasterKey(), roomy(behindOpen(t, service.URL), metrics)...))
	var never atomic.Bool
	open := func(n int) (list []*client) {
		for range n {
			c := &client{addr: s.Addr, stopping: &never}
			if !c.dial() {
				t.Fatal(c.fails)
			}
			if err := c.exchange(request("GET", "/b/echo", "")); err != nil {
				t.Fatal(err)
			}
			list = append(list, c)
		}
		return list
	}
	warm := open(50)
	before := usageOf(t, s.cmd.Process.Pid, metrics)
	idle := open(connections)
	after := usageOf(t, s.cmd.Process.Pid, metrics)
	each := int64(after.resident-before.resident) / int64(connections)
	t.Logf("%d idle connections take %.1f KiB each", connections, float64(each)/1024)
	if each > 64<<10 {
		t.Errorf("an idle connection takes %d bytes, want at most 64 KiB", each)
	}
	// They are alive: every one can be used again.
	for _, c := range append(warm, idle...) {
		if err := c.exchange(request("GET", "/b/echo", "")); err != nil {
			t.Fatalf("a connection that was idle: %v", err)
		}
		c.hangUp()
	}
	s.stop()
}

// gated is a service that reads no body before the gate is open.
type gated struct {
	*httptest.Server
	waiting atomic.Int64
	gate    chan struct{}
}

func newGated(t *testing.T) *gated {
	t.Helper()
	g := &gated{gate: make(chan struct{})}
	mux := http.NewServeMux()
	mux.HandleFunc("/upload", func(w http.ResponseWriter, r *http.Request) {
		g.waiting.Add(1)
		<-g.gate
		n, _ := io.Copy(io.Discard, r.Body)
		_, _ = fmt.Fprint(w, n)
	})
	g.Server = httptest.NewServer(mux)
	t.Cleanup(g.Close)
	return g
}

// TestSoakBodiesUnderAMemoryLimit sends many large bodies at once to a service
// that does not read them yet: whatever is held of them is held here.
func TestSoakBodiesUnderAMemoryLimit(t *testing.T) {
	uploads := 200
	if soaking() {
		uploads = 2_000
	}
	const (
		bodyBytes = 1 << 20
		limit     = 512 << 20
	)
	service := newGated(t)
	metrics := freeAddress(t)
	// The service reads nothing until all have come, which takes as long as the machine does.
	document := behindOpen(t, service.URL)
	patient := fmt.Sprintf("url: %q, response_timeout: 10m, idle_timeout: 10m", service.URL)
	writeFile(t, document, strings.Replace(readFile(t, document), fmt.Sprintf("url: %q", service.URL), patient, 1))
	in := serving(pgtest.New(t), seal.NewMasterKey(), roomy(document, metrics)...)
	in.env = append(in.env, fmt.Sprintf("GOMEMLIMIT=%d", limit))
	s := serve(t, in)
	idle := residentBytes(t, s.cmd.Process.Pid)
	var answered, refused atomic.Int64
	var group sync.WaitGroup
	body := strings.Repeat("x", bodyBytes)
	for range uploads {
		group.Go(func() {
			status, text, err := upload(s.Addr, body)
			switch {
			case err == nil && status == http.StatusOK && text == fmt.Sprint(bodyBytes):
				answered.Add(1)
			case err == nil && status == http.StatusServiceUnavailable:
				refused.Add(1)
			default:
				t.Errorf("an upload ended with status %d, %v: %.100s", status, err, text)
			}
		})
	}
	most := uint64(0)
	for deadline := time.Now().Add(5 * time.Minute); service.waiting.Load()+refused.Load() < int64(uploads); time.Sleep(20 * time.Millisecond) {
		most = max(most, residentBytes(t, s.cmd.Process.Pid))
		if time.Now().After(deadline) {
			t.Fatalf("%d of %d uploads have arrived", service.waiting.Load(), uploads)
		}
	}
	close(service.gate)
	ended := make(chan struct{})
	go func() { group.Wait(); close(ended) }()
	for watching := true; watching; {
		most = max(most, residentBytes(t, s.cmd.Process.Pid))
		select {
		case <-ended:
			watching = false
		case <-time.After(20 * time.Millisecond):
		}
	}
	t.Logf("%d uploads of 1 MiB: %d answered, %d refused; resident %.0f MiB before, at most %.0f MiB: %.0f KiB each", uploads,
		answered.Load(), refused.Load(), float64(idle)/(1<<20), float64(most)/(1<<20), float64(most-idle)/1024/float64(uploads))
	if most > limit+limit/10 {
		t.Errorf("resident %d bytes, over the limit of %d", most, limit)
	}
	load := offer(s, 100, loadtest.Request(http.MethodGet, "/healthz", s.Addr, ""))
	<-time.After(faultSpan(500*time.Millisecond, 5*time.Second))
	r := load.end(t)
	faulttest.Measured(t, "REL-22", "%d uploads: %d answered, %d refused; resident at most %.0f MiB of %d; right after it 0 of %d calls failed, 99th percentile %s",
		uploads, answered.Load(), refused.Load(), float64(most)/(1<<20), limit>>20, r.Sent, ms(r.Latency.Quantile(0.99)))
	s.stop()
}

// upload sends a body on a connection of its own.
func upload(addr, body string) (status int, text string, err error) {
	conn, err := net.DialTimeout("tcp", addr, 30*time.Second)
	if err != nil {
		return 0, "", err
	}
	defer func() { _ = conn.Close() }()
	_ = conn.SetDeadline(time.Now().Add(10 * time.Minute))
	go func() { // an answer may come before the end of the body
		_, _ = fmt.Fprintf(conn, "POST /b/upload HTTP/1.1\r\nHost: %s\r\nConnection: close\r\nContent-Length: %d\r\n\r\n", addr, len(body))
		_, _ = io.WriteString(conn, body)
	}()
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		return 0, "", err
	}
	defer func() { _ = resp.Body.Close() }()
	got, err := io.ReadAll(resp.Body)
	return resp.StatusCode, string(got), err
}

// TestSoakOverload offers five times the connections that give the most answers,
// and asks for health meanwhile.
func TestSoakOverload(t *testing.T) {
	window, rounds, share := 700*time.Millisecond, 2, 0.5 // a window as short as that says little on a busy machine
	if soaking() {
		window, rounds, share = 5*time.Second, 3, 0.8
	}
	service := streaming(t)
	metrics := freeAddress(t)
	s := serve(t, serving(pgtest.New(t), seal.NewMasterKey(), roomy(behindOpen(t, service.URL), metrics)...))
	const connections, times = 64, 5
	goodput := func(n int) float64 {
		t.Helper()
		var over atomic.Bool
		var done atomic.Int64
		var load sync.WaitGroup
		for range n {
			load.Go(func() {
				c := &client{addr: s.Addr, stopping: &over}
				if !c.dial() {
					t.Error(c.fails)
					return
				}
				defer c.hangUp()
				for !over.Load() {
					if err := c.exchange(request("GET", "/b/echo", "")); err != nil {
						t.Errorf("a request failed: %v", err)
						return
					}
					done.Add(1)
				}
			})
		}
		time.Sleep(window / 5)
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		began, before := time.Now(), done.Load()
		if status, _, err := get(ctx, s.URL+"/healthz"); err != nil || status != http.StatusOK {
			t.Errorf("health under %d connections: status %d, %v", n, status, err)
		}
		time.Sleep(window - time.Since(began))
		rate := float64(done.Load()-before) / time.Since(began).Seconds()
		over.Store(true)
		load.Wait()
		return rate
	}
	peak, overloaded := 0.0, 0.0 // the best of the rounds, since the machine has other things to do
	for range rounds {
		peak = max(peak, goodput(connections))
		overloaded = max(overloaded, goodput(times*connections))
	}
	t.Logf("%.0f answers a second with %d connections, %.0f with %d: %.0f %%", peak, connections, overloaded, times*connections, 100*overloaded/peak)
	if overloaded < share*peak {
		t.Errorf("under overload %.0f answers a second, want %.0f %% of %.0f", overloaded, 100*share, peak)
	}
	s.stop()
}
