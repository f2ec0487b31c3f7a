// Package acme gets certificates for host names from an ACME authority (RFC
// 8555), by tls-alpn-01 (RFC 8737), and renews them. The protocol is autocert's.
// This package keeps replicas from ordering the same certificate at the same time,
// seals what is stored, and sees to it that no stranger makes it order anything:
// only configured names, one order at a time for each, ever rarer while orders
// fail. It neither listens nor speaks SQL.
package acme

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/crypto/acme"
	"golang.org/x/crypto/acme/autocert"
	"golang.org/x/net/idna"

	"github.com/keywarden/keywarden/pkg/seal"
)

const (
	// patience is how long a handshake waits for a certificate that is being got.
	patience = 8 * time.Second

	// leaseTTL is how long a replica that died during an order keeps the others
	// from making one.
	leaseTTL = 2 * time.Minute

	// flightLimit is how long one attempt may take. autocert's own limit is as long.
	flightLimit = 5 * time.Minute

	pollInterval = 250 * time.Millisecond // while another replica orders

	// firstPause follows an order that failed; each further failure doubles it.
	// autocert remembers a failure for a minute, in which a try would be in vain.
	firstPause = 65 * time.Second
	lastPause  = time.Hour
	awayPause  = time.Second // after an attempt that the database ended

	requestTimeout = 30 * time.Second // of one request to the authority

	// lookups bounds the look-ups for checks of the authority: anybody can ask for one.
	lookups = 4
)

// Options configure an [Issuer]. Email is optional, the rest is required.
type Options struct {
	Domains      []string // names to get certificates for; no wildcards
	Email        string   // where the authority may write to
	DirectoryURL string
	Roots        *x509.CertPool // what the authority's server is trusted by; nil for the system's
	Store        Store
	Ring         *seal.Keyring
	Holder       string // tells replicas apart
	Logger       *slog.Logger
	Now          func() time.Time
}

// Issuer gets certificates when they are first asked for, and renews them. It is
// safe for concurrent use; the caller closes it.
type Issuer struct {
	*Options
	cache   *cache
	hosts   map[string]*host
	lookups chan struct{}

	ctx     context.Context //nolint:containedctx // of all flights
	stop    context.CancelFunc
	mu      sync.Mutex // held where a flight begins, and by Close
	flights sync.WaitGroup
}

// host is one name. It has an autocert.Manager of its own: that looks at its
// store with a lock held, and so may make all names of one manager wait.
type host struct {
	name    string
	manager *autocert.Manager
	hello   *tls.ClientHelloInfo
	ready   atomic.Bool // the manager has the certificate in memory

	// What follows is guarded by Issuer.mu.
	flight   *flight // nil: none is under way
	err      error   // of the last one
	failures int     // in a row
	retryAt  time.Time
}

// flight is one attempt to get a certificate.
type flight struct {
	done chan struct{} // closed when err is set
	err  error
}

// New checks the options; the authority is not asked yet.
func New(o Options) (*Issuer, error) {
	i := &Issuer{Options: &o, hosts: map[string]*host{}, lookups: make(chan struct{}, lookups)}
	i.cache = &cache{Options: &o}
	i.ctx, i.stop = context.WithCancel(context.Background())
	base := &http.Transport{
		Proxy: http.ProxyFromEnvironment, TLSClientConfig: &tls.Config{RootCAs: o.Roots, MinVersion: tls.VersionTLS12},
		ForceAttemptHTTP2: true, DisableKeepAlives: true, // a few requests in two months
	}
	client := &http.Client{Transport: &transport{base: base, cache: i.cache, ended: i.ctx}, Timeout: requestTimeout}
	for _, domain := range o.Domains {
		name, err := idna.Lookup.ToASCII(strings.TrimSuffix(domain, "."))
		if err != nil || !strings.Contains(name, ".") || strings.HasPrefix(name, "*") {
			i.stop()
			return nil, fmt.Errorf("acme: %q is no name that a certificate can be got for: it must be a full host name without wildcard", domain)
		}
		i.hosts[name] = &host{
			name: name,
			manager: &autocert.Manager{
				Prompt: autocert.AcceptTOS, Cache: i.cache, HostPolicy: autocert.HostWhitelist(name), Email: o.Email,
				Client: &acme.Client{DirectoryURL: o.DirectoryURL, HTTPClient: client, UserAgent: "keywarden"},
			},
			// Not that of the client: a hello without ECDSA, or with the cipher suites of
			// TLS 1.3 alone, would make autocert order a second certificate, with RSA.
			hello: &tls.ClientHelloInfo{ServerName: name, CipherSuites: []uint16{tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256}},
		}
	}
	return i, nil
}

// Owns reports whether name, in lower case, is one to get a certificate for.
func (i *Issuer) Owns(name string) bool { return i.hosts[name] != nil }

// Protocols are those of a handshake that the authority makes (RFC 8737).
func (*Issuer) Protocols() []string { return []string{acme.ALPNProto} }

// Certificates are those in memory.
func (i *Issuer) Certificates() []*x509.Certificate {
	var list []*x509.Certificate
	for _, h := range i.hosts {
		if !h.ready.Load() {
			continue
		}
		if c, err := h.manager.GetCertificate(h.hello); err == nil {
			list = append(list, c.Leaf)
		}
	}
	return list
}

// GetCertificate is a tls.Config.GetCertificate. A certificate in memory is
// answered at once. For one that has yet to be read or got, a handshake waits for a
// few seconds and then fails, while the attempt goes on.
func (i *Issuer) GetCertificate(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	name := strings.ToLower(strings.TrimSuffix(hello.ServerName, "."))
	h := i.hosts[name]
	switch {
	case h == nil:
		return nil, fmt.Errorf("acme: no certificate is got for %q", name)
	case len(hello.SupportedProtos) == 1 && hello.SupportedProtos[0] == acme.ALPNProto:
		return i.answer(hello, h)
	case !h.ready.Load():
		if err := i.wait(hello.Context(), h); err != nil {
			return nil, err
		}
	}
	return h.manager.GetCertificate(h.hello)
}

