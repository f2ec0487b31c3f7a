package charts_test

import (
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/keywarden/keywarden/pkg/config"
)

// routesGuide is the guide of gateway.source kubernetes.
func routesGuide() string {
	return filepath.Join("..", "docs", "guides", "kubernetes-routes.md")
}

// rights are the rules that gateway.source kubernetes needs, as the guide lists them.
type rights struct {
	read   any // of the whole cluster
	status any // the same, and those that write statuses
	lease  any // in the namespace of the lease
}

// permissions finds the roles of the guide, and statusLine where its rules of statuses begin.
var permissions = regexp.MustCompile("(?s)\n## Permissions\n.*?```yaml\n(.*?)```")

const statusLine = "  # Below: only with gateway.kubernetes.status.\n"

// guideRights reads them.
func guideRights(t *testing.T) rights {
	t.Helper()
	guide, err := os.ReadFile(routesGuide())
	if err != nil {
		t.Fatal(err)
	}
	block := permissions.FindStringSubmatch(string(guide))
	if block == nil {
		t.Fatalf("%s has no section Permissions with roles", routesGuide())
	}
	reading, _, found := strings.Cut(block[1], statusLine)
	if !found {
		t.Fatalf("%s does not say which rules are those of statuses", routesGuide())
	}
	all, some := decode(t, block[1]), decode(t, reading)
	if len(all) != 2 || all[0].kind() != "ClusterRole" || all[1].kind() != "Role" || len(some) != 1 {
		t.Fatalf("the roles of %s are not a ClusterRole and a Role", routesGuide())
	}
	return rights{read: some[0]["rules"], status: all[0]["rules"], lease: all[1]["rules"]}
}

// serverConfig is what the program makes of its configuration.
func (r rendering) serverConfig(t *testing.T) (*config.Config, pod) {
	t.Helper()
	for _, p := range r.pods() {
		if p.owner.kind() == "Deployment" {
			return r.load(t, p), p
		}
	}
	t.Fatal("there is no Deployment")
	return nil, pod{}
}

// rightsAreThoseOfTheGuide allows the pods what they do, and nothing else: what discovery
// reads, and what the guide says of routes from objects.
func rightsAreThoseOfTheGuide(t *testing.T, r rendering) {
	cfg, p := r.serverConfig(t)
	want := map[string]any{}
	if strings.HasPrefix(r.name, "discovery") {
		spaces := []string{namespace}
		if r.name == "discovery" {
			spaces = []string{"shop", "payments"}
		}
		for _, space := range spaces {
			want["Role "+space+"/kw-keywarden-discovery"] = []any{map[string]any{
				"apiGroups": []any{"discovery.k8s.io"}, "resources": []any{"endpointslices"}, "verbs": []any{"list", "watch"},
			}}
		}
	}
	if cfg.Gateway.Source == config.SourceKubernetes {
		guide := guideRights(t)
		want["ClusterRole /gateways.kw-keywarden-routes"] = guide.read
		if cfg.Gateway.Kubernetes.Status {
			want["ClusterRole /gateways.kw-keywarden-routes"] = guide.status
			want["Role "+namespace+"/kw-keywarden-status"] = guide.lease
		}
	}
	roles, bound := map[string]any{}, map[string]int{}
	for _, o := range r.objects {
		switch o.kind() {
		case "Role", "ClusterRole":
			roles[o.kind()+" "+text(o, "metadata", "namespace")+"/"+o.name()] = o["rules"]
		case "RoleBinding", "ClusterRoleBinding":
			kind := strings.TrimSuffix(o.kind(), "Binding")
			if text(o, "roleRef", "kind") != kind {
				t.Errorf("%s %s leads to a %s", o.kind(), o.name(), text(o, "roleRef", "kind"))
			}
			bound[kind+" "+text(o, "metadata", "namespace")+"/"+text(o, "roleRef", "name")]++
			account := []map[string]any{{"kind": "ServiceAccount", "name": text(p.spec, "serviceAccountName"), "namespace": namespace}}
			if diff := cmp.Diff(account, list(o, "subjects")); diff != "" {
				t.Errorf("%s %s is not for the account of the pods (-want +got):\n%s", o.kind(), o.name(), diff)
			}
		}
	}
	if diff := cmp.Diff(want, roles); diff != "" {
		t.Errorf("other rules than those of the guide (-want +got):\n%s", diff)
	}
	for role := range want {
		if bound[role] != 1 {
			t.Errorf("%s has %d bindings", role, bound[role])
		}
		delete(bound, role)
	}
	if len(bound) > 0 {
		t.Errorf("bindings of roles that are not of the chart: %v", bound)
	}
}

