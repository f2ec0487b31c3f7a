package acme

import (
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
	"log/slog"
	"maps"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/crypto/acme"
	"golang.org/x/crypto/acme/autocert"

	"github.com/keywarden/keywarden/pkg/acme/acmetest"
	"github.com/keywarden/keywarden/pkg/certstore"
	"github.com/keywarden/keywarden/pkg/seal"
)

func TestMain(m *testing.M) {
	// autocert gives up authorizations on a goroutine of its own, which its time-out
	// ends, and not the end of the manager.
	goleak.VerifyTestMain(m, acmetest.IgnoreWorker(),
		goleak.IgnoreAnyFunction("golang.org/x/crypto/acme/autocert.(*Manager).deactivatePendingAuthz"))
}

var _ certstore.Issuer = (*Issuer)(nil)

// memory is a Store in memory, which can be switched off.
type memory struct {
	mu     sync.Mutex
	items  map[string][]byte
	leases map[string]string
	uses   int
	away   error
}

func newMemory() *memory { return &memory{items: map[string][]byte{}, leases: map[string]string{}} }

func (m *memory) use(call func()) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.uses++
	if m.away == nil {
		call()
	}
	return m.away
}

func (m *memory) ACMEItem(_ context.Context, directory, name string) (sealed []byte, err error) {
	away := m.use(func() {
		var there bool
		if sealed, there = m.items[directory+" "+name]; !there {
			err = ErrNotFound
		}
	})
	return sealed, errors.Join(away, err)
}

func (m *memory) PutACMEItem(_ context.Context, directory, name string, sealed []byte) error {
	return m.use(func() { m.items[directory+" "+name] = sealed })
}

func (m *memory) AddACMEItem(_ context.Context, directory, name string, sealed []byte) error {
	return m.use(func() {
		if _, there := m.items[directory+" "+name]; !there {
			m.items[directory+" "+name] = sealed
		}
	})
}

func (m *memory) DeleteACMEItem(_ context.Context, directory, name string) error {
	return m.use(func() { delete(m.items, directory+" "+name) })
}

func (m *memory) LeaseACME(_ context.Context, directory, name, holder string, _ time.Duration) (leased bool, err error) {
	return leased, m.use(func() {
		if other := m.leases[directory+" "+name]; other == "" || other == holder {
			m.leases[directory+" "+name], leased = holder, true
		}
	})
}

func (m *memory) ReleaseACME(_ context.Context, directory, name, holder string) error {
	return m.use(func() {
		if m.leases[directory+" "+name] == holder {
			delete(m.leases, directory+" "+name)
		}
	})
}

// switchOff makes every use fail; nil makes them work again.
func (m *memory) switchOff(err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.away = err
}

func (m *memory) used() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.uses
}

func (m *memory) all() map[string][]byte {
	m.mu.Lock()
	defer m.mu.Unlock()
	return maps.Clone(m.items)
}

// world is an authority, a store, and listeners of replicas; the authority checks
// names at the first of them.
type world struct {
	*acmetest.Authority
	store *memory
	ring  *seal.Keyring
	ports []net.Listener
}

func newWorld(t *testing.T, life time.Duration) *world {
	t.Helper()
	w := &world{store: newMemory(), ring: newRing(t)}
	for range 2 {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = l.Close() })
		w.ports = append(w.ports, l)
	}
	w.Authority = acmetest.Start(t, w.ports[0].Addr().(*net.TCPAddr).Port, life)
	return w
}

func newRing(t *testing.T, retired ...seal.Secret) *seal.Keyring {
	t.Helper()
	ring, err := seal.ParseKeyring(seal.NewMasterKey(), retired...)
	if err != nil {
		t.Fatal(err)
	}
	return ring
}

// replica is one that serves.
type replica struct {
	*Issuer
	addr string
}

func (w *world) replica(t *testing.T, n int, change func(*certstore.Options)) *replica {
	t.Helper()
	text, err := os.ReadFile(w.CAFile)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(text)
	issuer, err := New(Options{
		Domains: []string{"a.test", "B.test", "bücher.test"}, Email: "ops@example.com", DirectoryURL: w.DirectoryURL, Roots: roots,
		Store: w.store, Ring: w.ring, Holder: w.ports[n].Addr().String(), Logger: slog.New(slog.DiscardHandler), Now: time.Now,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		defer cancel()
		if err := issuer.Close(ctx); err != nil {
			t.Error(err)
		}
	})
	o := certstore.Options{Issuer: issuer, Logger: slog.New(slog.DiscardHandler)}
	if change != nil {
		change(&o)
	}
	certs, err := certstore.New(o)
	if err != nil {
		t.Fatal(err)
	}
	serve(t, tls.NewListener(w.ports[n], certs.Config()))
	return &replica{Issuer: issuer, addr: w.ports[n].Addr().String()}
}

