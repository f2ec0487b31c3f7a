package cache_test

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
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/keywarden/keywarden/pkg/access"
	"github.com/keywarden/keywarden/pkg/gateway/policy/cache"
	"github.com/keywarden/keywarden/pkg/httpcache"
	"github.com/keywarden/keywarden/pkg/reqctx"
)

func TestMain(m *testing.M) {
	if role := os.Getenv(roleVariable); role != "" {
		play(role)
		return
	}
	goleak.VerifyTestMain(m)
}

// clock is a clock that tests turn.
type clock struct{ passed atomic.Int64 }

func (c *clock) now() time.Time          { return time.Now().Add(time.Duration(c.passed.Load())) }
func (c *clock) advance(d time.Duration) { c.passed.Add(int64(d)) }

// site is a service behind the policy, and a client of both.
type site struct {
	*testing.T
	clock   clock
	store   *httpcache.Memory
	shared  *cache.Cache
	gateway *httptest.Server
	asked   atomic.Int64 // requests that have reached the service

	mu       sync.Mutex
	outcomes []cache.Outcome
}

// principals are those that X-Test-Caller names.
var principals = map[string]*access.Principal{
	"a":       {Kind: access.KindKey, UserID: "u", KeyID: "a", Role: access.RoleUser},
	"b":       {Kind: access.KindKey, UserID: "u", KeyID: "b", Role: access.RoleUser},
	"s1":      {Kind: access.KindUser, UserID: "u", SessionID: "1", Role: access.RoleUser},
	"s2":      {Kind: access.KindUser, UserID: "u", SessionID: "2", Role: access.RoleUser},
	"a-admin": {Kind: access.KindKey, UserID: "u", KeyID: "a", Role: access.RoleAdmin},
	"a-app":   {Kind: access.KindKey, UserID: "u", KeyID: "a", Role: access.RoleUser, App: "app"},
	"a-scope": {Kind: access.KindKey, UserID: "u", KeyID: "a", Role: access.RoleUser, Scopes: []string{"x:read"}},
}

// open starts a site whose service is a real server behind the standard reverse
// proxy.
func open(t *testing.T, c cache.Config, service http.HandlerFunc) *site {
	t.Helper()
	s := &site{T: t, store: memory(t)}
	var err error
	s.shared, err = cache.Open(cache.Options{Store: s.store, Now: s.clock.now, MaxBackground: 4, Observe: func(string) func(cache.Outcome) {
		return func(o cache.Outcome) {
			s.mu.Lock()
			defer s.mu.Unlock()
			s.outcomes = append(s.outcomes, o)
		}
	}})
	if err != nil {
		t.Fatal(err)
	}
	if c.Route == "" {
		c.Route = "r"
	}
	if c.MaxObject == 0 {
		c.MaxObject = 1 << 20
	}
	step, err := cache.New(c, s.shared)
	if err != nil {
		t.Fatal(err)
	}
	backend := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.asked.Add(1)
		w.Header().Set("Date", s.clock.now().UTC().Format(http.TimeFormat))
		service(w, r)
	}))
	t.Cleanup(backend.Close)
	target, err := url.Parse(backend.URL)
	if err != nil {
		t.Fatal(err)
	}
	proxy := httputil.NewSingleHostReverseProxy(target)
	proxy.ErrorHandler = func(w http.ResponseWriter, r *http.Request, err error) {
		reqctx.From(r.Context()).Code = "gateway.upstream_unreachable"
		w.WriteHeader(http.StatusBadGateway)
	}
	transport := http.DefaultTransport.(*http.Transport).Clone()
	proxy.Transport = transport
	chain := step.Apply(proxy)
	var number atomic.Int64
	s.gateway = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		host, _, _ := strings.Cut(strings.ToLower(r.Host), ":")
		id := fmt.Sprint(number.Add(1))
		w.Header().Set("X-Request-Id", id)
		w.Header().Set("X-Ratelimit-Remaining", id)
		ctx := reqctx.With(r.Context(), &reqctx.Info{ID: id, Host: host, Scheme: "http"})
		if p := principals[r.Header.Get("X-Test-Caller")]; p != nil {
			ctx = access.WithPrincipal(ctx, p)
		}
		r.Header.Del("X-Test-Caller")
		chain.ServeHTTP(w, r.WithContext(ctx))
	}))
	t.Cleanup(func() {
		s.gateway.Close()
		s.shared.Close()
		transport.CloseIdleConnections()
	})
	return s
}

// answered is an answer as the client got it.
type answered struct {
	*http.Response
	body string
}

// hit reports whether the service was not asked for the answer.
func (a answered) hit() bool {
	return strings.Contains(a.Header.Get("Cache-Status"), "hit")
}

// do makes a request; fields are pairs of name and value, and Host is the host.
func (s *site) do(method, target, body string, fields ...string) answered {
	s.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	var content io.Reader
	if body != "" {
		content = strings.NewReader(body)
	}
	r, err := http.NewRequestWithContext(ctx, method, s.gateway.URL+target, content)
	if err != nil {
		s.Fatal(err)
	}
	for i := 0; i < len(fields); i += 2 {
		if fields[i] == "Host" {
			r.Host = fields[i+1]
		} else {
			r.Header.Add(fields[i], fields[i+1])
		}
	}
	resp, err := (&http.Transport{DisableKeepAlives: true, DisableCompression: true}).RoundTrip(r)
	if err != nil {
		s.Errorf("%s %s: %v", method, target, err)
		return answered{Response: &http.Response{Header: http.Header{}}}
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		s.Errorf("%s %s: %v", method, target, err)
	}
	return answered{resp, string(text)}
}

func (s *site) get(target string, fields ...string) answered {
	s.Helper()
	return s.do("GET", target, "", fields...)
}

// serving is a service that answers with the fields and a new body each time.
func serving(fields ...string) http.HandlerFunc {
	var count atomic.Int64
	return func(w http.ResponseWriter, _ *http.Request) {
		for i := 0; i < len(fields); i += 2 {
			w.Header().Add(fields[i], fields[i+1])
		}
		fmt.Fprintf(w, "answer %d", count.Add(1))
	}
}

