package app_test

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
	"maps"
	"math/big"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/keywarden/keywarden/pkg/app/apptest"
)

// authority issues certificates.
type authority struct {
	t    testing.TB
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	file string // PEM
	pool *x509.CertPool
}

func newAuthority(t testing.TB, name string) *authority {
	t.Helper()
	a := &authority{t: t, key: newECDSA(t), pool: x509.NewCertPool(), file: filepath.Join(t.TempDir(), "ca.pem")}
	template := &x509.Certificate{
		SerialNumber: newSerial(t), Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().Add(-48 * time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &a.key.PublicKey, a.key)
	if err != nil {
		t.Fatal(err)
	}
	if a.cert, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	a.pool.AddCert(a.cert)
	writePEM(t, a.file, "CERTIFICATE", der)
	return a
}

func newECDSA(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func newSerial(t testing.TB) *big.Int {
	t.Helper()
	n, err := rand.Int(rand.Reader, big.NewInt(1<<62))
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// writePEM replaces the file in one step, as a renewal should.
func writePEM(t testing.TB, file, kind string, der []byte) {
	t.Helper()
	if err := os.WriteFile(file+".new", pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(file+".new", file); err != nil {
		t.Fatal(err)
	}
}

// issue makes a certificate, by default one for an hour. change alters it first.
func (a *authority) issue(change func(*x509.Certificate)) tls.Certificate {
	a.t.Helper()
	key := newECDSA(a.t)
	template := &x509.Certificate{
		SerialNumber: newSerial(a.t), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth}, KeyUsage: x509.KeyUsageDigitalSignature,
	}
	if change != nil {
		change(template)
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, &key.PublicKey, a.key)
	if err != nil {
		a.t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		a.t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}
}

// named makes certificates for a server, or of a client, of that name.
func named(name string) func(*x509.Certificate) {
	return func(c *x509.Certificate) { c.Subject.CommonName, c.DNSNames = name, []string{name} }
}

func spiffe(id string) func(*x509.Certificate) {
	return func(c *x509.Certificate) {
		u, _ := url.Parse(id)
		c.Subject.CommonName, c.URIs = "somebody", []*url.URL{u}
	}
}

// keyPair are the files of a certificate of the listener.
type keyPair struct{ cert, key string }

// write writes the pair: the key first, as between the two the old pair goes on.
func (p keyPair) write(t testing.TB, c tls.Certificate) {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(c.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	writePEM(t, p.key, "PRIVATE KEY", der)
	writePEM(t, p.cert, "CERTIFICATE", c.Certificate[0])
}

// newKeyPair writes a certificate for gateway.test.
func newKeyPair(t testing.TB, a *authority) keyPair {
	t.Helper()
	dir := t.TempDir()
	p := keyPair{filepath.Join(dir, "tls.crt"), filepath.Join(dir, "tls.key")}
	p.write(t, a.issue(named("gateway.test")))
	return p
}

// tlsOptions are the options of a program with the certificate.
func (p keyPair) options(more map[string]string) map[string]string {
	set := map[string]string{"server.tls.cert_file": p.cert, "server.tls.key_file": p.key}
	maps.Copy(set, more)
	return set
}

// config trusts the authority for gateway.test. certificates are the client's.
func (a *authority) config(certificates ...tls.Certificate) *tls.Config {
	return &tls.Config{RootCAs: a.pool, ServerName: "gateway.test", Certificates: certificates, MinVersion: tls.VersionTLS12}
}

// httpsClient speaks to the program over TLS, with HTTP/2 where h2 says so.
func httpsClient(t testing.TB, c *tls.Config, h2 bool) *http.Client {
	t.Helper()
	transport := &http.Transport{TLSClientConfig: c, Protocols: new(http.Protocols)}
	transport.Protocols.SetHTTP1(!h2)
	transport.Protocols.SetHTTP2(h2)
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport, Timeout: patience, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
}

// getHTTPS is a GET of path; headers are pairs.
func getHTTPS(t testing.TB, client *http.Client, p *apptest.Program, path string, headers ...string) (apptest.Answer, error) {
	t.Helper()
	return callHTTPS(t, client, p, http.MethodGet, path, "", headers...)
}

// callHTTPS calls path; headers are pairs, of which each is sent.
func callHTTPS(t testing.TB, client *http.Client, p *apptest.Program, method, path, body string, headers ...string) (apptest.Answer, error) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, "https://"+p.Addr+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	if body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	for i := 0; i+1 < len(headers); i += 2 {
		req.Header.Add(headers[i], headers[i+1])
	}
	resp, err := client.Do(req)
	if err != nil {
		return apptest.Answer{}, err
	}
	defer func() { _ = resp.Body.Close() }()
	text, err := io.ReadAll(resp.Body)
	return apptest.Answer{Status: resp.StatusCode, Header: resp.Header, Body: text}, err
}

// keyOverHTTPS mints a key of a new user and returns it.
func keyOverHTTPS(t testing.TB, client *http.Client, p *apptest.Program) string {
	t.Helper()
	account := fmt.Sprintf(`{"email":%q,"password":%q}`, apptest.NewEmail(), apptest.Password)
	call := func(path, body string, headers ...string) apptest.Answer {
		a, err := callHTTPS(t, client, p, http.MethodPost, path, body, headers...)
		if err != nil || a.Status >= http.StatusBadRequest {
			t.Fatalf("%s: status %d, %v: %s", path, a.Status, err, a.Body)
		}
		return a
	}
	call("/auth/register", account)
	token := call("/auth/login", account).Text(t, "access_token")
	return call("/api-keys", `{"name":"a key"}`, "Authorization", "Bearer "+token).Text(t, "key")
}
