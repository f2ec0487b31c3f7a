// Package acmetest runs an ACME authority inside a test: Let's Encrypt's Pebble,
// with a resolver that finds every name on this machine. Only tests import it.
package acmetest

import (
	"crypto/x509"
	"encoding/pem"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/letsencrypt/pebble/v2/ca"
	"github.com/letsencrypt/pebble/v2/db"
	"github.com/letsencrypt/pebble/v2/va"
	"github.com/letsencrypt/pebble/v2/wfe"
	"github.com/miekg/dns"
	"go.uber.org/goleak"
)

// Authority is a running authority. Its checks of names go to one port of
// 127.0.0.1.
type Authority struct {
	DirectoryURL string
	CAFile       string         // PEM file with what its own server is trusted by
	Roots        *x509.CertPool // what the certificates that it issues are trusted by

	mu       sync.Mutex
	orders   []time.Time
	accounts int
	broken   bool
}

// IgnoreWorker passes over the goroutine of Pebble that never ends.
func IgnoreWorker() goleak.Option {
	return goleak.IgnoreTopFunction("github.com/letsencrypt/pebble/v2/va.VAImpl.processTasks")
}

// Start runs an authority until the test ends. It checks names at tlsPort. The
// certificates that it issues are good for life.
func Start(t testing.TB, tlsPort int, life time.Duration) *Authority {
	t.Helper()
	for name, value := range map[string]string{"PEBBLE_VA_NOSLEEP": "1", "PEBBLE_AUTHZREUSE": "0"} {
		t.Setenv(name, value) // Pebble has no other place for it
	}
	quiet := log.New(io.Discard, "", 0)
	store := db.NewMemoryStore()
	issuer := ca.New(quiet, store, "", "ecdsa", 0, 1, map[string]ca.Profile{"default": {ValidityPeriod: uint64(life.Seconds())}})
	checker := va.New(quiet, 0, tlsPort, true, resolver(t), store)
	front := wfe.New(quiet, store, checker, issuer, []string{"pebble.test"}, true, false, 1, 1)

	a := &Authority{Roots: x509.NewCertPool()}
	a.Roots.AddCert(issuer.GetRootCert(0).Cert)
	server := httptest.NewTLSServer(a.counting(front.Handler()))
	t.Cleanup(server.Close)
	a.DirectoryURL = server.URL + wfe.DirectoryPath
	a.CAFile = filepath.Join(t.TempDir(), "authority.pem")
	text := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
	if err := os.WriteFile(a.CAFile, text, 0o600); err != nil {
		t.Fatal(err)
	}
	return a
}

// counting counts what is asked of the authority, and fails while it is broken.
func (a *Authority) counting(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w2 := &statusWriter{ResponseWriter: w}
		a.mu.Lock()
		broken := a.broken
		a.mu.Unlock()
		if broken {
			http.Error(w, "broken", http.StatusInternalServerError)
			return
		}
		next.ServeHTTP(w2, r)
		a.mu.Lock()
		defer a.mu.Unlock()
		switch {
		case w2.status != http.StatusCreated:
		case strings.HasPrefix(r.URL.Path, "/order-plz"):
			a.orders = append(a.orders, time.Now())
		case strings.HasPrefix(r.URL.Path, "/sign-me-up"):
			a.accounts++
		}
	})
}

type statusWriter struct {
	http.ResponseWriter
	status int
}

// WriteHeader implements http.ResponseWriter.
func (w *statusWriter) WriteHeader(status int) {
	w.status = status
	w.ResponseWriter.WriteHeader(status)
}

// Orders is how many orders were placed.
func (a *Authority) Orders() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return len(a.orders)
}

// Accounts is how many accounts were made.
func (a *Authority) Accounts() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.accounts
}

// Break makes every request fail, or work again.
func (a *Authority) Break(broken bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.broken = broken
}

// resolver runs a DNS server that finds every name at 127.0.0.1 and returns its
// address.
func resolver(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	started := make(chan struct{})
	server := &dns.Server{Listener: l, NotifyStartedFunc: func() { close(started) }, Handler: dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) {
		m := new(dns.Msg).SetReply(q)
		if len(q.Question) == 1 && q.Question[0].Qtype == dns.TypeA {
			m.Answer = []dns.RR{&dns.A{
				Hdr: dns.RR_Header{Name: q.Question[0].Name, Rrtype: dns.TypeA, Class: dns.ClassINET},
				A:   net.IPv4(127, 0, 0, 1),
			}}
		}
		_ = w.WriteMsg(m)
	})}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = server.ActivateAndServe()
	}()
	<-started
	t.Cleanup(func() {
		_ = server.Shutdown()
		<-done
	})
	return l.Addr().String()
}
