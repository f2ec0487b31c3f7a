package apiserver_test

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/keywarden/keywarden/pkg/kubernetes/apiserver"
	"github.com/keywarden/keywarden/pkg/kubernetes/kubernetestest"
	"github.com/keywarden/keywarden/pkg/kubernetes/object"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !ok(); {
		if time.Now().After(deadline) {
			t.Fatalf("never: %s", what)
		}
		<-time.After(2 * time.Millisecond)
	}
}

func client(t *testing.T, s *kubernetestest.Server) *apiserver.Client {
	t.Helper()
	c := apiserver.New(apiserver.Config{URL: s.URL + "/", TokenFile: s.TokenFile, CAFile: s.CAFile})
	t.Cleanup(c.Close)
	return c
}

// run runs f until the test ends or the returned function is called.
func run(t *testing.T, f func(ctx context.Context)) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { f(ctx) })
	stop = func() { cancel(); running.Wait() }
	t.Cleanup(stop)
	return stop
}

const namespaces = "/api/v1/namespaces"

func TestACollectionFollowsPagesChangesAndRemovals(t *testing.T) {
	s := kubernetestest.New(t)
	for i := range 5 { // three pages
		s.Apply(fmt.Sprintf("kind: Namespace\nmetadata: {name: n%d}", i))
	}
	var changes atomic.Int64
	c := apiserver.NewCollection[object.Namespace](apiserver.Options{Client: client(t, s), Path: namespaces, Changed: func() { changes.Add(1) }})
	if synced, _ := c.State(); synced {
		t.Error("it knows everything before it has asked")
	}
	run(t, c.Run)
	count := func(n int) func() bool { return func() bool { return len(c.Objects()) == n } }
	eventually(t, "five", count(5))
	s.Apply("kind: Namespace\nmetadata: {name: n5}")
	eventually(t, "six", count(6))
	s.Delete("Namespace", "", "n0")
	eventually(t, "five again", count(5))
	if synced, failure := c.State(); !synced || failure != nil || s.Lists() != 3 || changes.Load() != 3 {
		t.Errorf("synced %v, %v, after %d pages and %d changes", synced, failure, s.Lists(), changes.Load())
	}
}

// TestAListThatBreaksOffChangesNothing: half a list must not take objects away.
func TestAListThatBreaksOffChangesNothing(t *testing.T) {
	s := kubernetestest.New(t)
	s.Apply("kind: Namespace\nmetadata: {name: a}")
	c := apiserver.NewCollection[object.Namespace](apiserver.Options{Client: client(t, s), Path: namespaces, Changed: func() {}})
	if err := c.List(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, status := range []int{301, 401, 403, 404, 429, 500, 503} {
		s.Down(status)
		err := c.List(t.Context())
		if err == nil || len(c.Objects()) != 1 || strings.Contains(err.Error(), kubernetestest.Token) {
			t.Errorf("status %d: %v with %d objects", status, err, len(c.Objects()))
		}
	}
}

// Few objects, each as large as the API server takes them, are more than a page of an
// answer may be: they keep those of others from nobody.
func TestLargeObjectsOfOneKeepNobodyOut(t *testing.T) {
	const objects = 60
	large := strings.Repeat("x", 1<<20)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		limit, _ := strconv.Atoi(r.FormValue("limit"))
		from, _ := strconv.Atoi(r.FormValue("continue"))
		_, _ = fmt.Fprint(w, `{"metadata": {"resourceVersion": "7"`)
		if from+limit < objects {
			_, _ = fmt.Fprintf(w, `, "continue": "%d"`, from+limit)
		}
		_, _ = fmt.Fprint(w, `}, "items": [`)
		for i := from; i < min(from+limit, objects); i++ {
			if i > from {
				_, _ = fmt.Fprint(w, ",")
			}
			_, _ = fmt.Fprintf(w, `{"metadata": {"name": "n%d", "annotations": {"a": "%s"}}}`, i, large)
		}
		_, _ = fmt.Fprint(w, "]}")
	}))
	t.Cleanup(server.Close)
	api := apiserver.New(apiserver.Config{URL: server.URL})
	t.Cleanup(api.Close)
	c := apiserver.NewCollection[object.Namespace](apiserver.Options{Client: api, Path: namespaces, Changed: func() {}})
	if err := c.List(t.Context()); err != nil || len(c.Objects()) != objects {
		t.Errorf("%d objects, %v", len(c.Objects()), err)
	}
}

func TestOptionalKindsNeedNotExistButDoNotVanish(t *testing.T) {
	s := kubernetestest.New(t)
	s.Apply("kind: GatewayClass\nmetadata: {name: a}")
	open := func(optional bool) *apiserver.Collection[object.GatewayClass, *object.GatewayClass] {
		return apiserver.NewCollection[object.GatewayClass](apiserver.Options{
			Client: client(t, s), Path: "/apis/gateway.networking.k8s.io/v1/gatewayclasses", Optional: optional, Changed: func() {},
		})
	}
	known := open(true)
	if err := known.List(t.Context()); err != nil {
		t.Fatal(err)
	}
	s.Without("GatewayClass")
	if err := known.List(t.Context()); apiserver.Status(err) != http.StatusNotFound || len(known.Objects()) != 1 {
		t.Errorf("a kind that was there is gone: %v", err)
	}
	for _, optional := range []bool{true, false} {
		c := open(optional)
		_ = c.List(t.Context())
		if synced, _ := c.State(); synced != optional {
			t.Errorf("optional %v: synced %v", optional, synced)
		}
	}
}

