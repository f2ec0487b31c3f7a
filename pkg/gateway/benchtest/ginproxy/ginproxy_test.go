package ginproxy_test

import (
	"bytes"
	"crypto/ed25519"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"

	"github.com/keywarden/keywarden/pkg/gateway/benchtest/ginproxy"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// service remembers the header of the last request.
type service struct {
	*httptest.Server
	last atomic.Pointer[http.Header]
}

func newService(t *testing.T) *service {
	t.Helper()
	s := &service{}
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := r.Header.Clone()
		s.last.Store(&h)
		_, _ = io.WriteString(w, "hello from "+r.URL.Path)
	}))
	t.Cleanup(s.Close)
	return s
}

// start makes a proxy before the service.
func (s *service) start(t *testing.T, o ginproxy.Options) (ask func(header ...string) *http.Response, stop func()) {
	t.Helper()
	target, err := url.Parse(s.URL)
	if err != nil {
		t.Fatal(err)
	}
	o.Target = target
	p, err := ginproxy.New(o)
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(p)
	stop = sync.OnceFunc(func() {
		server.Close()
		if err := p.Close(); err != nil {
			t.Error(err)
		}
		s.CloseClientConnections()
	})
	t.Cleanup(stop)
	return func(header ...string) *http.Response {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, server.URL+"/bench/item?q=1", nil)
		if err != nil {
			t.Fatal(err)
		}
		for i := 0; i < len(header); i += 2 {
			req.Header.Set(header[i], header[i+1])
		}
		resp, err := server.Client().Do(req)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(resp.Body)
		_ = resp.Body.Close()
		if err != nil || resp.StatusCode == http.StatusOK && string(body) != "hello from /bench/item" {
			t.Fatalf("answered %q, %v", body, err)
		}
		return resp
	}, stop
}

func TestOnlyKnownKeysPass(t *testing.T) {
	s := newService(t)
	ask, _ := s.start(t, ginproxy.Options{Keys: []string{"good", "better"}})
	for key, want := range map[string]int{"good": 200, "better": 200, "bad": 401, "": 401} {
		if got := ask("X-API-Key", key).StatusCode; got != want {
			t.Errorf("key %q: status %d, want %d", key, got, want)
		}
	}
}

