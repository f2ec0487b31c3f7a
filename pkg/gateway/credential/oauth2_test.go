package credential_test

import (
	"bytes"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/keywarden/keywarden/pkg/gateway/credential"
	"github.com/keywarden/keywarden/pkg/problem"
	"github.com/keywarden/keywarden/pkg/spec/services"
)

// issuer is a token endpoint.
type issuer struct {
	*httptest.Server
	asked  atomic.Int64
	mu     sync.Mutex
	answer func(w http.ResponseWriter, r *http.Request, n int64)
	last   struct {
		user, password string
		basic          bool
		form           url.Values
	}
}

func newIssuer(t *testing.T) *issuer {
	t.Helper()
	i := &issuer{}
	i.says(func(w http.ResponseWriter, _ *http.Request, n int64) {
		fmt.Fprintf(w, `{"access_token":"token-%d","token_type":"bearer","expires_in":100}`, n)
	})
	i.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n := i.asked.Add(1)
		i.mu.Lock()
		_ = r.ParseForm()
		i.last.user, i.last.password, i.last.basic = r.BasicAuth()
		i.last.form = r.PostForm
		answer := i.answer
		i.mu.Unlock()
		answer(w, r, n)
	}))
	t.Cleanup(i.Close)
	return i
}

func (i *issuer) says(answer func(w http.ResponseWriter, r *http.Request, n int64)) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.answer = answer
}

func (i *issuer) credential() services.Credential {
	return services.Credential{Kind: "oauth2", TokenURL: i.URL, ClientID: "gate way", ClientSecret: `{{ secret "client" }}`}
}

// present returns what the service would get.
func present(t *testing.T, c *credential.Credential) (string, error) {
	t.Helper()
	out := request(t, "/")
	_, err := c.Apply(out, nil)
	return out.Header.Get("Authorization"), err
}

func wants(t *testing.T, c *credential.Credential, want string) {
	t.Helper()
	if got, err := present(t, c); err != nil || got != want {
		t.Errorf("%q, %v, want %q", got, err, want)
	}
}

func TestATokenIsFetchedOnceAndKept(t *testing.T) {
	i, m := newIssuer(t), newMaker(t)
	of := i.credential()
	of.Scopes, of.Audience = []string{"orders:read", "orders:write"}, "https://orders.internal"
	c := m.make(of)
	if i.asked.Load() != 0 {
		t.Error("it was asked for before anybody needs it")
	}
	for range 3 {
		wants(t, c, "Bearer token-1")
	}
	if n := i.asked.Load(); n != 1 {
		t.Errorf("%d questions", n)
	}
	id, _ := url.QueryUnescape(i.last.user)
	secret, _ := url.QueryUnescape(i.last.password)
	if !i.last.basic || id != "gate way" || secret != canary+"-client&=+ %" {
		t.Errorf("%q, %q", i.last.user, i.last.password)
	}
	want := url.Values{"grant_type": {"client_credentials"}, "scope": {"orders:read orders:write"}, "audience": {"https://orders.internal"}}
	if i.last.form.Encode() != want.Encode() {
		t.Errorf("%v", i.last.form)
	}
}

func TestAClientCanProveItselfInTheBody(t *testing.T) {
	i, m := newIssuer(t), newMaker(t)
	of := i.credential()
	of.ClientAuth, of.Name = "post", "X-Token"
	c := m.make(of)
	out := request(t, "/")
	if _, err := c.Apply(out, nil); err != nil || out.Header.Get("X-Token") != "token-1" {
		t.Errorf("%q, %v", out.Header, err)
	}
	if i.last.basic || i.last.form.Get("client_id") != "gate way" || i.last.form.Get("client_secret") != canary+"-client&=+ %" {
		t.Errorf("%+v", i.last)
	}
}

func TestManyWhoWaitAskOnce(t *testing.T) {
	i, m := newIssuer(t), newMaker(t)
	release := make(chan struct{})
	i.says(func(w http.ResponseWriter, _ *http.Request, n int64) {
		<-release
		fmt.Fprintf(w, `{"access_token":"token-%d","token_type":"Bearer","expires_in":"100"}`, n)
	})
	c := m.make(i.credential())
	var all sync.WaitGroup
	for range 50 {
		all.Go(func() { wants(t, c, "Bearer token-1") })
	}
	// One who does not wait any longer ends nothing for the others.
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := c.Apply(request(t, "/").WithContext(ctx), nil); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	eventually(t, "nobody asks", func() bool { return i.asked.Load() > 0 })
	close(release)
	all.Wait()
	if n := i.asked.Load(); n != 1 {
		t.Errorf("%d questions", n)
	}
}

