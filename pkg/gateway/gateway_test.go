package gateway_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/keywarden/keywarden/pkg/access"
	"github.com/keywarden/keywarden/pkg/canonical"
	"github.com/keywarden/keywarden/pkg/gateway"
	"github.com/keywarden/keywarden/pkg/gateway/files"
	"github.com/keywarden/keywarden/pkg/gateway/policy/cache"
	"github.com/keywarden/keywarden/pkg/httpcache"
	"github.com/keywarden/keywarden/pkg/problem"
	"github.com/keywarden/keywarden/pkg/quota"
	"github.com/keywarden/keywarden/pkg/quota/quotatest"
	"github.com/keywarden/keywarden/pkg/reqctx"
	"github.com/keywarden/keywarden/pkg/spec"
	"github.com/keywarden/keywarden/pkg/spec/policies"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(bothWays{m}) }

// bothWays runs all tests once for each way to a service.
type bothWays struct{ *testing.M }

func (b bothWays) Run() int {
	if code := b.M.Run(); code != 0 || testing.Short() {
		return code
	}
	ordinaryWay = true
	return b.M.Run()
}

// ordinaryWay says that services are asked by net/http's own transport.
var ordinaryWay bool

// authenticator knows one key and counts how often it is asked.
type authenticator struct {
	asked  atomic.Int64
	accept atomic.Int64 // the methods of the last question
}

func (a *authenticator) Authenticate(r *http.Request, accept access.Methods) (*access.Principal, error) {
	a.asked.Add(1)
	a.accept.Store(int64(accept))
	if r.Header.Get("X-Api-Key") != "good" {
		return nil, access.ErrMissing.WithChallenge(`Bearer realm="api"`)
	}
	return &access.Principal{Kind: access.KindKey, UserID: "user-1", Role: access.RoleUser, KeyID: "key-1"}, nil
}

// door is a gateway behind a server, as the program has it.
type door struct {
	*httptest.Server
	t       *testing.T
	gateway *gateway.Gateway
	auth    *authenticator
	mu      sync.Mutex
	last    reqctx.Info
}

func newDoor(t *testing.T, bodyLimit int64, changes ...func(*gateway.Options)) *door {
	t.Helper()
	d := &door{t: t, auth: &authenticator{}}
	options := gateway.Options{Files: files.Allowed{Anywhere: true}, Authenticator: d.auth, Logger: slog.New(slog.DiscardHandler), BodyLimit: bodyLimit}
	answers, err := httpcache.NewMemory(httpcache.MemoryOptions{Bytes: 1 << 20, Entries: 100})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(answers.Close)
	if options.Cache, err = cache.Open(cache.Options{Store: answers, Now: time.Now, MaxBackground: 4}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(options.Cache.Close)
	options.Quotas, err = quota.NewMeters(quota.Options{
		Ledger: quotatest.NewMemory(time.Now), Subjects: 100, Timeout: time.Second, Replicas: func() int { return 1 },
		Logger: options.Logger, Now: time.Now,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { options.Quotas.Close(context.Background()) })
	for _, change := range changes {
		change(&options)
	}
	options.Ordinary = ordinaryWay
	g, err := gateway.New(options)
	if err != nil {
		t.Fatal(err)
	}
	d.gateway = g
	h := canonical.MiddlewareWithSlashes(g, g)
	d.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		info := &reqctx.Info{ID: "request-1", Client: netip.MustParseAddr("127.0.0.1"), Scheme: "http"}
		defer func() {
			d.mu.Lock()
			defer d.mu.Unlock()
			d.last = *info
		}()
		h.ServeHTTP(w, r.WithContext(reqctx.With(r.Context(), info)))
	}))
	t.Cleanup(func() {
		d.Close()
		g.Close()
	})
	return d
}

func (d *door) info() reqctx.Info {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.last
}

// apply applies the text of a document, in which each %s is the next address.
func (d *door) apply(text string, addresses ...any) {
	d.t.Helper()
	if err := d.gateway.Apply(parse(d.t, fmt.Sprintf(text, addresses...))); err != nil {
		d.t.Fatal(err)
	}
}