// serve makes handshakes until the listener is closed.
func serve(t *testing.T, l net.Listener) {
	t.Helper()
	var group sync.WaitGroup
	group.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			group.Go(func() {
				defer func() { _ = c.Close() }()
				if c.(*tls.Conn).HandshakeContext(context.Background()) == nil {
					_, _ = c.Read(make([]byte, 1)) // until the client leaves
				}
			})
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		group.Wait()
	})
}

// handshake asks for a name and returns the certificate that is shown, verified.
func (w *world) handshake(r *replica, name string, change func(*tls.Config)) (*x509.Certificate, error) {
	c := &tls.Config{ServerName: name, RootCAs: w.Roots, MinVersion: tls.VersionTLS12, NextProtos: []string{"h2", "http/1.1"}}
	if change != nil {
		change(c)
	}
	conn, err := tls.Dial("tcp", r.addr, c)
	if err != nil {
		return nil, err
	}
	defer func() { _ = conn.Close() }()
	return conn.ConnectionState().PeerCertificates[0], nil
}

// get is a handshake that must succeed.
func (w *world) get(t *testing.T, r *replica, name string, change func(*tls.Config)) *x509.Certificate {
	t.Helper()
	c, err := w.handshake(r, name, change)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return c
}

func TestACertificateIsGotAtTheFirstHandshake(t *testing.T) {
	w := newWorld(t, time.Hour)
	a, b := w.replica(t, 0, nil), w.replica(t, 1, nil)
	if n := w.Orders(); n != 0 {
		t.Fatalf("%d orders before anybody asks", n)
	}
	first := w.get(t, a, "a.test", nil)
	for name, change := range map[string]func(*tls.Config){
		"again":   nil,
		"TLS 1.2": func(c *tls.Config) { c.MaxVersion = tls.VersionTLS12 },
		"TLS 1.3": func(c *tls.Config) { c.MinVersion = tls.VersionTLS13 },
	} {
		if got := w.get(t, a, "a.test", change); !got.Equal(first) {
			t.Errorf("%s: another certificate", name)
		}
	}
	// Another replica reads what there is, and answers for it.
	if got := w.get(t, b, "a.test", nil); !got.Equal(first) {
		t.Error("the other replica has another certificate")
	}
	if n := w.Orders(); n != 1 {
		t.Errorf("%d orders for one name", n)
	}
	w.get(t, b, "b.test", nil) // the check arrives at the other replica
	w.get(t, b, "xn--bcher-kva.test", nil)
	if n, accounts := w.Orders(), w.Accounts(); n != 3 || accounts != 1 {
		t.Errorf("%d orders of %d accounts, want 3 of 1", n, accounts)
	}
	if n := len(b.Certificates()); n != 3 {
		t.Errorf("%d certificates are listed, want 3", n)
	}
}

func TestReplicasThatAreAskedTogetherPlaceOneOrder(t *testing.T) {
	w := newWorld(t, time.Hour)
	replicas := []*replica{w.replica(t, 0, nil), w.replica(t, 1, nil)}
	certificates, errs := make([]*x509.Certificate, 20), make([]error, 20)
	var group sync.WaitGroup
	for i := range certificates {
		group.Go(func() { certificates[i], errs[i] = w.handshake(replicas[i%2], "a.test", nil) })
	}
	group.Wait()
	for i, c := range certificates {
		if errs[i] != nil {
			t.Fatal(errs[i])
		}
		if !c.Equal(certificates[0]) {
			t.Error("two certificates for one name")
		}
	}
	if n := w.Orders(); n != 1 {
		t.Errorf("%d orders for one name", n)
	}
}

func TestOtherNamesAreNotAskedFor(t *testing.T) {
	w := newWorld(t, time.Hour)
	a := w.replica(t, 0, nil)
	check := func(c *tls.Config) { c.NextProtos = []string{acme.ALPNProto} }
	for _, name := range []string{"other.test", "x.a.test", "test", "a.test.evil.test"} {
		for _, change := range []func(*tls.Config){nil, check} {
			if _, err := w.handshake(a, name, change); err == nil {
				t.Errorf("%s has a certificate", name)
			}
		}
	}
	if _, err := w.handshake(a, "a.test", check); err == nil {
		t.Error("a check is answered when there is no order")
	}
	if orders, accounts := w.Orders(), w.Accounts(); orders+accounts != 0 {
		t.Errorf("%d orders of %d accounts", orders, accounts)
	}
	if n := w.store.used(); n != 1 {
		t.Errorf("the store was asked %d times, want once, for the check of a known name", n)
	}
}