func TestTheServiceSeesWhoCallsAndNoCredential(t *testing.T) {
	s := newService(t)
	ask, _ := s.start(t, ginproxy.Options{Keys: []string{"good"}})
	resp := ask("X-API-Key", "good", "X-Consumer", "somebody else", "X-Consumer-Admin", "yes", "X-Forwarded-For", "192.0.2.1")
	saw := *s.last.Load()
	for name, want := range map[string]string{
		"X-Api-Key": "", "X-Consumer-Admin": "", "X-Consumer-Kind": "key", "X-Consumer-Role": "user", "X-Forwarded-For": "127.0.0.1",
		"X-Forwarded-Proto": "http", "X-Request-Id": resp.Header.Get("X-Request-Id"),
	} {
		if got := saw.Get(name); got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
	if id := saw.Get("X-Consumer"); id == "" || id == "somebody else" || saw.Get("X-Request-Id") == "" {
		t.Errorf("the service saw %v", saw)
	}
}

func TestOnlyGoodTokensPass(t *testing.T) {
	public, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	_, other, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	token := func(key ed25519.PrivateKey, change func(jwt.MapClaims)) string {
		claims := jwt.MapClaims{
			"iss": ginproxy.Issuer, "aud": ginproxy.Audience, "sub": "user-1", "jti": "1", "role": "user", "exp": time.Now().Add(time.Hour).Unix(),
		}
		change(claims)
		text, err := jwt.NewWithClaims(jwt.SigningMethodEdDSA, claims).SignedString(key)
		if err != nil {
			t.Fatal(err)
		}
		return text
	}
	s := newService(t)
	ask, _ := s.start(t, ginproxy.Options{Token: public})
	for name, c := range map[string]struct {
		token string
		want  int
	}{
		"good":      {token(private, func(jwt.MapClaims) {}), 200},
		"other key": {token(other, func(jwt.MapClaims) {}), 401},
		"expired":   {token(private, func(c jwt.MapClaims) { c["exp"] = time.Now().Add(-time.Hour).Unix() }), 401},
		"endless":   {token(private, func(c jwt.MapClaims) { delete(c, "exp") }), 401},
		"audience":  {token(private, func(c jwt.MapClaims) { c["aud"] = "others" }), 401},
		"issuer":    {token(private, func(c jwt.MapClaims) { c["iss"] = "others" }), 401},
		"none":      {"", 401},
	} {
		if got := ask("Authorization", "Bearer "+c.token).StatusCode; got != c.want {
			t.Errorf("%s: status %d, want %d", name, got, c.want)
		}
	}
	_ = ask("Authorization", "Bearer "+token(private, func(jwt.MapClaims) {}))
	if saw := *s.last.Load(); saw.Get("X-Consumer") != "user-1" || saw.Get("Authorization") != "" {
		t.Errorf("the service saw %v", saw)
	}
}

func TestLimitAndQuotaHold(t *testing.T) {
	s := newService(t)
	ask, _ := s.start(t, ginproxy.Options{Keys: []string{"a", "b"}, Quota: 3})
	for i, want := range []int{200, 200, 200, 429, 429} {
		if got := ask("X-API-Key", "a").StatusCode; got != want {
			t.Errorf("request %d of a quota of 3: status %d", i, got)
		}
	}
	if got := ask("X-API-Key", "b").StatusCode; got != 200 {
		t.Errorf("the quota of another: status %d", got)
	}

	ask, _ = s.start(t, ginproxy.Options{Keys: []string{"a"}, Limit: 1e6})
	resp := ask("X-API-Key", "a")
	if left, _ := strconv.Atoi(resp.Header.Get("X-RateLimit-Remaining")); resp.StatusCode != 200 || left < 999_000 || left >= 1e6 {
		t.Errorf("status %d, %v", resp.StatusCode, resp.Header)
	}
	ask, _ = s.start(t, ginproxy.Options{Keys: []string{"a"}, Limit: 0.001}) // less than one at once
	if resp := ask("X-API-Key", "a"); resp.StatusCode != 429 || resp.Header.Get("Retry-After") == "" {
		t.Errorf("beyond the limit: status %d, %v", resp.StatusCode, resp.Header)
	}
}

func TestALimitNeedsKeys(t *testing.T) {
	target := &url.URL{Scheme: "http", Host: "127.0.0.1:1"}
	for name, o := range map[string]ginproxy.Options{
		"limit": {Target: target, Limit: 1}, "quota": {Target: target, Quota: 1}, "target": {},
	} {
		if _, err := ginproxy.New(o); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

// What is recorded is what the gateway records: its fields, its two metrics.
func TestEachRequestIsRecorded(t *testing.T) {
	registry, log := prometheus.NewRegistry(), &bytes.Buffer{}
	s := newService(t)
	ask, stop := s.start(t, ginproxy.Options{Keys: []string{"good"}, Metrics: registry, Log: log})
	const requests = 5
	for range requests {
		_ = ask("X-API-Key", "good")
	}
	_ = ask("X-API-Key", "bad")
	counts := map[string]uint64{}
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			if h := m.GetHistogram(); h != nil {
				labels := []string{}
				for _, l := range m.GetLabel() {
					labels = append(labels, l.GetName())
				}
				counts[f.GetName()+" "+strings.Join(labels, ",")] += h.GetSampleCount()
			}
		}
	}
	if diff := cmp.Diff(map[string]uint64{
		"http_server_request_duration_seconds http_request_method,http_response_status_code,http_route,network_protocol_version,url_scheme": requests + 1,
		"http_client_request_duration_seconds http_request_method,http_response_status_code,server_address,server_port,service":             requests,
	}, counts); diff != "" {
		t.Error(diff)
	}
	stop() // writes what is left of the log
	var statuses []float64
	for d := json.NewDecoder(log); d.More(); {
		var line map[string]any
		if err := d.Decode(&line); err != nil {
			t.Fatal(err)
		}
		statuses = append(statuses, line["status"].(float64))
		if line["status"] == 200.0 {
			for _, name := range []string{"time", "level", "msg", "method", "path", "bytes", "duration_ms", "client", "host", "route", "service", "subject", "key_id", "request_id"} {
				if line[name] == nil || line[name] == "" {
					t.Errorf("%s is missing in %v", name, line)
				}
			}
		}
	}
	if diff := cmp.Diff([]float64{200, 200, 200, 200, 200, 401}, statuses); diff != "" {
		t.Error(diff)
	}
}

// About one request in a hundred is traced, with a span towards the client and one
// towards the service, which is told.
func TestOneRequestInAHundredIsTraced(t *testing.T) {
	var posted atomic.Int64
	collector := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		posted.Add(1)
	}))
	defer collector.Close()
	s := newService(t)
	ask, stop := s.start(t, ginproxy.Options{Traces: collector.URL + "/v1/traces"})
	traced, requests := 0, 3000
	for range requests {
		_ = ask()
		if s.last.Load().Get("Traceparent") != "" {
			traced++
		}
	}
	if traced < 5 || traced > 80 { // 30 are expected, 5.5 is the deviation
		t.Errorf("%d of %d requests are traced", traced, requests)
	}
	stop()
	if posted.Load() == 0 {
		t.Error("the collector got nothing")
	}
}