func parse(t testing.TB, text string) spec.Document {
	t.Helper()
	doc, err := spec.Parse("", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return doc
}

// call sends a request to host; the body of the answer comes with it.
func (d *door) call(method, host, path string, header http.Header, body io.Reader) (*http.Response, string) {
	d.t.Helper()
	r, err := http.NewRequestWithContext(d.t.Context(), method, d.URL+path, body)
	if err != nil {
		d.t.Fatal(err)
	}
	r.Host = host
	for name, values := range header {
		r.Header[name] = values
	}
	resp, err := d.Client().Do(r)
	if err != nil {
		d.t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		d.t.Fatal(err)
	}
	return resp, string(text)
}

func codeOf(t *testing.T, body string) string {
	t.Helper()
	var doc problem.Document
	if err := json.Unmarshal([]byte(body), &doc); err != nil {
		t.Fatalf("%q is no problem: %v", body, err)
	}
	return doc.Code
}

// named is a service that answers with its name and the target it got.
func named(t *testing.T, name string) string {
	t.Helper()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		fmt.Fprintf(w, "%s %s", name, r.RequestURI)
	}))
	t.Cleanup(s.Close)
	return s.URL
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("never happened: %s", what)
		}
	}
}

var key = http.Header{"X-Api-Key": {"good"}}

func TestRouting(t *testing.T) {
	d := newDoor(t, 0)
	d.apply(`
version: 1
services:
  - {name: a, url: "%s"}
  - {name: b, url: "%s/base"}
routes:
  - {name: open, match: {path: {prefix: /open}}, service: a, auth: {mode: none}}
  - {name: keyed, match: {path: {prefix: /keyed}}, service: a}
  - {name: svc, match: {path: {prefix: /svc}}, service: b, strip_prefix: /svc, auth: {mode: none}}
  - {name: svc-private, match: {path: {prefix: /svc/private}}, service: b, strip_prefix: /svc}
  - {name: read, match: {path: {prefix: /ro}, methods: [GET, HEAD]}, service: a, auth: {mode: none}}
  - {name: write, match: {path: {prefix: /ro}}, service: a}
  - {name: get-only, match: {path: {exact: /get}, methods: [GET]}, service: a, auth: {mode: none}}
  - {name: private, match: {hosts: [private.test]}, service: a}
`, named(t, "a"), named(t, "b"))
	for _, c := range []struct {
		method, host, path string
		key                bool
		status             int
		body, route        string
	}{
		{"GET", "x.test", "/open/x?q=1", false, 200, "a /open/x?q=1", "open"},
		{"GET", "x.test", "/keyed/x", true, 200, "a /keyed/x", "keyed"},
		{"GET", "x.test", "/keyed/x", false, 401, "auth.missing", "keyed"},
		{"GET", "x.test", "/svc/x", false, 200, "b /base/x", "svc"},
		{"GET", "x.test", "/svc", false, 200, "b /base", "svc"},
		{"GET", "x.test", "/svc/private/x", true, 200, "b /base/private/x", "svc-private"},
		{"GET", "x.test", "/svc/private/x", false, 401, "auth.missing", "svc-private"},
		{"GET", "x.test", "/svc/%70rivate/x", false, 401, "auth.missing", "svc-private"},
		{"GET", "x.test", "/svc//private/x", false, 400, "request.path_invalid", ""},
		{"GET", "x.test", "/svcs", false, 404, "gateway.no_route", ""},
		{"GET", "x.test", "/ro/x", false, 200, "a /ro/x", "read"},
		{"POST", "x.test", "/ro/x", false, 401, "auth.missing", "write"},
		{"POST", "x.test", "/ro/x", true, 200, "a /ro/x", "write"},
		{"DELETE", "x.test", "/get", true, 405, "gateway.method_not_allowed", ""},
		{"GET", "x.test", "/none", true, 404, "gateway.no_route", ""},
		{"GET", "private.test", "/open/x", false, 401, "auth.missing", "private"},
		{"GET", "PRIVATE.Test.:8080", "/open/x", false, 401, "auth.missing", "private"},
		{"GET", "private.test", "/open/x", true, 200, "a /open/x", "private"},
	} {
		var header http.Header
		if c.key {
			header = key
		}
		resp, body := d.call(c.method, c.host, c.path, header, nil)
		if resp.StatusCode >= 400 {
			body = codeOf(t, body)
		}
		if resp.StatusCode != c.status || body != c.body {
			t.Errorf("%s %s%s: got %d %q, want %d %q", c.method, c.host, c.path, resp.StatusCode, body, c.status, c.body)
		}
		if got := d.info().Route; got != c.route {
			t.Errorf("%s %s%s: route %q in the access log, want %q", c.method, c.host, c.path, got, c.route)
		}
		if c.status == 405 && resp.Header.Get("Allow") != "GET" {
			t.Errorf("405 with Allow %q", resp.Header.Get("Allow"))
		}
		if c.status == 401 && resp.Header.Get("WWW-Authenticate") == "" {
			t.Error("401 without a challenge")
		}
	}
}