func TestNewRefusesNamesThatCannotBeHad(t *testing.T) {
	for _, name := range []string{"*.a.test", "localhost", "", "a b.test", "a_b.test", "-.test"} {
		_, err := New(Options{Domains: []string{"good.test", name}, Logger: slog.New(slog.DiscardHandler)})
		if err == nil || !strings.Contains(err.Error(), `"`+name+`"`) {
			t.Errorf("%q: %v", name, err)
		}
	}
}

func TestWhatIsStoredIsSealedAndBoundToItsPlace(t *testing.T) {
	w := newWorld(t, time.Hour)
	a := w.replica(t, 0, nil)
	got := w.get(t, a, "a.test", nil)
	items := w.store.all()
	key, there := items[w.DirectoryURL+" a.test"]
	account, accountThere := items[w.DirectoryURL+" "+accountItem]
	if !there || !accountThere {
		t.Fatalf("what is stored: %d items", len(items))
	}
	for name, sealed := range items {
		for _, trace := range [][]byte{[]byte("PRIVATE"), []byte("-----"), []byte("a.test"), got.Raw, got.RawSubjectPublicKeyInfo} {
			if bytes.Contains(sealed, trace) {
				t.Errorf("%s can be read: %q", name, trace)
			}
		}
	}
	// A key that somebody put into another place is not used there.
	w.store.items[w.DirectoryURL+" b.test"], w.store.items[w.DirectoryURL+" "+accountItem] = key, key
	b := w.replica(t, 1, nil)
	if got := w.get(t, b, "b.test", nil); got.DNSNames[0] != "b.test" {
		t.Errorf("b.test is served with the certificate for %v", got.DNSNames)
	}
	if after := w.store.all()[w.DirectoryURL+" "+accountItem]; bytes.Equal(after, key) || bytes.Equal(after, account) {
		t.Error("the key of the account was not made anew")
	}
}

func TestWhatIsUnderARetiredKeyIsSealedAnew(t *testing.T) {
	old := seal.NewMasterKey()
	before, err := seal.ParseKeyring(old)
	if err != nil {
		t.Fatal(err)
	}
	o := Options{DirectoryURL: "https://d", Store: newMemory(), Ring: before, Logger: slog.New(slog.DiscardHandler)}
	if err := (&cache{Options: &o}).Put(t.Context(), "x", []byte("text")); err != nil {
		t.Fatal(err)
	}
	o.Ring = newRing(t, old)
	if text, err := (&cache{Options: &o}).Get(t.Context(), "x"); err != nil || string(text) != "text" {
		t.Fatalf("%q, %v", text, err)
	}
	sealed, _ := o.Store.ACMEItem(t.Context(), o.DirectoryURL, "x")
	if _, stale, err := o.Ring.Open(sealed, (&cache{Options: &o}).place("x")); err != nil || stale {
		t.Errorf("stale %v, %v", stale, err)
	}
	o.Ring = newRing(t)
	if _, err := (&cache{Options: &o}).Get(t.Context(), "x"); !errors.Is(err, autocert.ErrCacheMiss) {
		t.Errorf("under an unknown key: %v", err)
	}
}

