package gateway_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/keywarden/keywarden/pkg/gateway"
)

// catalog stands in for Consul: it knows the instances of one service, and holds a
// query until they change.
type catalog struct {
	*httptest.Server
	t       *testing.T
	mu      sync.Mutex
	index   int
	body    []byte
	status  int
	changed chan struct{}
	held    atomic.Int64 // queries that are being held
}

func newCatalog(t *testing.T) *catalog {
	t.Helper()
	c := &catalog{t: t, changed: make(chan struct{})}
	c.Server = httptest.NewServer(c)
	t.Cleanup(c.Close)
	return c
}

func (c *catalog) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	asked, _ := strconv.Atoi(r.URL.Query().Get("index"))
	c.mu.Lock()
	defer c.mu.Unlock()
	for c.status == 0 && (c.index == 0 || asked == c.index) {
		changed := c.changed
		c.mu.Unlock()
		c.held.Add(1)
		select {
		case <-changed:
		case <-r.Context().Done():
		}
		c.held.Add(-1)
		c.mu.Lock()
		if r.Context().Err() != nil {
			return
		}
	}
	if c.status != 0 {
		w.WriteHeader(c.status)
		return
	}
	w.Header().Set("X-Consul-Index", fmt.Sprint(c.index))
	_, _ = w.Write(c.body)
}

// has says which targets there are from now on.
func (c *catalog) has(addresses ...string) {
	c.t.Helper()
	list := []map[string]any{}
	for _, address := range addresses {
		u, err := url.Parse(address)
		if err != nil {
			c.t.Fatal(err)
		}
		host, port, _ := net.SplitHostPort(u.Host)
		n, _ := strconv.Atoi(port)
		list = append(list, map[string]any{"Service": map[string]any{"Address": host, "Port": n}})
	}
	text, err := json.Marshal(list)
	if err != nil {
		c.t.Fatal(err)
	}
	c.set(0, text)
}

func (c *catalog) fails(status int) { c.set(status, nil) }

func (c *catalog) set(status int, body []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.index, c.status, c.body = c.index+1, status, body
	close(c.changed)
	c.changed = make(chan struct{})
}

// discovered is a document with a service whose targets are in the catalog.
func discovered(c *catalog, more string) string {
	return fmt.Sprintf(`
version: 1
services:
  - name: s
    discovery: {consul: {url: %q, service: users}}
%s
routes:
  - {name: r, service: s, auth: {mode: none}}
`, c.URL, more)
}

func (d *door) get() (int, string) {
	d.t.Helper()
	resp, text := d.call("GET", "x", "/", nil, nil)
	return resp.StatusCode, text
}

func (d *door) backend(name string) gateway.BackendState {
	d.t.Helper()
	for _, b := range d.gateway.State().Backends {
		if b.Name == name {
			return b
		}
	}
	d.t.Fatalf("there is no service %s", name)
	return gateway.BackendState{}
}

func TestTargetsThatAreLookedUpComeAndGo(t *testing.T) {
	c, d := newCatalog(t), newDoor(t, 0)
	a, b := newReplica(t, "a"), newReplica(t, "b")
	d.apply("%s", discovered(c, ""))
	resp, text := d.call("GET", "x", "/", nil, nil)
	if resp.StatusCode != 503 || codeOf(t, text) != "gateway.targets_unknown" || resp.Header.Get("Retry-After") == "" {
		t.Fatalf("before the first answer: %d %s", resp.StatusCode, text)
	}
	if source := d.backend("s").Source; source == nil || source.Known {
		t.Errorf("source %+v", source)
	}
	c.has(a.URL)
	eventually(t, "a is asked", func() bool { _, text := d.get(); return text == "a" })
	c.has(a.URL, b.URL)
	eventually(t, "b is asked", func() bool { _, text := d.get(); return text == "b" })
	if state := d.backend("s"); len(state.Targets) != 2 || !state.Source.Known || state.Source.UpdatedAt.IsZero() || state.Source.Error != nil {
		t.Errorf("state %+v", state)
	}
	c.has(b.URL)
	eventually(t, "a is gone", func() bool { return len(d.backend("s").Targets) == 1 })
	asked := a.asked.Load()
	for range 10 {
		if status, text := d.get(); status != 200 || text != "b" {
			t.Fatalf("%d %s", status, text)
		}
	}
	if a.asked.Load() != asked {
		t.Error("a target that is gone is asked")
	}
	c.has()
	eventually(t, "nobody is left", func() bool { status, _ := d.get(); return status == 503 })
	if resp, text := d.call("GET", "x", "/", nil, nil); codeOf(t, text) != "gateway.no_targets" || resp.Header.Get("Retry-After") == "" {
		t.Errorf("without targets: %s", text)
	}
	c.has(a.URL)
	eventually(t, "a is back", func() bool { _, text := d.get(); return text == "a" })
}

