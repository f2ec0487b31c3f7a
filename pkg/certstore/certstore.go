// Package certstore holds the certificates of a TLS listener: those in files,
// which it follows, and those of an issuer such as ACME; and the authorities whose
// clients may show certificates. It chooses the one for each handshake by the name
// that the client asks for (SNI, RFC 6066 section 3).
//
// It opens no listener and talks to nobody.
package certstore

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// ClientAuth says what is asked of clients.
type ClientAuth string

// What can be asked.
const (
	RequestClient ClientAuth = "request" // a certificate is checked when it is shown
	RequireClient ClientAuth = "require" // no connection without one
)

// Issuer gets certificates for names, like autocert.Manager.
type Issuer interface {
	// GetCertificate answers a handshake for a name that Owns holds, or one that the
	// issuer's own server makes to check who it talks to.
	GetCertificate(hello *tls.ClientHelloInfo) (*tls.Certificate, error)

	// Owns reports whether the name is one of the issuer's.
	Owns(name string) bool

	// Protocols are those of the handshakes that the issuer's server makes (ALPN).
	Protocols() []string

	// Certificates are those that the issuer has at the moment.
	Certificates() []*x509.Certificate
}

// Options say where certificates are. At least one of CertFile, Dir and Issuer is
// given.
type Options struct {
	// CertFile and KeyFile are the certificate for clients that name no host, or one
	// that no other certificate is for.
	CertFile, KeyFile string

	// Dir is a folder of further certificates: name.crt beside name.key, or folders
	// that hold tls.crt and tls.key. It is read again when something in it changes.
	Dir string

	Issuer Issuer // nil: none

	ClientCAFile string // authorities of clients; empty: no certificate is asked for
	ClientAuth   ClientAuth

	Logger *slog.Logger // required
}

// Store is the certificates. It is safe for concurrent use.
type Store struct {
	Options
	clients *x509.CertPool
	now     func() time.Time
	first   *certificate // of CertFile; nil without
	index   atomic.Pointer[index]

	mu      sync.Mutex // held by the one that looks at the folder
	checked time.Time
	found   map[string]*certificate // of the folder, by the certificate's file
	refused map[string]string       // why files are not used, as it was logged
}

// index finds a certificate by name.
type index struct {
	names    map[string]*tls.Certificate // also *.example.com
	fallback *tls.Certificate            // nil: there is only the issuer
	all      []Info
}

// Info is what is known of a certificate.
type Info struct {
	File     string // empty for one of the issuer's
	Names    []string
	Issuer   string
	NotAfter time.Time
	Error    string // why a newer one in the file is not used
}

// New reads the files for the first time. What cannot be read then is an error;
// later it is logged, and what there was stays.
func New(o Options) (*Store, error) {
	s := &Store{Options: o, now: time.Now, found: map[string]*certificate{}, refused: map[string]string{}}
	if o.CertFile == "" && o.Dir == "" && o.Issuer == nil {
		return nil, errors.New("certstore: there is no certificate")
	}
	if o.CertFile != "" || o.KeyFile != "" {
		var err error
		if s.first, err = loadCertificate(o.CertFile, o.KeyFile, o.Logger, s.time); err != nil {
			return nil, err
		}
	}
	if o.ClientCAFile != "" {
		text, err := os.ReadFile(o.ClientCAFile)
		if err != nil {
			return nil, fmt.Errorf("reading the authorities of clients: %w", err)
		}
		s.clients = x509.NewCertPool()
		if !s.clients.AppendCertsFromPEM(text) {
			return nil, fmt.Errorf("%s holds no certificate in PEM form", o.ClientCAFile)
		}
	}
	if err := s.look(); err != nil {
		return nil, err
	}
	if len(s.refused) > 0 {
		file := slices.Min(slices.Collect(maps.Keys(s.refused)))
		return nil, fmt.Errorf("loading the certificate %s: %s", file, s.refused[file])
	}
	s.checked = s.now()
	s.build()
	if s.index.Load().fallback == nil && o.Issuer == nil {
		return nil, fmt.Errorf("%s holds no certificate: there must be name.crt with name.key, or a folder with tls.crt and tls.key", o.Dir)
	}
	return s, nil
}

// Config is the configuration of a listener: TLS 1.2 and up, HTTP/2.
func (s *Store) Config() *tls.Config {
	c := &tls.Config{
		MinVersion:     tls.VersionTLS12,
		GetCertificate: s.get,
		NextProtos:     []string{"h2", "http/1.1"},
	}
	if s.Issuer != nil {
		c.NextProtos = append(c.NextProtos, s.Issuer.Protocols()...)
	}
	if s.clients == nil {
		return c
	}
	c.ClientCAs, c.ClientAuth = s.clients, tls.VerifyClientCertIfGiven
	if s.ClientAuth == RequireClient {
		c.ClientAuth = tls.RequireAndVerifyClientCert
	}
	if s.Issuer == nil {
		return c
	}
	// The issuer's server has no certificate of a client.
	open := c.Clone()
	open.ClientAuth, open.ClientCAs, open.NextProtos = tls.NoClientCert, nil, s.Issuer.Protocols()
	c.GetConfigForClient = func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
		if s.ofIssuer(hello) {
			return open, nil
		}
		return nil, nil
	}
	return c
}

// ofIssuer reports whether the issuer's server makes the handshake.
func (s *Store) ofIssuer(hello *tls.ClientHelloInfo) bool {
	return len(hello.SupportedProtos) == 1 && slices.Contains(s.Issuer.Protocols(), hello.SupportedProtos[0])
}

