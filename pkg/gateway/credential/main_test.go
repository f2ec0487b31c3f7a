package credential_test

import (
	"context"
	"crypto/x509"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/keywarden/keywarden/pkg/gateway/credential"
	"github.com/keywarden/keywarden/pkg/seal"
	"github.com/keywarden/keywarden/pkg/spec/check"
	"github.com/keywarden/keywarden/pkg/spec/services"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// clock is a time that stands still until it is moved.
type clock struct {
	mu sync.Mutex
	at time.Time
}

func newClock() *clock { return &clock{at: time.Date(2030, 1, 31, 12, 0, 0, 0, time.UTC)} }

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.at
}

func (c *clock) advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.at = c.at.Add(d)
}

// vault holds secrets.
type vault struct {
	mu     sync.Mutex
	values map[string]string
}

var errNoSecret = errors.New("there is none")

func (v *vault) Secret(_ context.Context, name string) (seal.Secret, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if value, ok := v.values[name]; ok {
		return seal.NewSecret(value), nil
	}
	return seal.Secret{}, errNoSecret
}

func (v *vault) put(name, value string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.values[name] = value
}

// canary is in every secret of these tests.
const canary = "canary-5f1e"

func newVault() *vault {
	return &vault{values: map[string]string{
		"key": canary + "-key", "password": canary + "-päss:wörd", "client": canary + "-client&=+ %", "lines": canary + "\r\nX-Evil: 1",
	}}
}

// maker makes credentials for a test.
type maker struct {
	t       *testing.T
	clock   *clock
	secrets *vault
	signer  credential.Signer
	roots   *x509.CertPool
	logger  *slog.Logger
	fetched func(service string, took time.Duration, err error)
}

func newMaker(t *testing.T) *maker {
	return &maker{t: t, clock: newClock(), secrets: newVault(), logger: slog.New(slog.DiscardHandler)}
}

// make makes a credential, which the document has to allow.
func (m *maker) make(of services.Credential) *credential.Credential {
	m.t.Helper()
	of.Normalise()
	var v check.Checker
	of.Validate("credential", &v)
	if err := v.Report(""); err != nil {
		m.t.Fatal(err)
	}
	all, err := credential.NewCredentials(credential.Options{
		Secrets: m.secrets, Signer: m.signer, RootCAs: m.roots, Logger: m.logger, Now: m.clock.now, Fetched: m.fetched,
	})
	if err != nil {
		m.t.Fatal(err)
	}
	m.t.Cleanup(all.Close)
	c, err := all.New("orders", &of)
	if err != nil {
		m.t.Fatal(err)
	}
	return c
}

// request is one that is ready to leave.
func request(t *testing.T, target string) *http.Request {
	return httptest.NewRequestWithContext(t.Context(), http.MethodGet, target, nil)
}

// eventually waits for what another goroutine does.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for until := time.Now().Add(10 * time.Second); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(until) {
			t.Fatal(what)
		}
	}
}