func TestTheNextTokenIsFetchedBeforeTheFirstEnds(t *testing.T) {
	i, m := newIssuer(t), newMaker(t)
	c := m.make(i.credential())
	wants(t, c, "Bearer token-1")
	m.clock.advance(69 * time.Second)
	wants(t, c, "Bearer token-1")
	if n := i.asked.Load(); n != 1 {
		t.Fatalf("%d questions at 69 %% of its life", n)
	}
	release := make(chan struct{})
	i.says(func(w http.ResponseWriter, _ *http.Request, n int64) {
		<-release
		fmt.Fprintf(w, `{"access_token":"token-%d","token_type":"Bearer","expires_in":100}`, n)
	})
	m.clock.advance(11 * time.Second)
	wants(t, c, "Bearer token-1") // and nobody waits
	wants(t, c, "Bearer token-1")
	close(release)
	eventually(t, "there is no next token", func() bool { got, _ := present(t, c); return got == "Bearer token-2" })
	if n := i.asked.Load(); n != 2 {
		t.Errorf("%d questions", n)
	}
}

func TestATokenIsUsedUntilItsEndAndNoLonger(t *testing.T) {
	i, m := newIssuer(t), newMaker(t)
	c := m.make(i.credential())
	wants(t, c, "Bearer token-1")
	i.says(func(w http.ResponseWriter, _ *http.Request, _ int64) { w.WriteHeader(http.StatusInternalServerError) })
	m.clock.advance(89 * time.Second)
	wants(t, c, "Bearer token-1")
	eventually(t, "it was not asked for again", func() bool { return i.asked.Load() == 2 })
	wants(t, c, "Bearer token-1")
	m.clock.advance(time.Second) // a tenth of the life is for the way
	if got, err := present(t, c); !errors.Is(err, credential.ErrUnavailable) || got != "" {
		t.Errorf("%q, %v", got, err)
	}
}

func TestEachQuestionForATokenIsTold(t *testing.T) {
	i, m := newIssuer(t), newMaker(t)
	good := i.answer
	var told []string
	m.fetched = func(service string, _ time.Duration, err error) {
		told = append(told, fmt.Sprint(service, " ", err == nil))
	}
	i.says(func(w http.ResponseWriter, _ *http.Request, _ int64) { w.WriteHeader(http.StatusServiceUnavailable) })
	c := m.make(i.credential())
	for range 3 { // the first one asks
		if _, err := present(t, c); err == nil {
			t.Error("there is a token")
		}
	}
	i.says(good)
	m.clock.advance(time.Minute)
	for range 3 {
		wants(t, c, "Bearer token-2")
	}
	if want := []string{"orders false", "orders true"}; !slices.Equal(told, want) {
		t.Errorf("told %v, want %v", told, want)
	}
}

func TestAnEndpointThatFailsIsLeftAloneForAWhile(t *testing.T) {
	i, m := newIssuer(t), newMaker(t)
	good := i.answer
	i.says(func(w http.ResponseWriter, _ *http.Request, _ int64) { w.WriteHeader(http.StatusServiceUnavailable) })
	c := m.make(i.credential())
	for n, pause := int64(1), time.Second; n < 9; n, pause = n+1, min(2*pause, time.Minute) {
		for range 5 {
			_, err := present(t, c)
			p := problem.From(err)
			if !errors.Is(err, credential.ErrUnavailable) || p.Status() != 503 || p.RetryAfter <= 0 || p.RetryAfter > pause {
				t.Fatalf("%v, %s of at most %s", err, p.RetryAfter, pause)
			}
		}
		if got := i.asked.Load(); got != n {
			t.Fatalf("%d questions instead of %d", got, n)
		}
		m.clock.advance(pause + 1)
	}
	i.says(good)
	wants(t, c, "Bearer token-9")
}