func TestTheTokenIsReadEachTime(t *testing.T) {
	s := kubernetestest.New(t)
	c := client(t, s)
	if err := os.WriteFile(s.TokenFile, []byte("old"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := c.Do(t.Context(), http.MethodGet, namespaces, nil, nil, nil); apiserver.Status(err) != http.StatusUnauthorized {
		t.Errorf("with an old token: %v", err)
	}
	if err := os.WriteFile(s.TokenFile, []byte(kubernetestest.Token), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := c.Do(t.Context(), http.MethodGet, namespaces, nil, nil, nil); err != nil {
		t.Errorf("with a new token: %v", err)
	}
}

func TestAnotherAuthorityIsNotTrusted(t *testing.T) {
	s := kubernetestest.New(t)
	c := apiserver.New(apiserver.Config{URL: s.URL, TokenFile: s.TokenFile})
	defer c.Close()
	if err := c.Do(t.Context(), http.MethodGet, namespaces, nil, nil, nil); err == nil {
		t.Error("the API server was trusted")
	}
}

// TestALeaseIsTakenOverFromOneThatIsCutOff: the first can neither renew it nor give it
// back.
func TestALeaseIsTakenOverFromOneThatIsCutOff(t *testing.T) {
	s := kubernetestest.New(t)
	token := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(token, []byte(kubernetestest.Token), 0o600); err != nil {
		t.Fatal(err)
	}
	cut := apiserver.New(apiserver.Config{URL: s.URL, TokenFile: token, CAFile: s.CAFile})
	t.Cleanup(cut.Close)
	var terms atomic.Int64
	lease := func(c *apiserver.Client, holder string) *apiserver.Lease {
		l := apiserver.NewLease(c, "keywarden", "status", holder, func() { terms.Add(1) })
		l.Hasten(500*time.Millisecond, 20*time.Millisecond)
		return l
	}
	first, second := lease(cut, "one"), lease(client(t, s), "two")
	var failures atomic.Int64
	run(t, func(ctx context.Context) { first.Run(ctx, func(error) { failures.Add(1) }) })
	eventually(t, "the first leader", first.Held)
	run(t, func(ctx context.Context) { second.Run(ctx, func(err error) { t.Error(err) }) })
	for range 30 { // longer than the lease is good for without being renewed
		<-time.After(30 * time.Millisecond)
		if second.Held() {
			t.Fatal("the lease was taken away from a holder that renews it")
		}
	}
	if err := os.WriteFile(token, []byte("revoked"), 0o600); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the second leader", func() bool {
		held := second.Held()
		if held && first.Held() {
			t.Fatal("there are two leaders")
		}
		return held
	})
	if terms.Load() != 2 || failures.Load() == 0 {
		t.Errorf("%d terms of two leaders, %d failures", terms.Load(), failures.Load())
	}
}

// FuzzEvent: whatever an API server streams, the collection has objects with a name at
// most.
func FuzzEvent(f *testing.F) {
	f.Add(`{"type":"ADDED","object":{"metadata":{"name":"a","namespace":"b","resourceVersion":"1"},"spec":{"rules":[]}}}`)
	f.Add(`{"type":"MODIFIED","object":{"metadata":{"name":"a","creationTimestamp":"yesterday"}}}`)
	f.Add(`{"type":"ERROR","object":{"code":410}}`)
	f.Add(`{"type":"BOOKMARK","object":{"metadata":{"resourceVersion":"2","creationTimestamp":null}}}`)
	f.Fuzz(func(t *testing.T, line string) {
		keys, err := apiserver.Event([]byte(line))
		if err != nil && len(keys) > 0 {
			t.Errorf("%q with error %v", keys, err)
		}
	})
}

// Follow is for who has retries of its own: it ends with what fails, and only with that.
func TestFollowEndsWithTheFirstFailure(t *testing.T) {
	follow := func(t *testing.T, s *kubernetestest.Server, most int) (c *apiserver.Collection[object.Namespace, *object.Namespace], ended chan error) {
		t.Helper()
		c = apiserver.NewCollection[object.Namespace](apiserver.Options{Client: client(t, s), Path: namespaces, Labels: "team=a", Most: most, Changed: func() {}})
		ended = make(chan error, 1)
		run(t, func(ctx context.Context) { ended <- c.Follow(ctx) })
		return c, ended
	}
	named := func(i int) string {
		return fmt.Sprintf("kind: Namespace\nmetadata: {name: n%d, labels: {team: a}}", i)
	}
	s := kubernetestest.New(t)
	s.Apply("kind: Namespace\nmetadata: {name: other, labels: {team: b}}")
	s.Apply(named(0))
	c, ended := follow(t, s, 2)
	eventually(t, "a watch", func() bool { return s.Watches() == 1 && len(c.Objects()) == 1 })
	s.Compact(nil) // no failure: it lists again
	s.Apply(named(1))
	eventually(t, "the second", func() bool { return len(c.Objects()) == 2 && s.Watches() == 1 })
	select {
	case err := <-ended:
		t.Fatal(err)
	default:
	}
	s.Apply(named(2))
	if err := <-ended; err == nil || !strings.Contains(err.Error(), "more than 2 objects") {
		t.Errorf("beyond the bound, of a watch: %v", err)
	}
	if _, ended = follow(t, s, 2); !strings.Contains(fmt.Sprint(<-ended), "more than 2 objects") {
		t.Error("beyond the bound, of a list: no error says so")
	}
	s.Down(503)
	if _, ended = follow(t, s, 0); apiserver.Status(<-ended) != http.StatusServiceUnavailable {
		t.Error("the failure of a list does not end it")
	}
}