const fresh = "max-age=60"

// TestWhoSharesAnAnswer asks twice and says whether the second request gets what
// was stored for the first.
func TestWhoSharesAnAnswer(t *testing.T) {
	type request []string // target, then fields
	for name, c := range map[string]struct {
		config        cache.Config
		answer        []string
		first, second request
		hit           bool
	}{
		"the same":                   {answer: []string{"Cache-Control", fresh}, first: request{"/"}, second: request{"/"}, hit: true},
		"no freshness":               {answer: nil, first: request{"/"}, second: request{"/"}},
		"freshness of the route":     {config: cache.Config{DefaultTTL: time.Minute}, first: request{"/"}, second: request{"/"}, hit: true},
		"no-store (CCH-06)":          {config: cache.Config{DefaultTTL: time.Minute}, answer: []string{"Cache-Control", "no-store"}, first: request{"/"}, second: request{"/"}},
		"private":                    {answer: []string{"Cache-Control", "private, " + fresh}, first: request{"/", "X-Test-Caller", "a"}, second: request{"/", "X-Test-Caller", "a"}},
		"a cookie is set (CCH-05)":   {answer: []string{"Cache-Control", "public, " + fresh, "Set-Cookie", "a=b"}, first: request{"/"}, second: request{"/"}},
		"other query (CCH-03)":       {answer: []string{"Cache-Control", fresh}, first: request{"/?a=1"}, second: request{"/?a=2"}},
		"no query and an empty one":  {answer: []string{"Cache-Control", fresh}, first: request{"/"}, second: request{"/?"}},
		"other path":                 {answer: []string{"Cache-Control", fresh}, first: request{"/a"}, second: request{"/b"}},
		"other spelling of the path": {answer: []string{"Cache-Control", fresh}, first: request{"/a%20b"}, second: request{"/a%2520b"}},
		"other host (CCH-08)":        {answer: []string{"Cache-Control", fresh}, first: request{"/", "Host", "a.example"}, second: request{"/", "Host", "b.example"}},
		"other port in Host":         {answer: []string{"Cache-Control", fresh}, first: request{"/", "Host", "a.example:81"}, second: request{"/", "Host", "a.example"}},

		"same key":                   {answer: []string{"Cache-Control", fresh}, first: request{"/", "X-Test-Caller", "a"}, second: request{"/", "X-Test-Caller", "a"}, hit: true},
		"other key (CCH-01)":         {answer: []string{"Cache-Control", "public, " + fresh}, first: request{"/", "X-Test-Caller", "a"}, second: request{"/", "X-Test-Caller", "b"}},
		"other session":              {answer: []string{"Cache-Control", "public, " + fresh}, first: request{"/", "X-Test-Caller", "s1"}, second: request{"/", "X-Test-Caller", "s2"}},
		"same key with another role": {answer: []string{"Cache-Control", "public, " + fresh}, first: request{"/", "X-Test-Caller", "a-admin"}, second: request{"/", "X-Test-Caller", "a"}},
		"same key in an app":         {answer: []string{"Cache-Control", "public, " + fresh}, first: request{"/", "X-Test-Caller", "a-app"}, second: request{"/", "X-Test-Caller", "a"}},
		"same key with a scope more": {answer: []string{"Cache-Control", "public, " + fresh}, first: request{"/", "X-Test-Caller", "a-scope"}, second: request{"/", "X-Test-Caller", "a"}},
		"anonymous after a key":      {answer: []string{"Cache-Control", "public, " + fresh}, first: request{"/", "X-Test-Caller", "a"}, second: request{"/"}},

		"public route, and the answer does not say so": {config: cache.Config{Public: true}, answer: []string{"Cache-Control", fresh},
			first: request{"/", "X-Test-Caller", "a"}, second: request{"/", "X-Test-Caller", "b"}},
		"public route, with the time of the route only": {config: cache.Config{Public: true, DefaultTTL: time.Minute},
			first: request{"/", "X-Test-Caller", "a"}, second: request{"/", "X-Test-Caller", "b"}},
		"public route, must-revalidate": {config: cache.Config{Public: true}, answer: []string{"Cache-Control", "must-revalidate, " + fresh},
			first: request{"/", "X-Test-Caller", "a"}, second: request{"/", "X-Test-Caller", "b"}},
		"public route and answer": {config: cache.Config{Public: true}, answer: []string{"Cache-Control", "public, " + fresh},
			first: request{"/", "X-Test-Caller", "a"}, second: request{"/", "X-Test-Caller", "b"}, hit: true},
		"public route and s-maxage": {config: cache.Config{Public: true}, answer: []string{"Cache-Control", "s-maxage=60"},
			first: request{"/", "X-Test-Caller", "a"}, second: request{"/"}, hit: true},
		"public route, what a stranger was answered is not for a caller": {config: cache.Config{Public: true}, answer: []string{"Cache-Control", fresh},
			first: request{"/"}, second: request{"/", "X-Test-Caller", "a"}},
		"public route, the answer goes by the caller": {config: cache.Config{Public: true}, answer: []string{"Cache-Control", "public, " + fresh, "Vary", "X-Consumer"},
			first: request{"/", "X-Test-Caller", "a"}, second: request{"/", "X-Test-Caller", "b"}},

		"Authorization of the service": {answer: []string{"Cache-Control", fresh}, first: request{"/", "Authorization", "Basic YQ=="}, second: request{"/", "Authorization", "Basic YQ=="}},
		"Authorization, then none":     {answer: []string{"Cache-Control", fresh}, first: request{"/", "Authorization", "Basic YQ=="}, second: request{"/"}},
		"none, then Authorization":     {answer: []string{"Cache-Control", fresh}, first: request{"/"}, second: request{"/", "Authorization", "Basic YQ=="}},
		"Authorization and public":     {answer: []string{"Cache-Control", "public, " + fresh}, first: request{"/", "Authorization", "Basic YQ=="}, second: request{"/"}, hit: true},
		"cookie, then none":            {answer: []string{"Cache-Control", fresh}, first: request{"/", "Cookie", "session=1"}, second: request{"/"}},
		"none, then cookie":            {answer: []string{"Cache-Control", fresh}, first: request{"/"}, second: request{"/", "Cookie", "session=1"}},
		"cookies and public":           {answer: []string{"Cache-Control", "public, " + fresh}, first: request{"/", "Cookie", "session=1"}, second: request{"/", "Cookie", "session=2"}, hit: true},

		"Vary, same":            {answer: []string{"Cache-Control", fresh, "Vary", "Accept, X-B"}, first: request{"/", "Accept", "a, b"}, second: request{"/", "Accept", "a,b"}, hit: true},
		"Vary, other":           {answer: []string{"Cache-Control", fresh, "Vary", "Accept, X-B"}, first: request{"/", "Accept", "a"}, second: request{"/", "Accept", "b"}},
		"Vary, missing":         {answer: []string{"Cache-Control", fresh, "Vary", "X-B"}, first: request{"/", "X-B", ""}, second: request{"/"}},
		"Vary, star":            {answer: []string{"Cache-Control", fresh, "Vary", "*"}, first: request{"/"}, second: request{"/"}},
		"Vary, by what we set":  {answer: []string{"Cache-Control", fresh, "Vary", "X-Forwarded-For"}, first: request{"/"}, second: request{"/"}},
		"coded without Vary":    {answer: []string{"Cache-Control", fresh, "Content-Encoding", "br"}, first: request{"/", "Accept-Encoding", "br"}, second: request{"/", "Accept-Encoding", "gzip"}},
		"field of the route":    {config: cache.Config{VaryByHeaders: []string{"x-tenant"}}, answer: []string{"Cache-Control", fresh}, first: request{"/", "X-Tenant", "1"}, second: request{"/", "X-Tenant", "2"}},
		"field of the route, 2": {config: cache.Config{VaryByHeaders: []string{"x-tenant"}}, answer: []string{"Cache-Control", fresh}, first: request{"/", "X-Tenant", "1"}, second: request{"/", "X-Tenant", "1"}, hit: true},

		"request no-store":     {answer: []string{"Cache-Control", fresh}, first: request{"/", "Cache-Control", "no-store"}, second: request{"/"}},
		"request no-cache":     {answer: []string{"Cache-Control", fresh}, first: request{"/"}, second: request{"/", "Cache-Control", "no-cache"}},
		"request Pragma":       {answer: []string{"Cache-Control", fresh}, first: request{"/"}, second: request{"/", "Pragma", "no-cache"}},
		"request max-age=0":    {answer: []string{"Cache-Control", fresh}, first: request{"/"}, second: request{"/", "Cache-Control", "max-age=0"}},
		"request min-fresh":    {answer: []string{"Cache-Control", fresh}, first: request{"/"}, second: request{"/", "Cache-Control", "min-fresh=100"}},
		"event stream":         {answer: []string{"Cache-Control", fresh, "Content-Type", "text/event-stream"}, first: request{"/"}, second: request{"/"}},
		"a request for a part": {answer: []string{"Cache-Control", fresh}, first: request{"/", "Range", "bytes=0-1"}, second: request{"/"}},
	} {
		t.Run(name, func(t *testing.T) {
			s := open(t, c.config, serving(c.answer...))
			one := s.get(c.first[0], c.first[1:]...)
			two := s.get(c.second[0], c.second[1:]...)
			if two.hit() != c.hit || (one.body == two.body) != c.hit || one.hit() {
				t.Errorf("first %q %q, second %q %q; want a hit: %t", one.body, one.Header["Cache-Status"], two.body, two.Header["Cache-Status"], c.hit)
			}
		})
	}
}

