// Package discovery keeps the targets of a service that are looked up while it
// runs. It owns what all kinds of looking up have in common: a source is started
// again when it fails, its answers are checked, bounded and gathered, and the last
// good one is kept while there is no newer.
//
// It does not know how a registry is asked (the packages below it do), and it does
// not send requests to what was found (package gateway does).
package discovery

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/keywarden/keywarden/pkg/canonical"
)

// Bounds of what is taken over from a source; they are those of the document.
const (
	MaxTargets  = 1000
	maxWeight   = 1000
	maxPriority = 100
	maxZone     = 63 // bytes
)

// Found is one address of a service.
type Found struct {
	Host     string // host and port, an IPv6 address in brackets
	Weight   int    // relative share; 0 counts as 1
	Priority int    // tier of failover, 0 is the first
	Zone     string // where it is; empty when that is not known

	Err error // why the entry that should have held an address cannot be used
}

// Source looks up the addresses of one service.
type Source interface {
	// Watch publishes all addresses, each time that they change and at least once,
	// until ctx ends or it fails; the error is never nil. An empty list says that
	// there are none. What is published belongs to the receiver. Watch is called
	// again after a failure, one call at a time.
	Watch(ctx context.Context, publish func([]Found)) error
}

// errNonsense is for an answer of which nothing can be used.
var errNonsense = errors.New("no address of the answer can be used")

// clean returns what can be used of an answer, in a fixed order and each address
// once, and an error that tells what was left out, nil when that is nothing. Found
// is nil when nothing can be used of an answer that was not empty.
func clean(answer []Found) (found []Found, err error) {
	found = make([]Found, 0, len(answer))
	seen := make(map[string]bool, len(answer))
	for _, f := range answer {
		if f.Err != nil {
			err = f.Err
			continue
		}
		host, port, refused := canonical.Host(f.Host)
		if refused == nil && port == "" {
			refused = errors.New("it has no port")
		}
		if refused != nil {
			err = fmt.Errorf("the address %.100q is not acceptable: %w", f.Host, refused)
			continue
		}
		f.Host = host + ":" + port
		if seen[f.Host] {
			continue
		}
		seen[f.Host] = true
		f.Weight = min(max(f.Weight, 1), maxWeight)
		f.Priority = min(max(f.Priority, 0), maxPriority)
		if len(f.Zone) > maxZone {
			f.Zone = ""
		}
		found = append(found, f)
	}
	if len(found) == 0 && len(answer) > 0 {
		return nil, fmt.Errorf("%w: %w", errNonsense, err)
	}
	slices.SortFunc(found, func(a, b Found) int {
		return cmp.Or(cmp.Compare(a.Priority, b.Priority), cmp.Compare(a.Host, b.Host))
	})
	if len(found) > MaxTargets {
		err = fmt.Errorf("of %d addresses the first %d are used", len(found), MaxTargets)
		found = found[:MaxTargets]
	}
	return found, err
}
