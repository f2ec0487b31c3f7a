package config

import (
	"net/netip"
	"net/url"
	"slices"
)

// Kubernetes is the section of the gateway document that is made of objects of a
// cluster.
type Kubernetes struct {
	Controller     string   `yaml:"controller" format:"word" doc:"Name by which an IngressClass (spec.controller) and a GatewayClass (spec.controllerName) choose this gateway."`
	Addresses      []string `yaml:"addresses" format:"host" doc:"Addresses or names under which clients reach the gateway, for the statuses of Ingresses and Gateways."`
	Status         bool     `yaml:"status" doc:"Whether one of the replicas writes statuses, and events about Ingresses that are refused."`
	LeaseNamespace string   `yaml:"lease_namespace" format:"host" doc:"Namespace of the lease keywarden-status, by which the replica that writes is elected; empty means that of the pod."`
	APIURL         string   `yaml:"api_url" doc:"URL of the API server; empty means that of the cluster that the gateway runs in, with the service account of the pod."`
	TokenFile      string   `yaml:"token_file" doc:"File of the token that is shown to the API server; it is read again each time."`
	CAFile         string   `yaml:"ca_file" doc:"PEM file with the authorities that the API server is trusted by."`
}

// SourceKubernetes is the value of gateway.source with which the section counts.
const SourceKubernetes = "kubernetes"

// unused is a rule for the options that mean nothing with another source.
func (k *Kubernetes) unused(source string) rule {
	var paths []string
	for _, o := range []struct {
		path  string
		given bool
	}{
		{"gateway.kubernetes.addresses", len(k.Addresses) > 0}, {"gateway.kubernetes.lease_namespace", k.LeaseNamespace != ""},
		{"gateway.kubernetes.api_url", k.APIURL != ""}, {"gateway.kubernetes.token_file", k.TokenFile != ""}, {"gateway.kubernetes.ca_file", k.CAFile != ""},
	} {
		if o.given {
			paths = append(paths, o.path)
		}
	}
	if len(paths) == 0 {
		return rule{paths: []string{"gateway.kubernetes.addresses"}}
	}
	return rule{
		slices.Concat(paths[:1], []string{"gateway.source"}), source != SourceKubernetes,
		"means nothing unless gateway.source is kubernetes",
	}
}

// address is a rule for where the API server is: what is asked there becomes the routes,
// and a token is shown to it.
func (k *Kubernetes) address() rule {
	return rule{
		[]string{"gateway.kubernetes.api_url"}, k.APIURL != "" && !isAPIServer(k.APIURL),
		"must be an https URL without user and query; http is for this machine alone, such as kubectl proxy",
	}
}

func isAPIServer(text string) bool {
	u, err := url.Parse(text)
	if err != nil || u.Hostname() == "" || u.User != nil || u.RawQuery != "" || u.ForceQuery || u.Fragment != "" {
		return false
	}
	ip, err := netip.ParseAddr(u.Hostname())
	here := u.Hostname() == "localhost" || err == nil && ip.IsLoopback()
	return u.Scheme == "https" || u.Scheme == "http" && here
}
