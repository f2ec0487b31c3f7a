package consul_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/keywarden/keywarden/pkg/gateway/discovery"
	"github.com/keywarden/keywarden/pkg/gateway/discovery/consul"
	"github.com/keywarden/keywarden/pkg/gateway/discovery/discoverytest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// agent stands in for an agent of Consul: it holds a query whose index is the
// current one until something changes, as the real one does.
type agent struct {
	*httptest.Server
	mu      sync.Mutex
	changed chan struct{}
	index   uint64
	header  http.Header
	status  int
	body    string
	queries []*http.Request
}

func newAgent(t *testing.T) *agent {
	t.Helper()
	a := &agent{changed: make(chan struct{}), index: 7, body: "[]", header: http.Header{}}
	a.Server = httptest.NewServer(a)
	t.Cleanup(a.Close)
	return a
}

func (a *agent) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	asked, _ := strconv.ParseUint(r.URL.Query().Get("index"), 10, 64)
	a.mu.Lock()
	a.queries = append(a.queries, r)
	for asked != 0 && asked == a.index && a.status == 0 {
		changed := a.changed
		a.mu.Unlock()
		select {
		case <-changed:
		case <-r.Context().Done():
			return
		}
		a.mu.Lock()
	}
	defer a.mu.Unlock()
	if a.status != 0 {
		http.Error(w, "rpc error: No cluster leader", a.status)
		return
	}
	for name, values := range a.header {
		w.Header()[name] = values
	}
	if w.Header().Get("X-Consul-Index") == "" {
		w.Header().Set("X-Consul-Index", fmt.Sprint(a.index))
	}
	_, _ = w.Write([]byte(a.body))
}

// set changes what the agent knows.
func (a *agent) set(index uint64, instances ...map[string]any) {
	text, _ := json.Marshal(instances)
	if len(instances) == 0 {
		text = []byte("[]")
	}
	a.change(func() { a.index, a.body = index, string(text) })
}

func (a *agent) change(how func()) {
	a.mu.Lock()
	defer a.mu.Unlock()
	how()
	close(a.changed)
	a.changed = make(chan struct{})
}

func (a *agent) query(i int) *http.Request {
	a.mu.Lock()
	defer a.mu.Unlock()
	if i < 0 {
		i += len(a.queries)
	}
	return a.queries[i]
}

func (a *agent) count() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return len(a.queries)
}

// instance is an entry as Consul 1.20 writes it, shortened.
func instance(service, node string, port int, status string) map[string]any {
	return map[string]any{
		"Node":    map[string]any{"ID": "n", "Node": "node-1", "Address": node, "Datacenter": "dc1", "Meta": map[string]string{"zone": "zone-b"}},
		"Service": map[string]any{"ID": "i", "Service": "users", "Tags": []string{"v1"}, "Address": service, "Port": port, "Weights": map[string]int{"Passing": 10, "Warning": 2}},
		"Checks":  []map[string]any{{"CheckID": "serfHealth", "Status": "passing"}, {"CheckID": "service:i", "Status": status}},
	}
}

func TestInstancesAreFollowed(t *testing.T) {
	a := newAgent(t)
	a.set(7, instance("10.0.0.1", "10.9.9.9", 8081, "passing"), instance("", "10.0.0.2", 8082, "warning"))
	run := discoverytest.Start(t, consul.New(consul.Config{URL: a.URL, Service: "users/a", Tag: "v1", Datacenter: "dc1", PassingOnly: true}))
	run.Wait(
		discovery.Found{Host: "10.0.0.1:8081", Weight: 10, Zone: "zone-b"},
		discovery.Found{Host: "10.0.0.2:8082", Weight: 2, Zone: "zone-b"},
	)
	q := a.query(0)
	if q.URL.EscapedPath() != "/v1/health/service/users%2Fa" || q.URL.RawQuery != "dc=dc1&passing=1&tag=v1" {
		t.Errorf("asked for %s", q.URL)
	}
	discoverytest.Eventually(t, "a query is held", func() bool { return a.count() == 2 })
	if q := a.query(1).URL.Query(); q.Get("index") != "7" || q.Get("wait") != "5m0s" {
		t.Errorf("then for %v", q)
	}
	a.set(9)
	run.Wait()
	a.set(12, instance("fd00::1", "", 1, "passing"))
	run.Wait(discovery.Found{Host: "[fd00::1]:1", Weight: 10, Zone: "zone-b"})
}

