// Package apiserver speaks with the API server of Kubernetes: it keeps collections of
// objects up to date by list and watch, and changes single objects. It owns the
// conversation (pages, resource versions, bookmarks, 410 Gone, pauses that grow, bounds
// of size and time) and knows nothing of what the objects mean.
package apiserver

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/keywarden/keywarden/pkg/gateway/discovery/registry"
	"github.com/keywarden/keywarden/pkg/gateway/upstream"
)

// How a pod reaches the API server, says who it is, and knows where it is.
const (
	clusterURL       = "https://kubernetes.default.svc"
	clusterToken     = "/var/run/secrets/kubernetes.io/serviceaccount/token" //nolint:gosec // a path
	clusterCA        = "/var/run/secrets/kubernetes.io/serviceaccount/ca.crt"
	clusterNamespace = "/var/run/secrets/kubernetes.io/serviceaccount/namespace"
)

// answerTimeout bounds a call, but for watches.
const answerTimeout = 10 * time.Second

// Config says where the API server is. Without a URL it is asked as from within the
// cluster; TokenFile and CAFile are those of the service account then, unless they are
// given.
type Config struct{ URL, TokenFile, CAFile string }

// Client calls the API server. It is safe for concurrent use.
type Client struct {
	config Config

	mu   sync.Mutex
	open *registry.Client // nil before the first call, and after a failure: files may have changed
}

// New makes a client; nobody is asked yet.
func New(c Config) *Client {
	if c.URL == "" {
		c.URL = clusterURL
		c.TokenFile, c.CAFile = cmp.Or(c.TokenFile, clusterToken), cmp.Or(c.CAFile, clusterCA)
	}
	c.URL = strings.TrimSuffix(c.URL, "/")
	return &Client{config: c}
}

// Namespace is that of the pod, or "default" outside of the cluster.
func Namespace() string {
	text, err := os.ReadFile(clusterNamespace)
	if name := strings.TrimSpace(string(text)); err == nil && name != "" {
		return name
	}
	return "default"
}

// Close closes the connections that are not in use.
func (c *Client) Close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.open != nil {
		c.open.Close()
	}
	c.open = nil
}

// client is the connection pool; the authorities are read when it is made.
func (c *Client) client() (*registry.Client, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.open != nil {
		return c.open, nil
	}
	var err error
	c.open, err = registry.Open(registry.Options{TLS: upstream.TLS{CAFile: c.config.CAFile}, HeaderTimeout: answerTimeout})
	return c.open, err
}

// failed drops the connection pool when the API server could not be spoken with.
func (c *Client) failed(err error) {
	var status *registry.StatusError
	if err != nil && !errors.As(err, &status) {
		c.Close()
	}
}

// Status is the status code of an answer that is an error; 0 of any other error.
func Status(err error) int {
	var status *registry.StatusError
	if errors.As(err, &status) {
		return status.Code
	}
	return 0
}

// request makes a request. The token is read each time: the kubelet renews it.
func (c *Client) request(ctx context.Context, method, path string, query url.Values, body any) (*http.Request, error) {
	address := c.config.URL + path
	if len(query) > 0 {
		address += "?" + query.Encode()
	}
	var content io.Reader
	if body != nil {
		text, err := json.Marshal(body)
		if err != nil {
			return nil, err
		}
		content = bytes.NewReader(text)
	}
	r, err := http.NewRequestWithContext(ctx, method, address, content)
	if err != nil {
		return nil, err
	}
	switch {
	case method == http.MethodPatch:
		r.Header.Set("Content-Type", "application/merge-patch+json")
	case body != nil:
		r.Header.Set("Content-Type", "application/json")
	}
	if c.config.TokenFile != "" {
		token, err := registry.Secret(c.config.TokenFile)
		if err != nil {
			return nil, err
		}
		r.Header.Set("Authorization", "Bearer "+token.Reveal())
	}
	return r, nil
}

// Do makes a call and decodes the answer into into, unless that is nil. A body of a
// PATCH is a merge patch (RFC 7386).
func (c *Client) Do(ctx context.Context, method, path string, query url.Values, body, into any) (err error) {
	ctx, cancel := context.WithTimeout(ctx, answerTimeout)
	defer cancel()
	defer func() { c.failed(err) }()
	client, err := c.client()
	if err != nil {
		return err
	}
	r, err := c.request(ctx, method, path, query, body)
	if err != nil {
		return err
	}
	if into == nil {
		into = new(json.RawMessage)
	}
	if _, err = client.Do(r, into); err != nil {
		return fmt.Errorf("%s %s: %w", method, path, err)
	}
	return nil
}
