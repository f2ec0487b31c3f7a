package certstore

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"log/slog"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// files are a certificate's, under a clock that the test turns.
type files struct {
	*certificate
	clock time.Time
	log   bytes.Buffer
}

func load(t *testing.T) *files {
	t.Helper()
	dir := t.TempDir()
	f := &files{clock: time.Now()}
	f.certificate = &certificate{
		certFile: filepath.Join(dir, "tls.crt"), keyFile: filepath.Join(dir, "tls.key"),
		logger: slog.New(slog.NewTextHandler(&f.log, nil)), now: func() time.Time { return f.clock },
	}
	f.write(t, "first", time.Hour)
	if _, err := f.load(); err != nil {
		t.Fatal(err)
	}
	f.checked = f.clock
	return f
}

// write makes a certificate that is good for as long as life.
func (f *files) write(t *testing.T, name string, life time.Duration) (certPEM, keyPEM []byte) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, DNSNames: []string{name},
		NotBefore: f.clock.Add(-2 * time.Hour), NotAfter: f.clock.Add(life),
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
	keyPEM = pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER})
	f.put(t, certPEM, keyPEM)
	return certPEM, keyPEM
}

func (f *files) put(t *testing.T, certPEM, keyPEM []byte) {
	t.Helper()
	for name, content := range map[string][]byte{f.certFile: certPEM, f.keyFile: keyPEM} {
		if err := os.WriteFile(name, content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// served is what a handshake gets, the given time later.
func (f *files) served(t *testing.T, later time.Duration) string {
	t.Helper()
	f.clock = f.clock.Add(later)
	pair, err := f.get(nil)
	if err != nil {
		t.Fatal(err)
	}
	return pair.Leaf.Subject.CommonName
}

func TestFilesAreLookedAtOnceASecond(t *testing.T) {
	f := load(t)
	f.write(t, "second", time.Hour)
	if got := f.served(t, certificateInterval-1); got != "first" {
		t.Errorf("within the interval: %s", got)
	}
	if got := f.served(t, 1); got != "second" {
		t.Errorf("after the interval: %s", got)
	}
}

func TestUnusableFilesKeepTheOldCertificate(t *testing.T) {
	for name, spoil := range map[string]func(t *testing.T, f *files, certPEM, keyPEM []byte){
		"garbage":       func(t *testing.T, f *files, _, _ []byte) { f.put(t, []byte("garbage"), []byte("garbage")) },
		"half a file":   func(t *testing.T, f *files, c, k []byte) { f.put(t, c[:len(c)/2], k) },
		"old key":       func(t *testing.T, f *files, c, _ []byte) { _, k := f.write(t, "x", time.Hour); f.put(t, c, k) },
		"empty":         func(t *testing.T, f *files, _, _ []byte) { f.put(t, nil, nil) },
		"files removed": func(_ *testing.T, f *files, _, _ []byte) { os.Remove(f.certFile); os.Remove(f.keyFile) },
	} {
		t.Run(name, func(t *testing.T) {
			f := load(t)
			certPEM, keyPEM := f.write(t, "second", time.Hour)
			spoil(t, f, certPEM, keyPEM)
			for range 5 {
				if got := f.served(t, certificateInterval); got != "first" {
					t.Fatalf("serves %s", got)
				}
			}
			if n := strings.Count(f.log.String(), "cannot be used"); n != 1 {
				t.Errorf("logged %d times: %s", n, f.log.String())
			}
			f.put(t, certPEM, keyPEM)
			if got := f.served(t, certificateInterval); got != "second" {
				t.Errorf("the repaired files are not served, but %s", got)
			}
		})
	}
}

func TestSameFilesAreNotLoadedAgain(t *testing.T) {
	f := load(t)
	before := f.current.Load()
	f.served(t, certificateInterval)
	if f.current.Load() != before || f.log.Len() != 0 {
		t.Errorf("loaded again: %s", f.log.String())
	}
}

func TestExpiredCertificateIsServedWithAWarning(t *testing.T) {
	f := load(t)
	f.write(t, "second", -time.Minute)
	if got := f.served(t, certificateInterval); got != "second" {
		t.Errorf("serves %s", got)
	}
	if !strings.Contains(f.log.String(), "has expired") {
		t.Errorf("log: %s", f.log.String())
	}
}

func TestHandshakesDoNotWaitForEachOther(t *testing.T) {
	f := load(t)
	f.clock = f.clock.Add(certificateInterval)
	f.mu.Lock() // one handshake is stuck looking at the files
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			if pair, err := f.get(nil); err != nil || pair == nil {
				t.Errorf("got %v, %v", pair, err)
			}
		})
	}
	wg.Wait()
	f.mu.Unlock()
}
