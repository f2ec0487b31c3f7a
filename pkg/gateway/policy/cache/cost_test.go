package cache_test

import (
	"bufio"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/keywarden/keywarden/pkg/gateway/policy/cache"
	"github.com/keywarden/keywarden/pkg/reqctx"
)

// roleVariable makes the test program a backend, or a client that makes so many
// requests: processes of their own, whose CPU time is not counted.
const roleVariable = "KEYWARDEN_CACHE_ROLE"

// play plays a role: "backend", or "load ADDRESS PATH REQUESTS".
func play(role string) {
	words := strings.Fields(role)
	if words[0] == "backend" {
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println(listener.Addr())
		body := make([]byte, 1000)
		log.Fatal(http.Serve(listener, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Cache-Control", strings.TrimPrefix(r.URL.Path, "/"))
			w.Header().Set("Content-Type", "application/json")
			_, _ = w.Write(body)
		})))
	}
	requests, err := strconv.Atoi(words[3])
	if err != nil {
		log.Fatal(err)
	}
	const connections = 8
	var group sync.WaitGroup
	for range connections {
		group.Go(func() {
			conn, err := net.Dial("tcp", words[1])
			if err != nil {
				log.Fatal(err)
			}
			in := bufio.NewReader(conn)
			for range requests / connections {
				fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: api.example\r\nAccept: application/json\r\n\r\n", words[2])
				resp, err := http.ReadResponse(in, nil)
				if err != nil || resp.StatusCode != 200 {
					log.Fatal(resp, err)
				}
				_, _ = io.Copy(io.Discard, resp.Body)
			}
		})
	}
	group.Wait()
}

// child starts the test program in a role and returns the first line it prints, or
// waits for its end.
func child(t testing.TB, role string, waits bool) string {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env, cmd.Stderr = append(os.Environ(), roleVariable+"="+role), os.Stderr
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	if waits {
		if err := cmd.Wait(); err != nil {
			t.Fatal(err)
		}
		return ""
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(line)
}

// spent is the CPU time of this process.
func spent(t testing.TB) time.Duration {
	t.Helper()
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		t.Fatal(err)
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}

// gatewayTo is a gateway of the policy and the standard proxy in this process.
func gatewayTo(t testing.TB, backend string) *httptest.Server {
	t.Helper()
	proxy := httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: backend})
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.MaxIdleConnsPerHost = 64
	proxy.Transport = transport
	gateway := httptest.NewServer(reqInfo(chain(t, cache.Config{Route: "r", MaxObject: 1 << 20}, memory(t), proxy)))
	t.Cleanup(func() { gateway.Close(); transport.CloseIdleConnections() })
	return gateway
}

// TestACachedAnswerCostsLessThanHalfOfAProxiedOne compares CPU time of the gateway's
// process alone, in turns; the least of each counts.
func TestACachedAnswerCostsLessThanHalfOfAProxiedOne(t *testing.T) {
	if testing.Short() {
		t.Skip("SKIPPED: it measures for some seconds")
	}
	address := strings.TrimPrefix(gatewayTo(t, child(t, "backend", false)).URL, "http://")
	const requests = 8000
	costs := map[string]time.Duration{}
	for round := range 4 {
		for _, path := range []string{"/no-store", "/max-age=3600"} {
			before := spent(t)
			child(t, fmt.Sprint("load ", address, " ", path, " ", requests), true)
			cost := (spent(t) - before) / requests
			if known, ok := costs[path]; round > 0 && (!ok || cost < known) { // the first round warms up
				costs[path] = cost
			}
		}
	}
	proxied, cached := costs["/no-store"], costs["/max-age=3600"]
	t.Logf("proxied %s, cached %s: %.2f", proxied, cached, float64(cached)/float64(proxied))
	if 2*cached >= proxied {
		t.Errorf("a cached answer costs %s, a proxied one %s", cached, proxied)
	}
}

// BenchmarkAnswer is the policy with the proxy alone, without the client's
// connection.
func BenchmarkAnswer(b *testing.B) {
	backend := child(b, "backend", false)
	for name, path := range map[string]string{"cached": "/max-age=3600", "proxied": "/no-store"} {
		b.Run(name, func(b *testing.B) {
			proxy := httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: backend})
			transport := http.DefaultTransport.(*http.Transport).Clone()
			proxy.Transport = transport
			defer transport.CloseIdleConnections()
			h := chain(b, cache.Config{Route: "r", MaxObject: 1 << 20}, memory(b), proxy)
			r := httptest.NewRequest("GET", path, nil)
			r = r.WithContext(reqctx.With(r.Context(), &reqctx.Info{Host: "example.com", Scheme: "http"}))
			w := &sink{header: http.Header{}}
			b.ReportAllocs()
			before := spent(b)
			for b.Loop() {
				clear(w.header)
				h.ServeHTTP(w, r)
			}
			b.ReportMetric(float64(spent(b)-before)/float64(b.N), "cpu-ns/op")
		})
	}
}

// sink is a client that costs nothing.
type sink struct{ header http.Header }

func (s *sink) Header() http.Header         { return s.header }
func (s *sink) Write(p []byte) (int, error) { return len(p), nil }
func (s *sink) WriteHeader(int)             {}
