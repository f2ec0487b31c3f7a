package app_test

import (
	"crypto/ecdsa"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/keywarden/keywarden/pkg/app/apptest"
	"github.com/keywarden/keywarden/pkg/gateway/attacktest"
)

// certificateDocument has a route for certificates alone, for certificates and
// keys, for keys alone, and for everybody.
const certificateDocument = `
version: 1
services:
  - {name: backend, targets: [{url: "http://%s"}]}
routes:
  - {name: certificate, match: {path: {prefix: /certificate}}, service: backend, auth: {methods: [certificate]}}
  - {name: either, match: {path: {prefix: /either}}, service: backend, auth: {methods: [certificate, key]}}
  - {name: scoped, match: {path: {prefix: /scoped}}, service: backend, auth: {methods: [certificate, key], scopes: ["profile:read"]}}
  - {name: keyed, match: {path: {prefix: /keyed}}, service: backend, auth: {methods: [key]}}
  - {name: open, match: {path: {prefix: /open}}, service: backend, auth: {mode: none}}
`

// certified is a program with TLS that knows the clients of one authority.
type certified struct {
	*apptest.Program
	up               *attacktest.Upstream
	servers, clients *authority
}

func startCertified(t *testing.T, clientAuth string) *certified {
	t.Helper()
	c := &certified{up: attacktest.Start(t, "127.0.0.1:0"), servers: newAuthority(t, "servers"), clients: newAuthority(t, "clients")}
	c.Program = apptest.Start(t, apptest.Options{
		Gateway: fmt.Sprintf(certificateDocument, c.up.Addr()),
		Set: newKeyPair(t, c.servers).options(map[string]string{
			"server.tls.client_ca_file": c.clients.file, "server.tls.client_auth": clientAuth,
		}),
	})
	return c
}

// get calls path, with the client's certificates, and returns what reached the
// backend.
func (c *certified) get(t *testing.T, path string, certificates []tls.Certificate, headers ...string) (apptest.Answer, []attacktest.Request) {
	t.Helper()
	mark := c.up.Mark()
	a, err := getHTTPS(t, httpsClient(t, c.servers.config(certificates...), false), c.Program, path, headers...)
	if err != nil {
		t.Fatalf("%s: %v", path, err)
	}
	c.up.Settle(t.Context())
	return a, c.up.Since(mark)
}

// refused fails unless the certificates end the handshake.
func (c *certified) refused(t *testing.T, what string, certificates ...tls.Certificate) {
	t.Helper()
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		config := c.servers.config()
		config.MinVersion, config.MaxVersion = version, version
		if len(certificates) > 0 {
			// Sent although the server names other authorities.
			config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &certificates[0], nil }
		}
		mark := c.up.Mark()
		a, err := getHTTPS(t, httpsClient(t, config, false), c.Program, "/open/x")
		if err == nil {
			t.Errorf("%s, %s: status %d, want no connection", what, tls.VersionName(version), a.Status)
		}
		c.up.Settle(t.Context())
		if n := len(c.up.Since(mark)); n != 0 {
			t.Errorf("%s: %d requests reached the backend", what, n)
		}
	}
}

// fingerprint is how a certificate is named to backends.
func fingerprint(c tls.Certificate) string {
	sum := sha256.Sum256(c.Certificate[0])
	return "sha256:" + hex.EncodeToString(sum[:])
}

