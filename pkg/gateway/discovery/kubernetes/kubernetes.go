// Package kubernetes follows the EndpointSlices of a service by the API of
// Kubernetes (discovery.k8s.io/v1): a list, then a watch from its resourceVersion
// on, and a list again when that version is gone (410).
package kubernetes

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/keywarden/keywarden/pkg/gateway/discovery"
	"github.com/keywarden/keywarden/pkg/gateway/discovery/registry"
	"github.com/keywarden/keywarden/pkg/gateway/upstream"
)

// Config is what is asked for, and of whom. Namespace, Service and a port are
// required.
type Config struct {
	Namespace  string
	Service    string
	PortName   string // or
	PortNumber int    // that the pods listen on

	// APIURL is the address of the API server, without a slash at its end; without
	// it, it is asked as from within the cluster. TokenFile and CAFile are those of
	// the service account then, unless they are given.
	APIURL    string
	TokenFile string
	CAFile    string
}

// How a pod reaches the API server, and says who it is.
const (
	clusterURL   = "https://kubernetes.default.svc"
	clusterToken = "/var/run/secrets/kubernetes.io/serviceaccount/token" //nolint:gosec // a path
	clusterCA    = "/var/run/secrets/kubernetes.io/serviceaccount/ca.crt"
)

// Times and bounds of asking.
const (
	answerTimeout = 10 * time.Second
	watchFor      = 5 * time.Minute // and up to as much again: the server ends a watch then
	watchSlack    = 30 * time.Second
	pause         = 250 * time.Millisecond // before listing or watching again

	pageSize  = 250
	maxSlices = 4000
)

// Source follows a service.
type Source struct{ config Config }

var _ discovery.Source = (*Source)(nil)

// New makes a source.
func New(c Config) *Source {
	if c.APIURL == "" {
		c.APIURL = clusterURL
		c.TokenFile, c.CAFile = cmp.Or(c.TokenFile, clusterToken), cmp.Or(c.CAFile, clusterCA)
	}
	return &Source{c}
}

// errGone says that the resourceVersion is too old: list again.
var errGone = errors.New("the resource version is gone")

// Watch implements [discovery.Source].
func (s *Source) Watch(ctx context.Context, publish func([]discovery.Found)) error {
	client, err := registry.Open(registry.Options{TLS: upstream.TLS{CAFile: s.config.CAFile}, HeaderTimeout: answerTimeout})
	if err != nil {
		return err
	}
	defer client.Close()
	f := &follow{config: &s.config, client: client, publish: publish}
	for {
		err := f.round(ctx)
		if !errors.Is(err, errGone) {
			return fmt.Errorf("asking Kubernetes: %w", err)
		}
		if !wait(ctx) {
			return ctx.Err()
		}
	}
}

// follow is one conversation with the API server.
type follow struct {
	config  *Config
	client  *registry.Client
	publish func([]discovery.Found)
	slices  map[string]slice // by name
	version string           // resourceVersion up to which slices is current
}

// round lists once and watches until something fails.
func (f *follow) round(ctx context.Context) error {
	if err := f.list(ctx); err != nil {
		return err
	}
	f.tell()
	for {
		if err := f.watch(ctx); err != nil {
			return err
		}
		if !wait(ctx) { // a watch may end at once
			return ctx.Err()
		}
	}
}

// wait pauses; it reports whether the context still goes on.
func wait(ctx context.Context) bool {
	timer := time.NewTimer(pause)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}

// list takes over all slices, page by page.
func (f *follow) list(ctx context.Context) error {
	f.slices = map[string]slice{}
	query := url.Values{"limit": {strconv.Itoa(pageSize)}}
	for {
		var page struct {
			Metadata struct {
				ResourceVersion string `json:"resourceVersion"`
				Continue        string `json:"continue"`
			} `json:"metadata"`
			Items []slice `json:"items"`
		}
		if err := f.ask(ctx, query, &page); err != nil {
			return err
		}
		for _, item := range page.Items {
			f.slices[item.Metadata.Name] = item
		}
		if len(f.slices) > maxSlices {
			return fmt.Errorf("the service has more than %d slices", maxSlices)
		}
		f.version = page.Metadata.ResourceVersion
		if page.Metadata.Continue == "" {
			break
		}
		query.Set("continue", page.Metadata.Continue)
	}
	if f.version == "" {
		return errors.New("the list has no resourceVersion")
	}
	return nil
}