func TestTheLastKnownTargetsServeWhileTheRegistryIsAway(t *testing.T) {
	c, d := newCatalog(t), newDoor(t, 0)
	a := newReplica(t, "a")
	c.has(a.URL)
	d.apply("%s", discovered(c, ""))
	eventually(t, "a is asked", func() bool { _, text := d.get(); return text == "a" })
	c.fails(500)
	eventually(t, "the outage is known", func() bool { return d.backend("s").Source.Error != nil })
	for range 10 {
		if status, text := d.get(); status != 200 || text != "a" {
			t.Fatalf("%d %s", status, text)
		}
	}
	c.has(a.URL)
	eventually(t, "it is over", func() bool { return d.backend("s").Source.Error == nil })
}

// No request fails while targets change all the time; what has begun ends where it
// began.
func TestNoRequestFailsWhileTargetsChange(t *testing.T) {
	c, d := newCatalog(t), newDoor(t, 0)
	all := []*replica{newReplica(t, "a"), newReplica(t, "b"), newReplica(t, "c"), newReplica(t, "d")}
	c.has(all[0].URL)
	d.apply("%s", discovered(c, "    health: {active: {type: tcp, interval: 20ms, timeout: 20ms}, passive: {}}\n    balance: {policy: power_of_two, slow_start: 1s}"))
	eventually(t, "a is asked", func() bool { status, _ := d.get(); return status == 200 })
	var requests, failed atomic.Int64
	var done atomic.Bool
	var clients sync.WaitGroup
	for range 4 {
		clients.Go(func() {
			for !done.Load() {
				requests.Add(1)
				resp, err := d.Client().Post(d.URL, "text/plain", strings.NewReader("order"))
				if err != nil || resp.StatusCode != 200 {
					failed.Add(1)
				}
				if err == nil {
					_ = resp.Body.Close()
				}
			}
		})
	}
	for round := range 8 {
		before := d.backend("s").Source.UpdatedAt
		c.has(all[round%4].URL, all[(round+1)%4].URL)
		if round%3 == 0 { // documents change meanwhile, too
			d.apply("%s", discovered(c, fmt.Sprintf("    response_timeout: %ds\n    health: {active: {type: tcp, interval: 20ms, timeout: 20ms}}", round+5)))
		}
		eventually(t, "the change is in force", func() bool { return d.backend("s").Source.UpdatedAt.After(before) })
	}
	done.Store(true)
	clients.Wait()
	if failed.Load() != 0 {
		t.Errorf("%d of %d requests failed", failed.Load(), requests.Load())
	}
}

// A source survives documents that leave it alone, and one that is looked up in
// another way begins with what is known already.
func TestASourceSurvivesAReload(t *testing.T) {
	c, d := newCatalog(t), newDoor(t, 0)
	a := newReplica(t, "a")
	c.has(a.URL)
	d.apply("%s", discovered(c, ""))
	eventually(t, "a is asked", func() bool { _, text := d.get(); return text == "a" })
	eventually(t, "a query is held", func() bool { return c.held.Load() == 1 })
	before := d.backend("s").Source.UpdatedAt
	d.apply("%s", discovered(c, "    response_timeout: 7s"))
	if !d.backend("s").Source.UpdatedAt.Equal(before) {
		t.Error("the source was started anew")
	}
	if status, _ := d.get(); status != 200 {
		t.Errorf("after a change of the service: %d", status)
	}
	other := newCatalog(t)
	d.apply("%s", discovered(other, ""))
	if status, _ := d.get(); status != 200 {
		t.Errorf("after a change of the way to look up: %d", status)
	}
	eventually(t, "the old source has ended", func() bool { return c.held.Load() == 0 })
	d.apply("%s", strings.Replace(discovered(other, ""), "service: users", "service: orders", 1))
	if status, text := d.get(); status != 503 || codeOf(t, text) != "gateway.targets_unknown" {
		t.Errorf("what is looked up is another thing: %d %s", status, text)
	}
	d.apply("%s", "version: 1")
	eventually(t, "the last source has ended", func() bool { return other.held.Load() == 0 })
}