func TestPostIsNeitherStoredNorAnsweredFromTheCache(t *testing.T) { // CCH-10
	s := open(t, cache.Config{}, serving("Cache-Control", "public, "+fresh))
	s.do("POST", "/", "x")
	s.get("/")
	s.do("POST", "/", "x")
	s.do("GET", "/", "a body")
	if n := s.asked.Load(); n != 4 {
		t.Errorf("the service was asked %d times, want 4", n)
	}
}

func TestWhatChangesAResourceIsForgottenForAllCallers(t *testing.T) {
	status := http.StatusNoContent
	s := open(t, cache.Config{}, func(w http.ResponseWriter, r *http.Request) {
		if r.Method != "GET" {
			w.Header().Set("Location", "/other")
			w.Header().Set("Content-Location", "http://evil.example/third")
			w.WriteHeader(status)
			return
		}
		w.Header().Set("Cache-Control", fresh)
		fmt.Fprint(w, "x")
	})
	for _, c := range []struct {
		method string
		status int
		gone   bool
	}{
		{"POST", 204, true}, {"PUT", 201, true}, {"PATCH", 303, true}, {"DELETE", 204, true},
		{"POST", 400, false}, {"POST", 500, false}, {"OPTIONS", 204, false},
	} {
		status = c.status
		s.get("/", "X-Test-Caller", "a")
		s.get("/?q", "X-Test-Caller", "b")
		s.get("/other")
		s.get("/third")
		s.do(c.method, "/", "", "X-Test-Caller", "a")
		got := []bool{s.get("/", "X-Test-Caller", "a").hit(), s.get("/?q", "X-Test-Caller", "b").hit(), s.get("/other").hit(), s.get("/third").hit()}
		if want := []bool{!c.gone, !c.gone, !c.gone, true}; !slices.Equal(got, want) {
			t.Errorf("%s with %d: still there %v, want %v", c.method, c.status, got, want)
		}
	}
}

