package kubernetes_test

import (
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"sort"
	"strconv"
	"strings"
	"sync"
	"testing"

	"go.uber.org/goleak"

	"github.com/keywarden/keywarden/pkg/gateway/discovery"
	"github.com/keywarden/keywarden/pkg/gateway/discovery/discoverytest"
	"github.com/keywarden/keywarden/pkg/gateway/discovery/kubernetes"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

type object = map[string]any

// api stands in for the API server: it keeps slices under one version that grows,
// lists them in pages, and streams what changed after a version, as long as it
// still knows that version.
type api struct {
	*httptest.Server
	t *testing.T

	mu       sync.Mutex
	changed  chan struct{}
	version  int
	oldest   int // versions before are gone
	slices   map[string]object
	log      []logged
	requests []*http.Request
	status   int // of all answers, when it is not 0
	hangUp   bool
}

type logged struct {
	version int
	event   object
}

func newAPI(t *testing.T) *api {
	t.Helper()
	a := &api{t: t, changed: make(chan struct{}), version: 1000, slices: map[string]object{}}
	a.Server = httptest.NewTLSServer(a)
	t.Cleanup(a.Close)
	return a
}

func (a *api) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	a.mu.Lock()
	a.requests = append(a.requests, r)
	status := a.status
	a.mu.Unlock()
	switch {
	case status != 0:
		a.fail(w, status)
	case r.URL.Path != "/apis/discovery.k8s.io/v1/namespaces/shop/endpointslices" || r.URL.Query().Get("labelSelector") != "kubernetes.io/service-name=users":
		a.fail(w, 404)
	case r.URL.Query().Get("watch") == "1":
		a.watch(w, r)
	default:
		a.list(w, r)
	}
}

func (a *api) fail(w http.ResponseWriter, code int) {
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(object{"kind": "Status", "status": "Failure", "code": code})
}

// list gives one slice a page, so that there are pages.
func (a *api) list(w http.ResponseWriter, r *http.Request) {
	a.mu.Lock()
	defer a.mu.Unlock()
	var names []string
	for name := range a.slices {
		names = append(names, name)
	}
	sort.Strings(names)
	at, _ := strconv.Atoi(r.URL.Query().Get("continue"))
	meta, items := object{"resourceVersion": fmt.Sprint(a.version)}, []object{}
	if at < len(names) {
		items = append(items, a.slices[names[at]])
	}
	if at+1 < len(names) {
		meta["continue"] = fmt.Sprint(at + 1)
	}
	_ = json.NewEncoder(w).Encode(object{"kind": "EndpointSliceList", "apiVersion": "discovery.k8s.io/v1", "metadata": meta, "items": items})
}

func (a *api) watch(w http.ResponseWriter, r *http.Request) {
	from, err := strconv.Atoi(r.URL.Query().Get("resourceVersion"))
	if err != nil || r.URL.Query().Get("allowWatchBookmarks") != "true" || r.URL.Query().Get("timeoutSeconds") == "" {
		a.fail(w, 400)
		return
	}
	_ = http.NewResponseController(w).Flush()
	enc := json.NewEncoder(w)
	for {
		a.mu.Lock()
		changed, hangUp := a.changed, a.hangUp
		a.hangUp = false
		var events []object
		if from < a.oldest {
			events = []object{{"type": "ERROR", "object": object{"kind": "Status", "code": 410, "reason": "Expired", "message": "too old resource version"}}}
		} else {
			for _, l := range a.log {
				if l.version > from {
					events, from = append(events, l.event), l.version
				}
			}
		}
		a.mu.Unlock()
		for _, e := range events {
			_ = enc.Encode(e)
		}
		_ = http.NewResponseController(w).Flush()
		if hangUp || len(events) > 0 && events[0]["type"] == "ERROR" {
			return
		}
		select {
		case <-changed:
		case <-r.Context().Done():
			return
		}
	}
}

func (a *api) change(how func()) {
	a.mu.Lock()
	defer a.mu.Unlock()
	how()
	close(a.changed)
	a.changed = make(chan struct{})
}

// put creates or replaces a slice.
func (a *api) put(name string, slice object) {
	a.change(func() {
		a.version++
		kind := "ADDED"
		if a.slices[name] != nil {
			kind = "MODIFIED"
		}
		slice["metadata"] = object{"name": name, "namespace": "shop", "resourceVersion": fmt.Sprint(a.version)}
		a.slices[name] = slice
		a.log = append(a.log, logged{a.version, object{"type": kind, "object": slice}})
	})
}

func (a *api) remove(name string) {
	a.change(func() {
		a.version++
		last := a.slices[name]
		last["metadata"] = object{"name": name, "resourceVersion": fmt.Sprint(a.version)}
		delete(a.slices, name)
		a.log = append(a.log, logged{a.version, object{"type": "DELETED", "object": last}})
	})
}

func (a *api) bookmark() {
	a.change(func() {
		a.version++
		a.log = append(a.log, logged{a.version, object{"type": "BOOKMARK", "object": object{
			"kind": "EndpointSlice", "metadata": object{"resourceVersion": fmt.Sprint(a.version), "creationTimestamp": nil}}}})
	})
}

