package proxy_test

import (
	"net/http"
	"os"
	"runtime"
	"sync"
	"testing"

	"github.com/keywarden/keywarden/pkg/gateway/proxy"
)

// Clients that leave within a long answer, which may be on its way through a pipe of the
// kernel, leave no descriptor behind, and nothing of their answer in that of another.
func TestClientsThatLeaveWithinLongAnswersLeaveNothing(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("descriptors are counted by /proc")
	}
	const size, clients, rounds = 4 << 20, 8, 12
	text := make([]byte, size)
	service := backend(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/octet-stream")
		w.Header().Set("Content-Length", "4194304")
		if r.URL.Path == "/whole" {
			_, _ = w.Write(text)
			return
		}
		for at := 0; at < size; at += len(spoiled) {
			if _, err := w.Write(spoiled[:]); err != nil {
				return
			}
		}
	})
	f := newFront(t, service, setup{route: proxy.RouteConfig{}})
	f.do(http.MethodGet, "/whole", nil, nil)
	before := descriptors(t)
	for range rounds {
		var group sync.WaitGroup
		for range clients {
			group.Go(func() {
				conn, br := f.dial()
				send(t, conn, "GET /spoiled HTTP/1.1\r\nHost: a\r\n\r\n")
				if _, err := br.Discard(100 << 10); err != nil {
					t.Error(err)
				}
				_ = conn.Close()
			})
		}
		group.Wait()
		resp, body := f.do(http.MethodGet, "/whole", nil, nil)
		if resp.StatusCode != http.StatusOK || body != string(text) {
			t.Fatalf("status %d and %d bytes, or others", resp.StatusCode, len(body))
		}
	}
	const kept = 2*64 + 2*clients // pipes, and connections to the service, for the next ones
	eventually(t, "descriptors are given back", func() bool { return descriptors(t) <= before+kept })
}

var spoiled = func() (b [64 << 10]byte) {
	for i := range b {
		b[i] = 0xff
	}
	return b
}()

func descriptors(t *testing.T) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}
