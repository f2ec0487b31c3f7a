package httpserver_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/keywarden/keywarden/pkg/certstore"
	"github.com/keywarden/keywarden/pkg/httpserver"
)

// patience ends a test that would hang; nothing is measured against it.
const patience = 60 * time.Second

// running is a server that a test started, and its end.
type running struct {
	*httpserver.Server
	addr   string
	served chan error
}

// start serves h, with the options changed as the test wants.
func start(t *testing.T, h http.Handler, change func(*httpserver.Options)) *running {
	t.Helper()
	o := httpserver.Options{Addr: "127.0.0.1:0", Handler: h, Logger: slog.New(slog.DiscardHandler), Front: withFront}
	if change != nil {
		change(&o)
	}
	srv, err := httpserver.New(o)
	if err != nil {
		t.Fatal(err)
	}
	if err := srv.Listen(); err != nil {
		t.Fatal(err)
	}
	r := &running{Server: srv, addr: srv.Addr().String(), served: make(chan error, 1)}
	go func() { r.served <- srv.Serve() }()
	awaitServing(t, r.addr)
	t.Cleanup(func() {
		ctx, cancel := context.WithCancel(context.Background())
		cancel() // whatever the test left is cut off
		_ = srv.Shutdown(ctx)
	})
	return r
}

// awaitServing returns when connections are accepted: nonsense is refused then,
// with and without TLS, before it reaches the handler.
func awaitServing(t *testing.T, addr string) {
	t.Helper()
	c := dial(t, addr)
	c.send(t, "?\r\n\r\n")
	_, _ = io.Copy(io.Discard, c)
	c.Close()
}

func within(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	t.Cleanup(cancel)
	return ctx
}

// shutDown shuts r down and checks that both calls end well.
func (r *running) shutDown(t *testing.T) {
	t.Helper()
	if err := r.Shutdown(within(t)); err != nil {
		t.Errorf("Shutdown: %v", err)
	}
	r.ended(t)
}

func (r *running) ended(t *testing.T) {
	t.Helper()
	select {
	case err := <-r.served:
		if err != nil {
			t.Errorf("Serve: %v", err)
		}
	case <-time.After(patience):
		t.Error("Serve did not return")
	}
}

// eventually polls until ok.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for limit := time.Now().Add(patience); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(limit) {
			t.Fatalf("never: %s", what)
		}
	}
}

// client is a raw connection: nothing on it is retried behind the test's back.
type client struct {
	net.Conn
	in *bufio.Reader
}

func dial(t *testing.T, addr string) *client {
	t.Helper()
	c, err := (&net.Dialer{}).DialContext(within(t), "tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	_ = c.SetDeadline(time.Now().Add(patience))
	return &client{c, bufio.NewReader(c)}
}

func (c *client) send(t *testing.T, format string, args ...any) {
	t.Helper()
	if _, err := fmt.Fprintf(c, format, args...); err != nil {
		t.Fatal(err)
	}
}

// answer reads one answer with its body.
func (c *client) answer(t *testing.T) (*http.Response, string) {
	t.Helper()
	res, err := http.ReadResponse(c.in, nil)
	if err != nil {
		t.Fatalf("no answer: %v", err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatalf("half an answer: %v", err)
	}
	return res, string(body)
}

// closed reports how the connection ended; it fails when bytes come instead.
func (c *client) closed(t *testing.T) error {
	t.Helper()
	b, err := c.in.ReadByte()
	if err == nil {
		t.Fatalf("got byte %q, want the end", b)
	}
	if errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatal("the connection is still open")
	}
	return err
}

func echo(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	_, _ = w.Write(body)
}

const hello = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello"

// pair is a certificate for 127.0.0.1 with its key, on disk.
type pair struct {
	certFile, keyFile string
	pool              *x509.CertPool // trusts every certificate written
}

func newPair(t *testing.T, name string) *pair {
	t.Helper()
	dir := t.TempDir()
	p := &pair{filepath.Join(dir, "tls.crt"), filepath.Join(dir, "tls.key"), x509.NewCertPool()}
	cert, key := p.make(t, name, time.Now().Add(time.Hour))
	p.write(t, cert, key)
	return p
}

func (p *pair) make(t *testing.T, name string, notAfter time.Time) (certPEM, keyPEM []byte) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-2 * time.Hour), NotAfter: notAfter,
		DNSNames: []string{name}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	certPEM = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	p.pool.AppendCertsFromPEM(certPEM)
	return certPEM, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER})
}

func (p *pair) write(t *testing.T, certPEM, keyPEM []byte) {
	t.Helper()
	if err := os.WriteFile(p.certFile, certPEM, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(p.keyFile, keyPEM, 0o600); err != nil {
		t.Fatal(err)
	}
}

func (p *pair) use(o *httpserver.Options) {
	store, err := certstore.New(certstore.Options{CertFile: p.certFile, KeyFile: p.keyFile, Logger: o.Logger})
	if err != nil {
		panic(err)
	}
	o.TLS = store.Config()
}

func (p *pair) config(protocols ...string) *tls.Config {
	return &tls.Config{RootCAs: p.pool, ServerName: "127.0.0.1", NextProtos: protocols}
}

// served is the common name of the certificate that addr shows.
func (p *pair) served(t *testing.T, addr string) string {
	t.Helper()
	c, err := (&tls.Dialer{Config: p.config()}).DialContext(within(t), "tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	return c.(*tls.Conn).ConnectionState().PeerCertificates[0].Subject.CommonName
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}