func TestPurgesTakeAwayAndSurrogateKeysStayInside(t *testing.T) {
	s := open(t, cache.Config{Route: "orders"}, serving("Cache-Control", fresh, "Surrogate-Key", "order-42 all", "Cache-Tag", "tag"))
	for _, p := range []httpcache.Purge{
		{Kind: httpcache.PurgeRoute, Value: "orders"}, {Kind: httpcache.PurgePath, Value: "/orders"},
		{Kind: httpcache.PurgePath, Value: "/orders/42", Host: "api.example"},
		{Kind: httpcache.PurgeTag, Value: "order-42"}, {Kind: httpcache.PurgeTag, Value: "tag"},
	} {
		s.get("/orders/42", "Host", "api.example")
		before := s.get("/orders/42", "Host", "api.example")
		if !before.hit() || before.Header["Surrogate-Key"] != nil || before.Header["Cache-Tag"] != nil {
			t.Errorf("before: %v", before.Header)
		}
		if err := s.store.Purge(t.Context(), p); err != nil {
			t.Fatal(err)
		}
		if s.get("/orders/42", "Host", "api.example").hit() {
			t.Errorf("%s leaves it", p)
		}
	}
}

// TestWhatIsForOneCallerIsNotStored holds for what outer policies tell the client
// and for what the service may say of the same.
func TestWhatIsForOneCallerIsNotStored(t *testing.T) {
	s := open(t, cache.Config{}, serving("Cache-Control", fresh, "X-Ratelimit-Remaining", "service", "X-Request-Id", "service",
		"Connection", "X-Hop", "X-Hop", "1", "X-Own", "1"))
	s.get("/")
	got := s.get("/")
	if !got.hit() || !slices.Equal(got.Header["X-Request-Id"], []string{"2"}) || !slices.Equal(got.Header["X-Ratelimit-Remaining"], []string{"2"}) ||
		got.Header["X-Hop"] != nil || got.Header.Get("X-Own") != "1" {
		t.Errorf("got %v", got.Header)
	}
}

func TestHitsSayHowOldTheyAreAndWhereTheyComeFrom(t *testing.T) {
	s := open(t, cache.Config{}, serving("Cache-Control", fresh, "Age", "10", "Cache-Status", "origin; hit"))
	first := s.get("/")
	s.clock.advance(20 * time.Second)
	second := s.get("/")
	want := []string{"origin; hit", "keywarden; hit; ttl=30"}
	if age := second.Header["Age"]; !slices.Equal(age, []string{"30"}) || !slices.Equal(second.Header["Cache-Status"], want) {
		t.Errorf("Age %q, Cache-Status %q, want %q", age, second.Header["Cache-Status"], want)
	}
	if got := first.Header["Cache-Status"]; !slices.Equal(got, []string{"origin; hit", "keywarden; fwd=uri-miss; stored"}) {
		t.Errorf("the miss says %q", got)
	}
	if second.Header.Get("Date") != first.Header.Get("Date") {
		t.Error("the date has changed")
	}
	for reason, fields := range map[string][]string{
		"method": {"POST", "/"}, "bypass": {"GET", "/", "Cache-Control", "no-store"}, "request": {"GET", "/", "Cache-Control", "no-cache"},
	} {
		s.get("/")
		got := s.do(fields[0], fields[1], "", fields[2:]...).Header["Cache-Status"]
		if len(got) != 2 || !strings.HasPrefix(got[1], "keywarden; fwd="+reason) {
			t.Errorf("%v says %q", fields, got)
		}
	}
}

func TestHeadAndConditionsAndPartsAreAnsweredFromWhatIsStored(t *testing.T) {
	const date = "Mon, 02 Jan 2023 15:04:05 GMT"
	s := open(t, cache.Config{}, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Cache-Control", fresh)
		w.Header().Set("ETag", `"v1"`)
		w.Header().Set("Last-Modified", date)
		fmt.Fprint(w, "0123456789")
	})
	s.get("/")
	for name, c := range map[string]struct {
		method string
		fields []string
		status int
		body   string
		hit    bool
	}{
		"whole":                   {"GET", nil, 200, "0123456789", true},
		"head":                    {"HEAD", nil, 200, "", true},
		"tag":                     {"GET", []string{"If-None-Match", `W/"v0", W/"v1"`}, 304, "", true},
		"other tag":               {"GET", []string{"If-None-Match", `"v0"`, "If-Modified-Since", date}, 200, "0123456789", true},
		"date":                    {"GET", []string{"If-Modified-Since", date}, 304, "", true},
		"older date":              {"GET", []string{"If-Modified-Since", "Mon, 02 Jan 2023 15:04:04 GMT"}, 200, "0123456789", true},
		"part":                    {"GET", []string{"Range", "bytes=2-4"}, 206, "234", true},
		"end":                     {"GET", []string{"Range", "bytes=-3"}, 206, "789", true},
		"from":                    {"GET", []string{"Range", "bytes=8-"}, 206, "89", true},
		"part of this version":    {"GET", []string{"Range", "bytes=0-0", "If-Range", `"v1"`}, 206, "0", true},
		"part of another version": {"GET", []string{"Range", "bytes=0-0", "If-Range", `"v0"`}, 200, "0123456789", false},
		"two parts":               {"GET", []string{"Range", "bytes=0-1,3-4"}, 200, "0123456789", false},
		"a part beyond":           {"GET", []string{"Range", "bytes=10-"}, 200, "0123456789", false},
	} {
		got := s.do(c.method, "/", "", c.fields...)
		if got.StatusCode != c.status || got.body != c.body || got.hit() != c.hit {
			t.Errorf("%s: %d %q %q", name, got.StatusCode, got.body, got.Header["Cache-Status"])
		}
		if c.status == 206 && (got.Header.Get("Content-Range") == "" || got.ContentLength != int64(len(c.body))) {
			t.Errorf("%s: %v", name, got.Header)
		}
		if c.method == "HEAD" && got.ContentLength != 10 {
			t.Errorf("HEAD has the length %d", got.ContentLength)
		}
		if c.status == 304 && (got.Header.Get("ETag") != `"v1"` || got.Header.Get("Content-Type") != "") {
			t.Errorf("%s: %v", name, got.Header)
		}
	}
}

