// Package consul follows the instances of a service of Consul, by its HTTP API
// with blocking queries (GET /v1/health/service/:service).
package consul

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/keywarden/keywarden/pkg/gateway/discovery"
	"github.com/keywarden/keywarden/pkg/gateway/discovery/registry"
	"github.com/keywarden/keywarden/pkg/gateway/upstream"
)

// Config is what is asked for, and of whom. URL and Service are required.
type Config struct {
	URL         string // of an agent, without a slash at its end
	Service     string
	Tag         string
	Datacenter  string
	PassingOnly bool
	TokenFile   string
	TLS         upstream.TLS
}

// Times of blocking queries.
const (
	wait = 5 * time.Minute // how long Consul may hold a query that has nothing new

	// slack is what Consul adds to wait (up to a sixteenth of it), and time to answer.
	slack = wait/16 + 10*time.Second

	// pause is the least time between two queries: a busy service changes at once.
	pause = 250 * time.Millisecond
)

// Source follows a service.
type Source struct{ config Config }

var _ discovery.Source = (*Source)(nil)

// New makes a source.
func New(c Config) *Source { return &Source{c} }

// Watch implements [discovery.Source].
func (s *Source) Watch(ctx context.Context, publish func([]discovery.Found)) error {
	client, err := registry.Open(registry.Options{TLS: s.config.TLS, HeaderTimeout: wait + slack})
	if err != nil {
		return err
	}
	defer client.Close()
	index := uint64(0)
	for {
		found, next, err := s.query(ctx, client, index)
		if err != nil {
			return fmt.Errorf("asking Consul: %w", err)
		}
		if next != index || index == 0 {
			publish(found)
		}
		// An index that goes back says that Consul's state was restored or that another
		// server answers: what was known of it means nothing any more.
		if next < index {
			next = 0
		}
		index = next
		timer := time.NewTimer(pause)
		select {
		case <-ctx.Done():
			timer.Stop()
			return ctx.Err()
		case <-timer.C:
		}
	}
}

// instance is an element of Consul's answer.
type instance struct {
	Node struct {
		Address string
		Meta    map[string]string
	}
	Service struct {
		Address string
		Port    int
		Meta    map[string]string
		Weights struct{ Passing, Warning int }
	}
	Checks []struct{ Status string }
}

// query asks once; it is held by Consul as long as the index is the given one.
func (s *Source) query(ctx context.Context, client *registry.Client, index uint64) (_ []discovery.Found, next uint64, _ error) {
	ctx, cancel := context.WithTimeout(ctx, wait+slack)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, s.url(index), nil)
	if err != nil {
		return nil, 0, err
	}
	if s.config.TokenFile != "" {
		token, err := registry.Secret(s.config.TokenFile)
		if err != nil {
			return nil, 0, err
		}
		r.Header.Set("X-Consul-Token", token.Reveal())
	}
	var list []instance
	header, err := client.Do(r, &list)
	if err != nil {
		return nil, 0, err
	}
	return read(header, list)
}

// read takes an answer over.
func read(header http.Header, list []instance) (_ []discovery.Found, next uint64, _ error) {
	next, err := strconv.ParseUint(header.Get("X-Consul-Index"), 10, 64)
	if err != nil {
		return nil, 0, errors.New("the answer has no X-Consul-Index")
	}
	if len(list) == 0 && header.Get("X-Consul-Results-Filtered-By-Acls") == "true" {
		return nil, 0, errors.New("the token may not see any instance")
	}
	found := make([]discovery.Found, len(list))
	for i := range list {
		found[i] = list[i].found()
	}
	// An index of 0 would make the next query one that is not held.
	return found, max(next, 1), nil
}

func (s *Source) url(index uint64) string {
	q := url.Values{}
	if s.config.PassingOnly {
		q.Set("passing", "1")
	}
	if s.config.Tag != "" {
		q.Set("tag", s.config.Tag)
	}
	if s.config.Datacenter != "" {
		q.Set("dc", s.config.Datacenter)
	}
	if index > 0 {
		q.Set("index", strconv.FormatUint(index, 10))
		q.Set("wait", wait.String())
	}
	return s.config.URL + "/v1/health/service/" + url.PathEscape(s.config.Service) + "?" + q.Encode()
}

// found is the address of an instance: its own, or its node's when it has none.
func (in *instance) found() discovery.Found {
	weight := in.Service.Weights.Passing
	for _, c := range in.Checks {
		if c.Status != "passing" {
			weight = in.Service.Weights.Warning
		}
	}
	return discovery.Found{
		Host:   net.JoinHostPort(cmp.Or(in.Service.Address, in.Node.Address), strconv.Itoa(in.Service.Port)),
		Weight: weight, Zone: cmp.Or(in.Service.Meta["zone"], in.Node.Meta["zone"]),
	}
}
