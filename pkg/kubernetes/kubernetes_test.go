package kubernetes_test

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/keywarden/keywarden/pkg/kubernetes"
	"github.com/keywarden/keywarden/pkg/kubernetes/apiserver"
	"github.com/keywarden/keywarden/pkg/kubernetes/kubernetestest"
	"github.com/keywarden/keywarden/pkg/kubernetes/translate"
	"github.com/keywarden/keywarden/pkg/spec"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience bounds the wait for something that has to happen.
const patience = 30 * time.Second

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !ok(); {
		if time.Now().After(deadline) {
			t.Fatalf("never: %s", what)
		}
		<-time.After(2 * time.Millisecond)
	}
}

// target keeps what it is given.
type target struct {
	mu      sync.Mutex
	doc     spec.Document
	applied int
	failure error
}

func (g *target) Apply(doc spec.Document) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if err := doc.Validate(); err != nil {
		return err
	}
	g.doc, g.failure = doc, nil
	g.applied++
	return nil
}

func (g *target) Refused(err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.failure = err
}

func (g *target) routes() string {
	g.mu.Lock()
	defer g.mu.Unlock()
	var names []string
	for _, r := range g.doc.Routes {
		names = append(names, r.Name)
	}
	slices.Sort(names)
	return strings.Join(names, " ")
}

func (g *target) has(routes ...string) func() bool {
	slices.Sort(routes)
	return func() bool { return g.routes() == strings.Join(routes, " ") }
}

func (g *target) failed() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.failure
}

// buffer is a log.
type buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// replica is a source that runs.
type replica struct {
	*kubernetes.Source
	to   *target
	log  *buffer
	stop func() // waits for the end
}

func start(t *testing.T, s *kubernetestest.Server, name string) *replica {
	t.Helper()
	r := &replica{to: &target{}, log: &buffer{}}
	r.Source = kubernetes.New(kubernetes.Options{
		API:        apiserver.Config{URL: s.URL, TokenFile: s.TokenFile, CAFile: s.CAFile},
		Controller: translate.Controller, Addresses: []string{"192.0.2.7"}, WriteStatus: true, LeaseNamespace: "keywarden", Holder: name,
		Target: r.to, Logger: slog.New(slog.NewTextHandler(r.log, nil)),
	})
	ctx, cancel := context.WithCancel(context.Background())
	r.Load(ctx)
	var running sync.WaitGroup
	running.Go(func() { r.Run(ctx) })
	r.stop = func() { cancel(); running.Wait() }
	t.Cleanup(r.stop)
	return r
}

// base is what all tests have.
const base = `
kind: IngressClass
metadata: {name: keywarden}
spec: {controller: keywarden.io/gateway-controller}
---
kind: GatewayClass
metadata: {name: keywarden}
spec: {controllerName: keywarden.io/gateway-controller}
---
kind: Service
metadata: {name: web, namespace: shop}
spec: {ports: [{name: http, port: 80}]}
---
kind: Gateway
metadata: {name: main, namespace: shop}
spec: {gatewayClassName: keywarden, listeners: [{name: http, port: 80, protocol: HTTP}]}
`

func ingress(name, annotations string) string {
	return fmt.Sprintf(`
kind: Ingress
metadata: {name: %[1]s, namespace: shop, annotations: {%[2]s}}
spec:
  ingressClassName: keywarden
  rules: [{host: %[1]s.example.com, http: {paths: [{path: /, pathType: Prefix, backend: {service: {name: web, port: {name: http}}}}]}}]
`, name, annotations)
}

func httpRoute(name, rule string) string {
	return fmt.Sprintf(`
kind: HTTPRoute
metadata: {name: %[1]s, namespace: shop}
spec: {parentRefs: [{name: main}], hostnames: [%[1]s.example.com], rules: [{%[2]s, backendRefs: [{name: web, port: 80}]}]}
`, name, rule)
}

const anyPath = "matches: [{path: {value: /}}]"