func TestStaleAnswersAreValidated(t *testing.T) {
	version := atomic.Pointer[string]{}
	v1, v2 := `"v1"`, `"v2"`
	version.Store(&v1)
	s := open(t, cache.Config{}, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Cache-Control", fresh)
		w.Header().Set("ETag", *version.Load())
		w.Header().Set("X-Asked", fmt.Sprint(r.Header["If-None-Match"]))
		if r.Header.Get("If-None-Match") == *version.Load() {
			w.WriteHeader(http.StatusNotModified)
			return
		}
		fmt.Fprint(w, *version.Load())
	})
	s.get("/")
	s.clock.advance(2 * time.Minute)
	got := s.get("/", "If-None-Match", `"own"`)
	if got.StatusCode != 200 || got.body != v1 || got.Header.Get("X-Asked") != `["v1"]` || !strings.Contains(got.Header.Get("Cache-Status"), "fwd=stale; fwd-status=304") {
		t.Errorf("confirmed: %d %q %v", got.StatusCode, got.body, got.Header)
	}
	if got := s.get("/"); !got.hit() || got.Header.Get("Age") != "0" {
		t.Errorf("after the confirmation: %v", got.Header)
	}
	version.Store(&v2)
	s.clock.advance(2 * time.Minute)
	if got := s.get("/"); got.body != v2 {
		t.Errorf("changed: %q", got.body)
	}
	if got := s.get("/"); got.body != v2 || !got.hit() {
		t.Errorf("after the change: %q", got.body)
	}
	if n := s.asked.Load(); n != 3 {
		t.Errorf("the service was asked %d times, want 3", n)
	}
}

// TestAnAnswerThatIsNotStoredReplacesWhatWas holds even while a stale one might be
// given.
func TestAnAnswerThatIsNotStoredReplacesWhatWas(t *testing.T) {
	var private atomic.Bool
	s := open(t, cache.Config{StaleIfError: time.Hour}, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Cache-Control", fresh)
		if private.Load() {
			w.Header().Set("Cache-Control", "no-store")
		}
		fmt.Fprint(w, private.Load())
	})
	s.get("/")
	private.Store(true)
	s.clock.advance(2 * time.Minute)
	s.get("/")
	if got := s.get("/", "Cache-Control", "only-if-cached, max-stale"); got.StatusCode != 504 {
		t.Errorf("%d %q", got.StatusCode, got.body)
	}
}

// TestAServiceThatHasNoAnswerForTheMomentReplacesNothing says what becomes of a
// stored answer when validating it ends in another way than foreseen.
func TestAServiceThatHasNoAnswerForTheMomentReplacesNothing(t *testing.T) {
	for status, stays := range map[int]bool{401: false, 403: false, 404: false, 408: true, 429: true, 500: true, 503: true} {
		var now atomic.Int64
		s := open(t, cache.Config{}, func(w http.ResponseWriter, _ *http.Request) {
			if status := now.Load(); status > 0 {
				w.WriteHeader(int(status))
				return
			}
			w.Header().Set("Cache-Control", fresh)
			w.Header().Set("ETag", `"v"`)
			fmt.Fprint(w, "x")
		})
		s.get("/")
		now.Store(int64(status))
		s.clock.advance(2 * time.Minute)
		s.get("/")
		if got := s.get("/", "Cache-Control", "only-if-cached, max-stale"); (got.StatusCode == 200) != stays {
			t.Errorf("after %d the answer is there: %t, want %t", status, !stays, stays)
		}
	}
}

func TestAStoreAcrossANetworkIsFilledAfterTheAnswer(t *testing.T) {
	store := &slow{Store: memory(t), hold: make(chan struct{})}
	shared, err := cache.Open(cache.Options{Store: store, Now: time.Now, MaxBackground: 1, Remote: true})
	if err != nil {
		t.Fatal(err)
	}
	step, err := cache.New(cache.Config{Route: "r", MaxObject: 1000}, shared)
	if err != nil {
		t.Fatal(err)
	}
	h := step.Apply(serving("Cache-Control", fresh))
	get := func() *httptest.ResponseRecorder {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest("GET", "/", nil))
		return w
	}
	if got := get().Body.String(); got != "answer 1" { // and the store has not even begun
		t.Errorf("got %q", got)
	}
	close(store.hold)
	shared.Close() // waits for what is stored
	if got := get(); got.Body.String() != "answer 1" || !strings.Contains(got.Header().Get("Cache-Status"), "hit") {
		t.Errorf("got %q %v", got.Body, got.Header())
	}
}

// slow is a store that waits before it keeps something.
type slow struct {
	httpcache.Store
	hold chan struct{}
}

func (s *slow) Put(ctx context.Context, key httpcache.Key, o *httpcache.Object, keep time.Duration, since httpcache.Mark) {
	<-s.hold
	s.Store.Put(ctx, key, o, keep, since)
}

func TestOnlyIfCachedIsNeverForwarded(t *testing.T) {
	s := open(t, cache.Config{}, serving("Cache-Control", fresh))
	if got := s.get("/", "Cache-Control", "only-if-cached"); got.StatusCode != 504 || !strings.Contains(got.body, "gateway.not_cached") || s.asked.Load() != 0 {
		t.Errorf("%d %q, the service was asked %d times", got.StatusCode, got.body, s.asked.Load())
	}
	s.get("/")
	if got := s.get("/", "Cache-Control", "only-if-cached"); got.StatusCode != 200 || !got.hit() {
		t.Errorf("%d %q", got.StatusCode, got.body)
	}
}

// eventually polls until it holds.
func eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !holds(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal(what)
		}
	}
}

func TestStaleAnswersAreGivenWhileOneFreshIsFetched(t *testing.T) {
	for name, config := range map[string]struct {
		cache.Config
		control string
	}{
		"as the answer says": {cache.Config{}, "max-age=60, stale-while-revalidate=600"},
		"as the route says":  {cache.Config{StaleWhileRevalidate: 10 * time.Minute}, fresh},
	} {
		t.Run(name, func(t *testing.T) {
			hold := make(chan struct{})
			var count atomic.Int64
			s := open(t, config.Config, func(w http.ResponseWriter, r *http.Request) {
				n := count.Add(1)
				if n > 1 {
					<-hold
				}
				w.Header().Set("Cache-Control", config.control)
				fmt.Fprint(w, n)
			})
			s.get("/", "X-Test-Caller", "a")
			s.clock.advance(2 * time.Minute)
			for range 20 {
				if got := s.get("/", "X-Test-Caller", "a"); got.body != "1" || !got.hit() {
					t.Fatalf("%q %v", got.body, got.Header)
				}
			}
			close(hold)
			eventually(t, "the fresh answer does not arrive", func() bool { return s.get("/", "X-Test-Caller", "a").body == "2" })
			if n := s.asked.Load(); n != 2 {
				t.Errorf("the service was asked %d times, want 2", n)
			}
		})
	}
}