// A target that is kept out for its failures is not brought back by a change of
// others.
func TestAnEjectedTargetStaysOutWhenOthersChange(t *testing.T) {
	c, d := newCatalog(t), newDoor(t, 0)
	good, bad, more := newReplica(t, "good"), newReplica(t, "bad"), newReplica(t, "more")
	bad.does(answer(500))
	c.has(good.URL, bad.URL)
	d.apply("%s", discovered(c, "    health: {passive: {failures: 2, eject_for: 1h}}"))
	eventually(t, "it is ejected", func() bool {
		d.get()
		for _, target := range d.backend("s").Targets {
			if target.Ejected {
				return true
			}
		}
		return false
	})
	c.has(good.URL, bad.URL, more.URL)
	eventually(t, "there are three", func() bool { return len(d.backend("s").Targets) == 3 })
	asked := bad.asked.Load()
	for range 12 {
		if status, _ := d.get(); status != 200 {
			t.Fatalf("status %d", status)
		}
	}
	if bad.asked.Load() != asked {
		t.Error("it is asked again")
	}
}

// secure is a service over TLS with its authority in a file.
func secure(t *testing.T) (address, file string) {
	t.Helper()
	s := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "secure") }))
	t.Cleanup(s.Close)
	file = filepath.Join(t.TempDir(), "authority.pem")
	text := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw})
	if err := os.WriteFile(file, text, 0o600); err != nil {
		t.Fatal(err)
	}
	return s.URL, file
}

const withFile = `
version: 1
services:
  - {name: s, url: %s, tls: {ca_file: %s}, response_timeout: %ds}
  - {name: other, url: %s}
routes:
  - {name: r, service: s, auth: {mode: none}}
  - {name: o, match: {path: {prefix: /other}}, service: other, auth: {mode: none}}
`

func TestAServiceWithoutItsFileIsLeftOutAndTheRestServes(t *testing.T) {
	d := newDoor(t, 0)
	address, file := secure(t)
	other := newReplica(t, "other")
	missing := file + ".missing"
	document := parse(t, fmt.Sprintf(withFile, address, missing, 5, other.URL))
	if err := d.gateway.Apply(document); err != nil {
		t.Fatalf("the document was refused: %v", err)
	}
	if status, text := d.get(); status != 503 || codeOf(t, text) != "gateway.service_unusable" {
		t.Errorf("the service itself: %d %s", status, text)
	}
	if _, text := d.call("GET", "x", "/other", nil, nil); text != "other" {
		t.Errorf("the other one: %s", text)
	}
	if err := d.backend("s").Error; err == nil || !strings.Contains(err.Error(), missing) || d.backend("other").Error != nil {
		t.Errorf("reported is %v", err)
	}
	if err := os.Rename(file, missing); err != nil {
		t.Fatal(err)
	}
	if err := d.gateway.Apply(document); err != nil { // as a reload does
		t.Fatal(err)
	}
	if status, text := d.get(); status != 200 || text != "secure" || d.backend("s").Error != nil {
		t.Errorf("with the file: %d %s, %v", status, text, d.backend("s").Error)
	}
}

func TestAServiceWhoseFileVanishesGoesOn(t *testing.T) {
	d := newDoor(t, 0)
	address, file := secure(t)
	document := parse(t, fmt.Sprintf(withFile, address, file, 5, address))
	apply := func() {
		t.Helper()
		if err := d.gateway.Apply(document); err != nil {
			t.Fatal(err)
		}
	}
	apply()
	good, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for name, spoil := range map[string]func() error{
		"gone": func() error { return os.Remove(file) },
		"bad":  func() error { return os.WriteFile(file, []byte("no certificate"), 0o600) },
	} {
		if err := spoil(); err != nil {
			t.Fatal(err)
		}
		apply()
		if status, text := d.get(); status != 200 || text != "secure" || d.backend("s").Error == nil {
			t.Errorf("%s: %d %s, reported %v", name, status, text, d.backend("s").Error)
		}
		if err := os.WriteFile(file, good, 0o600); err != nil {
			t.Fatal(err)
		}
		apply()
		if d.backend("s").Error != nil {
			t.Errorf("%s: the file is back, reported is %v", name, d.backend("s").Error)
		}
	}
	// Another authority is taken over without a new document.
	if err := os.WriteFile(file, stranger(t), 0o600); err != nil {
		t.Fatal(err)
	}
	d.gateway.Recheck()
	if status, text := d.get(); status != 502 || codeOf(t, text) != "gateway.upstream_unreachable" {
		t.Errorf("with another authority: %d %s", status, text)
	}
	if err := os.WriteFile(file, good, 0o600); err != nil {
		t.Fatal(err)
	}
	d.gateway.Recheck()
	if status, _ := d.get(); status != 200 {
		t.Errorf("with the right one again: %d", status)
	}
}

// stranger is the certificate of an authority that nobody trusts.
func stranger(t *testing.T) []byte {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}