func TestObjectsBecomeRoutesAndTheirRemovalTakesThemAway(t *testing.T) {
	s := kubernetestest.New(t)
	s.Apply(base)
	s.Apply(ingress("a", ""))
	r := start(t, s, "one")
	if !r.Filled() || !r.to.has("ingress.shop.a.0.0")() {
		t.Fatalf("loaded %q, filled %v: %s", r.to.routes(), r.Filled(), r.log)
	}
	s.Apply(ingress("b", ""))
	s.Apply(httpRoute("c", anyPath))
	eventually(t, "all routes", r.to.has("ingress.shop.a.0.0", "ingress.shop.b.0.0", "httproute.shop.c.0.0"))
	s.Delete("Ingress", "shop", "a")
	s.Delete("HTTPRoute", "shop", "c")
	eventually(t, "the one that is left", r.to.has("ingress.shop.b.0.0"))
}

func TestOneBadObjectIsToldAndTheRestIsServed(t *testing.T) {
	s := kubernetestest.New(t)
	s.Apply(base)
	s.Apply(ingress("bad", "keywarden.io/scope: orders"))
	s.Apply(httpRoute("worse", "filters: [{type: ExtensionRef}]"))
	s.Apply("kind: Ingress\nmetadata: {name: broken, namespace: shop}\nspec: {rules: text}")
	s.Apply(ingress("good", ""))
	r := start(t, s, "one")
	if !r.to.has("ingress.shop.good.0.0")() {
		t.Errorf("routes %q", r.to.routes())
	}
	eventually(t, "the condition", func() bool {
		return kubernetestest.Condition(s.Get("HTTPRoute", "shop", "worse"), "Accepted") == "False UnsupportedValue"
	})
	eventually(t, "the event", func() bool { return slices.Contains(s.Writes(), "POST /api/v1/namespaces/shop/events") })
	if n := len(r.Refused()); n != 2 {
		t.Errorf("%d are refused: %+v", n, r.Refused())
	}
	for range 3 {
		s.Apply(ingress("good", "")) // a new version each time
	}
	s.Apply(ingress("later", ""))
	eventually(t, "another route", r.to.has("ingress.shop.good.0.0", "ingress.shop.later.0.0"))
	events := 0
	for _, w := range s.Writes() {
		if strings.HasSuffix(w, "/events") {
			events++
		}
	}
	if events != 1 {
		t.Errorf("%d events about one refusal", events)
	}
	if n := strings.Count(r.log.String(), "is not served as it is"); n != 2 {
		t.Errorf("%d lines about two refusals: %s", n, r.log)
	}
}

// A status that the API server will never take is tried once, so that nobody who makes
// many of them holds up those of others.
func TestAStatusThatIsNotTakenHoldsUpNobody(t *testing.T) {
	s := kubernetestest.New(t)
	s.Apply(base)
	odd := []string{"odd0", "odd1", "odd2", "odd3", "odd4", "odd5"}
	s.RefuseStatus(odd...)
	for _, name := range odd {
		s.Apply(ingress(name, ""))
	}
	s.Apply(ingress("good", ""))
	r := start(t, s, "one")
	tried := func(name string) (n int) {
		for _, w := range s.Writes() {
			if strings.HasSuffix(w, "/ingresses/"+name+"/status") {
				n++
			}
		}
		return n
	}
	eventually(t, "all were tried", func() bool {
		return tried("good") > 0 && !slices.ContainsFunc(odd, func(name string) bool { return tried(name) == 0 })
	})
	for _, name := range odd {
		if n := tried(name); n != 1 {
			t.Errorf("the status of %s was tried %d times: %s", name, n, r.log)
		}
	}
}