func TestAccessLogKnowsTheCaller(t *testing.T) {
	d := newDoor(t, 0)
	d.apply(`
version: 1
services: [{name: a, url: "%s"}]
routes: [{name: r, service: a}]`, named(t, "a"))
	d.call("GET", "x", "/", key, nil)
	if info := d.info(); info.Subject != "user-1" || info.KeyID != "key-1" || info.Route != "r" || info.Service != "a" || info.Code != "" {
		t.Errorf("info %+v", info)
	}
}

func TestRouteAcceptsTheMethodsItNames(t *testing.T) {
	d := newDoor(t, 0)
	service := named(t, "a")
	for list, want := range map[string]access.Methods{
		"[key]": access.MethodKey, "[jwt]": access.MethodToken, "[key, jwt]": access.AnyMethod,
	} {
		d.apply(`
version: 1
services: [{name: a, url: "%s"}]
routes: [{name: r, service: a, auth: {methods: %s}}]`, service, list)
		d.call("GET", "x", "/", key, nil)
		if got := access.Methods(d.auth.accept.Load()); got != want {
			t.Errorf("%s: accepted methods %b, want %b", list, got, want)
		}
	}
}

func TestStepsRunInTheirOrder(t *testing.T) {
	d := newDoor(t, 0)
	d.apply(`
version: 1
services: [{name: a, url: "%s"}]
routes:
  - {name: all, match: {path: {prefix: /all}}, service: a, allow_ips: [192.0.2.0/24], max_body: 1KiB}
  - {name: size, match: {path: {prefix: /size}}, service: a, allow_ips: [127.0.0.1], max_body: 1KiB}
`, named(t, "a"))
	large := strings.Repeat("a", 2048)
	resp, body := d.call("POST", "x", "/all", nil, strings.NewReader(large))
	if resp.StatusCode != 403 || codeOf(t, body) != "gateway.address_not_allowed" {
		t.Errorf("got %d %s, want the refusal of the address", resp.StatusCode, body)
	}
	resp, body = d.call("POST", "x", "/size", nil, strings.NewReader(large))
	if resp.StatusCode != 413 || codeOf(t, body) != "request.body_too_large" {
		t.Errorf("got %d %s, want the refusal of the size", resp.StatusCode, body)
	}
	if n := d.auth.asked.Load(); n != 0 {
		t.Errorf("the credential was checked %d times before", n)
	}
	if resp, _ = d.call("POST", "x", "/size", nil, strings.NewReader("a")); resp.StatusCode != 401 {
		t.Errorf("got %d, want 401", resp.StatusCode)
	}
}

func TestForwardedForDoesNotOpenAnAddressList(t *testing.T) {
	d := newDoor(t, 0)
	d.apply(`
version: 1
services: [{name: a, url: "%s"}]
routes: [{name: r, service: a, allow_ips: [192.0.2.0/24], auth: {mode: none}}]`, named(t, "a"))
	resp, _ := d.call("GET", "x", "/", http.Header{"X-Forwarded-For": {"192.0.2.1"}, "Forwarded": {"for=192.0.2.1"}, "X-Real-Ip": {"192.0.2.1"}}, nil)
	if resp.StatusCode != 403 {
		t.Errorf("got %d, want 403", resp.StatusCode)
	}
}

