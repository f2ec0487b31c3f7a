package httpapi

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"net/http/httputil"
	"net/textproto"
	"net/url"
	"os"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gin-gonic/gin"

	"github.com/keywarden/keywarden/pkg/problem"
	"github.com/keywarden/keywarden/pkg/reqctx"
)

const testBodyLimit = 1000

// engine is an engine as the program makes it, with a few fixed paths.
func engine(elsewhere http.Handler) *gin.Engine {
	e := NewEngine(testBodyLimit, Serve(elsewhere))
	e.GET("/fixed", func(c *gin.Context) { c.String(http.StatusOK, "fixed") })
	e.POST("/echo", Handle(func(c *gin.Context) error {
		body, err := io.ReadAll(c.Request.Body)
		if err == nil {
			c.Data(http.StatusOK, "text/plain", body)
		}
		return err
	}))
	e.PUT("/echo", func(*gin.Context) {})
	e.GET("/fail", Handle(func(*gin.Context) error { return problem.ErrInvalid.With(errors.New("the cause")) }))
	return e
}

func serve(t *testing.T, h http.Handler) *httptest.Server {
	t.Helper()
	server := httptest.NewServer(h)
	t.Cleanup(func() {
		server.Client().CloseIdleConnections()
		server.Close()
	})
	return server
}

func get(t *testing.T, server *httptest.Server, path string) (*http.Response, string) {
	t.Helper()
	return do(t, server, http.MethodGet, path, nil)
}

func do(t *testing.T, server *httptest.Server, method, path string, body io.Reader) (*http.Response, string) {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), method, server.URL+path, body)
	if err != nil {
		t.Fatal(err)
	}
	answer, err := server.Client().Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = answer.Body.Close() }()
	text, err := io.ReadAll(answer.Body)
	if err != nil {
		t.Fatal(err)
	}
	answer.Body = io.NopCloser(bytes.NewReader(text))
	return answer, string(text)
}

func TestAnswerFromElsewhereIsItsOwn(t *testing.T) {
	for name, c := range map[string]struct {
		serve  http.HandlerFunc
		status int
		body   string
		header http.Header
	}{
		"nothing":      {func(http.ResponseWriter, *http.Request) {}, 200, "", http.Header{"Content-Length": {"0"}, "Content-Type": nil}},
		"status alone": {func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) }, 204, "", nil},
		"not found": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(http.StatusNotFound)
			_, _ = io.WriteString(w, "{}")
		}, 404, "{}", http.Header{"Content-Type": {"application/json"}}},
		"not found, no body": {func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNotFound) }, 404, "", http.Header{"Content-Type": nil}},
		"body alone":         {func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "hello") }, 200, "hello", nil},
		"headers": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Cache-Control", "public")
			w.Header().Add("Set-Cookie", "a=b")
			w.WriteHeader(http.StatusTeapot)
		}, 418, "", http.Header{
			"Cache-Control": {"public"}, "Set-Cookie": {"a=b"}, "X-Content-Type-Options": nil, "Content-Security-Policy": nil,
		}},
		"a problem": {func(w http.ResponseWriter, _ *http.Request) { problem.ErrInvalid.Write(w, "id") }, 400, "", http.Header{"Content-Type": {problem.ContentType}}},
		"large": {func(w http.ResponseWriter, _ *http.Request) {
			_, _ = io.Copy(w, strings.NewReader(strings.Repeat("x", 1<<20)))
		},
			200, strings.Repeat("x", 1<<20), nil},
	} {
		t.Run(name, func(t *testing.T) {
			server := serve(t, Shielded(engine(c.serve)))
			for range 2 { // Gin keeps its contexts for later requests
				answer, body := get(t, server, "/elsewhere")
				if answer.StatusCode != c.status || c.body != "" && body != c.body || strings.Contains(body, "page not found") {
					t.Errorf("%d %.80q", answer.StatusCode, body)
				}
				for name, want := range c.header {
					if got := answer.Header.Values(name); !slices.Equal(got, want) {
						t.Errorf("%s: %q", name, got)
					}
				}
				if answer, body := get(t, server, "/fixed"); answer.StatusCode != http.StatusOK || body != "fixed" {
					t.Errorf("a fixed path after it: %d %q", answer.StatusCode, body)
				}
			}
		})
	}
}

func TestInformationalAnswersPass(t *testing.T) {
	server := serve(t, Shielded(engine(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Link", "</style.css>; rel=preload")
		w.WriteHeader(http.StatusEarlyHints)
		w.WriteHeader(http.StatusProcessing)
		w.Header().Del("Link")
		_, _ = io.WriteString(w, "hello")
	}))))
	var early []string
	ctx := httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{Got1xxResponse: func(code int, header textproto.MIMEHeader) error {
		early = append(early, fmt.Sprint(code, header.Get("Link")))
		return nil
	}})
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, server.URL+"/elsewhere", nil)
	if err != nil {
		t.Fatal(err)
	}
	answer, err := server.Client().Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = answer.Body.Close() }()
	if want := []string{"103</style.css>; rel=preload", "102</style.css>; rel=preload"}; !slices.Equal(early, want) || answer.StatusCode != http.StatusOK {
		t.Errorf("%q, then %d", early, answer.StatusCode)
	}
}