// classesChooseThisGateway compares the controller of the classes with the one that the
// program looks for.
func classesChooseThisGateway(t *testing.T, r rendering) {
	cfg, _ := r.serverConfig(t)
	var found []string
	for _, o := range r.objects {
		field := map[string]string{"IngressClass": "controller", "GatewayClass": "controllerName"}[o.kind()]
		if field == "" {
			continue
		}
		found = append(found, o.kind()+" "+o.name())
		if got := text(o, "spec", field); got != cfg.Gateway.Kubernetes.Controller {
			t.Errorf("%s %s is of %q, and the gateway is %q", o.kind(), o.name(), got, cfg.Gateway.Kubernetes.Controller)
		}
	}
	want := map[string][]string{"routes": {"IngressClass keywarden", "GatewayClass keywarden"}}[r.name]
	if diff := cmp.Diff(want, found); diff != "" {
		t.Errorf("classes (-want +got):\n%s", diff)
	}
}

// ofTheCluster are the kinds without a namespace among those that the chart makes.
func ofTheCluster() []string {
	return []string{"ClusterRole", "ClusterRoleBinding", "GatewayClass", "IngressClass"}
}

// TestObjectsSayTheirNamespace and nothing else: a namespace in an object of the cluster
// makes kubectl look for it there, and none makes it end up where the shell is.
func TestObjectsSayTheirNamespace(t *testing.T) {
	for name, path := range valuesFiles(t) {
		rendered, err := render(t, path, kubeVersions()[0])
		if err != nil {
			t.Fatal(err)
		}
		for _, o := range decode(t, rendered) {
			extra := strings.HasSuffix(o.name(), "-extra") // of the values, not of the chart
			has := text(o, "metadata", "namespace") != ""
			if has == slices.Contains(ofTheCluster(), o.kind()) && !extra {
				t.Errorf("%s: %s %s: has a namespace: %v", name, o.kind(), o.name(), has)
			}
		}
	}
}

// TestReleasesShareNothingOfTheCluster renders releases whose names and namespaces are put
// together from the same words: one could take the rights of the other away.
func TestReleasesShareNothingOfTheCluster(t *testing.T) {
	seen := map[string]string{}
	for _, where := range [][2]string{{"a", "b-keywarden"}, {"a-b", "keywarden"}, {"b", "keywarden"}, {"a", "keywarden"}} {
		stdout, stderr, err := run(t, "template", where[1], chart, "--namespace", where[0], "--kube-version", kubeVersions()[0]+".0",
			"--values", valuesFiles(t)["routes"], "--set", "gateway.kubernetes.classes.create=false")
		if err != nil {
			t.Fatal(stderr)
		}
		found := 0
		for _, o := range decode(t, stdout) {
			if !slices.Contains(ofTheCluster(), o.kind()) {
				continue
			}
			found++
			id, by := o.kind()+" "+o.name(), where[0]+"/"+where[1]
			if seen[id] != "" {
				t.Errorf("%s is of %s and of %s", id, seen[id], by)
			}
			seen[id] = by
		}
		if found != 2 {
			t.Errorf("%v has %d objects of the cluster, want a role and its binding", where, found)
		}
	}
}

// TestGatewayClassIsMadeWhereItsAPIIs keeps an installation without Gateway API from failing.
func TestGatewayClassIsMadeWhereItsAPIIs(t *testing.T) {
	api := []string{"--api-versions", "gateway.networking.k8s.io/v1/GatewayClass"}
	set := func(value string) []string { return []string{"--set", "gateway.kubernetes.classes." + value} }
	for _, c := range []struct {
		name string
		args []string
		want string
	}{
		{"no API", set("gatewayClass=null"), "IngressClass"},
		{"the API", append(set("gatewayClass=null"), api...), "GatewayClass IngressClass"},
		{"no API, but wanted", set("gatewayClass=true"), "GatewayClass IngressClass"},
		{"the API, but not wanted", append(set("gatewayClass=false"), api...), "IngressClass"},
		{"no classes", append(set("create=false"), api...), ""},
		{"another source", append([]string{"--set", "gateway.source=database", "--set-json", "gateway.kubernetes.addresses=[]"}, api...), ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			out, err := render(t, valuesFiles(t)["routes"], kubeVersions()[0], c.args...)
			if err != nil {
				t.Fatal(err)
			}
			kinds := map[string]bool{}
			for _, o := range decode(t, out) {
				if strings.HasSuffix(o.kind(), "Class") {
					kinds[o.kind()] = true
				}
			}
			if got := strings.Join(slices.Sorted(maps.Keys(kinds)), " "); got != c.want {
				t.Errorf("the chart makes %q, want %q", got, c.want)
			}
		})
	}
}