// Consul's documentation: an index that goes back is to be reset to 0, and one of
// 0 must not be sent, for the query would not be held.
func TestAnIndexThatGoesBackStartsAnew(t *testing.T) {
	a := newAgent(t)
	a.set(100, instance("10.0.0.1", "", 1, "passing"))
	run := discoverytest.Start(t, consul.New(consul.Config{URL: a.URL, Service: "users"}))
	run.Wait(discovery.Found{Host: "10.0.0.1:1", Weight: 10, Zone: "zone-b"})
	discoverytest.Eventually(t, "a query is held", func() bool { return a.count() == 2 })
	a.set(5, instance("10.0.0.2", "", 1, "passing")) // restored from a backup
	run.Wait(discovery.Found{Host: "10.0.0.2:1", Weight: 10, Zone: "zone-b"})
	discoverytest.Eventually(t, "it asks without an index", func() bool { return a.count() >= 3 })
	if got := a.query(2).URL.Query().Get("index"); got != "" {
		t.Errorf("the next query has index %s", got)
	}
	a.set(6, instance("10.0.0.3", "", 1, "passing"))
	run.Wait(discovery.Found{Host: "10.0.0.3:1", Weight: 10, Zone: "zone-b"})
}

func TestAnAnswerThatSaysNothingIsNotTakenForEmpty(t *testing.T) {
	for name, change := range map[string]func(*agent){
		"no leader":      func(a *agent) { a.status = 500 },
		"no permission":  func(a *agent) { a.status = 403 },
		"a redirect":     func(a *agent) { a.status = 307 },
		"no JSON":        func(a *agent) { a.body = "<html>" },
		"another type":   func(a *agent) { a.body = `{"a": 1}` },
		"no index":       func(a *agent) { a.header.Set("X-Consul-Index", "x") },
		"hidden by ACLs": func(a *agent) { a.header.Set("X-Consul-Results-Filtered-By-Acls", "true") },
		"not 64 bit":     func(a *agent) { a.header.Set("X-Consul-Index", "99999999999999999999") },
		"cut off":        func(a *agent) { a.body = `[{"Node":` },
	} {
		t.Run(name, func(t *testing.T) {
			a := newAgent(t)
			a.change(func() { change(a) })
			run := discoverytest.Start(t, consul.New(consul.Config{URL: a.URL, Service: "users"}))
			if err := run.Err(); err == nil || run.Answers() != 0 {
				t.Errorf("error %v after %d answers", err, run.Answers())
			}
		})
	}
}

func TestTheTokenIsReadEachTimeAndNeverShown(t *testing.T) {
	a := newAgent(t)
	file := filepath.Join(t.TempDir(), "token")
	write := func(token string) {
		if err := os.WriteFile(file, []byte(token+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("first-token")
	run := discoverytest.Start(t, consul.New(consul.Config{URL: a.URL, Service: "users", TokenFile: file}))
	run.Wait()
	discoverytest.Eventually(t, "a query is held", func() bool { return a.count() == 2 })
	write("second-token")
	a.set(8, instance("10.0.0.1", "", 1, "passing"))
	discoverytest.Eventually(t, "another query", func() bool { return a.count() == 3 })
	if one, two := a.query(0).Header.Get("X-Consul-Token"), a.query(2).Header.Get("X-Consul-Token"); one != "first-token" || two != "second-token" {
		t.Errorf("tokens %q, %q", one, two)
	}
	a.change(func() { a.status = 403 })
	if err := run.Err(); err == nil || strings.Contains(err.Error(), "second-token") {
		t.Errorf("error %v", err)
	}
}

// An agent that answers at once, again and again, is not asked in a busy loop.
func TestABusyServiceIsNotAskedWithoutAPause(t *testing.T) {
	var mu sync.Mutex
	index := 0
	var times []time.Time
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		index++
		times = append(times, time.Now())
		w.Header().Set("X-Consul-Index", fmt.Sprint(index))
		_, _ = w.Write([]byte("[]"))
	}))
	defer s.Close()
	discoverytest.Start(t, consul.New(consul.Config{URL: s.URL, Service: "users"}))
	discoverytest.Eventually(t, "three queries", func() bool { mu.Lock(); defer mu.Unlock(); return len(times) >= 3 })
	mu.Lock()
	defer mu.Unlock()
	if gap := times[2].Sub(times[0]); gap < 400*time.Millisecond {
		t.Errorf("three queries within %s", gap)
	}
}

// FuzzAnswer: whatever an agent answers, the source neither panics nor publishes
// an entry that is neither an address nor an error.
func FuzzAnswer(f *testing.F) {
	f.Add("1", `[{"Node":{"Address":"10.0.0.1"},"Service":{"Port":1},"Checks":[{"Status":"passing"}]}]`)
	f.Add("0", `[]`)
	f.Fuzz(func(t *testing.T, index, body string) {
		if strings.ContainsAny(index, "\r\n\x00") {
			t.Skip()
		}
		found, _, err := consul.Read(http.Header{"X-Consul-Index": {index}}, []byte(body))
		if err != nil && found != nil {
			t.Errorf("%v with error %v", found, err)
		}
	})
}
