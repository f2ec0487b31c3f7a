// Package dns looks up the targets of a service in the DNS, at an interval: how
// long records may be kept (their TTL) is not visible through the resolver.
package dns

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/keywarden/keywarden/pkg/gateway/discovery"
)

// The types of records.
const (
	A    = "A"
	AAAA = "AAAA"
	SRV  = "SRV"
)

// Config is what is asked for. Name and Interval are required.
type Config struct {
	Name     string
	Type     string // A, AAAA or SRV; empty for A and AAAA
	Port     uint16 // of addresses; SRV records have their own
	Interval time.Duration
	Server   string // host and port of a name server; empty for those of the system
}

// Source asks the DNS.
type Source struct {
	config   Config
	name     string
	resolver *net.Resolver
}

var _ discovery.Source = (*Source)(nil)

// New makes a source. With a server, the name is absolute: the search list is the
// system's and belongs to its own servers.
func New(c Config) *Source {
	s := &Source{config: c, name: c.Name, resolver: &net.Resolver{PreferGo: true}}
	if c.Server != "" {
		s.name = strings.TrimSuffix(c.Name, ".") + "."
		s.resolver.Dial = func(ctx context.Context, network, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, network, c.Server)
		}
	}
	return s
}

// maxLookup bounds one lookup, all records together.
const maxLookup = 10 * time.Second

// jitter is the share of the interval by which it varies, so that replicas do not
// ask in step.
const jitter = 10

// Watch implements [discovery.Source]. A name without addresses is an error: the
// DNS does not tell "none" from a mistake in a zone.
func (s *Source) Watch(ctx context.Context, publish func([]discovery.Found)) error {
	for {
		found, err := s.lookup(ctx)
		if err != nil {
			return err
		}
		publish(found)
		timer := time.NewTimer(s.config.Interval - rand.N(s.config.Interval/jitter+1)) //nolint:gosec // no secret
		select {
		case <-ctx.Done():
			timer.Stop()
			return ctx.Err()
		case <-timer.C:
		}
	}
}

func (s *Source) lookup(ctx context.Context) ([]discovery.Found, error) {
	ctx, cancel := context.WithTimeout(ctx, maxLookup)
	defer cancel()
	if s.config.Type == SRV {
		return s.services(ctx)
	}
	return s.addresses(ctx, s.name, s.config.Port)
}

// addresses looks up the addresses of a host; there is at least one.
func (s *Source) addresses(ctx context.Context, host string, port uint16) ([]discovery.Found, error) {
	network := map[string]string{A: "ip4", AAAA: "ip6"}[s.config.Type]
	if network == "" {
		network = "ip"
	}
	list, err := s.resolver.LookupNetIP(ctx, network, host)
	if err != nil {
		return nil, err
	}
	if len(list) == 0 {
		return nil, fmt.Errorf("%s has no addresses", host)
	}
	found := make([]discovery.Found, len(list))
	for i, addr := range list {
		found[i] = discovery.Found{Host: netip.AddrPortFrom(addr.Unmap(), port).String()}
	}
	return found, nil
}

// maxAtOnce bounds the hosts of SRV records that are looked up at the same time.
const maxAtOnce = 8

// services looks up SRV records (RFC 2782) and the addresses of their hosts. A
// host without addresses is left out; any other failure is one of the whole.
func (s *Source) services(ctx context.Context) ([]discovery.Found, error) {
	_, records, err := s.resolver.LookupSRV(ctx, "", "", s.name)
	if err != nil {
		return nil, err
	}
	records = records[:min(len(records), discovery.MaxTargets)]
	tiers, scale := ranks(records), heaviest(records)
	each := make([][]discovery.Found, len(records))
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(maxAtOnce)
	for i, r := range records {
		group.Go(func() error {
			list, err := s.addresses(ctx, r.Target, r.Port)
			var missing *net.DNSError
			if errors.As(err, &missing) && missing.IsNotFound {
				each[i] = []discovery.Found{{Err: fmt.Errorf("%s has no addresses", strconv.Quote(r.Target))}}
				return nil
			}
			for j := range list {
				list[j].Priority, list[j].Weight = tiers[r.Priority], weight(r.Weight, scale)
			}
			each[i] = list
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	if found := slices.Concat(each...); len(found) > 0 {
		return found, nil
	}
	return nil, fmt.Errorf("%s has no SRV records with a host", s.name) // "." alone: RFC 2782
}

// ranks numbers the priorities that occur, lowest first: what counts is their
// order.
func ranks(records []*net.SRV) map[uint16]int {
	var list []uint16
	for _, r := range records {
		list = append(list, r.Priority)
	}
	slices.Sort(list)
	rank := map[uint16]int{}
	for i, priority := range slices.Compact(list) {
		rank[priority] = i
	}
	return rank
}

// maxWeight is the weight that a target can have.
const maxWeight = 1000

func heaviest(records []*net.SRV) int {
	most := 0
	for _, r := range records {
		most = max(most, int(r.Weight))
	}
	return most
}

// weight is that of a record among others of which the heaviest is given: as it
// is, unless that one is out of bounds. A weight of 0 is for "hardly ever" and
// becomes the smallest there is.
func weight(own uint16, heaviest int) int {
	w := int(own)
	if heaviest > maxWeight {
		w = w * maxWeight / heaviest
	}
	return max(w, 1)
}