func TestStatusesAreWrittenOnceAndKeepTheirTimes(t *testing.T) {
	s := kubernetestest.New(t)
	s.Apply(base)
	s.Apply(ingress("a", ""))
	// Somebody has written the status long ago, under another generation.
	s.Apply(httpRoute("c", anyPath) + `status:
  parents:
    - parentRef: {name: main}
      controllerName: keywarden.io/gateway-controller
      conditions:
        - {type: Accepted, status: "True", reason: Accepted, message: old, observedGeneration: 0, lastTransitionTime: "2020-01-01T00:00:00Z"}
`)
	r := start(t, s, "one")
	settled := func() bool {
		in := fmt.Sprint(s.Get("Ingress", "shop", "a")["status"])
		return strings.Contains(in, "192.0.2.7") &&
			kubernetestest.Condition(s.Get("GatewayClass", "", "keywarden"), "Accepted") == "True Accepted" &&
			kubernetestest.Condition(s.Get("Gateway", "shop", "main"), "Programmed") == "True Programmed" &&
			kubernetestest.Condition(s.Get("HTTPRoute", "shop", "c"), "ResolvedRefs") == "True ResolvedRefs"
	}
	eventually(t, "all statuses", settled)
	if w := s.Writes(); len(w) != 4 {
		t.Errorf("4 objects needed %d writes: %q", len(w), w)
	}
	before := fmt.Sprint(s.Get("HTTPRoute", "shop", "c")["status"], s.Get("Gateway", "shop", "main")["status"])
	// Much changes, and nothing of the statuses; each time the whole is looked at.
	for i := range 5 {
		s.Apply(fmt.Sprintf("kind: Namespace\nmetadata: {name: n%d}", i))
		s.Apply(fmt.Sprintf("kind: Service\nmetadata: {name: web, namespace: shop, labels: {n: x%d}}\nspec: {ports: [{name: http, port: 80}]}", i))
	}
	s.Apply("kind: Service\nmetadata: {name: web, namespace: shop}\nspec: {ports: [{name: http, port: 80, appProtocol: kubernetes.io/h2c}]}")
	eventually(t, "the last change", func() bool {
		r.to.mu.Lock()
		defer r.to.mu.Unlock()
		return r.to.doc.Services[0].Protocol == "h2c"
	})
	if w := s.Writes(); len(w) != 4 {
		t.Errorf("statuses are written again: %q", w)
	}
	if after := fmt.Sprint(s.Get("HTTPRoute", "shop", "c")["status"], s.Get("Gateway", "shop", "main")["status"]); after != before {
		t.Errorf("they changed:\n%s\n%s", before, after)
	}
	// A new generation is observed, and the time of the last transition stays.
	s.Apply(httpRoute("c", "matches: [{path: {value: /new}}]"))
	eventually(t, "the new generation", func() bool {
		return strings.Contains(fmt.Sprint(s.Get("HTTPRoute", "shop", "c")["status"]), "observedGeneration:2")
	})
	if w := s.Writes(); len(w) != 5 {
		t.Errorf("one status changed, with %d writes: %q", len(w)-4, w[4:])
	}
	if time := transition(s.Get("HTTPRoute", "shop", "c")); time != "2020-01-01T00:00:00Z" {
		t.Errorf("lastTransitionTime %q", time)
	}
}

// transition is the time of the first condition of a route.
func transition(o kubernetestest.Object) string {
	_, after, _ := strings.Cut(fmt.Sprint(o["status"]), "lastTransitionTime:")
	when, _, _ := strings.Cut(after, " ")
	return when
}

func TestWhatWasKnownIsServedWhileTheAPIServerIsAway(t *testing.T) {
	s := kubernetestest.New(t)
	s.Apply(base)
	s.Apply(ingress("a", ""))
	r := start(t, s, "one")
	s.Down(503)
	eventually(t, "the failure", func() bool { return r.to.failed() != nil })
	if err := r.to.failed(); !strings.Contains(err.Error(), "what was known is served") {
		t.Errorf("the failure is %v", err)
	}
	if !r.to.has("ingress.shop.a.0.0")() || !r.Filled() {
		t.Errorf("routes %q", r.to.routes())
	}
	s.Apply(ingress("b", "")) // nobody can see it yet
	s.Down(0)
	eventually(t, "what happened meanwhile", r.to.has("ingress.shop.a.0.0", "ingress.shop.b.0.0"))
	eventually(t, "the end of the failure", func() bool { return r.to.failed() == nil })
	if n := strings.Count(r.log.String(), "cannot be asked, what was known"); n != 1 {
		t.Errorf("%d lines about one outage: %s", n, r.log)
	}
}