func TestTheEndpointSaysWhenToComeBack(t *testing.T) {
	i, m := newIssuer(t), newMaker(t)
	i.says(func(w http.ResponseWriter, _ *http.Request, _ int64) {
		w.Header().Set("Retry-After", "30")
		w.WriteHeader(http.StatusTooManyRequests)
	})
	c := m.make(i.credential())
	if _, err := present(t, c); problem.From(err).RetryAfter != 30*time.Second {
		t.Errorf("%v", problem.From(err).RetryAfter)
	}
}

// TestWhatIsNoTokenIsRefused also holds what is told of it not to quote anything.
func TestWhatIsNoTokenIsRefused(t *testing.T) {
	for name, c := range map[string]struct {
		status int
		body   string
		says   string
	}{
		"no JSON":           {200, canary, "not the JSON"},
		"an empty answer":   {200, "", "not the JSON"},
		"no token":          {200, `{"token_type":"Bearer"}`, "no token"},
		"a line break":      {200, `{"access_token":"a\r\nX-Evil: 1","token_type":"Bearer"}`, "no token"},
		"spaces":            {200, `{"access_token":"a b","token_type":"Bearer"}`, "no token"},
		"another type":      {200, `{"access_token":"a","token_type":"mac"}`, "not of the type"},
		"no type":           {200, `{"access_token":"a"}`, "not of the type"},
		"an ended one":      {200, `{"access_token":"a","token_type":"Bearer","expires_in":0}`, "expires_in"},
		"a long one":        {200, `{"access_token":"` + strings.Repeat("a", 9<<10) + `","token_type":"Bearer"}`, "no token"},
		"an endless answer": {200, `{"access_token":"a","token_type":"Bearer","x":"` + strings.Repeat("a", 65<<10) + `"}`, "over 65536 bytes"},
		"created":           {201, `{"access_token":"a","token_type":"Bearer"}`, "answers 201"},
		"a known error":     {401, `{"error":"invalid_client","error_description":"` + canary + `"}`, "answers 401 invalid_client"},
		"an unknown error":  {400, `{"error":"` + canary + `"}`, "answers 400"},
	} {
		t.Run(name, func(t *testing.T) {
			i, m := newIssuer(t), newMaker(t)
			var log bytes.Buffer
			m.logger = slog.New(slog.NewTextHandler(&log, nil))
			i.says(func(w http.ResponseWriter, _ *http.Request, _ int64) {
				w.WriteHeader(c.status)
				_, _ = w.Write([]byte(c.body))
			})
			got, err := present(t, m.make(i.credential()))
			if !errors.Is(err, credential.ErrUnavailable) || got != "" || !strings.Contains(err.Error(), c.says) || !strings.Contains(log.String(), c.says) {
				t.Errorf("%q, %v\n%s", got, err, &log)
			}
			if text := err.Error() + log.String(); strings.Contains(text, canary) || strings.Contains(text, "Evil") {
				t.Errorf("the answer is quoted: %s", text)
			}
		})
	}
}

// TestTheSecretIsNotCarriedElsewhere is SSRF by redirect: the endpoint is the
// operator's choice, what it points to is not.
func TestTheSecretIsNotCarriedElsewhere(t *testing.T) {
	var elsewhere atomic.Int64
	other := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		elsewhere.Add(1)
		_, _ = w.Write([]byte(`{"access_token":"stolen","token_type":"Bearer"}`))
	}))
	defer other.Close()
	t.Setenv("HTTP_PROXY", other.URL)
	for _, status := range []int{301, 302, 303, 307, 308} {
		i, m := newIssuer(t), newMaker(t)
		i.says(func(w http.ResponseWriter, r *http.Request, _ int64) { http.Redirect(w, r, other.URL, status) })
		if got, err := present(t, m.make(i.credential())); got != "" || err == nil || !strings.Contains(err.Error(), "redirects are not followed") {
			t.Errorf("%d: %q, %v", status, got, err)
		}
	}
	if n := elsewhere.Load(); n != 0 {
		t.Errorf("another server was asked %d times", n)
	}
}