// get is a tls.Config.GetCertificate.
func (s *Store) get(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	s.refresh()
	name := strings.ToLower(strings.TrimSuffix(hello.ServerName, "."))
	if s.Issuer != nil && (s.ofIssuer(hello) || s.Issuer.Owns(name)) {
		return s.Issuer.GetCertificate(hello)
	}
	x := s.index.Load()
	if c := x.names[name]; c != nil {
		return c, nil
	}
	if _, rest, ok := strings.Cut(name, "."); ok {
		if c := x.names["*."+rest]; c != nil {
			return c, nil
		}
	}
	if x.fallback == nil {
		return nil, fmt.Errorf("there is no certificate for %q", name)
	}
	return x.fallback, nil
}

// refresh looks at the files again, at most once a second. One handshake does it,
// the others go on with what there is.
func (s *Store) refresh() {
	if !s.mu.TryLock() {
		return
	}
	defer s.mu.Unlock()
	now := s.now()
	if now.Sub(s.checked) < certificateInterval {
		return
	}
	s.checked = now
	if err := s.look(); err != nil {
		s.refuse(s.Dir, err)
	} else {
		delete(s.refused, s.Dir)
	}
	s.build()
}

// errEmptied is taken for a volume that is not mounted: to do what it says would
// leave nothing to serve with.
var errEmptied = errors.New("the folder has no certificate any more, and there is no other one: those from before stay")

// time is the time of the clock.
func (s *Store) time() time.Time { return s.now() }

// look brings every certificate up to date.
func (s *Store) look() error {
	if s.first != nil {
		s.first.refresh()
	}
	if s.Dir == "" {
		return nil
	}
	pairs, err := pairsIn(s.Dir)
	if err != nil {
		return fmt.Errorf("reading the folder of certificates: %w", err)
	}
	for certFile, known := range s.found {
		if _, there := pairs[certFile]; !there && exists(certFile) { // its key is being replaced
			pairs[certFile] = known.keyFile
		}
	}
	if len(pairs) == 0 && len(s.found) > 0 && s.first == nil && s.Issuer == nil {
		return errEmptied
	}
	for certFile := range s.found {
		if _, there := pairs[certFile]; !there {
			s.Logger.Info("TLS certificate removed", "file", certFile)
			delete(s.found, certFile)
		}
	}
	for certFile, keyFile := range pairs {
		if known := s.found[certFile]; known != nil {
			known.refresh()
			continue
		}
		c, err := loadCertificate(certFile, keyFile, s.Logger, s.time)
		if err != nil {
			s.refuse(certFile, err)
			continue
		}
		delete(s.refused, certFile)
		s.found[certFile] = c
	}
	return nil
}

// refuse logs why files are not used, once.
func (s *Store) refuse(file string, err error) {
	if s.refused[file] != err.Error() {
		s.refused[file] = err.Error()
		s.Logger.Error("the TLS certificate cannot be used", "file", file, "err", err)
	}
}

// maxPairs bounds the certificates of a folder.
const maxPairs = 10_000

// pairsIn finds the pairs of a folder: the key's file by the certificate's.
func pairsIn(dir string) (map[string]string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	pairs := map[string]string{}
	for _, e := range entries {
		path := filepath.Join(dir, e.Name())
		if strings.HasPrefix(e.Name(), ".") { // also what Kubernetes swaps behind its links
			continue
		}
		if stem, ok := strings.CutSuffix(path, ".crt"); ok && exists(stem+".key") {
			pairs[path] = stem + ".key"
		} else if crt, key := filepath.Join(path, "tls.crt"), filepath.Join(path, "tls.key"); exists(crt) && exists(key) {
			pairs[crt] = key
		}
		if len(pairs) > maxPairs {
			return nil, fmt.Errorf("more than %d certificates", maxPairs)
		}
	}
	return pairs, nil
}

func exists(file string) bool {
	_, err := os.Stat(file)
	return err == nil
}

// build makes the index anew. Where two certificates are for one name, that of
// CertFile wins, then the one that is good for longer.
func (s *Store) build() {
	x := &index{names: map[string]*tls.Certificate{}}
	for _, file := range slices.Sorted(maps.Keys(s.found)) {
		x.add(file, s.found[file], false)
	}
	if s.first != nil {
		x.add(s.CertFile, s.first, true)
		x.fallback = s.first.current.Load()
	}
	s.index.Store(x)
}

func (x *index) add(file string, of *certificate, wins bool) {
	c := of.current.Load()
	leaf := c.Leaf
	x.all = append(x.all, Info{
		File: file, Names: leaf.DNSNames, Issuer: leaf.Issuer.String(), NotAfter: leaf.NotAfter, Error: of.refused,
	})
	for _, name := range leaf.DNSNames {
		name = strings.ToLower(name)
		if before := x.names[name]; before == nil || wins || leaf.NotAfter.After(before.Leaf.NotAfter) {
			x.names[name] = c
		}
	}
	if x.fallback == nil {
		x.fallback = c
	}
}

// Certificates lists the certificates in files, and those of the issuer.
func (s *Store) Certificates() []Info {
	s.refresh()
	all := slices.Clone(s.index.Load().all)
	if s.Issuer == nil {
		return all
	}
	for _, leaf := range s.Issuer.Certificates() {
		all = append(all, Info{Names: leaf.DNSNames, Issuer: leaf.Issuer.String(), NotAfter: leaf.NotAfter})
	}
	return all
}