func (a *api) count(watch string) (n int, last *http.Request) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, r := range a.requests {
		if r.URL.Query().Get("watch") == watch {
			n, last = n+1, r
		}
	}
	return n, last
}

// endpoint is one of a slice; ready may be nil.
func endpoint(addr string, ready any) object {
	e := object{"addresses": []string{addr}, "conditions": object{"serving": true}, "zone": "zone-a", "targetRef": object{"kind": "Pod"}}
	if ready != nil {
		e["conditions"] = object{"ready": ready, "serving": true, "terminating": !ready.(bool)}
	}
	return e
}

func slice(family string, endpoints ...object) object {
	return object{
		"addressType": family, "endpoints": endpoints,
		"ports": []object{{"name": "metrics", "port": 9090, "protocol": "TCP"}, {"name": "http", "port": 8080, "protocol": "TCP"}, {"name": "http", "port": 8081, "protocol": "UDP"}},
	}
}

func (a *api) config() kubernetes.Config {
	a.t.Helper()
	dir := a.t.TempDir()
	ca, token := filepath.Join(dir, "ca.crt"), filepath.Join(dir, "token")
	text := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.Certificate().Raw})
	if err := os.WriteFile(ca, text, 0o600); err != nil {
		a.t.Fatal(err)
	}
	if err := os.WriteFile(token, []byte("first"), 0o600); err != nil {
		a.t.Fatal(err)
	}
	return kubernetes.Config{Namespace: "shop", Service: "users", PortName: "http", APIURL: a.URL, TokenFile: token, CAFile: ca}
}

func at(host string) discovery.Found { return discovery.Found{Host: host, Zone: "zone-a"} }

func TestSlicesAreFollowed(t *testing.T) {
	a := newAPI(t)
	a.put("users-1", slice("IPv4", endpoint("10.0.0.1", true), endpoint("10.0.0.2", false), endpoint("10.0.0.3", nil)))
	a.put("users-2", slice("IPv4", endpoint("10.0.1.1", true)))
	run := discoverytest.Start(t, kubernetes.New(a.config()))
	run.Wait(at("10.0.0.1:8080"), at("10.0.0.3:8080"), at("10.0.1.1:8080"))
	a.put("users-2", slice("IPv4", endpoint("10.0.1.1", true), endpoint("10.0.1.2", true)))
	run.Wait(at("10.0.0.1:8080"), at("10.0.0.3:8080"), at("10.0.1.1:8080"), at("10.0.1.2:8080"))
	a.remove("users-1")
	run.Wait(at("10.0.1.1:8080"), at("10.0.1.2:8080"))
	a.put("users-3", slice("IPv4", endpoint("10.0.2.1", true)))
	run.Wait(at("10.0.1.1:8080"), at("10.0.1.2:8080"), at("10.0.2.1:8080"))
	a.remove("users-2")
	a.put("users-3", slice("IPv4", endpoint("10.0.2.1", false)))
	run.Wait()
	lists, _ := a.count("")
	watches, _ := a.count("1")
	if lists != 2 || watches != 1 { // two pages
		t.Errorf("%d lists and %d watches", lists, watches)
	}
}

func TestAWatchThatEndsGoesOnFromTheLastBookmark(t *testing.T) {
	a := newAPI(t)
	a.put("users-1", slice("IPv4", endpoint("10.0.0.1", true)))
	run := discoverytest.Start(t, kubernetes.New(a.config()))
	run.Wait(at("10.0.0.1:8080"))
	a.bookmark()
	a.bookmark()
	discoverytest.Eventually(t, "a watch", func() bool { n, _ := a.count("1"); return n == 1 })
	a.change(func() { a.hangUp = true })
	discoverytest.Eventually(t, "a second watch", func() bool { n, _ := a.count("1"); return n == 2 })
	if _, r := a.count("1"); r.URL.Query().Get("resourceVersion") != "1003" {
		t.Errorf("it begins at %s", r.URL.Query().Get("resourceVersion"))
	}
	a.put("users-1", slice("IPv4", endpoint("10.0.0.2", true)))
	run.Wait(at("10.0.0.2:8080"))
	if n, _ := a.count(""); n != 1 {
		t.Errorf("it listed %d times", n)
	}
}

func TestAVersionThatIsGoneIsListedAnew(t *testing.T) {
	a := newAPI(t)
	a.put("users-1", slice("IPv4", endpoint("10.0.0.1", true)))
	a.put("users-2", slice("IPv4", endpoint("10.0.0.2", true)))
	run := discoverytest.Start(t, kubernetes.New(a.config()))
	run.Wait(at("10.0.0.1:8080"), at("10.0.0.2:8080"))
	discoverytest.Eventually(t, "a watch", func() bool { n, _ := a.count("1"); return n == 1 })
	a.change(func() { // a compaction, of which the removal of a slice is a part
		delete(a.slices, "users-2")
		a.version += 100
		a.oldest, a.log = a.version, nil
	})
	run.Wait(at("10.0.0.1:8080"))
	a.put("users-3", slice("IPv4", endpoint("10.0.0.3", true)))
	run.Wait(at("10.0.0.1:8080"), at("10.0.0.3:8080"))
}