func TestBodyLimitOfTheProcessAndOfTheRoute(t *testing.T) {
	d := newDoor(t, 1024)
	d.apply(`
version: 1
services: [{name: a, url: "%s"}]
routes:
  - {name: default, match: {path: {prefix: /default}}, service: a, auth: {mode: none}}
  - {name: more, match: {path: {prefix: /more}}, service: a, auth: {mode: none}, max_body: 1MiB}
`, named(t, "a"))
	for path, want := range map[string]int{"/default": 413, "/more": 200} {
		for name, body := range map[string]io.Reader{
			"announced": strings.NewReader(strings.Repeat("a", 100_000)),
			"chunked":   io.MultiReader(strings.NewReader(strings.Repeat("a", 100_000))),
		} {
			if resp, _ := d.call("POST", "x", path, nil, body); resp.StatusCode != want {
				t.Errorf("%s %s: got %d, want %d", path, name, resp.StatusCode, want)
			}
		}
	}
}

func TestGatewayWithoutDocumentAnswers404(t *testing.T) {
	d := newDoor(t, 0)
	resp, body := d.call("GET", "x", "/", nil, nil)
	if resp.StatusCode != 404 || codeOf(t, body) != "gateway.no_route" {
		t.Errorf("got %d %s", resp.StatusCode, body)
	}
	if s := d.gateway.State(); s.Digest != "" || !s.AppliedAt.IsZero() || s.Routes+s.Services+len(s.Backends) != 0 || s.LastError != nil {
		t.Errorf("state %+v", s)
	}
}

// TestRequestsThatAreNotCanonicalAreRefused is about a program that is put
// together the wrong way: it must not be open.
func TestRequestsThatAreNotCanonicalAreRefused(t *testing.T) {
	g, err := gateway.New(gateway.Options{Authenticator: &authenticator{}, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	w := httptest.NewRecorder()
	g.ServeHTTP(w, httptest.NewRequest("GET", "/", nil))
	if w.Code != 500 {
		t.Errorf("got %d, want 500", w.Code)
	}
}

func TestApplyIsAllOrNothing(t *testing.T) {
	d := newDoor(t, 0)
	const text = `
version: 1
services: [{name: a, url: "%s"}]
routes: [{name: r, match: {path: {prefix: %s}}, service: a, auth: {mode: none}}]`
	a := named(t, "a")
	d.apply(text, a, "/first")
	before := d.gateway.State()
	if before.Digest == "" || before.Routes != 1 || before.Services != 1 || before.AppliedAt.IsZero() || before.LastError != nil {
		t.Errorf("state %+v", before)
	}

	for name, change := range map[string]func(*spec.Document){
		"of another version":    func(doc *spec.Document) { doc.Version = 2 },
		"ambiguous":             func(doc *spec.Document) { doc.Routes = append(doc.Routes, doc.Routes[0]) },
		"without defaults":      func(doc *spec.Document) { doc.Routes[0].Auth = &policies.Auth{} },
		"with a dangling route": func(doc *spec.Document) { doc.Routes[0].Service = "b" },
	} {
		bad := parse(t, fmt.Sprintf(text, a, "/second"))
		change(&bad)
		if err := d.gateway.Apply(bad); err == nil {
			t.Fatalf("a document %s was applied", name)
		}
	}
	if resp, _ := d.call("GET", "x", "/first", nil, nil); resp.StatusCode != 200 {
		t.Errorf("the previous document is gone: %d", resp.StatusCode)
	}
	if resp, _ := d.call("GET", "x", "/second", nil, nil); resp.StatusCode != 404 {
		t.Errorf("the refused document is served: %d", resp.StatusCode)
	}
	after := d.gateway.State()
	if after.LastError == nil || after.FailedAt.IsZero() || after.Digest != before.Digest {
		t.Errorf("state %+v", after)
	}

	d.apply(text, a, "/first") // what is served already
	if s := d.gateway.State(); s.Digest != before.Digest || s.AppliedAt != before.AppliedAt || s.LastError != nil {
		t.Errorf("the same document changed the state from %+v to %+v", before, s)
	}
	d.gateway.Refused(errors.New("not even YAML"))
	if s := d.gateway.State(); s.LastError == nil {
		t.Error("the state does not know the failure")
	}
	d.apply(text, a, "/second")
	if s := d.gateway.State(); s.LastError != nil || s.Digest == before.Digest {
		t.Errorf("state %+v", s)
	}
}

func TestStreamsOutliveTheirRoute(t *testing.T) {
	release := make(chan struct{})
	stream := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		fmt.Fprint(w, "data: 1\n\n")
		_ = http.NewResponseController(w).Flush()
		<-release
		fmt.Fprint(w, "data: 2\n\n")
	}))
	defer stream.Close()
	d := newDoor(t, 0)
	d.apply(`
version: 1
services: [{name: a, url: "%s"}]
routes: [{name: r, service: a, auth: {mode: none}}]`, stream.URL)
	conn, err := net.Dial("tcp", d.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := io.WriteString(conn, "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()

	d.apply("version: 1")
	if s := d.gateway.State(); s.Routes != 0 {
		t.Fatalf("%d routes are left", s.Routes)
	}
	close(release)
	if body, err := io.ReadAll(resp.Body); err != nil || string(body) != "data: 1\n\ndata: 2\n\n" {
		t.Errorf("the stream was %q, %v", body, err)
	}
}

func TestConnectionsSurviveAnApply(t *testing.T) {
	var conns atomic.Int64
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	s.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		if state == http.StateNew {
			conns.Add(1)
		}
	}
	s.Start()
	defer s.Close()
	d := newDoor(t, 0)
	for i := range 5 {
		d.apply(`
version: 1
services: [{name: "%s", url: "%s"}]
routes: [{name: r, service: "%[1]s", auth: {mode: none}}]`, fmt.Sprint("a", i), s.URL)
		d.call("GET", "x", "/", nil, nil)
	}
	if n := conns.Load(); n != 1 {
		t.Errorf("%d connections for 5 documents, want 1", n)
	}
}