func (f *follow) ask(ctx context.Context, query url.Values, answer any) error {
	ctx, cancel := context.WithTimeout(ctx, answerTimeout)
	defer cancel()
	r, err := f.request(ctx, query)
	if err != nil {
		return err
	}
	_, err = f.client.Do(r, answer)
	return gone(err)
}

// gone turns status 410 into errGone.
func gone(err error) error {
	var status *registry.StatusError
	if errors.As(err, &status) && status.Code == http.StatusGone {
		return errGone
	}
	return err
}

// request asks for the slices of the service. The token is read each time: the
// kubelet renews it.
func (f *follow) request(ctx context.Context, query url.Values) (*http.Request, error) {
	query.Set("labelSelector", "kubernetes.io/service-name="+f.config.Service)
	address := f.config.APIURL + "/apis/discovery.k8s.io/v1/namespaces/" + url.PathEscape(f.config.Namespace) + "/endpointslices?" + query.Encode()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return nil, err
	}
	if f.config.TokenFile != "" {
		token, err := registry.Secret(f.config.TokenFile)
		if err != nil {
			return nil, err
		}
		r.Header.Set("Authorization", "Bearer "+token.Reveal())
	}
	return r, nil
}

// watch takes over what changes, until the server ends it in its own time (nil).
func (f *follow) watch(ctx context.Context) error {
	span := watchFor + rand.N(watchFor) //nolint:gosec // no secret
	ctx, cancel := context.WithTimeout(ctx, span+watchSlack)
	defer cancel()
	r, err := f.request(ctx, url.Values{
		"watch": {"1"}, "allowWatchBookmarks": {"true"}, "resourceVersion": {f.version},
		"timeoutSeconds": {strconv.Itoa(int(span.Seconds()))},
	})
	if err != nil {
		return err
	}
	if err := f.client.Stream(r, f.event); err != nil {
		return gone(err)
	}
	return nil
}

// event takes over one event of a watch.
func (f *follow) event(line []byte) error {
	var event struct {
		Type   string          `json:"type"`
		Object json.RawMessage `json:"object"`
	}
	if err := json.Unmarshal(line, &event); err != nil {
		return fmt.Errorf("an event is not what it should be: %w", err)
	}
	if event.Type == "ERROR" {
		return failure(event.Object)
	}
	var object slice
	if err := json.Unmarshal(event.Object, &object); err != nil {
		return fmt.Errorf("the object of an event is not what it should be: %w", err)
	}
	if object.Metadata.ResourceVersion != "" {
		f.version = object.Metadata.ResourceVersion
	}
	switch event.Type {
	case "ADDED", "MODIFIED":
		f.slices[object.Metadata.Name] = object
	case "DELETED":
		delete(f.slices, object.Metadata.Name)
	default: // BOOKMARK has a version alone
		return nil
	}
	if len(f.slices) > maxSlices {
		return fmt.Errorf("the service has more than %d slices", maxSlices)
	}
	f.tell()
	return nil
}

// failure is the error of a Status object.
func failure(object []byte) error {
	var status struct {
		Code    int    `json:"code"`
		Message string `json:"message"`
	}
	if err := json.Unmarshal(object, &status); err != nil {
		return fmt.Errorf("an error of the watch is not what it should be: %w", err)
	}
	if status.Code == http.StatusGone {
		return errGone
	}
	return fmt.Errorf("the watch failed with status %d: %.200q", status.Code, status.Message)
}

func (f *follow) tell() { f.publish(endpoints(f.slices, f.config)) }
