// Package traffic holds the ends of routes that lead to one of several services:
// a split by weight, and versions. It owns how the one is chosen, and says the
// same of a request that is only described.
//
// It sends nothing, and it keeps nothing between requests: what it chooses follows
// from the document and the request, or from chance.
package traffic

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"strings"

	"github.com/keywarden/keywarden/pkg/gateway/balance"
	"github.com/keywarden/keywarden/pkg/reqctx"
)

// Service is what a choice leads to.
type Service struct {
	Name    string
	Handler http.Handler
}

// SplitConfig is what a split is made of.
type SplitConfig struct {
	Services []Share

	// Identity is what requests that are to stay together have in common; without it
	// each is decided by chance. By names it in explanations.
	Identity Identity
	By       string

	// Random returns a number from 0 to n-1; that of math/rand/v2 when it is nil.
	Random func(n int) int
}

// Share is one service of a split.
type Share struct {
	Service
	Weight int // in proportion to the sum of all; 0: only what is pinned
	Pins   []Pin
}

// Pin sends a request to its service, when it has a header field or a cookie of
// this name: one of its values is Value, or, when that is empty, there is any.
type Pin struct {
	Header string // in canonical form
	Cookie string
	Value  string
}

// Split is a handler that shares requests among services. It is immutable and safe
// for concurrent use.
type Split struct {
	shares   []share
	pinned   bool // some service has a pin
	total    int
	identity Identity
	by       string
	random   func(n int) int
}

type share struct {
	Share
	seed uint64
}

// NewSplit makes a split, in which at least one service has a weight.
func NewSplit(c SplitConfig) (*Split, error) {
	s := &Split{identity: c.Identity, by: c.By, random: c.Random}
	if s.random == nil {
		s.random = rand.IntN
	}
	for _, of := range c.Services {
		if of.Weight < 0 || of.Handler == nil {
			return nil, fmt.Errorf("the split to %s needs a handler and a weight that is not negative", of.Name)
		}
		s.total += of.Weight
		s.pinned = s.pinned || len(of.Pins) > 0
		// The seed follows from the name alone: who is at the new service on one route is
		// so on the next, when their weights are the same.
		s.shares = append(s.shares, share{of, balance.Seed(of.Name)})
	}
	if s.total == 0 {
		return nil, errors.New("no service of the split has a weight")
	}
	return s, nil
}

// ServeHTTP implements [http.Handler].
func (s *Split) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	info := reqctx.From(r.Context())
	at := s.pin(r)
	switch {
	case at >= 0:
	case s.identity != nil:
		at = s.sticky(s.identity(r, info))
	default:
		at = s.chance(s.random(s.total))
	}
	of := &s.shares[at]
	info.Service = of.Name
	of.Handler.ServeHTTP(w, r)
}

// Choose tells which service would get the request, and why. Where chance decides,
// it is the one with the highest weight.
func (s *Split) Choose(r *http.Request) (service, why string) {
	if at := s.pin(r); at >= 0 {
		return s.shares[at].Name, "it is pinned"
	}
	if s.identity != nil {
		at := s.sticky(s.identity(r, reqctx.From(r.Context())))
		return s.shares[at].Name, "its " + s.by + " stays there, with " + s.weights()
	}
	best := 0
	for i := range s.shares {
		if s.shares[i].Weight > s.shares[best].Weight {
			best = i
		}
	}
	return s.shares[best].Name, "most likely; chance decides, with " + s.weights()
}

// weights describes the shares.
func (s *Split) weights() string {
	texts := make([]string, len(s.shares))
	for i := range s.shares {
		texts[i] = fmt.Sprintf("%s %d", s.shares[i].Name, s.shares[i].Weight)
	}
	return fmt.Sprintf("%s of %d", strings.Join(texts, ", "), s.total)
}

// pin is the first service with a pin that holds, -1 when there is none.
func (s *Split) pin(r *http.Request) int {
	if !s.pinned {
		return -1
	}
	for i := range s.shares {
		for j := range s.shares[i].Pins {
			if s.shares[i].Pins[j].holds(r.Header) {
				return i
			}
		}
	}
	return -1
}

func (p *Pin) holds(h http.Header) bool {
	if p.Cookie != "" {
		value, ok := cookie(h, p.Cookie)
		return ok && (p.Value == "" || value == p.Value)
	}
	for _, value := range h[p.Header] {
		if p.Value == "" || value == p.Value {
			return true
		}
	}
	return false
}

// sticky is the service of an identity: the one with the highest score. A weight
// that is raised against the others' raises scores of that service alone, so that
// nobody moves but to it.
func (s *Split) sticky(hash uint64) int {
	best, highest := -1, 0.0
	for i := range s.shares {
		of := &s.shares[i]
		if of.Weight == 0 {
			continue
		}
		if score := balance.Score(hash, of.seed, float64(of.Weight)); best < 0 || score > highest {
			best, highest = i, score
		}
	}
	return best
}

// chance is the service in whose share n falls, a number below the sum of weights.
func (s *Split) chance(n int) int {
	for i := range s.shares {
		if n -= s.shares[i].Weight; n < 0 {
			return i
		}
	}
	return len(s.shares) - 1
}