func TestFlushedPartsArriveAtOnce(t *testing.T) {
	read := make(chan struct{})
	server := httptest.NewUnstartedServer(Shielded(engine(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		for range 3 {
			_, _ = io.WriteString(w, "part\n")
			if err := http.NewResponseController(w).Flush(); err != nil {
				t.Error(err)
			}
			<-read // only after the client has it
		}
		w.Header().Set(http.TrailerPrefix+"Sum", "15")
	}))))
	server.EnableHTTP2 = true
	server.StartTLS()
	defer server.Close()
	defer server.Client().CloseIdleConnections()
	for _, http2 := range []bool{false, true} {
		client := server.Client()
		client.Transport.(*http.Transport).ForceAttemptHTTP2 = http2 //nolint:forcetypeassert // httptest's
		answer, err := client.Get(server.URL + "/elsewhere")
		if err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewScanner(answer.Body)
		for range 3 {
			if !lines.Scan() || lines.Text() != "part" {
				t.Fatalf("%q, %v", lines.Text(), lines.Err())
			}
			read <- struct{}{}
		}
		if lines.Scan() || answer.Trailer.Get("Sum") != "15" {
			t.Errorf("%q and trailers %v", lines.Text(), answer.Trailer)
		}
		_ = answer.Body.Close()
	}
}

func TestTakenOverConnectionIsLeftAlone(t *testing.T) {
	upstream := serve(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		conn, rw, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer func() { _ = conn.Close() }()
		_, _ = rw.WriteString("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
		_ = rw.Flush()
		line, _ := rw.ReadString('\n')
		_, _ = rw.WriteString("echo " + line)
		_ = rw.Flush()
	}))
	target, err := url.Parse(upstream.URL)
	if err != nil {
		t.Fatal(err)
	}
	for name, elsewhere := range map[string]http.Handler{
		"itself":        upstream.Config.Handler,
		"through proxy": &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(target) }},
	} {
		t.Run(name, func(t *testing.T) {
			server := serve(t, Shielded(engine(elsewhere)))
			request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, server.URL+"/elsewhere", nil)
			if err != nil {
				t.Fatal(err)
			}
			request.Header.Set("Connection", "Upgrade")
			request.Header.Set("Upgrade", "echo")
			answer, err := server.Client().Do(request)
			if err != nil {
				t.Fatal(err)
			}
			conn := answer.Body.(io.ReadWriteCloser) //nolint:forcetypeassert // documented for 101
			defer func() { _ = conn.Close() }()
			if _, err := io.WriteString(conn, "hello\n"); err != nil {
				t.Fatal(err)
			}
			if said, err := io.ReadAll(conn); string(said) != "echo hello\n" || err != nil {
				t.Errorf("%q, %v", said, err)
			}
		})
	}
}

func TestTruncatedAnswerStaysTruncated(t *testing.T) {
	server := serve(t, Shielded(engine(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, "half")
		_ = http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	}))))
	for range 2 {
		answer, err := server.Client().Get(server.URL + "/elsewhere")
		if err != nil {
			t.Fatal(err)
		}
		if body, err := io.ReadAll(answer.Body); err == nil {
			t.Errorf("half an answer was sold as %q", body)
		}
		_ = answer.Body.Close()
	}
	if answer, body := get(t, server, "/fixed"); answer.StatusCode != http.StatusOK || body != "fixed" {
		t.Errorf("%d %q", answer.StatusCode, body)
	}
}

func TestUnshieldedEngineStillServes(t *testing.T) {
	server := serve(t, engine(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusTeapot)
		_, _ = io.WriteString(w, "short and stout")
	})))
	if answer, body := get(t, server, "/elsewhere"); answer.StatusCode != http.StatusTeapot || body != "short and stout" {
		t.Errorf("%d %q", answer.StatusCode, body)
	}
}