func TestStaleAnswersAreNotGivenWhereTheServiceForbidsIt(t *testing.T) {
	for _, control := range []string{"max-age=60, must-revalidate", "max-age=60, proxy-revalidate", "s-maxage=60", "no-cache, max-age=60"} {
		var down atomic.Bool
		s := open(t, cache.Config{StaleWhileRevalidate: time.Hour, StaleIfError: time.Hour}, func(w http.ResponseWriter, _ *http.Request) {
			if down.Load() {
				panic(http.ErrAbortHandler)
			}
			w.Header().Set("Cache-Control", control)
			w.Header().Set("ETag", `"v"`)
			fmt.Fprint(w, "x")
		})
		s.get("/")
		down.Store(true)
		s.clock.advance(2 * time.Minute)
		if got := s.get("/", "Cache-Control", "max-stale"); got.StatusCode != 502 {
			t.Errorf("%s: %d %q", control, got.StatusCode, got.body)
		}
	}
}

func TestCloseEndsWhatIsFetchedInTheBackground(t *testing.T) {
	began := make(chan struct{}, 1)
	var second atomic.Bool
	s := open(t, cache.Config{StaleWhileRevalidate: time.Hour}, func(w http.ResponseWriter, r *http.Request) {
		if second.Swap(true) {
			began <- struct{}{}
			<-r.Context().Done()
			return
		}
		w.Header().Set("Cache-Control", fresh)
		fmt.Fprint(w, "x")
	})
	s.get("/")
	s.clock.advance(2 * time.Minute)
	s.get("/")
	<-began
	s.shared.Close() // it would hang
	if got := s.get("/"); got.body != "x" {
		t.Errorf("after the end: %q", got.body)
	}
}

func TestFailuresAreAnsweredWithWhatIsStored(t *testing.T) {
	for name, fail := range map[string]http.HandlerFunc{
		"503":         func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "secret", http.StatusServiceUnavailable) },
		"no answer":   func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) },
		"500 at once": func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(500) },
	} {
		t.Run(name, func(t *testing.T) {
			var down atomic.Bool
			s := open(t, cache.Config{}, func(w http.ResponseWriter, r *http.Request) {
				if down.Load() {
					fail(w, r)
					return
				}
				w.Header().Set("Cache-Control", "max-age=60, stale-if-error=600")
				fmt.Fprint(w, "good")
			})
			s.get("/")
			down.Store(true)
			s.clock.advance(2 * time.Minute)
			if got := s.get("/"); got.StatusCode != 200 || got.body != "good" || got.Header.Get("Age") != "120" || !strings.Contains(got.Header.Get("Cache-Status"), "stale-if-error") {
				t.Errorf("%d %q %v", got.StatusCode, got.body, got.Header)
			}
			s.clock.advance(10 * time.Minute)
			if got := s.get("/"); got.StatusCode < 500 {
				t.Errorf("after that time: %d %q", got.StatusCode, got.body)
			}
		})
	}
}

func TestManyWhoAskForTheSameAreOneRequest(t *testing.T) {
	const clients = 50
	hold := make(chan struct{})
	s := open(t, cache.Config{}, func(w http.ResponseWriter, _ *http.Request) {
		<-hold
		w.Header().Set("Cache-Control", fresh)
		fmt.Fprint(w, "x")
	})
	var group sync.WaitGroup
	for range clients {
		group.Go(func() {
			if got := s.get("/"); got.body != "x" {
				t.Errorf("%d %q", got.StatusCode, got.body)
			}
		})
	}
	eventually(t, "nobody asks the service", func() bool { return s.asked.Load() > 0 })
	close(hold)
	group.Wait()
	if n := s.asked.Load(); n != 1 {
		t.Errorf("the service was asked %d times, want once", n)
	}
}

func TestOthersAreNotServedBySomebodyElsesRequest(t *testing.T) {
	hold := make(chan struct{})
	s := open(t, cache.Config{}, func(w http.ResponseWriter, r *http.Request) {
		<-hold
		w.Header().Set("Cache-Control", fresh)
		w.Header().Set("Vary", "X-Who")
		fmt.Fprint(w, r.Header.Get("X-Who"))
	})
	var group sync.WaitGroup
	for i := range 20 {
		group.Go(func() {
			who := fmt.Sprint(i % 4)
			if got := s.get("/", "X-Who", who); got.body != who {
				t.Errorf("%s got the answer of %q", who, got.body)
			}
		})
	}
	eventually(t, "nobody asks the service", func() bool { return s.asked.Load() > 0 })
	close(hold)
	group.Wait()
}

// TestWhatIsNotStoredIsNotWaitedForTwice holds that requests for answers that are
// for one client alone run at the same time.
func TestWhatIsNotStoredIsNotWaitedForTwice(t *testing.T) {
	const clients = 10
	var inside atomic.Int64
	var once atomic.Bool
	all := make(chan struct{})
	s := open(t, cache.Config{}, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Cache-Control", "no-store")
		if !once.Swap(true) {
			return
		}
		if inside.Add(1) == clients {
			close(all)
		}
		<-all // each waits until all are here
	})
	s.get("/")
	var group sync.WaitGroup
	for range clients {
		group.Go(func() { s.get("/") })
	}
	group.Wait()
}

