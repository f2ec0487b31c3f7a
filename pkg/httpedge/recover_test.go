package httpedge_test

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"testing"

	"github.com/keywarden/keywarden/pkg/httpedge"
	"github.com/keywarden/keywarden/pkg/problem"
	"github.com/keywarden/keywarden/pkg/telemetry"
)

// serve runs h behind the whole chain on a real server.
func serve(t *testing.T, e *edge, h http.Handler) *httptest.Server {
	t.Helper()
	srv := httptest.NewUnstartedServer(e.chain(h))
	srv.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	srv.Start()
	t.Cleanup(srv.Close)
	return srv
}

func get(t *testing.T, srv *httptest.Server, path string) *http.Response {
	t.Helper()
	res, err := srv.Client().Get(srv.URL + path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { res.Body.Close() })
	return res
}

// SBX-15: a handler that panics ends neither the process nor tells of its stack.
func TestPanicIsAnsweredWithAProblem(t *testing.T) {
	for name, v := range map[string]any{
		"text":    "boom",
		"error":   errors.New("boom"),
		"runtime": nil, // the handler dereferences it
	} {
		t.Run(name, func(t *testing.T) {
			e := newEdge(t)
			srv := serve(t, e, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("ETag", `"half"`)
				w.Header().Set("Content-Length", "1000")
				w.Header().Set("Set-Cookie", "session=half")
				w.Header().Set("Access-Control-Allow-Origin", "https://a.test")
				if v == nil {
					var p *url.URL
					_ = p.Host
				}
				panic(v)
			}))
			res := get(t, srv, "/")
			var doc problem.Document
			if err := json.NewDecoder(res.Body).Decode(&doc); err != nil {
				t.Fatal(err)
			}
			if res.StatusCode != http.StatusInternalServerError || doc.Code != "internal" ||
				res.Header.Get("Content-Type") != problem.ContentType {
				t.Errorf("got %d %+v", res.StatusCode, doc)
			}
			if id := res.Header.Get("X-Request-Id"); id == "" || doc.RequestID != id {
				t.Errorf("request id %q, in the document %q", id, doc.RequestID)
			}
			if res.Header.Get("ETag")+res.Header.Get("Set-Cookie") != "" {
				t.Error("headers of the answer that was not given are left")
			}
			if res.Header.Get("Access-Control-Allow-Origin") == "" {
				t.Error("the browser may not read the problem")
			}
			lines := e.lines(t, 2)
			if stack, _ := lines[0]["stack"].(string); !strings.Contains(stack, "recover_test.go") {
				t.Errorf("no stack in %v", lines[0])
			}
			if lines[1]["status"] != json.Number("500") || lines[1]["code"] != "internal" || lines[1]["level"] != "ERROR" {
				t.Errorf("access log: %v", lines[1])
			}
			for _, line := range lines {
				if line["request_id"] != doc.RequestID {
					t.Errorf("logged request id %v, want %v", line["request_id"], doc.RequestID)
				}
			}
		})
	}
}

func TestPanicWithinAnAnswerTruncatesIt(t *testing.T) {
	for name, begin := range map[string]func(http.ResponseWriter){
		"content length": func(w http.ResponseWriter) {
			w.Header().Set("Content-Length", "1000")
			_, _ = w.Write([]byte("half"))
		},
		"chunked":     func(w http.ResponseWriter) { _, _ = w.Write([]byte("half")); _ = http.NewResponseController(w).Flush() },
		"header only": func(w http.ResponseWriter) { w.WriteHeader(http.StatusOK) },
	} {
		t.Run(name, func(t *testing.T) {
			e := newEdge(t)
			srv := serve(t, e, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				begin(w)
				panic("boom")
			}))
			res, err := srv.Client().Get(srv.URL)
			if err == nil {
				var body []byte
				body, err = io.ReadAll(res.Body)
				res.Body.Close()
				if err == nil {
					t.Errorf("the client took %q for the whole answer", body)
				}
			}
			line := e.lines(t, 2)[1]
			if line["outcome"] != "aborted" || line["level"] != "ERROR" {
				t.Errorf("access log: %v", line)
			}
		})
	}
}

// dyingBackend answers part of what it promised and drops the connection.
func dyingBackend(t *testing.T, head string) *url.URL {
	t.Helper()
	backend := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		conn, rw, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer conn.Close()
		_, _ = rw.WriteString(head)
		_ = rw.Flush()
	}))
	t.Cleanup(backend.Close)
	u, err := url.Parse(backend.URL)
	if err != nil {
		t.Fatal(err)
	}
	return u
}

func TestBackendThatDiesMidBodyLeavesATruncatedAnswer(t *testing.T) {
	for name, head := range map[string]string{
		"content length": "HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nhalf",
		"chunked":        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			transport := &http.Transport{}
			t.Cleanup(transport.CloseIdleConnections)
			target := dyingBackend(t, head)
			proxy := &httputil.ReverseProxy{
				Rewrite:   func(r *httputil.ProxyRequest) { r.SetURL(target) },
				Transport: transport, FlushInterval: -1,
				ErrorLog: slog.NewLogLogger(slog.DiscardHandler, slog.LevelError),
			}
			e := newEdge(t)
			srv := serve(t, e, proxy)
			res := get(t, srv, "/")
			body, err := io.ReadAll(res.Body)
			if err == nil {
				t.Errorf("the client took %q for the whole answer", body)
			}
			line := e.lines(t, 1)[0]
			if line["outcome"] != "aborted" || line["status"] != json.Number("200") || line["level"] != "ERROR" {
				t.Errorf("access log: %v", line)
			}
		})
	}
}

func TestWrappedAbortIsStillAnAbort(t *testing.T) {
	e := newEdge(t)
	srv := serve(t, e, http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		panic(fmt.Errorf("copying: %w", http.ErrAbortHandler))
	}))
	if res, err := srv.Client().Get(srv.URL); err == nil {
		res.Body.Close()
		t.Errorf("got an answer: %d", res.StatusCode)
	}
	if line := e.lines(t, 1)[0]; line["msg"] != "request" || line["status"] != json.Number("0") {
		t.Errorf("got %v", line)
	}
}

func TestPanicClosesAConnectionThatWasTakenOver(t *testing.T) {
	e := newEdge(t)
	srv := serve(t, e, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if _, _, err := http.NewResponseController(w).Hijack(); err != nil {
			t.Error(err)
		}
		panic("boom")
	}))
	conn, err := net.Dial("tcp", srv.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprint(conn, "GET / HTTP/1.1\r\nHost: a\r\n\r\n")
	if _, err := bufio.NewReader(conn).ReadByte(); !errors.Is(err, io.EOF) {
		t.Errorf("the connection is still open: %v", err)
	}
}

func TestRecoverWorksAlone(t *testing.T) {
	var log bytes.Buffer
	h := httpedge.Recover(telemetry.NewLogger(&log, slog.LevelInfo, telemetry.FormatJSON))(
		http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic("boom") }))
	rec := httptest.NewRecorder()
	h.ServeHTTP(rec, httptest.NewRequest(http.MethodGet, "/", nil))
	if rec.Code != http.StatusInternalServerError || log.Len() == 0 {
		t.Errorf("got %d, log %s", rec.Code, log.String())
	}
}