// TestApplyUnderLoadDropsNothing swaps documents, services included, while
// clients call without a pause.
func TestApplyUnderLoadDropsNothing(t *testing.T) {
	d := newDoor(t, 0)
	services := []string{named(t, "a"), named(t, "b")}
	document := func(i int) spec.Document {
		return parse(t, fmt.Sprintf(`
version: 1
services: [{name: s, url: "%s", response_timeout: %dms}]
routes:
  - {name: r, match: {path: {prefix: /x}}, service: s, auth: {mode: none}}
  - {name: other%d, match: {path: {prefix: /y}}, service: s}`, services[i%2], 30_000+i%7, i))
	}
	if err := d.gateway.Apply(document(0)); err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	var calls, failures atomic.Int64
	for range 8 {
		wg.Go(func() {
			for ctx.Err() == nil {
				calls.Add(1)
				resp, err := d.Client().Post(d.URL+"/x", "text/plain", strings.NewReader("body"))
				if err != nil {
					failures.Add(1)
					t.Error(err)
					return
				}
				body, err := io.ReadAll(resp.Body)
				resp.Body.Close()
				if err != nil || resp.StatusCode != 200 {
					failures.Add(1)
					t.Errorf("got %d %s, %v", resp.StatusCode, body, err)
					return
				}
			}
		})
	}
	for i := 1; i <= 200; i++ {
		if err := d.gateway.Apply(document(i)); err != nil {
			t.Error(err)
		}
		seen := calls.Load()
		eventually(t, "calls between two documents", func() bool { return calls.Load() >= seen+4 || failures.Load() > 0 })
	}
	stop()
	wg.Wait()
}

func TestNewNeedsItsParts(t *testing.T) {
	logger := slog.New(slog.DiscardHandler)
	for name, o := range map[string]gateway.Options{
		"no authenticator": {Logger: logger},
		"no logger":        {Authenticator: &authenticator{}},
		"negative limit":   {Authenticator: &authenticator{}, Logger: logger, BodyLimit: -1},
	} {
		if _, err := gateway.New(o); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}
