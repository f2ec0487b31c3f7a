package doctor

import (
	"context"
	"fmt"
	"net/http"
	"net/url"

	"github.com/keywarden/keywarden/pkg/kubernetes/apiserver"
)

// resource is a kind of object that routes, or their targets, are made of.
type resource struct {
	group, version, name string
	optional             bool // a cluster need not have it
}

func resources() []resource {
	const networking, gateway = "networking.k8s.io", "gateway.networking.k8s.io"
	return []resource{
		{"", "v1", "services", false}, {"", "v1", "namespaces", false}, {"discovery.k8s.io", "v1", "endpointslices", false},
		{networking, "v1", "ingressclasses", false}, {networking, "v1", "ingresses", false},
		{gateway, "v1", "gatewayclasses", true}, {gateway, "v1", "gateways", true}, {gateway, "v1", "httproutes", true},
		{gateway, "v1beta1", "referencegrants", true},
	}
}

func (r resource) path() string {
	if r.group == "" {
		return "/api/" + r.version + "/" + r.name
	}
	return "/apis/" + r.group + "/" + r.version + "/" + r.name
}

// String is the resource as kubectl names it.
func (r resource) String() string {
	if r.group == "" {
		return r.name
	}
	return r.name + "." + r.group
}

const rulesAdvice = "docs/guides/kubernetes-routes.md has all rules, and the chart makes them with gateway.source kubernetes."

// Cluster asks the API server for one object of each kind that routes are made of.
func Cluster(config apiserver.Config) Check {
	return Check{Area: "kubernetes", Run: func(ctx context.Context) []Finding {
		client := apiserver.New(config)
		defer client.Close()
		var others []Finding
		good := 0
		for _, r := range resources() {
			err := client.Do(ctx, http.MethodGet, r.path(), url.Values{"limit": {"1"}}, nil, nil)
			switch status := apiserver.Status(err); {
			case err == nil:
				good++
			case status == http.StatusNotFound && r.optional:
				others = append(others, skipped(r.String(), "not installed in this cluster", ""))
			case status == http.StatusNotFound:
				others = append(others, failed(r.String(), "the API server has no such kind", "Use a version of Kubernetes that is still supported, and the URL of the API server itself."))
			case status == http.StatusForbidden:
				others = append(others, failed(r.String(), "they may not be listed", fmt.Sprintf("Add {apiGroups: [%q], resources: [%s], verbs: [list, watch]} to the ClusterRole; %s", r.group, r.name, rulesAdvice)))
			case status == http.StatusUnauthorized:
				return []Finding{failed("", "the API server does not take the token", "Check gateway.kubernetes.token_file, and in a pod automountServiceAccountToken.")}
			case status == 0: // the other kinds would say the same, each after its time
				return []Finding{failed("", "the API server cannot be asked: "+err.Error(), "Check gateway.kubernetes.api_url, token_file and ca_file, and the network policy of the pods.")}
			default:
				others = append(others, failed(r.String(), err.Error(), "Look at the API server."))
			}
		}
		if good == 0 {
			return others
		}
		return append([]Finding{ok("", fmt.Sprintf("the API server lets %d kinds of objects be read", good))}, others...)
	}}
}
