package canonical_test

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/keywarden/keywarden/pkg/canonical"
	"github.com/keywarden/keywarden/pkg/problem"
	"github.com/keywarden/keywarden/pkg/reqctx"
)

// seen is what the handler inside of the middleware gets.
type seen struct {
	Host, RequestHost, Path, RawPath, Query, URLHost, Scheme string
}

// server runs the middleware and tells what passed it.
func server(t *testing.T) *httptest.Server {
	t.Helper()
	inner := canonical.Middleware(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_ = json.NewEncoder(w).Encode(seen{
			Host: reqctx.From(r.Context()).Host, RequestHost: r.Host,
			Path: r.URL.Path, RawPath: r.URL.RawPath, Query: r.URL.RawQuery,
			URLHost: r.URL.Host, Scheme: r.URL.Scheme,
		})
	}))
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		inner.ServeHTTP(w, r.WithContext(reqctx.With(r.Context(), &reqctx.Info{ID: "request-1"})))
	}))
	t.Cleanup(s.Close)
	return s
}

// exchange sends raw bytes, which no HTTP library would, and reads one answer.
func exchange(t *testing.T, s *httptest.Server, raw string) (*http.Response, []byte) {
	t.Helper()
	conn, err := net.Dial("tcp", s.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(conn, raw); err != nil {
		t.Fatal(err)
	}
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp, body
}

func request(line, host, more string) string {
	return line + " HTTP/1.1\r\nHost: " + host + "\r\nConnection: close\r\n" + more + "\r\n"
}

func TestMiddlewareGivesOneForm(t *testing.T) {
	s := server(t)
	for _, c := range []struct {
		name, raw string
		want      seen
	}{
		{"plain", request("GET /open/x?a=1&b=%2F%20c&a=2", "a.test", ""),
			seen{Host: "a.test", RequestHost: "a.test", Path: "/open/x", Query: "a=1&b=%2F%20c&a=2"}},
		{"host", request("GET /", "A.Test.:8080", ""),
			seen{Host: "a.test", RequestHost: "a.test:8080", Path: "/"}},
		{"encoded letter", request("GET /svc/%70rivate", "a.test", ""),
			seen{Host: "a.test", RequestHost: "a.test", Path: "/svc/private"}},
		{"default escaping", request("GET /caf%c3%a9", "a.test", ""),
			seen{Host: "a.test", RequestHost: "a.test", Path: "/café"}},
		{"kept escaping", request("GET /a%2cb", "a.test", ""),
			seen{Host: "a.test", RequestHost: "a.test", Path: "/a,b", RawPath: "/a%2Cb"}},
		{"absolute form", request("GET http://Private.test:81/x", "a.test", ""),
			seen{Host: "private.test", RequestHost: "private.test:81", Path: "/x"}},
		{"absolute form without path", request("GET http://private.test", "a.test", ""),
			seen{Host: "private.test", RequestHost: "private.test", Path: "/"}},
		{"HTTP/1.0 without host", "GET /x HTTP/1.0\r\n\r\n",
			seen{Path: "/x"}},
		{"odd query", request("GET /x?a;b=%zz&c", "a.test", ""),
			seen{Host: "a.test", RequestHost: "a.test", Path: "/x", Query: "a;b=%zz&c"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			resp, body := exchange(t, s, c.raw)
			var got seen
			if err := json.Unmarshal(body, &got); err != nil {
				t.Fatalf("status %d, body %q: %v", resp.StatusCode, body, err)
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestMiddlewareRefuses(t *testing.T) {
	s := server(t)
	for _, c := range []struct {
		name, raw string
		status    int
		code      string
	}{
		{"dot segments", request("GET /open/%2e%2e/keyed", "a.test", ""), 400, "request.path_invalid"},
		{"encoded slash", request("GET /open/..%2fkeyed", "a.test", ""), 400, "request.path_invalid"},
		// net/url would decode the slash of this one and lose that it was encoded,
		// because its raw form holds a character that it escapes by itself.
		{"encoded slash beside a brace", request("GET /keyed%2fx{", "a.test", ""), 400, "request.path_invalid"},
		{"double slash", request("GET //keyed/secret", "a.test", ""), 400, "request.path_invalid"},
		{"backslash", request(`GET /open\..\keyed`, "a.test", ""), 400, "request.path_invalid"},
		{"semicolon", request("GET /keyed;x=1/secret", "a.test", ""), 400, "request.path_invalid"},
		{"overlong", request("GET /%c0%ae%c0%ae/x", "a.test", ""), 400, "request.path_invalid"},
		{"line break", request("GET /r%0d%0aX-Injected:%20pwn", "a.test", ""), 400, "request.path_invalid"},
		{"asterisk", request("GET *", "a.test", ""), 400, "request.path_invalid"},
		{"fragment in path", request("GET /a#b", "a.test", ""), 400, "request.path_invalid"},
		{"fragment in query", request("GET /a?b#c", "a.test", ""), 400, "request.target_invalid"},
		{"opaque", request("GET http:x", "a.test", ""), 400, "request.target_invalid"},
		{"other scheme", request("GET ftp://a.test/x", "a.test", ""), 400, "request.target_invalid"},
		{"no authority", request("GET http:///x", "a.test", ""), 400, "request.target_invalid"},
		{"user information", request("GET http://u:p@a.test/x", "a.test", ""), 400, "request.target_invalid"},
		{"long target", request("GET /"+strings.Repeat("a", canonical.MaxTarget), "a.test", ""), 414, "request.target_too_long"},
		{"long query", request("GET /?"+strings.Repeat("a", canonical.MaxTarget), "a.test", ""), 414, "request.target_too_long"},
		{"list in host", request("GET /", "a.test,b.test", ""), 400, "request.host_invalid"},
		{"empty host", request("GET /", "", ""), 400, "request.host_invalid"},
		{"trace", request("TRACE /", "a.test", ""), 501, "request.method_refused"},
		{"connect", request("CONNECT 127.0.0.1:22", "127.0.0.1:22", ""), 501, "request.method_refused"},
		{"many fields", request("GET /", "a.test", strings.Repeat("X-A: 1\r\n", canonical.MaxFields)), 431, "request.too_many_fields"},
	} {
		t.Run(c.name, func(t *testing.T) {
			resp, body := exchange(t, s, c.raw)
			var doc problem.Document
			if err := json.Unmarshal(body, &doc); err != nil {
				t.Fatalf("status %d, body %q: %v", resp.StatusCode, body, err)
			}
			if resp.StatusCode != c.status || doc.Code != c.code {
				t.Errorf("got %d %s, want %d %s", resp.StatusCode, doc.Code, c.status, c.code)
			}
			if doc.RequestID != "request-1" {
				t.Errorf("request id %q in the problem, want request-1", doc.RequestID)
			}
			if ct := resp.Header.Get("Content-Type"); ct != problem.ContentType {
				t.Errorf("content type %q", ct)
			}
		})
	}
}

// TestServerRefusesDuplicateHost pins what the middleware relies on: the HTTP
// server refuses two Host lines by itself.
func TestServerRefusesDuplicateHost(t *testing.T) {
	resp, _ := exchange(t, server(t), "GET / HTTP/1.1\r\nHost: a.test\r\nHost: b.test\r\n\r\n")
	if resp.StatusCode != http.StatusBadRequest {
		t.Errorf("got %d, want 400", resp.StatusCode)
	}
}

// TestMiddlewareRefusesSpacesOfHTTP2 uses a request as the HTTP/2 server makes
// it; a line of HTTP/1 cannot carry a space in its target.
func TestMiddlewareRefusesSpacesOfHTTP2(t *testing.T) {
	for _, target := range []string{"/a b", "/a?b HTTP/1.1"} {
		u, err := url.ParseRequestURI(target)
		if err != nil {
			t.Fatal(err)
		}
		r := &http.Request{Method: "GET", URL: u, Host: "a.test", RequestURI: target, ProtoMajor: 2, Header: http.Header{}}
		w := httptest.NewRecorder()
		canonical.Middleware(http.NotFoundHandler()).ServeHTTP(w, r)
		if w.Code != http.StatusBadRequest {
			t.Errorf("%q: got %d, want 400", target, w.Code)
		}
	}
}

// TestMiddlewareSetsEncodedSlashesApart: the handler of all others never gets such a
// request, and the refusal that comes with it is the one without that handler.
func TestMiddlewareSetsEncodedSlashesApart(t *testing.T) {
	serve := func(target string, apart bool) (answer *httptest.ResponseRecorder, to string, got *http.Request) {
		r := httptest.NewRequest("GET", "/", nil)
		var err error
		if r.URL, err = url.ParseRequestURI(target); err != nil {
			t.Fatal(err)
		}
		info := &reqctx.Info{ID: "1"}
		r = r.WithContext(reqctx.With(r.Context(), info))
		next := http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			if to, got = "next", r; info.EncodedSlash != nil {
				t.Errorf("%s: a refusal is pending in next", target)
			}
		})
		slashed := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			to, got = "slashed", r
			info.EncodedSlash.Write(w, info.ID)
		})
		w := httptest.NewRecorder()
		if apart {
			canonical.MiddlewareWithSlashes(next, slashed).ServeHTTP(w, r)
		} else {
			canonical.Middleware(next).ServeHTTP(w, r)
		}
		return w, to, got
	}
	for _, c := range []struct{ target, to, path, escaped string }{
		{"/a/b%20c", "next", "/a/b c", "/a/b%20c"},
		{"/a%252Fb", "next", "/a%2Fb", "/a%252Fb"},
		{"/a%2Fb", "slashed", "/a%2Fb", "/a%2Fb"},
		{"/%61%2fb{", "slashed", "/a%2Fb{", "/a%2fb%7B"},
		{"http://a.test/%61%2fb?c=%2F", "slashed", "/a%2Fb", "/a%2fb"},
		{"/a%2F..%2Fb", "", "", ""},
		{"/a%2F%252F", "", "", ""},
		{"/a%2Fb;c", "", "", ""},
		{"/a%00%2Fb", "", "", ""},
		{"/../a%2Fb", "", "", ""},
	} {
		want, reached, _ := serve(c.target, false)
		if c.to != "next" && (reached != "" || want.Code != 400) {
			t.Fatalf("%s: without a handler for it, status %d, reached %q", c.target, want.Code, reached)
		}
		answer, to, got := serve(c.target, true)
		if to != c.to {
			t.Errorf("%s comes to %q, want %q", c.target, to, c.to)
		}
		if answer.Code != want.Code || answer.Body.String() != want.Body.String() || !cmp.Equal(answer.Header(), want.Header()) {
			t.Errorf("%s: the answer is %s, want %s", c.target, answer.Body, want.Body)
		}
		if got != nil && (got.URL.Path != c.path || canonical.Escaped(got.URL) != c.escaped) {
			t.Errorf("%s: path %q, escaped %q; want %q, %q", c.target, got.URL.Path, canonical.Escaped(got.URL), c.path, c.escaped)
		}
	}
}

func TestMiddlewareRecordsItsRefusal(t *testing.T) {
	info := &reqctx.Info{ID: "1"}
	r := httptest.NewRequest("GET", "/", nil)
	r.Host = "a@b"
	canonical.Middleware(http.NotFoundHandler()).ServeHTTP(httptest.NewRecorder(), r.WithContext(reqctx.With(r.Context(), info)))
	if info.Code != "request.host_invalid" || info.Err == nil {
		t.Errorf("info has code %q and error %v", info.Code, info.Err)
	}
}

// TestMiddlewareLeavesCanonicalRequestsAlone matters for speed: the common
// request must not be copied.
func TestMiddlewareLeavesCanonicalRequestsAlone(t *testing.T) {
	r := httptest.NewRequest("GET", "/api/users?x=1", nil)
	r.Host = "api.example.com:8443"
	info := &reqctx.Info{}
	r = r.WithContext(reqctx.With(r.Context(), info))
	var got *http.Request
	h := canonical.Middleware(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { got = r }))
	if n := testing.AllocsPerRun(100, func() { h.ServeHTTP(nil, r) }); n != 0 {
		t.Errorf("%v allocations, want 0", n)
	}
	if got != r || info.Host != "api.example.com" {
		t.Errorf("request copied: %t, host %q", got != r, info.Host)
	}
}

func ExamplePath() {
	decoded, escaped, err := canonical.Path("/svc/%70rivate/a%2cb")
	fmt.Println(decoded, escaped, err)
	// Output: /svc/private/a,b /svc/private/a%2Cb <nil>
}
