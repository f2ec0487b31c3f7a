package doctor

import (
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/keywarden/keywarden/pkg/kubernetes"
	"github.com/keywarden/keywarden/pkg/kubernetes/apiserver"
	"github.com/keywarden/keywarden/pkg/kubernetes/kubernetestest"
	"github.com/keywarden/keywarden/pkg/spec"
)

func configOf(s *kubernetestest.Server) apiserver.Config {
	return apiserver.Config{URL: s.URL, TokenFile: s.TokenFile, CAFile: s.CAFile}
}

func TestClusterThatMayBeReadIsGood(t *testing.T) {
	want(t, find(t, "", Cluster(configOf(kubernetestest.New(t)))), OK, "lets 9 kinds of objects")
}

func TestClusterWithoutTheGatewayAPIIsGood(t *testing.T) {
	s := kubernetestest.New(t)
	s.Without("Gateway", "GatewayClass", "HTTPRoute", "ReferenceGrant")
	check := Cluster(configOf(s))
	want(t, find(t, "", check), OK, "lets 5 kinds of objects")
	want(t, find(t, "gateways.gateway.networking.k8s.io", check), Skipped, "not installed")
	s = kubernetestest.New(t)
	s.Without("Ingress")
	want(t, find(t, "ingresses.networking.k8s.io", Cluster(configOf(s))), Failed, "no such kind")
}

func TestClusterThatCannotBeAskedSaysWhy(t *testing.T) {
	s := kubernetestest.New(t)
	other := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(other, []byte("of-another-cluster\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		config apiserver.Config
		detail string
	}{
		"token":    {apiserver.Config{URL: s.URL, TokenFile: other, CAFile: s.CAFile}, "does not take the token"},
		"no token": {apiserver.Config{URL: s.URL, TokenFile: other + "-missing", CAFile: s.CAFile}, "no such file"},
		"no CA":    {apiserver.Config{URL: s.URL, TokenFile: s.TokenFile}, "certificate"},
		"nobody":   {apiserver.Config{URL: "https://127.0.0.1:1", TokenFile: s.TokenFile, CAFile: s.CAFile}, "cannot be asked"},
	} {
		t.Run(name, func(t *testing.T) {
			r := Run(t.Context(), []Check{Cluster(c.config)}, time.Now)
			if len(r.Findings) != 1 {
				t.Fatalf("one reason is said %d times: %+v", len(r.Findings), r.Findings)
			}
			want(t, r.Findings[0], Failed, c.detail)
			if strings.Contains(r.Findings[0].Detail, "of-another-cluster") {
				t.Error("the token is shown")
			}
		})
	}
}

// between is an API server that may refuse, and remembers what was listed.
func between(t *testing.T, s *kubernetestest.Server, forbidden ...string) (apiserver.Config, func() []string) {
	t.Helper()
	var mu sync.Mutex
	var seen []string
	front := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		seen = append(seen, r.URL.Path)
		mu.Unlock()
		if slices.Contains(forbidden, r.URL.Path) {
			w.WriteHeader(http.StatusForbidden)
			_, _ = io.WriteString(w, `{"kind": "Status", "code": 403, "reason": "Forbidden"}`)
			return
		}
		s.ServeHTTP(w, r)
	}))
	t.Cleanup(front.Close)
	return apiserver.Config{URL: front.URL, TokenFile: s.TokenFile}, func() []string {
		mu.Lock()
		defer mu.Unlock()
		return slices.Compact(slices.Sorted(slices.Values(seen)))
	}
}

func TestMissingRuleIsNamed(t *testing.T) {
	api, _ := between(t, kubernetestest.New(t), "/apis/networking.k8s.io/v1/ingresses", "/api/v1/services")
	check := Cluster(api)
	want(t, find(t, "", check), OK, "lets 7 kinds of objects")
	for object, rule := range map[string]string{
		"ingresses.networking.k8s.io": `{apiGroups: ["networking.k8s.io"], resources: [ingresses], verbs: [list, watch]}`,
		"services":                    `{apiGroups: [""], resources: [services], verbs: [list, watch]}`,
	} {
		f := find(t, object, check)
		want(t, f, Failed, "may not be listed")
		if !strings.Contains(f.Advice, rule) {
			t.Errorf("%q does not name %s", f.Advice, rule)
		}
	}
}

// nobody serves nothing.
type nobody struct{}

func (nobody) Apply(spec.Document) error { return nil }
func (nobody) Refused(error)             {}

// A kind that is followed and not asked for would not be missed.
func TestWhatIsFollowedIsAskedFor(t *testing.T) {
	api, followed := between(t, kubernetestest.New(t))
	kubernetes.New(kubernetes.Options{API: api, Controller: "c", Holder: "h", Target: nobody{}, Logger: slog.New(slog.DiscardHandler)}).Load(t.Context())
	asked, paths := between(t, kubernetestest.New(t))
	Run(t.Context(), []Check{Cluster(asked)}, time.Now)
	expected := append(followed(), "/apis/discovery.k8s.io/v1/endpointslices") // of the targets
	slices.Sort(expected)
	if diff := cmp.Diff(expected, paths()); diff != "" {
		t.Error(diff)
	}
}
