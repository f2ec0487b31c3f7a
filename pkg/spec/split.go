package spec

import (
	"net/http"

	"github.com/keywarden/keywarden/pkg/spec/check"
	"github.com/keywarden/keywarden/pkg/spec/services"
)

// Split shares the requests of a route among several services.
type Split struct {
	// Sticky keeps requests with something in common at one service, as long as the
	// weights stay; when they change, it moves no more of them than it has to. Without
	// it each request is decided by chance.
	Sticky *services.Hash `json:"sticky,omitempty"`

	Services []SplitService `json:"services"`
}

// SplitService is one of the services of a split.
type SplitService struct {
	Service string `json:"service"`

	// Weight is the share of the requests, in proportion to the sum of all weights; 0
	// for those alone that are pinned.
	Weight int `json:"weight"`

	// Pin sends requests here, whatever the weights, of which one of these holds. The
	// first service of the list with such a pin takes them.
	Pin []Pin `json:"pin,omitempty"`
}

// Pin is a header field or a cookie that a request has: of the value, or of any
// when there is none here.
type Pin struct {
	Header string `json:"header,omitempty"`
	Cookie string `json:"cookie,omitempty"`
	Value  string `json:"value,omitempty"`
}

// Bounds of a split.
const (
	maxSplit = 16
	maxPins  = 16
)

// unweighted is the weight of a service for which none is given.
const unweighted = -1

// SetDefaults implements the decoder's interface: there is no weight by default,
// because a forgotten one would silence a service.
func (s *SplitService) SetDefaults() { s.Weight = unweighted }

func (s *Split) normalise() {
	for i := range s.Services {
		for j := range s.Services[i].Pin {
			p := &s.Services[i].Pin[j]
			p.Header = http.CanonicalHeaderKey(p.Header)
		}
	}
}

func (s *Split) validate(path string, v *validator) {
	if s.Sticky != nil {
		s.Sticky.Validate(path+".sticky", &v.Checker)
	}
	path += ".services"
	if len(s.Services) == 0 {
		v.Fail(path, "must name at least one service")
		return
	}
	if len(s.Services) > maxSplit {
		v.Fail(path, "must not name more than %d", maxSplit)
		return
	}
	sum, names := 0, make(check.Firsts, len(s.Services))
	for i := range s.Services {
		of, at := &s.Services[i], check.Index(path, i)
		v.serviceName(at+".service", of.Service)
		names.Unique(&v.Checker, at+".service", of.Service)
		if of.Weight == unweighted {
			v.Required(at + ".weight")
			sum++
		} else if v.Between(at+".weight", of.Weight, 0, services.MaxWeight); of.Weight > 0 {
			sum += of.Weight
		}
		if of.Pin != nil && len(of.Pin) == 0 || len(of.Pin) > maxPins {
			v.Fail(at+".pin", "must name from 1 to %d", maxPins)
		}
		for j, p := range of.Pin {
			p.validate(check.Index(at+".pin", j), v)
		}
	}
	if sum == 0 {
		v.Fail(path, "must have a weight above 0 for one at least")
	}
}

func (p Pin) validate(path string, v *validator) {
	switch {
	case p.Header == "" && p.Cookie == "", p.Header != "" && p.Cookie != "":
		v.Fail(path, "must have one of header and cookie")
	case p.Header != "" && !check.IsToken(p.Header):
		v.Fail(path+".header", "must be the name of a header field")
	case p.Cookie != "" && !check.IsToken(p.Cookie):
		v.Fail(path+".cookie", "must be the name of a cookie")
	}
}