func TestALeaderThatLeavesDoesNotFailTheOthers(t *testing.T) {
	hold := make(chan struct{})
	var count atomic.Int64
	s := open(t, cache.Config{}, func(w http.ResponseWriter, r *http.Request) {
		if count.Add(1) == 1 {
			<-r.Context().Done()
			return
		}
		<-hold
		w.Header().Set("Cache-Control", fresh)
		fmt.Fprint(w, "x")
	})
	ctx, leave := context.WithCancel(t.Context())
	leader := make(chan error, 1)
	go func() {
		r, _ := http.NewRequestWithContext(ctx, "GET", s.gateway.URL+"/", nil)
		resp, err := (&http.Transport{DisableKeepAlives: true}).RoundTrip(r)
		if err == nil {
			resp.Body.Close()
		}
		leader <- err
	}()
	eventually(t, "the leader does not ask", func() bool { return s.asked.Load() == 1 })
	var group sync.WaitGroup
	for range 10 {
		group.Go(func() {
			if got := s.get("/"); got.StatusCode != 200 || got.body != "x" {
				t.Errorf("%d %q", got.StatusCode, got.body)
			}
		})
	}
	leave()
	if err := <-leader; !errors.Is(err, context.Canceled) {
		t.Errorf("the leader got %v", err)
	}
	eventually(t, "nobody takes over", func() bool { return s.asked.Load() > 1 })
	close(hold)
	group.Wait()
}

func TestALeaderWithASlowClientDoesNotHoldTheOthersUp(t *testing.T) {
	body := strings.Repeat("x", 16<<20) // more than the kernel keeps for a connection
	s := open(t, cache.Config{MaxObject: 64 << 20}, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Cache-Control", fresh)
		_, _ = io.WriteString(w, body)
	})
	conn, err := net.Dial("tcp", s.gateway.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.(*net.TCPConn).SetReadBuffer(4096)
	host := strings.TrimPrefix(s.gateway.URL, "http://")
	fmt.Fprintf(conn, "GET / HTTP/1.1\r\nHost: %s\r\n\r\n", host) // and nothing is read
	eventually(t, "the slow client does not ask", func() bool { return s.asked.Load() == 1 })
	if got := s.get("/"); got.body != body {
		t.Errorf("%d, %d bytes", got.StatusCode, len(got.body))
	}
}

func TestBrokenAndTooLargeAnswersAreNotStored(t *testing.T) {
	for name, handler := range map[string]http.HandlerFunc{
		"broken off": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Cache-Control", fresh)
			fmt.Fprint(w, "half")
			_ = http.NewResponseController(w).Flush()
			panic(http.ErrAbortHandler)
		},
		"shorter than it says": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Cache-Control", fresh)
			w.Header().Set("Content-Length", "100")
			fmt.Fprint(w, "half")
		},
		"too large": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Cache-Control", fresh)
			w.Header().Set("Content-Length", "2000")
			_, _ = w.Write(make([]byte, 2000))
		},
		"too large, of unknown length": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Cache-Control", fresh)
			for range 20 {
				_, _ = w.Write(make([]byte, 100))
				_ = http.NewResponseController(w).Flush()
			}
		},
		"with trailers": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Cache-Control", fresh)
			w.Header().Set("Trailer", "X-Sum")
			fmt.Fprint(w, "x")
			w.Header().Set("X-Sum", "1")
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := open(t, cache.Config{MaxObject: 1000}, handler)
			for range 2 {
				resp, err := s.gateway.Client().Get(s.gateway.URL)
				if err != nil {
					continue
				}
				_, _ = io.Copy(io.Discard, resp.Body)
				resp.Body.Close()
				if name == "with trailers" && resp.Trailer.Get("X-Sum") != "1" {
					t.Errorf("trailers: %v", resp.Trailer)
				}
			}
			if n := s.asked.Load(); n < 2 {
				t.Error("the second answer came from the cache")
			}
		})
	}
}

// TestAnswersThatSomethingWasWrongWithAreNotStored holds where the proxy itself does
// not break the answer off.
func TestAnswersThatSomethingWasWrongWithAreNotStored(t *testing.T) {
	for name, c := range map[string]struct {
		wrong  func(r *http.Request)
		client http.ResponseWriter
		stored bool
	}{
		"nothing":        {func(*http.Request) {}, httptest.NewRecorder(), true},
		"an error":       {func(r *http.Request) { reqctx.From(r.Context()).Err = io.ErrUnexpectedEOF }, httptest.NewRecorder(), false},
		"a refusal":      {func(r *http.Request) { reqctx.From(r.Context()).Code = "gateway.x" }, httptest.NewRecorder(), false},
		"no client more": {func(*http.Request) {}, gone{httptest.NewRecorder()}, false},
	} {
		t.Run(name, func(t *testing.T) {
			asked := 0
			h := chain(t, cache.Config{Route: "r", MaxObject: 1000}, memory(t), http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				asked++
				w.Header().Set("Cache-Control", fresh)
				fmt.Fprint(w, "x")
				c.wrong(r)
			}))
			for _, w := range []http.ResponseWriter{c.client, httptest.NewRecorder()} {
				r := httptest.NewRequest("GET", "/", nil)
				h.ServeHTTP(w, r.WithContext(reqctx.With(r.Context(), &reqctx.Info{})))
			}
			if (asked == 1) != c.stored {
				t.Errorf("stored: %t", asked == 1)
			}
		})
	}
}

// gone is a client that has left.
type gone struct{ http.ResponseWriter }

func (gone) Write([]byte) (int, error) { return 0, io.ErrClosedPipe }

func TestStreamsAndInterimAnswersPass(t *testing.T) {
	next := make(chan struct{})
	s := open(t, cache.Config{}, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Link", "</a.css>")
		w.WriteHeader(http.StatusEarlyHints)
		w.Header().Set("Cache-Control", fresh)
		fmt.Fprint(w, "one\n")
		_ = http.NewResponseController(w).Flush()
		<-next
		fmt.Fprint(w, "two\n")
	})
	var hints []string
	ctx := httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{Got1xxResponse: func(code int, h textproto.MIMEHeader) error {
		hints = append(hints, fmt.Sprint(code, h.Get("Link")))
		return nil
	}})
	r, err := http.NewRequestWithContext(ctx, "GET", s.gateway.URL, nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := s.gateway.Client().Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	lines := bufio.NewReader(resp.Body)
	if line, err := lines.ReadString('\n'); err != nil || line != "one\n" { // before the service has gone on
		t.Fatalf("%q, %v", line, err)
	}
	close(next)
	if rest, err := io.ReadAll(lines); err != nil || string(rest) != "two\n" {
		t.Errorf("%q, %v", rest, err)
	}
	if !slices.Equal(hints, []string{"103</a.css>"}) || resp.Header.Get("X-Request-Id") != "1" {
		t.Errorf("hints %q, header %v", hints, resp.Header)
	}
	if got := s.get("/"); got.body != "one\ntwo\n" && !got.hit() {
		t.Errorf("stored: %q", got.body)
	}
}

