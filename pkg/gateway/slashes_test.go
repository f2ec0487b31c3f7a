package gateway_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"testing"

	"github.com/keywarden/keywarden/pkg/canonical"
	"github.com/keywarden/keywarden/pkg/reqctx"
)

// sendRaw sends a request whose target no client library has touched.
func sendRaw(t *testing.T, d *door, method, host, target, fields string) (*http.Response, string) {
	t.Helper()
	conn, err := net.Dial("tcp", d.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := fmt.Fprintf(conn, "%s %s HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n%s\r\n", method, target, host, fields); err != nil {
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
	return resp, string(body)
}

// refusalOf is what package canonical answers to a target by itself.
func refusalOf(t *testing.T, target string) *httptest.ResponseRecorder {
	t.Helper()
	u, err := url.ParseRequestURI(target)
	if err != nil {
		t.Fatal(err)
	}
	r := &http.Request{Method: "GET", URL: u, Host: "x", RequestURI: target, ProtoMajor: 1, ProtoMinor: 1, Header: http.Header{}}
	r = r.WithContext(reqctx.With(t.Context(), &reqctx.Info{ID: "request-1"}))
	w := httptest.NewRecorder()
	canonical.Middleware(http.NotFoundHandler()).ServeHTTP(w, r)
	return w
}

// slashed has a route for each way in which a path is used. The wide ones that take
// encoded slashes are open, the narrow ones ask for a key.
const slashed = `
version: 1
services: [{name: s, url: "%s/base"}]
defaults: {auth: {mode: none}}
routes:
  - {name: all, match: {path: {prefix: /}}, service: s, allow_encoded_slashes: true}
  - {name: admin, match: {path: {prefix: /admin}}, service: s, auth: {mode: required}}
  - {name: deep, match: {path: {prefix: /open/deep}}, service: s, auth: {mode: required}, allow_encoded_slashes: true}
  - {name: secret, match: {path: {exact: /open/secret}}, service: s, auth: {mode: required}}
  - {name: pattern, match: {path: {regex: "/open/[a-z]+/pattern"}}, service: s, auth: {mode: required}}
  - {name: posted, match: {path: {prefix: /open/posted}, methods: [POST]}, service: s, auth: {mode: required}}
  - {name: flagged, match: {path: {prefix: /open/flagged}, headers: [{name: X-Flag}]}, service: s, auth: {mode: required}}
  - {name: closed, match: {hosts: [closed.test], path: {prefix: /}}, service: s}
  - {name: strip, match: {path: {prefix: /strip}}, strip_prefix: /strip, service: s, allow_encoded_slashes: true}
  - {name: group, match: {hosts: [group.test], path: {regex: "/g/([^/]+)/(.*)"}}, rewrite: {path: "/new/$2/$1"}, service: s, allow_encoded_slashes: true}
  - {name: cut, match: {hosts: [cut.test]}, rewrite: {regex: "/(.*%%)(.*)", path: "/$2"}, service: s, allow_encoded_slashes: true}
  - {name: moved, match: {path: {prefix: /moved}}, redirect: {to: "https://new.test/at", keep_path: true}, allow_encoded_slashes: true}
  - {name: here, match: {hosts: [here.test]}, redirect: {to: /, keep_path: true}, allow_encoded_slashes: true}
  - {name: browser, match: {hosts: [cors.test], methods: [GET]}, service: s, cors: {origins: ["https://app.test"]}, allow_encoded_slashes: true}
  - {name: narrow, match: {hosts: [cors.test], path: {prefix: /narrow}, methods: [GET]}, service: s, cors: {origins: ["https://app.test"]}}
`

func TestEncodedSlashesReachTheServiceOfARouteThatTakesThem(t *testing.T) {
	arrived := make(chan string, 1)
	service := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { arrived <- r.RequestURI }))
	defer service.Close()
	d := newDoor(t, 0)
	d.apply(slashed, service.URL)
	for _, c := range []struct{ host, sent, want, route string }{
		{"x", "/request/foo%2Fbar", "/base/request/foo%2Fbar", "all"},
		{"x", "/request/foo%2fbar%2F", "/base/request/foo%2fbar%2F", "all"},
		{"x", "/%61%2fb%2c?c=%2f", "/base/a%2fb%2C?c=%2f", "all"},
		{"x", "/open/deep/a%2Fb", "", "deep"}, // without a key
		{"x", "/strip/a%2fb/c", "/base/a%2fb/c", "strip"},
		{"x", "/strip/a%2F", "/base/a%2F", "strip"},
		{"group.test", "/g/a%2fb/c%2Fd%41", "/base/new/c%2FdA/a%2fb", "group"},
	} {
		resp, body := sendRaw(t, d, "GET", c.host, c.sent, "")
		if got := d.info().Route; got != c.route {
			t.Errorf("%s: route %q, want %q", c.sent, got, c.route)
		}
		if c.want == "" {
			if resp.StatusCode != http.StatusUnauthorized {
				t.Errorf("%s: status %d, want 401", c.sent, resp.StatusCode)
			}
			continue
		}
		if resp.StatusCode != http.StatusOK {
			t.Errorf("%s: status %d: %s", c.sent, resp.StatusCode, body)
			continue
		}
		if got := <-arrived; got != c.want {
			t.Errorf("%s: the service saw %s, want %s", c.sent, got, c.want)
		}
	}
	for _, c := range []struct{ host, sent, want string }{
		{"x", "/moved/a%2fb", "https://new.test/at/moved/a%2fb"},
		{"here.test", "/a%2Fb?c", "/a%2Fb?c"},
	} {
		resp, _ := sendRaw(t, d, "GET", c.host, c.sent, "")
		if got := resp.Header.Get("Location"); got != c.want {
			t.Errorf("%s: sent on to %q, want %q", c.sent, got, c.want)
		}
	}
	resp, _ := sendRaw(t, d, "OPTIONS", "cors.test", "/a%2Fb", "Origin: https://app.test\r\nAccess-Control-Request-Method: GET\r\n")
	if resp.StatusCode != http.StatusNoContent {
		t.Errorf("preflight request: status %d", resp.StatusCode)
	}
}