func TestBodyLimitIsForFixedPathsOnly(t *testing.T) {
	server := serve(t, Shielded(engine(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n, err := io.Copy(io.Discard, r.Body)
		_, _ = fmt.Fprint(w, n, err)
	}))))
	fits, large := strings.Repeat("x", testBodyLimit), strings.Repeat("x", 100*testBodyLimit)
	if answer, body := do(t, server, http.MethodPost, "/echo", strings.NewReader(fits)); answer.StatusCode != http.StatusOK || body != fits {
		t.Errorf("%d %.80q", answer.StatusCode, body)
	}
	for name, reader := range map[string]io.Reader{"length": strings.NewReader(large), "chunks": io.MultiReader(strings.NewReader(large))} {
		answer, _ := do(t, server, http.MethodPost, "/echo", reader)
		if d := document(t, answer); d.Status != http.StatusRequestEntityTooLarge || !strings.Contains(d.Detail, "1000 bytes") {
			t.Errorf("%s: %+v", name, d)
		}
	}
	if _, body := do(t, server, http.MethodPost, "/elsewhere", strings.NewReader(large)); body != fmt.Sprint(len(large), nil) {
		t.Errorf("elsewhere: %s", body)
	}
}

func TestOnlyExactPathsAreFixed(t *testing.T) {
	server := serve(t, Shielded(engine(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = fmt.Fprint(w, "elsewhere ", reqctx.From(r.Context()).Route)
	}))))
	for _, path := range []string{"/", "/fixed/", "/FIXED", "//fixed", "/fixed/x", "/x/../fixed", "/fixedx", "/fixed%20"} {
		if answer, body := get(t, server, path); answer.StatusCode != http.StatusOK || body != "elsewhere " {
			t.Errorf("%s: %d %q", path, answer.StatusCode, body)
		}
	}
}

func TestOtherMethodOfAFixedPathIsRefused(t *testing.T) {
	server := serve(t, Shielded(engine(http.NotFoundHandler())))
	for _, method := range []string{http.MethodGet, http.MethodDelete, http.MethodOptions, "PROPFIND"} {
		answer, _ := do(t, server, method, "/echo", nil)
		allow := strings.Split(answer.Header.Get("Allow"), ", ")
		slices.Sort(allow)
		if !slices.Equal(allow, []string{"POST", "PUT"}) || len(answer.Header.Values("Allow")) != 1 {
			t.Errorf("%s: Allow %q", method, answer.Header.Values("Allow"))
		}
		if d := document(t, answer); d.Status != http.StatusMethodNotAllowed || d.Code != "request.method_not_allowed" {
			t.Errorf("%s: %+v", method, d)
		}
	}
}

func TestFixedAnswersAreDataAndNotCached(t *testing.T) {
	server := serve(t, Shielded(engine(http.NotFoundHandler())))
	for _, path := range []string{"/fixed", "/fail"} {
		answer, _ := get(t, server, path)
		for name, want := range map[string]string{
			"X-Content-Type-Options": "nosniff", "Cache-Control": "no-store", "Referrer-Policy": "no-referrer",
			"Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
		} {
			if got := answer.Header.Values(name); len(got) != 1 || got[0] != want {
				t.Errorf("%s: %s %q", path, name, got)
			}
		}
	}
}

func TestFailWritesOneAnswer(t *testing.T) {
	secret := errors.New("the cause with a secret")
	c := newCall(http.MethodGet, "/", "")
	Fail(c.Context, problem.ErrInvalid.WithField("name", "is wrong").With(secret))
	Fail(c.Context, problem.ErrInternal.With(errors.New("another")))
	if !c.IsAborted() {
		t.Error("the chain goes on")
	}
	answer := c.Result()
	body := c.Body.String()
	d := document(t, answer)
	if d.Status != http.StatusBadRequest || d.RequestID != "request-id" || len(d.Errors) != 1 || strings.Count(body, "{") != 2 {
		t.Errorf("%s", body)
	}
	if strings.Contains(body, "secret") {
		t.Errorf("the cause is told: %s", body)
	}
	if !strings.Contains(c.info.Err.Error(), "another") || c.info.Code != problem.ErrInternal.Code {
		t.Errorf("the log is not told the last error: %v, %s", c.info.Err, c.info.Code)
	}
}

func TestFailAfterTheAnswerHasBegunAddsNothing(t *testing.T) {
	c := newCall(http.MethodGet, "/", "")
	c.String(http.StatusOK, "begun")
	Fail(c.Context, problem.ErrInvalid)
	if c.Body.String() != "begun" || c.Result().StatusCode != http.StatusOK || c.info.Code != problem.ErrInvalid.Code {
		t.Errorf("%d %q, %s", c.Result().StatusCode, c.Body, c.info.Code)
	}
}

func TestFailDropsWhatWasSaidAboutTheBody(t *testing.T) {
	c := newCall(http.MethodGet, "/", "")
	c.Context.Header("Content-Type", "text/plain")
	c.Context.Header("Content-Length", "5")
	c.Context.Header("Content-Encoding", "gzip")
	Fail(c.Context, problem.ErrInvalid)
	answer := c.Result()
	document(t, answer)
	if answer.Header.Get("Content-Encoding") != "" || answer.ContentLength != int64(c.Body.Len()) {
		t.Errorf("%v", answer.Header)
	}
}