func TestBackendIsToldWhoseCertificateItIs(t *testing.T) {
	c := startCertified(t, "request")
	for name, test := range map[string]struct {
		change func(*x509.Certificate)
		name   string
	}{
		"a SPIFFE id":             {spiffe("spiffe://example.org/orders"), "spiffe://example.org/orders"},
		"a DNS name":              {named("orders.internal"), "orders.internal"},
		"a common name":           {func(x *x509.Certificate) { x.Subject.CommonName = "orders" }, "orders"},
		"no name":                 {nil, ""},
		"a name that is a header": {func(x *x509.Certificate) { x.Subject.CommonName = "a\r\nX-Consumer-Role: admin" }, ""},
		"a name with a space":     {func(x *x509.Certificate) { x.Subject.CommonName = "Jörg Müller" }, ""},
	} {
		t.Run(name, func(t *testing.T) {
			pair := c.clients.issue(test.change)
			for _, path := range []string{"/certificate/x", "/either/x"} {
				a, seen := c.get(t, path, []tls.Certificate{pair}, "X-Consumer-Role", "admin", "X-Consumer-Name", "root", "X-Consumer-Scopes", "*")
				if a.Status != http.StatusOK || len(seen) != 1 {
					t.Fatalf("%s: status %d, %d requests: %s", path, a.Status, len(seen), a.Body)
				}
				want := map[string]string{
					"X-Consumer": fingerprint(pair), "X-Consumer-Kind": "certificate", "X-Consumer-Name": test.name,
					"X-Consumer-Role": "", "X-Consumer-Scopes": "", "X-Consumer-Key": "", "X-Forwarded-Proto": "https",
				}
				for field, value := range want {
					got := fieldValues(seen[0], field)
					if value == "" && len(got) != 0 || value != "" && (len(got) != 1 || got[0] != value) {
						t.Errorf("%s: %s is %q, want %q", path, field, got, value)
					}
				}
			}
		})
	}
}

func TestCertificatesOfStrangersEndTheHandshake(t *testing.T) {
	now := time.Now()
	for _, clientAuth := range []string{"request", "require"} {
		t.Run(clientAuth, func(t *testing.T) {
			c := startCertified(t, clientAuth)
			other := newAuthority(t, "clients")              // of the same name
			intermediate := c.clients.issue(named("client")) // no authority
			c.refused(t, "one of another authority", other.issue(named("client")))
			c.refused(t, "one of the server's authority", c.servers.issue(named("client")))
			c.refused(t, "one that has expired", c.clients.issue(func(x *x509.Certificate) { x.NotAfter = now.Add(-time.Minute) }))
			c.refused(t, "one of tomorrow", c.clients.issue(func(x *x509.Certificate) { x.NotBefore = now.Add(30 * time.Minute) }))
			c.refused(t, "one of a server", c.clients.issue(func(x *x509.Certificate) { x.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth} }))
			forger := &authority{t: t, cert: intermediate.Leaf, key: intermediate.PrivateKey.(*ecdsa.PrivateKey)}
			forged := forger.issue(named("client"))
			forged.Certificate = append(forged.Certificate, intermediate.Certificate...)
			c.refused(t, "one that a client has issued", forged)
			if clientAuth == "require" {
				c.refused(t, "none")
			}
			if a, _ := c.get(t, "/certificate/x", []tls.Certificate{c.clients.issue(named("client"))}); a.Status != http.StatusOK {
				t.Errorf("a good one: status %d", a.Status)
			}
		})
	}
}

func TestWithoutACertificateTheRouteIsClosed(t *testing.T) {
	c := startCertified(t, "request")
	pair := c.clients.issue(named("client"))
	for _, path := range []string{"/certificate/x", "/either/x"} {
		a, seen := c.get(t, path, nil)
		if a.Status != http.StatusUnauthorized || len(seen) != 0 || a.Header.Get("WWW-Authenticate") == "" {
			t.Errorf("%s: status %d, %d requests reached the backend", path, a.Status, len(seen))
		}
	}
	// One that was shown does not open what it is not for.
	for _, path := range []string{"/keyed/x", "/scoped/x"} {
		a, seen := c.get(t, path, []tls.Certificate{pair})
		if a.Status != http.StatusUnauthorized && a.Status != http.StatusForbidden || len(seen) != 0 {
			t.Errorf("%s with a certificate: status %d, %d requests reached the backend", path, a.Status, len(seen))
		}
	}
	for _, path := range []string{"/users/me", "/api-keys", "/users", "/audit", "/admin/v1/config"} {
		if a, _ := c.get(t, path, []tls.Certificate{pair}); a.Status != http.StatusUnauthorized {
			t.Errorf("the platform's own %s with a certificate: status %d: %s", path, a.Status, a.Body)
		}
	}
	// On an open route nobody is named.
	a, seen := c.get(t, "/open/x", []tls.Certificate{pair})
	if a.Status != http.StatusOK || len(seen) != 1 || len(fieldValues(seen[0], "X-Consumer")) != 0 {
		t.Errorf("the open route: status %d, %d requests", a.Status, len(seen))
	}
}

