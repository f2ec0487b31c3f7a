package http1_test

import (
	"bufio"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/keywarden/keywarden/pkg/gateway/upstream/http1"
	"github.com/keywarden/keywarden/pkg/splice"
)

// aborted are the ways in which an exchange ends badly, by path: what the service says
// before it resets the connection, or, when the text ends with "...", says nothing more.
var aborted = map[string]string{
	"/nothing":           "",
	"/status":            "HTTP/1.1 2",
	"/field":             "HTTP/1.1 200 OK\r\nConte",
	"/interim":           "HTTP/1.1 103 Early Hints\r\nLink: <a>\r\n\r\n",
	"/body":              half,
	"/chunk":             "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhel",
	"/chunk/size":        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n5",
	"/trailer":           "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX-Sum: 1",
	"/malformed":         "HTTP/1.1 200 OK\nContent-Length: 5\r\n\r\nhello",
	"/malformed/length":  "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
	"/malformed/chunk":   "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nz\r\nhello",
	"/malformed/trailer": "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX Sum\r\n\r\n",
	"/behind":            hello + "HTTP/1.1 200 OK\r\n",
	"/long":              long40,
	"/good":              hello,
	"/hang":              "...",
	"/hang/status":       "HTTP/1.1 2...",
	"/hang/body":         half + "...",
	"/hang/long":         long40 + "...",
	"/hang/chunk":        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhel...",
	"/hang/trailer":      "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX-Sum...",
}

// long40 is a part of an answer that is long enough for a pipe.
var long40 = "HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n" + strings.Repeat("x", 40_000)

// abort is a service that ends each exchange as its path says.
func abort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var group sync.WaitGroup
	group.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			_ = conn.(*net.TCPConn).SetLinger(0) // resets, and leaves no port behind
			group.Go(func() {
				defer conn.Close()
				in := bufio.NewReader(conn)
				for {
					r, err := http.ReadRequest(in)
					if err != nil {
						return
					}
					text, hang := strings.CutSuffix(aborted[r.URL.Path], "...")
					_, _ = io.WriteString(conn, text)
					if hang {
						_, _ = io.Copy(io.Discard, in)
					}
					if r.URL.Path != "/good" {
						return
					}
					_, _ = io.Copy(io.Discard, r.Body)
				}
			})
		}
	})
	t.Cleanup(func() { _ = l.Close(); group.Wait() })
	return l.Addr().String()
}

// TestAbortedExchangesLeaveNothingBehind plays exchanges that end in all ways but the
// right one, and some in that, and looks for what they have left: goroutines, descriptors
// and buffers. KEYWARDEN_TEST_LONG=1 plays a million.
func TestAbortedExchangesLeaveNothingBehind(t *testing.T) {
	rounds := int64(4_000)
	if os.Getenv("KEYWARDEN_TEST_LONG") != "" {
		rounds = 1_000_000
	}
	paths := make([]string, 0, len(aborted))
	for path := range aborted {
		paths = append(paths, path)
	}
	addr := abort(t)
	var connections atomic.Int64
	c := newClient(t, addr, func(c *http1.Config) {
		c.MaxIdle = 32
		dial := c.Dial
		c.Dial = func(ctx context.Context, network, addr string) (net.Conn, error) {
			conn, err := dial(ctx, network, addr)
			if err != nil {
				return nil, err
			}
			socket := conn.(*net.TCPConn)
			_ = socket.SetLinger(0)
			connections.Add(1)
			return &counted{TCPConn: socket, closed: func() { connections.Add(-1) }}, nil
		}
	})
	var buffers, good, played atomic.Int64
	c.Watch(func(lent int) { buffers.Add(int64(lent)) })
	goroutines, descriptors := runtime.NumGoroutine(), openFiles(t)
	var group sync.WaitGroup
	var pipes splice.Pool
	for range 64 {
		group.Go(func() {
			for played.Add(1) <= rounds {
				if err := playAborted(t.Context(), c, &pipes, addr, paths[rand.IntN(len(paths))]); err == nil {
					good.Add(1)
				}
			}
		})
	}
	group.Wait()
	if n := good.Load(); n == 0 || n > rounds/2 {
		t.Errorf("%d of %d exchanges went well", n, rounds)
	}
	c.CloseIdleConnections()
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(time.Millisecond) {
		runtime.GC() // of the pipes that are kept for others
		g, d, b := runtime.NumGoroutine(), openFiles(t), buffers.Load()
		if g <= goroutines && d <= descriptors && b == 0 && connections.Load() == 0 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("left are %d goroutines, %d descriptors, %d connections and %d buffers", g-goroutines, d-descriptors, connections.Load(), b)
		}
	}
}

// counted is a connection whose end is noticed: one that is forgotten is closed by the
// garbage collector, some time.
type counted struct {
	*net.TCPConn
	once   sync.Once
	closed func()
}

func (c *counted) Close() error {
	c.once.Do(c.closed)
	return c.TCPConn.Close()
}

// playAborted is one exchange, the client of which is impatient in one way or another.
func playAborted(ctx context.Context, c *http1.Client, pipes *splice.Pool, addr, path string) error {
	a := &asker{deadline: time.Now().Add(20 * time.Millisecond)}
	ctx, cancel := context.WithCancel(context.WithValue(ctx, http1.InterimKey{}, a))
	defer cancel()
	switch rand.IntN(100) {
	case 0: // gone while it waits, which is seen late
		a.deadline = time.Time{}
		time.AfterFunc(time.Millisecond, cancel)
	case 1:
		cancel()
	case 2, 3, 4:
		a.deadline, a.idle = time.Now().Add(10*time.Second), 10*time.Millisecond
		if strings.HasPrefix(path, "/hang") {
			path = "/hang/body"
		}
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+addr+path, nil)
	if err != nil {
		return err
	}
	switch kind := rand.IntN(10); kind {
	case 0, 1, 2:
		size := []int{100, 20_000, 200_000}[kind]
		parts := []io.Reader{strings.NewReader(strings.Repeat("x", size-rand.IntN(2)))}
		if rand.IntN(3) == 0 {
			parts = append([]io.Reader{strings.NewReader("x")}, broken{})
		}
		r.Method, r.ContentLength, r.Body = http.MethodPost, int64(size), io.NopCloser(io.MultiReader(parts...))
	}
	resp, err := c.RoundTrip(r)
	if err != nil {
		return err
	}
	switch rand.IntN(10) {
	case 0: // gone after the header
		cancel()
	case 1:
		return errors.Join(resp.Body.Close(), context.Canceled)
	case 2, 3: // passed on by the kernel, which does not come to it
		fillSome(resp.Body, pipes)
	}
	_, err = io.Copy(io.Discard, resp.Body)
	return errors.Join(err, resp.Body.Close())
}

// fillSome takes a part of a body into a pipe, which is given back as it is.
func fillSome(body io.Reader, pipes *splice.Pool) {
	first := make([]byte, 8<<10)
	if n, err := body.Read(first); n == 0 || err != nil {
		return
	}
	source, ok := body.(splice.Source)
	if !ok || !source.CanFill() {
		return
	}
	if pipe := pipes.Get(); pipe != nil {
		_, _ = source.FillPipe(pipe)
		pipes.Put(pipe)
	}
}

// openFiles is the number of descriptors of the process.
func openFiles(t *testing.T) int {
	t.Helper()
	list, err := os.ReadDir("/proc/self/fd")
	if errors.Is(err, os.ErrNotExist) {
		return 0 // another system
	}
	if err != nil {
		t.Fatal(err)
	}
	return len(list)
}
