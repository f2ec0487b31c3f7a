package httpedge

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"net/textproto"
	"strings"
	"testing"
)

// through serves one request by h behind the wrapper and returns what the
// wrapper saw, after the answer was read.
func through(t *testing.T, method string, h http.HandlerFunc, trace *httptrace.ClientTrace) (*http.Response, *response) {
	t.Helper()
	seen := make(chan *response, 1)
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		res := wrapResponse(w, r)
		h(res, r)
		seen <- res
	}))
	t.Cleanup(srv.Close)
	req, err := http.NewRequestWithContext(httptrace.WithClientTrace(t.Context(), trace), method, srv.URL, nil)
	if err != nil {
		t.Fatal(err)
	}
	res, err := srv.Client().Do(req)
	if err != nil {
		t.Fatal(err)
	}
	_, _ = io.Copy(io.Discard, res.Body)
	res.Body.Close()
	return res, <-seen
}

func TestResponseKnowsStatusAndBytes(t *testing.T) {
	body := strings.Repeat("x", 100)
	for name, c := range map[string]struct {
		method string
		h      http.HandlerFunc
		status int
		bytes  int64
	}{
		"nothing":       {"GET", func(http.ResponseWriter, *http.Request) {}, 200, 0},
		"header":        {"GET", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(404) }, 404, 0},
		"first counts":  {"GET", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(201); w.WriteHeader(500) }, 201, 0},
		"body":          {"GET", func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(body)) }, 200, 100},
		"body in parts": {"GET", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "ab"); _, _ = io.WriteString(w, "c") }, 200, 3},
		"copied":        {"GET", func(w http.ResponseWriter, _ *http.Request) { _, _ = io.Copy(w, strings.NewReader(body)) }, 200, 100},
		"read from": {"GET", func(w http.ResponseWriter, _ *http.Request) {
			_, _ = w.(io.ReaderFrom).ReadFrom(io.LimitReader(strings.NewReader(body), 50))
		}, 200, 50},
		"flushed": {"GET", func(w http.ResponseWriter, _ *http.Request) { w.(http.Flusher).Flush(); w.WriteHeader(500) }, 200, 0},
		"head":    {"HEAD", func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(body)) }, 200, 0},
		"no body allowed": {"GET", func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(204)
			_, _ = w.Write([]byte(body))
		}, 204, 0},
		"informational first": {"GET", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(103); w.WriteHeader(202) }, 202, 0},
	} {
		t.Run(name, func(t *testing.T) {
			res, seen := through(t, c.method, c.h, &httptrace.ClientTrace{})
			if got := seen.final(true); got != c.status || res.StatusCode != c.status || seen.bytes != c.bytes {
				t.Errorf("saw %d with %d bytes, the client got %d; want %d with %d", got, seen.bytes, res.StatusCode, c.status, c.bytes)
			}
		})
	}
}

func TestInformationalAnswersReachTheClient(t *testing.T) {
	var got []int
	var link string
	trace := &httptrace.ClientTrace{Got1xxResponse: func(code int, header textproto.MIMEHeader) error {
		got, link = append(got, code), header.Get("Link")
		return nil
	}}
	through(t, "GET", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Link", "</style.css>")
		w.WriteHeader(http.StatusEarlyHints)
		w.WriteHeader(http.StatusOK)
	}, trace)
	if len(got) != 1 || got[0] != http.StatusEarlyHints || link == "" {
		t.Errorf("got %v with Link %q", got, link)
	}
}

// readerFrom records that the fast path was taken.
type readerFrom struct {
	http.ResponseWriter
	took bool
}

func (w *readerFrom) ReadFrom(src io.Reader) (int64, error) {
	w.took = true
	return io.Copy(struct{ io.Writer }{w.ResponseWriter}, src)
}

func TestCopyTakesTheFastPathOfTheConnection(t *testing.T) {
	inner := &readerFrom{ResponseWriter: httptest.NewRecorder()}
	w := wrapResponse(inner, httptest.NewRequest("GET", "/", nil))
	if _, err := io.Copy(w, io.LimitReader(strings.NewReader("abc"), 2)); err != nil {
		t.Fatal(err)
	}
	if !inner.took || w.bytes != 2 {
		t.Errorf("fast path %v, %d bytes", inner.took, w.bytes)
	}
}

func TestHijackIsCountedAs101(t *testing.T) {
	for name, hijack := range map[string]func(http.ResponseWriter) (net.Conn, *bufio.ReadWriter, error){
		"assertion": func(w http.ResponseWriter) (net.Conn, *bufio.ReadWriter, error) { return w.(http.Hijacker).Hijack() },
		"controller": func(w http.ResponseWriter) (net.Conn, *bufio.ReadWriter, error) {
			return http.NewResponseController(w).Hijack()
		},
	} {
		t.Run(name, func(t *testing.T) {
			res, seen := through(t, "GET", func(w http.ResponseWriter, _ *http.Request) {
				conn, rw, err := hijack(w)
				if err != nil {
					t.Error(err)
					return
				}
				defer conn.Close()
				fmt.Fprint(rw, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
				_ = rw.Flush()
			}, &httptrace.ClientTrace{})
			if res.StatusCode != 200 || seen.final(true) != 101 || !seen.begun() {
				t.Errorf("client got %d, saw %d", res.StatusCode, seen.final(true))
			}
		})
	}
}

func TestHijackFailsWhereItCannotBe(t *testing.T) {
	w := wrapResponse(httptest.NewRecorder(), httptest.NewRequest("GET", "/", nil))
	if _, _, err := w.Hijack(); !errors.Is(err, http.ErrNotSupported) {
		t.Errorf("got %v", err)
	}
	if w.begun() {
		t.Error("a failed hijack counts as an answer")
	}
}

func TestControllerReachesTheConnection(t *testing.T) {
	through(t, "GET", func(w http.ResponseWriter, _ *http.Request) {
		rc := http.NewResponseController(w)
		if err := errors.Join(rc.Flush(), rc.EnableFullDuplex()); err != nil {
			t.Error(err)
		}
	}, &httptrace.ClientTrace{})
}

func TestWrapperIsSharedByMiddleware(t *testing.T) {
	r := httptest.NewRequest("GET", "/", nil)
	outer := wrapResponse(httptest.NewRecorder(), r)
	if wrapResponse(outer, r) != outer {
		t.Error("wrapped twice")
	}
}
