package spec

import (
	"fmt"
	"net/url"
)

// Target is one address of a service.
type Target struct {
	// URL is http or https, host and optional port, without a path.
	URL string `json:"url"`

	// Weight is the target's share of the requests, relative to the others'.
	Weight int `json:"weight"`

	// Priority is the target's tier of failover: 0 is used while it has a target
	// that is well, then 1, and so on.
	Priority int `json:"priority,omitempty"`

	// Zone is where the target is; targets in the zone of the replica are used
	// first within their tier.
	Zone string `json:"zone,omitempty"`
}

// Bounds of targets.
const (
	maxTargets  = 1000
	maxWeight   = 1000
	maxPriority = 100
)

// SetDefaults fills in what a document need not say.
func (t *Target) SetDefaults() { t.Weight = 1 }

func (t *Target) normalise() {
	if u, err := parseServiceURL(t.URL); err == nil {
		t.URL = u.String()
	}
}

func (t *Target) validate(path string, v *validator) {
	switch u, err := parseServiceURL(t.URL); {
	case t.URL == "":
		v.required(path + ".url")
	case err != nil:
		v.fail(path+".url", "%s", err.Error())
	case u.Path != "":
		v.fail(path+".url", "must not have a path; a service with several targets has its base path in path")
	case u.String() != t.URL:
		v.fail(path+".url", "is not in its normal form, %s", u)
	}
	v.between(path+".weight", t.Weight, 1, maxWeight)
	v.between(path+".priority", t.Priority, 0, maxPriority)
}

// between checks a number, both bounds included.
func (v *validator) between(path string, n, from, to int) {
	if n < from || n > to {
		v.fail(path, "must be from %d to %d", from, to)
	}
}

// validateTargets checks that a service has one way to name its addresses.
func (s *Service) validateTargets(path string, v *validator) {
	switch {
	case s.Discovery != nil && (s.URL != "" || s.Targets != nil):
		v.fail(path+".discovery", "cannot be given together with url or targets")
	case s.URL != "" && s.Targets != nil:
		v.fail(path+".targets", "cannot be given together with url")
	case s.URL == "" && s.Targets == nil && s.Discovery == nil:
		v.fail(path+".url", "is required, or targets, or discovery")
	case s.Targets != nil && len(s.Targets) == 0:
		v.fail(path+".targets", "must name at least one target")
	case len(s.Targets) > maxTargets:
		v.fail(path+".targets", "must not name more than %d targets", maxTargets)
	}
	if s.Discovery != nil {
		s.Discovery.validate(path+".discovery", v)
	}
	seen, scheme := make(firsts, len(s.Targets)), ""
	for i := range s.Targets {
		at := index(path+".targets", i)
		s.Targets[i].validate(at, v)
		if first, taken := seen[s.Targets[i].URL]; taken && s.Targets[i].URL != "" {
			v.conflict(at+".url", "is named twice", first)
		}
		seen[s.Targets[i].URL] = at
		if u, err := parseServiceURL(s.Targets[i].URL); err == nil {
			if scheme != "" && u.Scheme != scheme {
				v.fail(at+".url", "must have the scheme of the other targets, %s", scheme)
			}
			scheme = u.Scheme
		}
	}
	if s.Path != "" {
		if s.URL != "" {
			v.fail(path+".path", "belongs to targets; put it into url")
		} else {
			v.path(path+".path", s.Path, true)
		}
	}
}

// Addresses are the targets of the service, parsed: those that it names, or the
// one of its url; none where they are looked up. The base path is that of all of
// them.
func (s *Service) Addresses() (targets []Address, base *url.URL, err error) {
	if s.URL != "" {
		u, err := parseServiceURL(s.URL)
		if err != nil {
			return nil, nil, err
		}
		host := &url.URL{Scheme: u.Scheme, Host: u.Host}
		return []Address{{URL: host, Target: Target{URL: host.String(), Weight: 1}}}, u, nil
	}
	base = &url.URL{}
	if s.Path != "" {
		decoded, escaped, err := canonicalPath(s.Path)
		if err != nil {
			return nil, nil, err
		}
		base.Path, base.RawPath = decoded, escaped
	}
	for _, t := range s.Targets {
		u, err := parseServiceURL(t.URL)
		if err != nil {
			return nil, nil, fmt.Errorf("target %s: %w", t.URL, err)
		}
		targets = append(targets, Address{URL: u, Target: t})
	}
	return targets, base, nil
}

// Address is a target with its parsed URL.
type Address struct {
	Target
	URL *url.URL // scheme and host
}
