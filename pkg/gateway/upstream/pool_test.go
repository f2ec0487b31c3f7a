package upstream_test

import (
	"compress/gzip"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/keywarden/keywarden/pkg/gateway/upstream"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// backend is a server that knows its connections.
type backend struct {
	*httptest.Server
	mu    sync.Mutex
	conns map[net.Conn]http.ConnState
}

func newBackend(t *testing.T, h http.Handler) *backend {
	t.Helper()
	b := &backend{Server: httptest.NewUnstartedServer(h), conns: map[net.Conn]http.ConnState{}}
	b.Config.ConnState = func(c net.Conn, s http.ConnState) {
		b.mu.Lock()
		defer b.mu.Unlock()
		b.conns[c] = s
	}
	b.Start()
	t.Cleanup(b.Close)
	return b
}

// open is the number of connections that are not closed, and all there ever were.
func (b *backend) open() (open, ever int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, s := range b.conns {
		if s != http.StateClosed {
			open++
		}
	}
	return open, len(b.conns)
}

func (b *backend) identity() upstream.Identity {
	return upstream.Identity{Scheme: "http", Host: b.Listener.Addr().String(), ConnectTimeout: 5 * time.Second, ResponseTimeout: 5 * time.Second}
}

func get(t *testing.T, p *upstream.Pool, url string) *http.Response {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), "GET", url, nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := p.RoundTrip(r)
	if err != nil {
		t.Fatal(err)
	}
	return resp
}

func drain(t *testing.T, resp *http.Response) {
	t.Helper()
	if _, err := io.Copy(io.Discard, resp.Body); err != nil {
		t.Fatal(err)
	}
	if err := resp.Body.Close(); err != nil {
		t.Fatal(err)
	}
}

// eventually polls until ok holds.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("never happened: %s", what)
		}
	}
}

func TestPoolSurvivesByIdentity(t *testing.T) {
	b := newBackend(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "ok") }))
	var pools upstream.Pools
	id := b.identity()
	for range 3 {
		p := mustGet(t, &pools, id)
		p.Begin()
		drain(t, get(t, p, b.URL))
		p.End()
		pools.Keep(map[upstream.Identity]bool{id: true})
	}
	if _, ever := b.open(); ever != 1 {
		t.Errorf("%d connections were made, want 1", ever)
	}
	other := id
	other.ResponseTimeout++
	if mustGet(t, &pools, other) == mustGet(t, &pools, id) {
		t.Error("services with different timeouts share a pool")
	}
	pools.Keep(nil)
	eventually(t, "all connections closed", func() bool { open, _ := b.open(); return open == 0 })
}

func TestRetiredPoolNeverCutsARequest(t *testing.T) {
	release := make(chan struct{})
	b := newBackend(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprint(w, "begin,")
		_ = http.NewResponseController(w).Flush()
		<-release
		fmt.Fprint(w, "end")
	}))
	var pools upstream.Pools
	p := mustGet(t, &pools, b.identity())
	p.Begin()
	resp := get(t, p, b.URL)

	pools.Keep(nil) // the service is gone from the document
	close(release)

	body, err := io.ReadAll(resp.Body)
	if err != nil || string(body) != "begin,end" {
		t.Errorf("body %q, error %v; want the whole of it", body, err)
	}
	resp.Body.Close()
	p.End()
	eventually(t, "connection closed after the request", func() bool { open, _ := b.open(); return open == 0 })
}

// TestRetiredPoolServesALateRequest is about a request that took its snapshot
// just before the swap.
func TestRetiredPoolServesALateRequest(t *testing.T) {
	b := newBackend(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "ok") }))
	var pools upstream.Pools
	p := mustGet(t, &pools, b.identity())
	pools.Keep(nil)
	p.Begin()
	drain(t, get(t, p, b.URL))
	p.End()
	if n := p.Active(); n != 0 {
		t.Errorf("%d exchanges are active, want 0", n)
	}
	eventually(t, "connection closed after the request", func() bool { open, ever := b.open(); return open == 0 && ever == 1 })
}

func TestPoolPassesCompressedBodiesAsTheyAre(t *testing.T) {
	b := newBackend(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Accept-Encoding") != "" {
			t.Errorf("the pool asked for %q", r.Header.Get("Accept-Encoding"))
		}
		w.Header().Set("Content-Encoding", "gzip")
		z := gzip.NewWriter(w)
		fmt.Fprint(z, "text")
		z.Close()
	}))
	var pools upstream.Pools
	defer pools.Keep(nil)
	resp := get(t, mustGet(t, &pools, b.identity()), b.URL)
	defer resp.Body.Close()
	if resp.Uncompressed || resp.Header.Get("Content-Encoding") != "gzip" {
		t.Error("the pool undid the compression")
	}
	drain(t, resp)
}

func TestPoolBoundsTheResponseHeader(t *testing.T) {
	b := newBackend(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("X-Big", strings.Repeat("a", 1<<20))
	}))
	var pools upstream.Pools
	defer pools.Keep(nil)
	r, err := http.NewRequestWithContext(t.Context(), "GET", b.URL, nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := mustGet(t, &pools, b.identity()).RoundTrip(r)
	if err == nil {
		resp.Body.Close()
		t.Error("a header of 1 MiB was accepted")
	}
}

// mustGet is Pools.Get for identities without files, which cannot fail.
func mustGet(t *testing.T, pools *upstream.Pools, id upstream.Identity) *upstream.Pool {
	t.Helper()
	p, err := pools.Get(id)
	if err != nil {
		t.Fatal(err)
	}
	return p
}
