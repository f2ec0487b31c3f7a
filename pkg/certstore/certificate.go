package certstore

import (
	"crypto/sha256"
	"crypto/tls"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

// certificateInterval is how often, at most, the files are looked at.
const certificateInterval = time.Second

// certificate is a key pair that follows its files. They are compared by
// content: modification times have a grain, and mounted secrets change through
// symbolic links.
type certificate struct {
	certFile, keyFile string
	logger            *slog.Logger
	now               func() time.Time

	current atomic.Pointer[tls.Certificate]

	mu      sync.Mutex // held by the one that looks at the files
	checked time.Time
	loaded  [sha256.Size]byte // of the files that are current
	refused string            // why the last attempt failed, empty when it did not
}

// loadCertificate reads the pair for the first time; if that fails there is
// nothing to serve with.
func loadCertificate(certFile, keyFile string, logger *slog.Logger, now func() time.Time) (*certificate, error) {
	c := &certificate{certFile: certFile, keyFile: keyFile, logger: logger, now: now}
	c.checked = c.now()
	if _, err := c.load(); err != nil {
		return nil, fmt.Errorf("loading the certificate: %w", err)
	}
	return c, nil
}

// get is a tls.Config.GetCertificate.
func (c *certificate) get(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	c.refresh()
	return c.current.Load(), nil
}

// refresh loads the files again if they changed. One handshake does it, the
// others go on with what there is. A pair that cannot be used is logged once
// and tried again, because files are replaced one after the other.
func (c *certificate) refresh() {
	if !c.mu.TryLock() {
		return
	}
	defer c.mu.Unlock()
	now := c.now()
	if now.Sub(c.checked) < certificateInterval {
		return
	}
	c.checked = now
	changed, err := c.load()
	switch {
	case err != nil && err.Error() != c.refused:
		c.refused = err.Error()
		c.logger.Error("the new TLS certificate cannot be used, the old one stays",
			slog.String("file", c.certFile), slog.Any("err", err))
	case err == nil:
		c.refused = ""
	}
	if changed {
		leaf := c.current.Load().Leaf
		c.logger.Info("TLS certificate reloaded", slog.String("file", c.certFile),
			slog.Any("names", leaf.DNSNames), slog.Time("not_after", leaf.NotAfter))
	}
}

// load makes the files current, unless they are already.
func (c *certificate) load() (changed bool, err error) {
	certPEM, err := os.ReadFile(c.certFile)
	if err != nil {
		return false, err
	}
	keyPEM, err := os.ReadFile(c.keyFile)
	if err != nil {
		return false, err
	}
	sum := digest(certPEM, keyPEM)
	if c.current.Load() != nil && sum == c.loaded {
		return false, nil
	}
	pair, err := tls.X509KeyPair(certPEM, keyPEM)
	if err != nil {
		return false, err
	}
	if end := pair.Leaf.NotAfter; !c.now().Before(end) {
		c.logger.Warn("the TLS certificate has expired", slog.String("file", c.certFile), slog.Time("not_after", end))
	}
	c.current.Store(&pair)
	c.loaded = sum
	return true, nil
}

func digest(certPEM, keyPEM []byte) [sha256.Size]byte {
	inner := sha256.Sum256(certPEM)
	return sha256.Sum256(append(inner[:], keyPEM...))
}