func TestOneFamilyOfAServiceIsTaken(t *testing.T) {
	a := newAPI(t)
	a.put("users-6", slice("IPv6", endpoint("fd00::1", true)))
	run := discoverytest.Start(t, kubernetes.New(a.config()))
	run.Wait(at("[fd00::1]:8080"))
	a.put("users-4", slice("IPv4", endpoint("10.0.0.1", true)))
	run.Wait(at("10.0.0.1:8080"))
	a.put("users-f", slice("FQDN", endpoint("users.example", true)))
	a.remove("users-4")
	run.Wait(at("[fd00::1]:8080"))
}

func TestThePortGoesByNameOrNumber(t *testing.T) {
	a := newAPI(t)
	a.put("users-1", slice("IPv4", endpoint("10.0.0.1", true)))
	c := a.config()
	c.PortName, c.PortNumber = "", 9090
	discoverytest.Start(t, kubernetes.New(c)).Wait(at("10.0.0.1:9090"))
	for name, change := range map[string]func(*kubernetes.Config){
		"another name":   func(c *kubernetes.Config) { c.PortName = "grpc" },
		"another number": func(c *kubernetes.Config) { c.PortName, c.PortNumber = "", 80 },
		"UDP":            func(c *kubernetes.Config) { c.PortName, c.PortNumber = "", 8081 },
	} {
		t.Run(name, func(t *testing.T) {
			a.t = t
			c := a.config()
			change(&c)
			run := discoverytest.Start(t, kubernetes.New(c))
			discoverytest.Eventually(t, "an answer", func() bool { return run.Answers() > 0 })
			if last := run.Last(); len(last) != 1 || last[0].Err == nil {
				t.Errorf("published %+v, want that the port is not there", last)
			}
		})
	}
}

func TestTheTokenIsReadEachTime(t *testing.T) {
	a := newAPI(t)
	c := a.config()
	run := discoverytest.Start(t, kubernetes.New(c))
	run.Wait()
	discoverytest.Eventually(t, "a watch", func() bool { n, _ := a.count("1"); return n == 1 })
	if err := os.WriteFile(c.TokenFile, []byte("second\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	a.change(func() { a.version += 10; a.oldest = a.version })
	discoverytest.Eventually(t, "another list", func() bool { n, _ := a.count(""); return n == 2 })
	_, last := a.count("")
	if got := last.Header.Get("Authorization"); got != "Bearer second" {
		t.Errorf("Authorization %q", got)
	}
	_, first := a.count("1")
	if got := first.Header.Get("Authorization"); !strings.HasPrefix(got, "Bearer ") {
		t.Errorf("Authorization %q of the watch", got)
	}
}

func TestAFailureIsNoAnswer(t *testing.T) {
	for _, status := range []int{301, 401, 403, 404, 429, 500, 503} {
		t.Run(fmt.Sprint(status), func(t *testing.T) {
			a := newAPI(t)
			a.status = status
			run := discoverytest.Start(t, kubernetes.New(a.config()))
			if err := run.Err(); err == nil || run.Answers() != 0 || strings.Contains(err.Error(), "first") {
				t.Errorf("error %v after %d answers", err, run.Answers())
			}
		})
	}
	t.Run("another authority", func(t *testing.T) {
		a := newAPI(t)
		c := a.config()
		c.CAFile = ""
		if err := discoverytest.Start(t, kubernetes.New(c)).Err(); err == nil {
			t.Error("the API server was trusted")
		}
	})
	t.Run("no token", func(t *testing.T) {
		a := newAPI(t)
		c := a.config()
		c.TokenFile += ".absent"
		if err := discoverytest.Start(t, kubernetes.New(c)).Err(); err == nil {
			t.Error("no error")
		}
		if n, _ := a.count(""); n != 0 {
			t.Error("it asked without a token")
		}
	})
}

// FuzzEvent: whatever an API server streams, it neither makes the source panic nor
// has it publish more than it knows of.
func FuzzEvent(f *testing.F) {
	f.Add(`{"type":"ADDED","object":{"metadata":{"name":"a","resourceVersion":"1"},"addressType":"IPv4","endpoints":[{"addresses":["10.0.0.1"]}],"ports":[{"name":"http","port":80}]}}`)
	f.Add(`{"type":"ERROR","object":{"code":410}}`)
	f.Add(`{"type":"BOOKMARK","object":{"metadata":{"resourceVersion":"2"}}}`)
	f.Fuzz(func(t *testing.T, line string) {
		found, err := kubernetes.Event([]byte(line))
		if err != nil && found != nil {
			t.Errorf("%v with error %v", found, err)
		}
		for _, one := range found {
			if one.Host == "" && one.Err == nil {
				t.Errorf("an entry with neither address nor error, of %s", line)
			}
		}
	})
}