// TestEncodedSlashesCrossNoBoundary: no encoded slash leads to another route than
// the slash would, and what is refused is refused as if no route took them.
func TestEncodedSlashesCrossNoBoundary(t *testing.T) {
	service := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		t.Errorf("%s reached the service", r.RequestURI)
	}))
	defer service.Close()
	d := newDoor(t, 0)
	d.apply(slashed, service.URL)
	preflight := "Origin: https://app.test\r\nAccess-Control-Request-Method: GET\r\n"
	for _, c := range []struct{ name, method, host, target, fields string }{
		{"prefix avoided", "GET", "x", "/admin%2Fx", ""},
		{"prefix avoided, lower case", "GET", "x", "/admin%2fx", ""},
		{"prefix avoided by its end", "GET", "x", "/admin%2F", ""},
		{"prefix avoided, letters encoded", "GET", "x", "/%61dmin%2fx/y", ""},
		{"below the prefix", "GET", "x", "/admin/a%2Fb", ""},
		{"prefix of two segments avoided", "GET", "x", "/open%2Fdeep", ""},
		{"prefix of two segments avoided further down", "GET", "x", "/open%2Fdeep/x%2Fy", ""},
		{"exact path avoided", "GET", "x", "/open%2Fsecret", ""},
		{"pattern avoided", "GET", "x", "/open/a%2Fpattern", ""},
		{"pattern avoided twice", "GET", "x", "/open%2Fa%2Fpattern", ""},
		{"path of other methods avoided", "GET", "x", "/open%2Fposted", ""},
		{"path of this method avoided", "POST", "x", "/open%2Fposted", ""},
		{"condition avoided", "GET", "x", "/open%2Fflagged", "X-Flag: 1\r\n"},
		{"stripping avoided", "GET", "x", "/strip%2Fa", ""},
		{"route that does not take them", "GET", "closed.test", "/a%2Fb", ""},
		{"climbing", "GET", "x", "/a%2F..%2Fadmin", ""},
		{"climbing from below", "GET", "x", "/open/..%2fadmin", ""},
		{"climbing, dots encoded", "GET", "x", "/a/%2e%2e%2Fadmin", ""},
		{"climbing, encoded twice", "GET", "x", "/a%2F%252e%252e%2Fadmin", ""},
		{"double slash", "GET", "x", "/%2Fadmin", ""},
		{"another host by redirect", "GET", "here.test", "/%2Fevil.test", ""},
		{"double encoding beside it", "GET", "x", "/a%2F%252Fadmin", ""},
		{"backslash", "GET", "x", "/a%2Fb%5Cc", ""},
		{"NUL", "GET", "x", "/a%2Fb%00", ""},
		{"preflight request of a route that does not take them", "OPTIONS", "cors.test", "/narrow/a%2Fb", preflight},
		{"preflight request that avoids one", "OPTIONS", "cors.test", "/narrow%2Fb", preflight},
	} {
		t.Run(c.name, func(t *testing.T) {
			want := refusalOf(t, c.target)
			resp, body := sendRaw(t, d, c.method, c.host, c.target, c.fields)
			if resp.StatusCode != want.Code || body != want.Body.String() {
				t.Errorf("status %d, %s; want %d, %s", resp.StatusCode, body, want.Code, want.Body)
			}
			for name := range want.Header() {
				if resp.Header.Get(name) != want.Header().Get(name) {
					t.Errorf("%s is %q, want %q", name, resp.Header.Get(name), want.Header().Get(name))
				}
			}
			if info := d.info(); info.Route != "" || info.Code != canonical.ErrPath.Code {
				t.Errorf("route %q, code %q", info.Route, info.Code)
			}
		})
	}
	// Others than the one refusal: the path is good, and what becomes of it is not.
	for _, c := range []struct{ host, target, code string }{
		{"x", "/a%252Fb", "request.path_invalid"}, // would be the same as /a%2Fb to policies
		{"x", "/a%252fb", "request.path_invalid"},
		{"cut.test", "/a%2Fb", "gateway.rewrite_refused"},
	} {
		resp, _ := sendRaw(t, d, "GET", c.host, c.target, "")
		if got := d.info().Code; resp.StatusCode != http.StatusBadRequest || got != c.code {
			t.Errorf("%s: status %d, code %s; want 400, %s", c.target, resp.StatusCode, got, c.code)
		}
	}
	resp, body := sendRaw(t, newDoor(t, 0), "GET", "x", "/nothing%2Fthere", "")
	if want := refusalOf(t, "/nothing%2Fthere"); resp.StatusCode != 400 || body != want.Body.String() {
		t.Errorf("without a route: status %d, %s, want %s", resp.StatusCode, body, want.Body)
	}
}

func TestExplainKnowsWhichRoutesTakeEncodedSlashes(t *testing.T) {
	d := newDoor(t, 0)
	d.apply(slashed, "http://127.0.0.1:1")
	for target, route := range map[string]string{"http://x/a%2Fb": "all", "http://x/admin%2Fb": "", "http://closed.test/a%2Fb": ""} {
		got := d.gateway.Explain(t.Context(), described(t, "GET", target))
		if got.Route != route || (got.Refusal == nil) != (route != "") || route == "" && got.Refusal.Code != canonical.ErrPath.Code {
			t.Errorf("%s: route %q, refusal %v", target, got.Route, got.Refusal)
		}
	}
}