// answer proves to the authority that this is the server of the name. The order
// may be another replica's; its answer is in the store.
func (i *Issuer) answer(hello *tls.ClientHelloInfo, h *host) (*tls.Certificate, error) {
	limit := time.NewTimer(patience)
	defer limit.Stop()
	select {
	case i.lookups <- struct{}{}:
		defer func() { <-i.lookups }()
	case <-hello.Context().Done():
		return nil, hello.Context().Err()
	case <-limit.C:
		return nil, errors.New("acme: too many checks at the same time")
	}
	return h.manager.GetCertificate(&tls.ClientHelloInfo{ServerName: h.name, SupportedProtos: hello.SupportedProtos})
}

// wait waits until the host has a certificate in memory, or cannot get one now.
func (i *Issuer) wait(ctx context.Context, h *host) error {
	f, err := i.fly(h)
	if err != nil {
		return err
	}
	limit := time.NewTimer(patience)
	defer limit.Stop()
	select {
	case <-f.done:
		return f.err
	case <-ctx.Done():
		return ctx.Err()
	case <-limit.C:
		return fmt.Errorf("acme: the certificate for %q is still being got", h.name)
	}
}

// fly joins the attempt that is under way, or begins one.
func (i *Issuer) fly(h *host) (*flight, error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	switch {
	case h.flight != nil:
		return h.flight, nil
	case i.ctx.Err() != nil:
		return nil, errClosed
	case i.Now().Before(h.retryAt):
		return nil, fmt.Errorf("acme: the certificate for %q could not be got, and is not tried again yet: %w", h.name, h.err)
	}
	f := &flight{done: make(chan struct{})}
	h.flight = f
	i.flights.Go(func() {
		f.err = i.obtain(h)
		i.land(h, f.err)
		close(f.done)
	})
	return f, nil
}

// land ends the attempt of a host.
func (i *Issuer) land(h *host, err error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	h.flight, h.err = nil, err
	switch {
	case err == nil:
		h.ready.Store(true)
		h.failures = 0
	case i.ctx.Err() != nil:
	case i.cache.away.Load():
		i.Logger.WarnContext(i.ctx, "a certificate can neither be read nor got while the database is away", "host", h.name, "error", err)
		h.retryAt = i.Now().Add(awayPause)
	default:
		pause := min(firstPause<<min(h.failures, 10), lastPause)
		h.failures++
		h.retryAt = i.Now().Add(pause)
		i.Logger.ErrorContext(i.ctx, "the certificate cannot be got", "host", h.name, "error", err, "retry_after", pause.String())
	}
}

// obtain reads the certificate from the store, or orders it, so that the manager
// has it in memory. While another replica orders it, it waits for that.
func (i *Issuer) obtain(h *host) error {
	ctx, cancel := context.WithTimeout(i.ctx, flightLimit)
	defer cancel()
	for {
		stored, err := i.stored(ctx, h.name)
		if err != nil {
			return err
		}
		if stored {
			_, err := h.manager.GetCertificate(h.hello)
			return err
		}
		var leased bool
		err = i.cache.use(ctx, func(ctx context.Context) error {
			leased, err = i.Store.LeaseACME(ctx, i.DirectoryURL, h.name, i.Holder, leaseTTL)
			return err
		})
		if err != nil {
			return err
		}
		if leased {
			return i.order(ctx, h)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("acme: another replica has not got the certificate for %q: %w", h.name, ctx.Err())
		case <-time.After(pollInterval):
		}
	}
}

// order orders the certificate, with the lease held.
func (i *Issuer) order(ctx context.Context, h *host) error {
	defer func() {
		err := i.cache.use(context.WithoutCancel(ctx), func(ctx context.Context) error {
			return i.Store.ReleaseACME(ctx, i.DirectoryURL, h.name, i.Holder)
		})
		if err != nil {
			i.Logger.WarnContext(ctx, "a lease for an order was not given back", "host", h.name, "error", err)
		}
	}()
	stored, err := i.stored(ctx, h.name) // somebody may have finished in between
	if err != nil {
		return err
	}
	if !stored {
		i.Logger.InfoContext(ctx, "a certificate is ordered", "host", h.name, "directory", i.DirectoryURL)
	}
	c, err := h.manager.GetCertificate(h.hello)
	if err != nil {
		return err
	}
	if !stored {
		i.Logger.InfoContext(ctx, "the certificate was got", "host", h.name, "not_after", c.Leaf.NotAfter)
	}
	return nil
}

// stored reports whether the store has a certificate that is good at the moment.
func (i *Issuer) stored(ctx context.Context, name string) (bool, error) {
	text, err := i.cache.Get(ctx, name)
	if errors.Is(err, autocert.ErrCacheMiss) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	pair, err := tls.X509KeyPair(text, text)
	now := i.Now()
	return err == nil && now.After(pair.Leaf.NotBefore) && now.Before(pair.Leaf.NotAfter), nil
}

// Close ends what is under way, and waits for it until ctx ends.
func (i *Issuer) Close(ctx context.Context) error {
	i.mu.Lock()
	i.stop()
	i.mu.Unlock()
	landed := make(chan struct{})
	go func() { // ends with the last flight, whose requests fail from now on
		i.flights.Wait()
		close(landed)
	}()
	select {
	case <-landed:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("acme: an order did not end: %w", ctx.Err())
	}
}
