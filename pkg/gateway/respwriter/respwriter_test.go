package respwriter_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"net/http/httputil"
	"net/textproto"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/keywarden/keywarden/pkg/gateway/respwriter"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// marker marks answers and remembers with which status.
type marker struct {
	calls  atomic.Int32
	status atomic.Int32
}

func (m *marker) Header(w *respwriter.Writer, r *http.Request, status int) respwriter.Body {
	m.calls.Add(1)
	m.status.Store(int32(status))
	w.Header().Set("X-Mark", r.Method)
	return nil
}

// serve starts a server whose handler answers through the hook.
func serve(t *testing.T, hook respwriter.Hook, h http.HandlerFunc) *httptest.Server {
	t.Helper()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { respwriter.Serve(h, w, r, hook) }))
	t.Cleanup(s.Close)
	return s
}

func get(t *testing.T, s *httptest.Server) (*http.Response, string) {
	t.Helper()
	resp, err := s.Client().Get(s.URL)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp, string(body)
}

func TestHookSeesEveryKindOfAnswerOnce(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, []byte("body"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		handler http.HandlerFunc
		status  int
		body    string
	}{
		"nothing":           {func(http.ResponseWriter, *http.Request) {}, 200, ""},
		"status":            {func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(204) }, 204, ""},
		"status twice":      {func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(404); w.WriteHeader(404) }, 404, ""},
		"write":             {func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "bo"); fmt.Fprint(w, "dy") }, 200, "body"},
		"string":            {func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "body") }, 200, "body"},
		"status and string": {func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(500); _, _ = io.WriteString(w, "body") }, 500, "body"},
		"flush":             {func(w http.ResponseWriter, _ *http.Request) { w.(http.Flusher).Flush(); fmt.Fprint(w, "body") }, 200, "body"},
		"read from": {func(w http.ResponseWriter, _ *http.Request) {
			_, _ = w.(io.ReaderFrom).ReadFrom(struct{ io.Reader }{strings.NewReader("body")})
		}, 200, "body"},
		"file": {func(w http.ResponseWriter, r *http.Request) { http.ServeFile(w, r, file) }, 200, "body"},
		"interim": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Link", "</a>")
			w.WriteHeader(103)
			w.WriteHeader(202)
			fmt.Fprint(w, "body")
		}, 202, "body"},
	} {
		t.Run(name, func(t *testing.T) {
			hook := &marker{}
			resp, body := get(t, serve(t, hook, c.handler))
			if resp.StatusCode != c.status || body != c.body || resp.Header.Get("X-Mark") != "GET" {
				t.Errorf("got %d %q %v", resp.StatusCode, body, resp.Header)
			}
			if hook.calls.Load() != 1 || int(hook.status.Load()) != c.status {
				t.Errorf("the hook was called %d times, with %d", hook.calls.Load(), hook.status.Load())
			}
		})
	}
}

func TestInterimAnswersPassUntouched(t *testing.T) {
	s := serve(t, &marker{}, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Link", "</style.css>")
		w.WriteHeader(http.StatusEarlyHints)
		w.WriteHeader(http.StatusOK)
	})
	var hints []string
	trace := &httptrace.ClientTrace{Got1xxResponse: func(code int, h textproto.MIMEHeader) error {
		hints = append(hints, fmt.Sprint(code, h.Get("Link"), h.Get("X-Mark")))
		return nil
	}}
	r, err := http.NewRequestWithContext(httptrace.WithClientTrace(t.Context(), trace), "GET", s.URL, nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := s.Client().Do(r)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if !slices.Equal(hints, []string{"103</style.css>"}) || resp.Header.Get("X-Mark") != "GET" {
		t.Errorf("interim %q, then %v", hints, resp.Header)
	}
}

func TestStreamsAreFlushed(t *testing.T) {
	next := make(chan struct{})
	s := serve(t, &marker{}, func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprint(w, "data: 1\n\n")
		_ = http.NewResponseController(w).Flush()
		<-next
		fmt.Fprint(w, "data: 2\n\n")
	})
	resp, err := s.Client().Get(s.URL)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	lines := bufio.NewReader(resp.Body)
	if line, err := lines.ReadString('\n'); err != nil || line != "data: 1\n" {
		t.Fatalf("%q, %v", line, err)
	}
	close(next)
	if rest, err := io.ReadAll(lines); err != nil || string(rest) != "\ndata: 2\n\n" {
		t.Errorf("%q, %v", rest, err)
	}
}

