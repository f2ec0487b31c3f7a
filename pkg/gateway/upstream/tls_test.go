package upstream_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/keywarden/keywarden/pkg/gateway/upstream"
)

// authority signs certificates for a test.
type authority struct {
	dir  string
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	a := &authority{dir: t.TempDir()}
	a.cert, a.key = a.issue(t, "authority", nil)
	return a
}

// issue makes a certificate for name and writes name.pem and name.key.
func (a *authority) issue(t *testing.T, name string, by *authority) (*x509.Certificate, *ecdsa.PrivateKey) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name}, DNSNames: []string{name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	parent, signer := template, key
	if by == nil {
		template.IsCA, template.BasicConstraintsValid, template.KeyUsage = true, true, x509.KeyUsageCertSign
	} else {
		parent, signer = by.cert, by.key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, signer)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	for file, block := range map[string]*pem.Block{
		a.file(name + ".pem"): {Type: "CERTIFICATE", Bytes: der}, a.file(name + ".key"): {Type: "PRIVATE KEY", Bytes: private},
	} {
		if err := os.WriteFile(file, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return cert, key
}

func (a *authority) file(name string) string { return filepath.Join(a.dir, name) }

// serve runs an https server with a certificate for name that asks for one of the
// authority's, and answers with the name in it.
func (a *authority) serve(t *testing.T, name string) *httptest.Server {
	t.Helper()
	a.issue(t, name, a)
	pair, err := tls.LoadX509KeyPair(a.file(name+".pem"), a.file(name+".key"))
	if err != nil {
		t.Fatal(err)
	}
	trusted := x509.NewCertPool()
	trusted.AddCert(a.cert)
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, r.TLS.PeerCertificates[0].Subject.CommonName)
	}))
	s.Config.ErrorLog = nil
	s.TLS = &tls.Config{Certificates: []tls.Certificate{pair}, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: trusted}
	s.StartTLS()
	t.Cleanup(s.Close)
	return s
}

func ask(t *testing.T, s *httptest.Server, files upstream.TLS) (string, error) {
	t.Helper()
	files, err := files.Read()
	if err != nil {
		t.Fatal(err)
	}
	p, err := upstream.NewPool(upstream.Identity{
		Scheme: "https", Host: s.Listener.Addr().String(), ConnectTimeout: 5 * time.Second, ResponseTimeout: 5 * time.Second, TLS: files,
	})
	if err != nil {
		t.Fatal(err)
	}
	p.Begin()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, s.URL, nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := p.RoundTrip(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	return string(text), err
}

func TestPoolShowsItsCertificateAndChecksTheServices(t *testing.T) {
	a := newAuthority(t)
	a.issue(t, "gateway", a)
	s := a.serve(t, "backend.internal")
	own := upstream.TLS{CAFile: a.file("authority.pem"), CertFile: a.file("gateway.pem"), KeyFile: a.file("gateway.key"), ServerName: "backend.internal"}
	if name, err := ask(t, s, own); err != nil || name != "gateway" {
		t.Errorf("the service saw %q, %v", name, err)
	}
	for what, change := range map[string]func(*upstream.TLS){
		"without the authority":      func(f *upstream.TLS) { f.CAFile = "" },
		"for another name":           func(f *upstream.TLS) { f.ServerName = "other.internal" },
		"without a certificate":      func(f *upstream.TLS) { f.CertFile, f.KeyFile = "", "" },
		"for the host of the target": func(f *upstream.TLS) { f.ServerName = "" },
	} {
		files := own
		change(&files)
		if name, err := ask(t, s, files); err == nil {
			t.Errorf("%s the service saw %q", what, name)
		}
	}
}

func TestChangedFilesAreAnotherPool(t *testing.T) {
	a := newAuthority(t)
	files := upstream.TLS{CAFile: a.file("authority.pem")}
	before, err := files.Read()
	if err != nil {
		t.Fatal(err)
	}
	if again, err := files.Read(); err != nil || again != before {
		t.Errorf("the same files are another identity: %v", err)
	}
	a.issue(t, "authority", nil)
	if after, err := files.Read(); err != nil || after == before {
		t.Errorf("other files are the same identity: %v", err)
	}
}

func TestFilesThatCannotBeUsedAreAnError(t *testing.T) {
	a := newAuthority(t)
	if _, err := (upstream.TLS{CAFile: a.file("absent.pem")}).Read(); err == nil {
		t.Error("a file that is not there is no error")
	}
	if _, err := upstream.NewPool(upstream.Identity{TLS: upstream.TLS{CAFile: a.file("authority.key")}}); err == nil {
		t.Error("a file without certificates is no error")
	}
}

func TestH2CPoolSpeaksHTTP2WithoutTLS(t *testing.T) {
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, r.Proto) }))
	s.Config.Protocols = new(http.Protocols)
	s.Config.Protocols.SetUnencryptedHTTP2(true)
	s.Start()
	defer s.Close()
	p, err := upstream.NewPool(upstream.Identity{Scheme: "http", Host: s.Listener.Addr().String(), ConnectTimeout: 5 * time.Second, Protocol: upstream.H2C})
	if err != nil {
		t.Fatal(err)
	}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, s.URL, nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := p.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if text, err := io.ReadAll(resp.Body); err != nil || string(text) != "HTTP/2.0" {
		t.Errorf("the service saw %q, %v", text, err)
	}
}
