package cli_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/keywarden/keywarden/pkg/pglocal/pgtest"
	"github.com/keywarden/keywarden/pkg/seal"
)

// tlsFiles writes a certificate for gateway.test and its key into dir.
func tlsFiles(t *testing.T, dir string) (certFile, keyFile string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), DNSNames: []string{"gateway.test"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	certFile, keyFile = filepath.Join(dir, "gateway.crt"), filepath.Join(dir, "gateway.key")
	for file, block := range map[string]*pem.Block{certFile: {Type: "CERTIFICATE", Bytes: cert}, keyFile: {Type: "PRIVATE KEY", Bytes: keyDER}} {
		if err := os.WriteFile(file, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return certFile, keyFile
}

// A program that lives is told so however its listener got its certificates, and
// whoever may connect to it: otherwise a container would be restarted for ever.
func TestHealthcheckKnowsEveryKindOfTLS(t *testing.T) {
	dir := t.TempDir()
	certFile, keyFile := tlsFiles(t, dir)
	pair := []string{"server.tls.cert_file=" + certFile, "server.tls.key_file=" + keyFile}
	for name, set := range map[string][]string{
		"plain":                         nil,
		"a pair of files":               pair,
		"a folder":                      {"server.tls.dir=" + dir},
		"clients may have certificates": append([]string{"server.tls.client_ca_file=" + certFile}, pair...),
		"clients must have them":        append([]string{"server.tls.client_ca_file=" + certFile, "server.tls.client_auth=require"}, pair...),
		// The authority cannot be reached, so there is no certificate yet.
		"ACME": {"server.tls.acme.domains=gateway.test", "server.tls.acme.directory_url=https://127.0.0.1:1/directory"},
	} {
		t.Run(name, func(t *testing.T) {
			s := serve(t, serving(pgtest.New(t), seal.NewMasterKey(), set...))
			check := invocation{args: []string{"healthcheck", "--set", "server.addr=" + s.Addr}}
			for _, option := range set {
				check.args = append(check.args, "--set", option)
			}
			run(t, check).want(0)
			s.stop()
			run(t, check).want(1, "not healthy")
		})
	}
}

// What listens at the address and is no TLS server is not taken for one.
func TestHealthcheckIsNotContentWithAnOpenPort(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			_ = conn.Close()
		}
	}()
	t.Cleanup(func() { _ = l.Close(); <-done })
	keywarden(t, "healthcheck", "--set", "server.addr="+l.Addr().String(),
		"--set", "server.tls.acme.domains=gateway.test").want(1, "not healthy")
}
