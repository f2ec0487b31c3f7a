package upstream

import (
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
)

// TLS is how a service is checked and how the gateway shows who it is. The zero
// value trusts the system's authorities and shows nothing.
type TLS struct {
	CAFile     string // PEM, authorities that are trusted instead of the system's
	CertFile   string // PEM, with KeyFile: the gateway's own certificate
	KeyFile    string
	ServerName string // expected and sent instead of the host

	// Content is the digest of the files, so that a pool with other files is
	// another pool; [TLS.Read] fills it in.
	Content [sha256.Size]byte
}

// Read returns t with the digest of what its files hold now.
func (t TLS) Read() (TLS, error) {
	if t.CAFile+t.CertFile+t.KeyFile == "" {
		return t, nil
	}
	digest := sha256.New()
	for _, file := range []string{t.CAFile, t.CertFile, t.KeyFile} {
		if file == "" {
			continue
		}
		text, err := os.ReadFile(file)
		if err != nil {
			return t, err
		}
		_, _ = fmt.Fprintf(digest, "%d:", len(text))
		digest.Write(text)
	}
	digest.Sum(t.Content[:0])
	return t, nil
}

// Config reads the files and makes what the standard library needs.
func (t TLS) Config() (*tls.Config, error) {
	config := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: t.ServerName}
	if t.CAFile != "" {
		text, err := os.ReadFile(t.CAFile)
		if err != nil {
			return nil, err
		}
		config.RootCAs = x509.NewCertPool()
		if !config.RootCAs.AppendCertsFromPEM(text) {
			return nil, errors.New(t.CAFile + " holds no certificate in PEM form")
		}
	}
	if t.CertFile != "" {
		pair, err := tls.LoadX509KeyPair(t.CertFile, t.KeyFile)
		if err != nil {
			return nil, fmt.Errorf("the certificate of the gateway: %w", err)
		}
		config.Certificates = []tls.Certificate{pair}
	}
	return config, nil
}