// selfSigned writes a certificate that is its own authority.
func selfSigned(t *testing.T) (caFile string, pair tls.Certificate) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "client"}, NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	caFile = filepath.Join(t.TempDir(), "clients.pem")
	if err := os.WriteFile(caFile, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
	return caFile, tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

func TestTheAuthorityNeedsNoCertificateOfAClient(t *testing.T) {
	w := newWorld(t, time.Hour)
	caFile, pair := selfSigned(t)
	a := w.replica(t, 0, func(o *certstore.Options) { o.ClientCAFile, o.ClientAuth = caFile, certstore.RequireClient })
	w.get(t, a, "a.test", func(c *tls.Config) { c.Certificates = []tls.Certificate{pair} })

	// Everybody else does, also one that offers the authority's protocol.
	for _, protocols := range [][]string{nil, {"http/1.1"}, {"h2", acme.ALPNProto}, {acme.ALPNProto, "http/1.1"}} {
		conn, err := tls.Dial("tcp", a.addr, &tls.Config{ServerName: "a.test", RootCAs: w.Roots, NextProtos: protocols, MinVersion: tls.VersionTLS12})
		if err == nil {
			_, err = conn.Read(make([]byte, 1)) // in TLS 1.3 the refusal comes after the handshake
			_ = conn.Close()
		}
		if err == nil || !strings.Contains(err.Error(), "certificate required") && !strings.Contains(err.Error(), "bad certificate") {
			t.Errorf("%v without a certificate: %v", protocols, err)
		}
	}
}

func TestTheDatabaseMayBeAway(t *testing.T) {
	w := newWorld(t, time.Hour)
	a := w.replica(t, 0, nil)
	first := w.get(t, a, "a.test", nil)
	w.store.switchOff(errors.New("away"))
	uses := w.store.used()
	for range 3 {
		if got := w.get(t, a, "a.test", nil); !got.Equal(first) {
			t.Error("another certificate")
		}
	}
	if w.store.used() != uses {
		t.Error("the store is asked for a certificate that is in memory")
	}
	if _, err := w.handshake(a, "b.test", nil); err == nil {
		t.Error("a certificate out of nowhere")
	}
	if n := w.Orders(); n != 1 {
		t.Errorf("%d orders, want 1: what is got while the store is away cannot be kept", n)
	}
	w.store.switchOff(nil)
	deadline := time.Now().Add(time.Minute)
	for {
		if _, err := w.handshake(a, "b.test", nil); err == nil {
			return
		} else if time.Now().After(deadline) {
			t.Fatal(err)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

func TestNoOrderIsBegunWhileNothingCanBeKept(t *testing.T) {
	w := newWorld(t, time.Hour)
	a := w.replica(t, 0, nil)
	w.store.switchOff(errors.New("away"))
	// As a renewal does, which asks the store and then orders in any case.
	if _, err := a.cache.Get(t.Context(), "a.test"); err == nil {
		t.Fatal("the store answers")
	}
	if _, err := a.hosts["a.test"].manager.Client.Discover(t.Context()); !errors.Is(err, errNotKept) {
		t.Errorf("the authority is asked: %v", err)
	}
}

func TestACertificateIsRenewed(t *testing.T) {
	w := newWorld(t, 24*time.Second) // a third of it is left for the renewal
	a := w.replica(t, 0, nil)
	first := w.get(t, a, "a.test", nil)
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(50 * time.Millisecond) {
		// Verified each time: none is served that has expired.
		if got := w.get(t, a, "a.test", nil); !got.Equal(first) {
			if n := w.Orders(); n != 2 {
				t.Errorf("%d orders", n)
			}
			return
		}
		if time.Now().After(deadline) {
			t.Fatal("the certificate is not renewed")
		}
	}
}

func TestFailedOrdersGetRarer(t *testing.T) {
	w := newWorld(t, time.Hour)
	clock := time.Now()
	issuer, err := New(Options{
		Domains: []string{"a.test"}, DirectoryURL: "https://127.0.0.1:1/directory", Store: w.store, Ring: w.ring, Holder: "x",
		Logger: slog.New(slog.DiscardHandler), Now: func() time.Time { return clock },
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = issuer.Close(context.Background()) })
	h := issuer.hosts["a.test"]
	if err := issuer.wait(t.Context(), h); err == nil {
		t.Fatal("an authority that is not there issues")
	}
	uses := w.store.used()
	if err := issuer.wait(t.Context(), h); err == nil || !strings.Contains(err.Error(), "not tried again yet") {
		t.Errorf("the second handshake: %v", err)
	}
	if w.store.used() != uses {
		t.Error("a further attempt was made at once")
	}
	if len(w.store.leases) != 0 {
		t.Error("the lease is kept")
	}
	var pauses []time.Duration
	for range 8 {
		issuer.land(h, errors.New("no"))
		pauses = append(pauses, h.retryAt.Sub(clock))
	}
	if pauses[0] != 2*firstPause || pauses[1] != 4*firstPause || pauses[7] != lastPause {
		t.Errorf("pauses %v", pauses)
	}
	issuer.land(h, nil)
	issuer.land(h, errors.New("no"))
	if h.retryAt.Sub(clock) != firstPause {
		t.Errorf("after a success: %s", h.retryAt.Sub(clock))
	}
}

func TestCloseEndsAnOrder(t *testing.T) {
	w := newWorld(t, time.Hour)
	stuck, err := net.Listen("tcp", "127.0.0.1:0") // accepts, and never answers
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = stuck.Close() })
	issuer, err := New(Options{
		Domains: []string{"a.test"}, DirectoryURL: "https://" + stuck.Addr().String(), Store: w.store, Ring: w.ring, Holder: "x",
		Logger: slog.New(slog.DiscardHandler), Now: time.Now,
	})
	if err != nil {
		t.Fatal(err)
	}
	f, err := issuer.fly(issuer.hosts["a.test"])
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := issuer.Close(ctx); err != nil {
		t.Fatal(err)
	}
	<-f.done
	if _, err := issuer.fly(issuer.hosts["a.test"]); !errors.Is(err, errClosed) {
		t.Errorf("after the end: %v", err)
	}
}