func TestAStartWithoutTheAPIServerIsMadeUpFor(t *testing.T) {
	for name, prevent := range map[string]func(s *kubernetestest.Server) (mend func()){
		"away": func(s *kubernetestest.Server) func() { s.Down(503); return func() { s.Down(0) } },
		"no permission": func(s *kubernetestest.Server) func() {
			if err := os.WriteFile(s.TokenFile, []byte("somebody else"), 0o600); err != nil {
				panic(err)
			}
			return func() { _ = os.WriteFile(s.TokenFile, []byte(kubernetestest.Token), 0o600) }
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := kubernetestest.New(t)
			s.Apply(base)
			s.Apply(ingress("a", ""))
			mend := prevent(s)
			r := start(t, s, "one")
			if r.Filled() || r.to.applied != 0 {
				t.Errorf("filled with %q", r.to.routes())
			}
			eventually(t, "the failure", func() bool { return r.to.failed() != nil })
			mend()
			eventually(t, "the route", r.to.has("ingress.shop.a.0.0"))
			if err := r.to.failed(); err != nil {
				t.Errorf("the failure goes on: %v", err)
			}
		})
	}
}

func TestVersionsThatAreGoneAreListedAnew(t *testing.T) {
	s := kubernetestest.New(t)
	s.Apply(base)
	s.Apply(ingress("a", ""))
	s.Apply(ingress("b", ""))
	r := start(t, s, "one")
	eventually(t, "a watch of each kind", func() bool { return s.Watches() == 8 })
	lists := s.Lists()
	s.Bookmark()
	s.Compact(func() { s.Delete("Ingress", "shop", "a") })
	eventually(t, "the removal", r.to.has("ingress.shop.b.0.0"))
	s.Apply(ingress("c", ""))
	eventually(t, "what came later", r.to.has("ingress.shop.b.0.0", "ingress.shop.c.0.0"))
	if r.to.failed() != nil || s.Lists() == lists || strings.Contains(r.log.String(), "cannot be asked") {
		t.Errorf("%v after %d lists, before %d", r.to.failed(), s.Lists(), lists)
	}
}

func TestAClusterWithoutTheGatewayAPIHasIngresses(t *testing.T) {
	s := kubernetestest.New(t)
	s.Apply(base)
	s.Apply(ingress("a", ""))
	s.Without("GatewayClass", "Gateway", "HTTPRoute", "ReferenceGrant")
	r := start(t, s, "one")
	if !r.Filled() || !r.to.has("ingress.shop.a.0.0")() || r.to.failed() != nil {
		t.Errorf("routes %q, %v", r.to.routes(), r.to.failed())
	}
}

func TestOneReplicaWritesAndAnotherTakesOver(t *testing.T) {
	s := kubernetestest.New(t)
	s.Apply(base)
	s.Apply(ingress("a", ""))
	first := start(t, s, "one")
	written := func(name string) func() bool {
		return func() bool {
			return strings.Contains(fmt.Sprint(s.Get("Ingress", "shop", name)["status"]), "192.0.2.7")
		}
	}
	eventually(t, "a status", written("a"))
	eventually(t, "those of the Gateway API", func() bool { return len(s.Writes()) == 3 }) // in no order
	second := start(t, s, "two")
	holder := func() string {
		spec, _ := s.Get("Lease", "keywarden", "keywarden-status")["spec"].(kubernetestest.Object)
		return fmt.Sprint(spec["holderIdentity"])
	}
	if holder() != "one" {
		t.Errorf("the leader is %q", holder())
	}
	s.Apply(ingress("b", ""))
	eventually(t, "the status of the second", written("b"))
	count := len(s.Writes()) // two objects of the Gateway API, two Ingresses
	if count != 4 {
		t.Errorf("%d writes of two replicas: %q", count, s.Writes())
	}
	first.stop() // gives the lease back
	s.Apply(ingress("c", ""))
	eventually(t, "the status that the other writes", written("c"))
	if holder() != "two" || len(s.Writes()) != count+1 {
		t.Errorf("the leader is %q, after %q", holder(), s.Writes()[count:])
	}
	if !second.to.has("ingress.shop.a.0.0", "ingress.shop.b.0.0", "ingress.shop.c.0.0")() {
		t.Errorf("routes %q", second.to.routes())
	}
}