func TestASilentEndpointIsNotWaitedForForEver(t *testing.T) {
	i, m := newIssuer(t), newMaker(t)
	i.says(func(_ http.ResponseWriter, r *http.Request, _ int64) { <-r.Context().Done() })
	of := i.credential()
	of.Timeout = 1_000_000 // a millisecond
	if _, err := present(t, m.make(of)); !errors.Is(err, credential.ErrUnavailable) {
		t.Error(err)
	}
}

func TestATokenThatAServiceRefusesIsReplaced(t *testing.T) {
	i, m := newIssuer(t), newMaker(t)
	c := m.make(i.credential())
	first, err := c.Apply(request(t, "/"), nil)
	if err != nil {
		t.Fatal(err)
	}
	if c.Renew(t.Context(), first, true) || i.asked.Load() != 1 {
		t.Error("a new token was asked for again: a service that refuses all would make the gateway ask with every request")
	}
	m.clock.advance(10 * time.Second)
	var all sync.WaitGroup
	for range 20 {
		all.Go(func() {
			if !c.Renew(t.Context(), first, true) {
				t.Error("there is no other token")
			}
		})
	}
	all.Wait()
	wants(t, c, "Bearer token-2")
	if n := i.asked.Load(); n != 2 {
		t.Errorf("%d questions", n)
	}
	if !c.Renew(t.Context(), first, false) {
		t.Error("that there is another by now is not known")
	}
	// A refusal that cannot be repeated asks all the same, and an endpoint that gives no
	// other token takes away none that is still good.
	m.clock.advance(10 * time.Second)
	i.says(func(w http.ResponseWriter, _ *http.Request, _ int64) { w.WriteHeader(http.StatusInternalServerError) })
	second, err := c.Apply(request(t, "/"), nil)
	if err != nil || c.Renew(t.Context(), second, true) {
		t.Error(err)
	}
	wants(t, c, "Bearer token-2")
}

func TestANewSecretIsUsedForTheNextToken(t *testing.T) {
	i, m := newIssuer(t), newMaker(t)
	c := m.make(i.credential())
	wants(t, c, "Bearer token-1")
	m.secrets.put("client", "rotated")
	m.clock.advance(95 * time.Second)
	wants(t, c, "Bearer token-2")
	if i.last.password != "rotated" {
		t.Errorf("%q", i.last.password)
	}
}

func TestEndpointsAreTrustedByTheirCertificate(t *testing.T) {
	s := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = w.Write([]byte(`{"access_token":"token","token_type":"Bearer"}`))
	}))
	defer s.Close()
	s.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelDebug)
	of := services.Credential{Kind: "oauth2", TokenURL: s.URL, ClientID: "c", ClientSecret: `{{ secret "key" }}`}
	m := newMaker(t)
	m.roots = x509.NewCertPool()
	if got, err := present(t, m.make(of)); !errors.Is(err, credential.ErrUnavailable) {
		t.Errorf("%q, %v", got, err)
	}
	m.roots.AddCert(s.Certificate())
	c := m.make(of)
	wants(t, c, "Bearer token")
	m.clock.advance(4 * time.Minute) // an answer that does not say means five
	wants(t, c, "Bearer token")
}

func TestNothingGoesOnAfterTheEnd(t *testing.T) {
	i, m := newIssuer(t), newMaker(t)
	entered := make(chan struct{})
	i.says(func(_ http.ResponseWriter, r *http.Request, _ int64) { close(entered); <-r.Context().Done() })
	all, err := credential.NewCredentials(credential.Options{Secrets: m.secrets, Logger: m.logger, Now: m.clock.now})
	if err != nil {
		t.Fatal(err)
	}
	of := i.credential()
	of.Normalise()
	of.Timeout = 60_000_000_000
	c, err := all.New("orders", &of)
	if err != nil {
		t.Fatal(err)
	}
	waiting := make(chan error, 1)
	go func() { _, err := present(t, c); waiting <- err }()
	select {
	case <-entered:
	case err := <-waiting:
		t.Fatal(err)
	}
	all.Close()
	if err := <-waiting; !errors.Is(err, credential.ErrUnavailable) {
		t.Error(err)
	}
	m.clock.advance(time.Hour)
	if _, err := present(t, c); !errors.Is(err, credential.ErrUnavailable) {
		t.Error(err)
	}
}
