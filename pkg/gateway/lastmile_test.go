package gateway_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/keywarden/keywarden/pkg/gateway"
	"github.com/keywarden/keywarden/pkg/seal"
	"github.com/keywarden/keywarden/pkg/session"
)

// lastMileSecret is what must be seen by the service alone.
const lastMileSecret = "canary-last-mile-71c2"

// vault holds secrets by name.
type vault map[string]string

func (v vault) Secret(_ context.Context, name string) (seal.Secret, error) {
	if value, ok := v[name]; ok {
		return seal.NewSecret(value), nil
	}
	return seal.Secret{}, errors.New("there is none")
}

// plainSigner signs nothing.
type plainSigner struct{}

func (plainSigner) SignIdentity(i session.Identity, _ time.Duration) (seal.Secret, error) {
	return seal.NewSecret(i.Subject + "@" + i.Audience), nil
}

// recorder is a service that remembers what it has got.
type recorder struct {
	*httptest.Server
	mu     sync.Mutex
	got    []*http.Request
	answer func(w http.ResponseWriter, r *http.Request)
}

func newRecorder(t *testing.T) *recorder {
	t.Helper()
	s := &recorder{}
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		s.mu.Lock()
		s.got = append(s.got, r)
		answer := s.answer
		s.mu.Unlock()
		if answer != nil {
			answer(w, r)
		}
	}))
	t.Cleanup(s.Close)
	return s
}

func (s *recorder) requests() []*http.Request {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]*http.Request(nil), s.got...)
}

func (s *recorder) last(t *testing.T) *http.Request {
	t.Helper()
	all := s.requests()
	if len(all) == 0 {
		t.Fatal("the service was not called")
	}
	return all[len(all)-1]
}

// newLastMile is a door with secrets, and its log.
func newLastMile(t *testing.T) (*door, *bytes.Buffer) {
	t.Helper()
	var log bytes.Buffer
	return newDoor(t, 0, func(o *gateway.Options) {
		o.Secrets, o.Signer = vault{"backend": lastMileSecret, "client": lastMileSecret}, plainSigner{}
		o.Logger = slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	}), &log
}

func TestTheServiceGetsTheGatewaysCredentialAndNotTheCallers(t *testing.T) {
	d, log := newLastMile(t)
	s := newRecorder(t)
	d.apply(`
version: 1
services:
  - {name: field, url: %q, credential: {kind: header, name: X-Api-Key, value: '{{ secret "backend" }}'}}
  - {name: bearer, url: %[1]q, credential: {kind: header, value: 'Bearer {{ secret "backend" }}'}}
  - {name: query, url: %[1]q, credential: {kind: query, name: api_key, value: '{{ secret "backend" }}'}}
  - {name: basic, url: %[1]q, credential: {kind: basic, username: gw, password: '{{ secret "backend" }}'}}
  - {name: who, url: %[1]q, credential: {kind: identity}}
  - {name: broken, url: %[1]q, credential: {kind: header, value: '{{ secret "gone" }}'}}
defaults: {auth: {mode: none}}
routes:
  - {name: field, match: {path: {prefix: /field}}, service: field}
  - {name: bearer, match: {path: {prefix: /bearer}}, service: bearer, auth: {mode: required}}
  - {name: query, match: {path: {prefix: /query}}, service: query}
  - {name: basic, match: {path: {prefix: /basic}}, service: basic}
  - {name: who, match: {path: {prefix: /who}}, service: who, auth: {mode: required}}
  - {name: stranger, match: {path: {prefix: /stranger}}, service: who}
  - {name: broken, match: {path: {prefix: /broken}}, service: broken}
`, s.URL)
	header := http.Header{
		"X-Api-Key": {"good"}, "X.Api.Key": {"spoofed"}, "Authorization": {"Bearer callers"}, "X-Keywarden-Identity": {"spoofed"},
		"X.keywarden-Identity": {"spoofed"}, "Connection": {"X-Api-Key, X-Keywarden-Identity"},
	}
	for path, want := range map[string]string{
		"/field":              lastMileSecret + "   ",
		"/bearer":             " Bearer " + lastMileSecret + "  ",
		"/query?Api.Key=x&a=": "   a=&api_key=" + lastMileSecret,
		"/basic":              " Basic Z3c6Y2FuYXJ5LWxhc3QtbWlsZS03MWMy  ",
		"/who":                "  user-1@who ",
		"/stranger":           "   ",
	} {
		resp, body := d.call("GET", "x.test", path, header, nil)
		r := s.last(t)
		got := r.Header.Get("X-Api-Key") + " " + r.Header.Get("Authorization") + " " + r.Header.Get("X-Keywarden-Identity") + " " + r.URL.RawQuery
		if resp.StatusCode != 200 || got != want {
			t.Errorf("%s: %d, the service got %q, want %q", path, resp.StatusCode, got, want)
		}
		if all := fmt.Sprint(r.Header); strings.Contains(all, "spoofed") || strings.Contains(all, "callers") || len(r.Header.Values("X-Api-Key")) > 1 {
			t.Errorf("%s: what the caller sent is there: %s", path, all)
		}
		if strings.Contains(fmt.Sprint(resp.Header, body), lastMileSecret) {
			t.Errorf("%s: the caller sees the secret", path)
		}
	}
	n := len(s.requests())
	resp, body := d.call("GET", "x.test", "/broken", header, nil)
	if resp.StatusCode != 503 || codeOf(t, body) != "gateway.credential_unavailable" || len(s.requests()) != n {
		t.Errorf("%d %s, %d more requests", resp.StatusCode, body, len(s.requests())-n)
	}
	if d.info().Code != "gateway.credential_unavailable" || !strings.Contains(fmt.Sprint(d.info().Err), "gone") {
		t.Errorf("%+v", d.info())
	}
	if text := log.String() + fmt.Sprintf("%+v", d.info()); strings.Contains(text, lastMileSecret) {
		t.Errorf("the secret is in the log: %s", text)
	}
}

