package app_test

import (
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/keywarden/keywarden/pkg/app/apptest"
	"github.com/keywarden/keywarden/pkg/kubernetes/kubernetestest"
)

// clusterOf is an API server with a service, web in the namespace shop, that a real
// backend is behind.
func clusterOf(t *testing.T, backend http.Handler) *kubernetestest.Server {
	t.Helper()
	b := httptest.NewServer(backend)
	t.Cleanup(b.Close)
	_, port, err := net.SplitHostPort(b.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	s := kubernetestest.New(t)
	s.Apply(fmt.Sprintf(`
kind: IngressClass
metadata: {name: keywarden}
spec: {controller: keywarden.io/gateway-controller}
---
kind: GatewayClass
metadata: {name: keywarden}
spec: {controllerName: keywarden.io/gateway-controller}
---
kind: Gateway
metadata: {name: main, namespace: shop}
spec: {gatewayClassName: keywarden, listeners: [{name: http, port: 80, protocol: HTTP}]}
---
kind: Service
metadata: {name: web, namespace: shop}
spec: {ports: [{name: http, port: 80}]}
---
kind: EndpointSlice
metadata: {name: web-1, namespace: shop, labels: {kubernetes.io/service-name: web}}
addressType: IPv4
endpoints: [{addresses: [127.0.0.1], conditions: {ready: true}}]
ports: [{name: http, port: %s, protocol: TCP}]
`, port))
	return s
}

// clusterOptions are those of a program whose routes are the objects of s.
func clusterOptions(s *kubernetestest.Server) map[string]string {
	return map[string]string{
		"gateway.source": "kubernetes", "gateway.kubernetes.api_url": s.URL, "gateway.kubernetes.token_file": s.TokenFile,
		"gateway.kubernetes.ca_file": s.CAFile, "gateway.kubernetes.addresses": "192.0.2.7", "gateway.kubernetes.lease_namespace": "keywarden",
	}
}

func clusterIngress(name, annotations string) string {
	return fmt.Sprintf(`
kind: Ingress
metadata: {name: %[1]s, namespace: shop, annotations: {%[2]s}}
spec:
  ingressClassName: keywarden
  rules: [{host: %[1]s.example.com, http: {paths: [{path: /orders, pathType: Prefix, backend: {service: {name: web, port: {name: http}}}}]}}]
`, name, annotations)
}

// TestRoutesOfACluster is the whole program with objects of Kubernetes as its routes: an
// Ingress and an HTTPRoute come and go, a bad object is told so, what is known outlives
// the API server, and nobody else writes the document.
func TestRoutesOfACluster(t *testing.T) {
	s := clusterOf(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = fmt.Fprint(w, r.Host, " ", r.URL.Path, " ", r.Header.Get("X-Consumer-Kind"), " ", r.Header.Get("X-Route"))
	}))
	p := apptest.Start(t, apptest.Options{Set: clusterOptions(s)})
	user, admin := p.User(t), p.Admin(t)
	key := p.Key(t, user, nil)
	at := func(host, path string, more ...string) apptest.Answer {
		return p.Call(t, http.MethodGet, path, nil, append([]string{"Host", host}, more...)...)
	}
	p.Want(t, http.StatusOK, http.MethodGet, "/readyz", nil)
	if a := at("shop.example.com", "/orders/1"); a.Status != http.StatusNotFound {
		t.Errorf("before its Ingress: %d %s", a.Status, a.Body)
	}

	began := time.Now()
	s.Apply(clusterIngress("shop", ""))
	apptest.Eventually(t, "the route", func() bool { return at("shop.example.com", "/orders/1").Status != http.StatusNotFound })
	t.Logf("an Ingress was served after %s", time.Since(began).Round(time.Millisecond))
	if a := at("shop.example.com", "/orders/1"); a.Status != http.StatusUnauthorized {
		t.Errorf("without a key: %d %s", a.Status, a.Body)
	}
	apptest.Eventually(t, "targets", func() bool { return at("shop.example.com", "/orders/1", key.Auth()...).Status == http.StatusOK })
	if a := at("shop.example.com", "/orders/1", key.Auth()...); string(a.Body) != "shop.example.com /orders/1 key " {
		t.Errorf("with a key: %d %s", a.Status, a.Body)
	}

	s.Apply(clusterIngress("open", "keywarden.io/auth: none"))
	s.Apply(`
kind: HTTPRoute
metadata: {name: split, namespace: shop, annotations: {keywarden.io/scopes: "orders:read"}}
spec:
  parentRefs: [{name: main}]
  hostnames: [route.example.com]
  rules:
    - matches: [{path: {value: /orders}}]
      filters: [{type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: X-Route, value: gateway-api}]}}, {type: URLRewrite, urlRewrite: {path: {type: ReplacePrefixMatch, replacePrefixMatch: /v2/o}}}]
      backendRefs: [{name: web, port: 80}]
    - matches: [{path: {value: /gone}}]
      backendRefs: [{name: gone, port: 80}]
---
kind: HTTPRoute
metadata: {name: bad, namespace: shop, annotations: {keywarden.io/auht: none}}
spec: {parentRefs: [{name: main}], hostnames: [bad.example.com], rules: [{backendRefs: [{name: web, port: 80}]}]}
`)
	apptest.Eventually(t, "the open route", func() bool { return at("open.example.com", "/orders").Status == http.StatusOK })
	apptest.Eventually(t, "the HTTPRoute", func() bool { return at("route.example.com", "/orders").Status == http.StatusUnauthorized })
	if a := at("route.example.com", "/orders/7", key.Auth()...); a.Status != http.StatusForbidden {
		t.Errorf("a key without the scope: %d %s", a.Status, a.Body)
	}
	if a := at("route.example.com", "/gone", user.Auth()...); a.Status != http.StatusForbidden {
		t.Errorf("a user without the scope: %d %s", a.Status, a.Body)
	}
	if a := at("bad.example.com", "/orders", key.Auth()...); a.Status != http.StatusNotFound {
		t.Errorf("the bad object: %d %s", a.Status, a.Body)
	}
	s.Apply("kind: HTTPRoute\nmetadata: {name: gone, namespace: shop, annotations: {keywarden.io/auth: none}}\n" +
		"spec: {parentRefs: [{name: main}], hostnames: [gone.example.com], rules: [{backendRefs: [{name: gone, port: 80}]}]}")
	apptest.Eventually(t, "the answer in the place of a backend", func() bool { return at("gone.example.com", "/orders").Status == http.StatusInternalServerError })
	apptest.Eventually(t, "the condition of the bad object", func() bool {
		return kubernetestest.Condition(s.Get("HTTPRoute", "shop", "bad"), "Accepted") == "False UnsupportedValue"
	})
	apptest.Eventually(t, "the status of the Ingress", func() bool {
		return strings.Contains(fmt.Sprint(s.Get("Ingress", "shop", "shop")["status"]), "192.0.2.7")
	})
	state := string(p.Want(t, http.StatusOK, http.MethodGet, "/admin/v1/state", nil, admin.Auth()...).Body)
	for _, want := range []string{`"source":"kubernetes"`, `"name":"shop/bad"`, "did you mean auth?"} {
		if !strings.Contains(state, want) {
			t.Errorf("the state lacks %s: %s", want, state)
		}
	}

	if a := p.Call(t, http.MethodPut, "/admin/v1/config", `{"version":1}`, admin.With("If-None-Match", "*")...); a.Status != http.StatusConflict || a.Text(t, "code") != "config.source_is_file" {
		t.Errorf("the admin API writes: %d %s", a.Status, a.Body)
	}
	p.Want(t, http.StatusOK, http.MethodGet, "/admin/v1/routes/ingress.shop.shop.0.0", nil, admin.Auth()...)

	s.Down(http.StatusServiceUnavailable)
	apptest.Eventually(t, "the stale source", func() bool {
		return strings.Contains(string(p.Call(t, http.MethodGet, "/admin/v1/state", nil, admin.Auth()...).Body), "what was known is served")
	})
	if a := at("shop.example.com", "/orders/1", key.Auth()...); a.Status != http.StatusOK {
		t.Errorf("without the API server: %d %s", a.Status, a.Body)
	}
	p.Want(t, http.StatusOK, http.MethodGet, "/readyz", nil)
	s.Down(0)
	s.Delete("Ingress", "shop", "shop")
	s.Delete("HTTPRoute", "shop", "split")
	apptest.Eventually(t, "the removal", func() bool {
		return at("shop.example.com", "/orders/1", key.Auth()...).Status == http.StatusNotFound && at("route.example.com", "/orders").Status == http.StatusNotFound
	})
	if err := p.Stop(); err != nil {
		t.Errorf("the program ends with %v", err)
	}
}

// TestReplicaIsNotReadyBeforeItKnowsTheObjects: a new replica must not answer 404 for
// what others serve.
func TestReplicaIsNotReadyBeforeItKnowsTheObjects(t *testing.T) {
	s := clusterOf(t, http.NotFoundHandler())
	s.Apply(clusterIngress("shop", ""))
	s.Down(http.StatusServiceUnavailable)
	p := apptest.Start(t, apptest.Options{Set: clusterOptions(s)})
	if a := p.Want(t, http.StatusServiceUnavailable, http.MethodGet, "/readyz", nil); !strings.Contains(string(a.Body), "gateway_document") {
		t.Errorf("readiness does not tell why: %s", a.Body)
	}
	s.Down(0)
	apptest.Eventually(t, "readiness", func() bool { return p.Call(t, http.MethodGet, "/readyz", nil).Status == http.StatusOK })
	if a := p.Call(t, http.MethodGet, "/orders", nil, "Host", "shop.example.com"); a.Status != http.StatusUnauthorized {
		t.Errorf("ready without the route: %d", a.Status)
	}
}