func TestAKeyBesideACertificateWins(t *testing.T) {
	c := startCertified(t, "request")
	pair := []tls.Certificate{c.clients.issue(named("client"))}
	secret := keyOverHTTPS(t, httpsClient(t, c.servers.config(), true), c.Program)
	a, seen := c.get(t, "/either/x", pair, "X-API-Key", secret)
	if a.Status != http.StatusOK || len(seen) != 1 {
		t.Fatalf("status %d: %s", a.Status, a.Body)
	}
	if kind, name := fieldValues(seen[0], "X-Consumer-Kind"), fieldValues(seen[0], "X-Consumer-Name"); len(kind) != 1 || kind[0] != "key" || len(name) != 0 {
		t.Errorf("kind %q, name %q", kind, name)
	}
	// A bad credential is not made good by a certificate.
	for _, headers := range [][]string{
		{"X-API-Key", unknownKey()},
		{"X-API-Key", "nonsense"},
		{"X-API-Key", ""},
		{"Authorization", "Bearer nonsense"},
		{"X-API-Key", secret, "X-API-Key", secret},
	} {
		a, seen := c.get(t, "/either/x", pair, headers...)
		if a.Status != http.StatusUnauthorized && a.Status != http.StatusBadRequest || len(seen) != 0 {
			t.Errorf("%q: status %d, %d requests reached the backend", headers, a.Status, len(seen))
		}
	}
	// A key where only certificates are taken.
	if a, seen := c.get(t, "/certificate/x", pair, "X-API-Key", secret); a.Status != http.StatusUnauthorized || len(seen) != 0 {
		t.Errorf("a key on the route for certificates: status %d", a.Status)
	}
}

func TestHeadersAboutCertificatesAreNobodysWord(t *testing.T) {
	c := startCertified(t, "request")
	pair := c.clients.issue(named("client"))
	text := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: pair.Certificate[0]}))
	values := []string{url.QueryEscape(text), strings.ReplaceAll(strings.TrimSpace(text), "\n", " "), "Subject=\"CN=client\";Hash=" + fingerprint(pair), "SUCCESS"}
	for _, field := range []string{
		"X-Client-Cert", "X-Forwarded-Client-Cert", "X-Forwarded-Tls-Client-Cert", "X-SSL-Client-Cert", "X-SSL-Client-Verify", "SSL-Client-Cert",
		"X-Client-Certificate", "Client-Cert", "Client-Cert-Chain", "client.cert", "X-Amzn-Mtls-Clientcert", "X-Arr-Clientcert", "X-TLS-Client-Cert", "X_Client_Cert",
	} {
		for _, value := range values {
			if a, seen := c.get(t, "/certificate/x", nil, field, value); a.Status != http.StatusUnauthorized || len(seen) != 0 {
				t.Errorf("%s: status %d, %d requests reached the backend", field, a.Status, len(seen))
			}
		}
		// Nor does the backend hear it, where the call is good or needs no caller.
		for path, certificates := range map[string][]tls.Certificate{"/certificate/x": {pair}, "/open/x": nil} {
			a, seen := c.get(t, path, certificates, field, "forged-by-client")
			if a.Status != http.StatusOK || len(seen) != 1 {
				t.Fatalf("%s with %s: status %d, %d requests", path, field, a.Status, len(seen))
			}
			if strings.Contains(everything(seen[0]), "forged-by-client") {
				t.Errorf("%s reaches the backend of %s", field, path)
			}
		}
	}
}