func TestACredentialIsForItsServiceAlone(t *testing.T) {
	d, _ := newLastMile(t)
	s, shadow, sealed := newRecorder(t), newRecorder(t), newRecorder(t)
	d.apply(`
version: 1
services:
  - {name: a, url: %q, credential: {kind: header, value: '{{ secret "backend" }}'}}
  - {name: plain, url: %q}
  - {name: own, url: %q, credential: {kind: header, name: X-Own, value: 'own {{ secret "client" }}'}}
defaults: {auth: {mode: none}}
routes:
  - {name: a, match: {path: {prefix: /a}}, service: a, mirror: {service: plain, percent: 100}}
  - {name: b, match: {path: {prefix: /b}}, service: a, mirror: {service: own, percent: 100}}
`, s.URL, shadow.URL, sealed.URL)
	d.call("GET", "x.test", "/a", nil, nil)
	d.call("GET", "x.test", "/b", nil, nil)
	eventually(t, "copies", func() bool { return len(shadow.requests()) == 1 && len(sealed.requests()) == 1 })
	if got := fmt.Sprint(shadow.last(t).Header); strings.Contains(got, lastMileSecret) {
		t.Errorf("a service without a credential got that of another: %s", got)
	}
	if h := sealed.last(t).Header; h.Get("X-Own") != "own "+lastMileSecret || h.Get("Authorization") != "" {
		t.Errorf("%q", h)
	}
}

func TestRepeatedRequestsHaveTheCredentialToo(t *testing.T) {
	d, _ := newLastMile(t)
	s := newRecorder(t)
	s.answer = func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusServiceUnavailable) }
	d.apply(`
version: 1
services:
  - {name: a, url: %q, retry: {attempts: 3, on: ["503"], backoff: 1ms}, credential: {kind: query, name: k, value: '{{ secret "backend" }}'}}
routes:
  - {name: a, service: a, auth: {mode: none}}
`, s.URL)
	d.call("GET", "x.test", "/a?k=1", nil, nil)
	all := s.requests()
	if len(all) < 2 { // the budget decides
		t.Fatalf("%d attempts", len(all))
	}
	for _, r := range all {
		if r.URL.RawQuery != "k="+lastMileSecret {
			t.Errorf("%s", r.URL.RawQuery)
		}
	}
}

func TestATokenLivesThroughAReload(t *testing.T) {
	d, _ := newLastMile(t)
	s := newRecorder(t)
	var asked atomic.Int64
	tokens := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintf(w, `{"access_token":"token-%d","token_type":"Bearer","expires_in":3600}`, asked.Add(1))
	}))
	defer tokens.Close()
	document := `
version: 1
services:
  - {name: a, url: %q, timeout: %s, credential: {kind: oauth2, token_url: %q, client_id: c, client_secret: '{{ secret "client" }}'%s}}
routes:
  - {name: a, service: a, auth: {mode: none}}
`
	for _, c := range []struct{ timeout, more, want string }{
		{"10s", "", "Bearer token-1"},
		{"11s", "", "Bearer token-1"},                   // another service, the same credential
		{"11s", ", scopes: [orders]", "Bearer token-2"}, // another credential
	} {
		d.apply(document, s.URL, c.timeout, tokens.URL, c.more)
		d.call("GET", "x.test", "/", nil, nil)
		if got := s.last(t).Header.Get("Authorization"); got != c.want {
			t.Errorf("%q, want %q", got, c.want)
		}
	}
	// A young token that the service refuses is not replaced: the answer passes.
	s.mu.Lock()
	s.answer = func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("WWW-Authenticate", "Bearer")
		w.WriteHeader(http.StatusUnauthorized)
	}
	s.mu.Unlock()
	n := len(s.requests())
	if resp, _ := d.call("GET", "x.test", "/", nil, nil); resp.StatusCode != 401 || len(s.requests()) != n+1 || asked.Load() != 2 {
		t.Errorf("%d, %d requests, %d questions", resp.StatusCode, len(s.requests())-n, asked.Load())
	}
}
