// Package kubernetes follows the EndpointSlices of a service by the API of
// Kubernetes (discovery.k8s.io/v1). It owns what they mean: which endpoints are
// ready, at which port, of which family. The conversation (a list, then a watch from
// its resourceVersion on, and a list again when that version is gone) is that of
// package kubernetes/apiserver.
package kubernetes

import (
	"context"
	"fmt"
	"net/url"

	"github.com/keywarden/keywarden/pkg/gateway/discovery"
	"github.com/keywarden/keywarden/pkg/kubernetes/apiserver"
)

// Config is what is asked for, and of whom. Namespace, Service and a port are
// required.
type Config struct {
	Namespace  string
	Service    string
	PortName   string // or
	PortNumber int    // that the pods listen on

	// APIURL is the address of the API server, and TokenFile and CAFile are the files of
	// who asks it; what is not given is as in [apiserver.Config].
	APIURL    string
	TokenFile string
	CAFile    string
}

// maxSlices bounds the slices of a service.
const maxSlices = 4000

// Source follows a service.
type Source struct{ config Config }

var _ discovery.Source = (*Source)(nil)

// New makes a source.
func New(c Config) *Source { return &Source{c} }

// Watch implements [discovery.Source].
func (s *Source) Watch(ctx context.Context, publish func([]discovery.Found)) error {
	client := apiserver.New(apiserver.Config{URL: s.config.APIURL, TokenFile: s.config.TokenFile, CAFile: s.config.CAFile})
	defer client.Close()
	var all *apiserver.Collection[slice, *slice]
	all = apiserver.NewCollection[slice](apiserver.Options{
		Client:  client,
		Path:    "/apis/discovery.k8s.io/v1/namespaces/" + url.PathEscape(s.config.Namespace) + "/endpointslices",
		Labels:  "kubernetes.io/service-name=" + s.config.Service,
		Strict:  true, // without a slice the others would be taken for all that there is
		Most:    maxSlices,
		Changed: func() { publish(endpoints(all.Objects(), &s.config)) },
	})
	return fmt.Errorf("asking Kubernetes: %w", all.Follow(ctx))
}