func TestFailTellsNothingOfUnknownErrors(t *testing.T) {
	c := newCall(http.MethodGet, "/", "")
	Fail(c.Context, fmt.Errorf("read /etc/passwd: %w", io.ErrUnexpectedEOF))
	if d := document(t, c.Result()); d.Status != http.StatusInternalServerError || d.Code != problem.ErrInternal.Code || strings.Contains(fmt.Sprint(d), "passwd") {
		t.Errorf("%+v", d)
	}
}

func TestHandlersAfterARefusalDoNotRun(t *testing.T) {
	e := NewEngine(testBodyLimit, Serve(http.NotFoundHandler()))
	e.GET("/", Handle(func(*gin.Context) error { return problem.ErrInvalid }), func(*gin.Context) { t.Error("it runs") })
	if answer, _ := get(t, serve(t, Shielded(e)), "/"); answer.StatusCode != http.StatusBadRequest {
		t.Errorf("status %d", answer.StatusCode)
	}
}

// stalling is a client that sends no more of its body.
type stalling struct {
	*httptest.ResponseRecorder
	deadline chan time.Time
}

// SetReadDeadline implements what http.ResponseController looks for.
func (s stalling) SetReadDeadline(at time.Time) error {
	s.deadline <- at
	return nil
}

// Read waits until the deadline, as a connection does.
func (s stalling) Read([]byte) (int, error) {
	time.Sleep(time.Until(<-s.deadline))
	return 0, os.ErrDeadlineExceeded
}

// Close implements io.Closer.
func (s stalling) Close() error { return nil }

func TestBodyThatDoesNotComeEndsAtTheDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := NewEngine(testBodyLimit, Serve(http.NotFoundHandler()))
		e.POST("/", Handle(func(c *gin.Context) error { return Bind(c, &struct{}{}) }))
		s, begun := stalling{httptest.NewRecorder(), make(chan time.Time, 1)}, time.Now()
		r := httptest.NewRequest(http.MethodPost, "/", s)
		r.Header.Set("Content-Type", "application/json")
		e.ServeHTTP(s, r)
		if d := document(t, s.Result()); d.Status != http.StatusBadRequest {
			t.Errorf("%+v", d)
		}
		if took := time.Since(begun); took != callTimeout {
			t.Errorf("after %v", took)
		}
	})
}

func TestCallEndsAtItsDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := NewEngine(testBodyLimit, Serve(http.NotFoundHandler()))
		e.GET("/stuck", Handle(func(c *gin.Context) error {
			<-c.Request.Context().Done()
			return fmt.Errorf("ask the database: %w", c.Request.Context().Err())
		}))
		recorder, begun := httptest.NewRecorder(), time.Now()
		e.ServeHTTP(recorder, httptest.NewRequest(http.MethodGet, "/stuck", nil))
		answer := recorder.Result()
		if d := document(t, answer); d.Status != http.StatusServiceUnavailable || d.Code != errOverdue.Code || answer.Header.Get("Retry-After") == "" {
			t.Errorf("%+v", d)
		}
		if took := time.Since(begun); took != callTimeout {
			t.Errorf("after %v", took)
		}

		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		recorder = httptest.NewRecorder()
		e.ServeHTTP(recorder, httptest.NewRequestWithContext(ctx, http.MethodGet, "/stuck", nil))
		if d := document(t, recorder.Result()); d.Code != errCancelled.Code || d.Status >= http.StatusInternalServerError {
			t.Errorf("a caller who left is no failure of ours: %+v", d)
		}
	})
}

func TestRouteCanHaveAnotherBodyLimit(t *testing.T) {
	e := engine(http.NotFoundHandler())
	size := Handle(func(c *gin.Context) error {
		body, err := io.ReadAll(c.Request.Body)
		if err == nil {
			c.String(http.StatusOK, "%d", len(body))
		}
		return err
	})
	e.POST("/large", BodyLimit(2*testBodyLimit), size)
	e.POST("/small", BodyLimit(testBodyLimit/2), size)
	e.POST("/same", size)
	server := serve(t, e)
	for path, limit := range map[string]int{"/large": 2 * testBodyLimit, "/small": testBodyLimit / 2, "/same": testBodyLimit} {
		if resp, text := do(t, server, http.MethodPost, path, strings.NewReader(strings.Repeat("x", limit))); resp.StatusCode != http.StatusOK || text != fmt.Sprint(limit) {
			t.Errorf("%s: %d bytes: status %d %s", path, limit, resp.StatusCode, text)
		}
		if resp, text := do(t, server, http.MethodPost, path, strings.NewReader(strings.Repeat("x", limit+1))); resp.StatusCode != http.StatusRequestEntityTooLarge {
			t.Errorf("%s: %d bytes: status %d %s", path, limit+1, resp.StatusCode, text)
		}
	}
}