// TestUpgradesPass holds for the proxy's own way to switch protocols.
func TestUpgradesPass(t *testing.T) {
	backend := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		conn, rw, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer conn.Close()
		fmt.Fprint(rw, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
		_ = rw.Flush()
		line, _ := rw.ReadString('\n')
		fmt.Fprint(rw, "echo "+line)
		_ = rw.Flush()
	}))
	defer backend.Close()
	target, err := url.Parse(backend.URL)
	if err != nil {
		t.Fatal(err)
	}
	hook := &marker{}
	proxy := &httputil.ReverseProxy{Rewrite: func(pr *httputil.ProxyRequest) { pr.SetURL(target) }}
	done := make(chan struct{})
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer close(done)
		respwriter.Serve(proxy, w, r, hook)
	}))
	defer s.Close()
	conn, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", s.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
	fmt.Fprint(conn, "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
	in := bufio.NewReader(conn)
	resp, err := http.ReadResponse(in, nil)
	if err != nil || resp.StatusCode != 101 {
		t.Fatal(resp, err)
	}
	fmt.Fprint(conn, "hello\n")
	if line, err := in.ReadString('\n'); err != nil || line != "echo hello\n" {
		t.Errorf("%q, %v", line, err)
	}
	conn.Close()
	<-done
	if n := hook.calls.Load(); n != 0 {
		t.Errorf("the hook was called %d times", n)
	}
}

func TestControllersReachTheConnection(t *testing.T) {
	s := serve(t, &marker{}, func(w http.ResponseWriter, _ *http.Request) {
		c := http.NewResponseController(w)
		err := errors.Join(c.SetReadDeadline(time.Time{}), c.SetWriteDeadline(time.Time{}), c.EnableFullDuplex(), c.Flush())
		if err != nil {
			t.Error(err)
		}
	})
	get(t, s)
}

func TestUnsupportedStaysUnsupported(t *testing.T) {
	w := struct{ http.ResponseWriter }{httptest.NewRecorder()}
	respwriter.Serve(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		c := http.NewResponseController(w)
		if _, _, err := c.Hijack(); !errors.Is(err, http.ErrNotSupported) {
			t.Errorf("hijack: %v", err)
		}
		if err := c.Flush(); !errors.Is(err, http.ErrNotSupported) {
			t.Errorf("flush: %v", err)
		}
	}), w, httptest.NewRequest("GET", "/", nil), &marker{})
}

// shouting stands in for the body: in capital letters, all at once.
type shouting struct {
	w    *respwriter.Writer
	text strings.Builder
}

func (s *shouting) Header(w *respwriter.Writer, _ *http.Request, _ int) respwriter.Body {
	w.Header().Del("Content-Length")
	s.w = w
	return s
}

func (s *shouting) Write(p []byte) (int, error) { return s.text.Write(p) }

func (s *shouting) Flush() error {
	_, err := io.WriteString(s.w.Sink(), strings.ToUpper(s.text.String()))
	s.text.Reset()
	return err
}

func (s *shouting) Close() error {
	s.text.WriteString(" end")
	return s.Flush()
}

func TestBodiesCanBeReplaced(t *testing.T) {
	for name, handler := range map[string]http.HandlerFunc{
		"write": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "3")
			fmt.Fprint(w, "abc")
		},
		"read from": func(w http.ResponseWriter, _ *http.Request) {
			_, _ = io.Copy(w, struct{ io.Reader }{strings.NewReader("abc")})
		},
		"string": func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "abc") },
		"flushed": func(w http.ResponseWriter, _ *http.Request) {
			fmt.Fprint(w, "a")
			w.(http.Flusher).Flush()
			fmt.Fprint(w, "bc")
		},
	} {
		t.Run(name, func(t *testing.T) {
			if _, body := get(t, serve(t, &shouting{}, handler)); body != "ABC END" {
				t.Errorf("%q", body)
			}
		})
	}
}

func TestReplacedBodiesAreFlushed(t *testing.T) {
	next := make(chan struct{})
	s := serve(t, &shouting{}, func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprint(w, "data: 1\n")
		_ = http.NewResponseController(w).Flush()
		<-next
	})
	defer close(next)
	resp, err := s.Client().Get(s.URL)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	lines := make(chan string, 1)
	go func() {
		line, _ := bufio.NewReader(resp.Body).ReadString('\n')
		lines <- line
	}()
	select {
	case line := <-lines:
		if line != "DATA: 1\n" {
			t.Errorf("%q", line)
		}
	case <-time.After(10 * time.Second):
		t.Error("what was written did not arrive")
	}
}

func TestBrokenOffBodiesAreNotEnded(t *testing.T) {
	body := &shouting{}
	ended := make(chan string, 1)
	s := serve(t, body, func(w http.ResponseWriter, _ *http.Request) {
		defer func() { ended <- body.text.String() }()
		fmt.Fprint(w, "abc")
		panic(http.ErrAbortHandler)
	})
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, "GET", s.URL, nil)
	if err != nil {
		t.Fatal(err)
	}
	if resp, err := s.Client().Do(r); err == nil {
		resp.Body.Close()
		t.Error("half an answer looks whole")
	}
	if text := <-ended; text != "abc" {
		t.Errorf("%q", text)
	}
}

func BenchmarkServe(b *testing.B) {
	h := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(204) })
	r, hook := httptest.NewRequest("GET", "/", nil), &marker{}
	b.ReportAllocs()
	w := httptest.NewRecorder()
	for b.Loop() {
		respwriter.Serve(h, w, r, hook)
	}
}