func TestUpgradesPass(t *testing.T) {
	s := open(t, cache.Config{}, func(w http.ResponseWriter, _ *http.Request) {
		conn, rw, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer conn.Close()
		fmt.Fprint(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
		line, _ := rw.ReadString('\n')
		fmt.Fprint(conn, "echo "+line)
	})
	conn, err := net.Dial("tcp", s.gateway.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
	fmt.Fprint(conn, "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
	in := bufio.NewReader(conn)
	if resp, err := http.ReadResponse(in, nil); err != nil || resp.StatusCode != 101 {
		t.Fatal(resp, err)
	}
	fmt.Fprint(conn, "hello\n")
	if line, err := in.ReadString('\n'); err != nil || line != "echo hello\n" {
		t.Errorf("%q, %v", line, err)
	}
}

func TestOutcomesAreObserved(t *testing.T) {
	s := open(t, cache.Config{}, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Cache-Control", fresh)
		w.Header().Set("ETag", `"v"`)
		if r.Header.Get("If-None-Match") != "" {
			w.WriteHeader(304)
		}
	})
	s.get("/")
	s.get("/")
	s.clock.advance(2 * time.Minute)
	s.get("/", "Cache-Control", "max-stale")
	s.get("/")
	s.do("POST", "/", "")
	want := []cache.Outcome{cache.Miss, cache.Hit, cache.Stale, cache.Revalidated, cache.Bypass}
	if diff := cmp.Diff(want, s.outcomes); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestABadConfigurationIsRefused(t *testing.T) {
	shared, err := cache.Open(cache.Options{Store: memory(t), Now: time.Now, MaxBackground: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer shared.Close()
	if _, err := cache.New(cache.Config{Route: "r", MaxObject: 1}, shared); err != nil {
		t.Error(err)
	}
	if _, err := cache.New(cache.Config{Route: "r", MaxObject: 1}, nil); err == nil {
		t.Error("a step without a cache was made")
	}
	for name, c := range map[string]cache.Config{
		"no route":    {MaxObject: 1},
		"no size":     {Route: "r"},
		"past":        {Route: "r", MaxObject: 1, DefaultTTL: -1},
		"no field":    {Route: "r", MaxObject: 1, VaryByHeaders: []string{"a b"}},
		"no caching?": {Route: "r", MaxObject: -1},
	} {
		if _, err := cache.New(c, shared); err == nil {
			t.Errorf("%s: a step was made", name)
		}
	}
	if _, err := cache.Open(cache.Options{}); err == nil {
		t.Error("a cache without a store was opened")
	}
}

func TestAnOfferToUpgradeDoesNotKeepWhatChangedInTheCache(t *testing.T) {
	s := open(t, cache.Config{}, serving("Cache-Control", fresh))
	for _, offer := range []string{"h2c", "websocket"} {
		s.get("/")
		if !s.get("/").hit() {
			t.Fatal("nothing is stored")
		}
		s.do("POST", "/", "", "Connection", "Upgrade", "Upgrade", offer)
		if s.get("/").hit() {
			t.Errorf("a POST that offers %s has changed the resource, and the answer of before is given", offer)
		}
	}
	s.get("/")
	if !s.get("/", "Connection", "Upgrade, HTTP2-Settings", "Upgrade", "h2c").hit() {
		t.Error("an offer that the proxy never passes on goes past the cache")
	}
}

func TestAFaultInTheBackgroundStaysThere(t *testing.T) {
	var clock clock
	faults := make(chan any, 1)
	shared, err := cache.Open(cache.Options{
		Store: memory(t), Now: clock.now, MaxBackground: 1, Panicked: func(_ string, fault any, _ []byte) { faults <- fault },
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(shared.Close)
	step, err := cache.New(cache.Config{Route: "r", MaxObject: 1000, StaleWhileRevalidate: time.Hour}, shared)
	if err != nil {
		t.Fatal(err)
	}
	var second atomic.Bool
	h := step.Apply(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if second.Swap(true) {
			panic("a fault")
		}
		w.Header().Set("Cache-Control", fresh)
		fmt.Fprint(w, "x")
	}))
	for range 2 {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest("GET", "/", nil))
		if w.Body.String() != "x" {
			t.Errorf("got %q", w.Body)
		}
		clock.advance(2 * time.Minute)
	}
	select {
	case fault := <-faults:
		if fault != "a fault" {
			t.Errorf("told of %v", fault)
		}
	case <-time.After(10 * time.Second):
		t.Error("nobody is told of the fault")
	}
}

func TestWhatAConfirmationSetsReachesTheClient(t *testing.T) {
	s := open(t, cache.Config{}, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("ETag", `"v"`)
		w.Header().Set("Cache-Control", fresh)
		if r.Header.Get("If-None-Match") != "" {
			w.Header().Set("Set-Cookie", "session=renewed")
			w.WriteHeader(http.StatusNotModified)
			return
		}
		fmt.Fprint(w, "x")
	})
	s.get("/", "X-Test-Caller", "a")
	s.clock.advance(2 * time.Minute)
	got := s.get("/", "X-Test-Caller", "a")
	if got.body != "x" || got.Header.Get("Set-Cookie") != "session=renewed" {
		t.Errorf("%q, cookie %q", got.body, got.Header.Get("Set-Cookie"))
	}
	if got := s.get("/", "X-Test-Caller", "a"); got.Header.Get("Set-Cookie") != "" && got.hit() {
		t.Error("the cookie was stored")
	}
}
