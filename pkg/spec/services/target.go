package services

import (
	"fmt"
	"net/url"

	"github.com/keywarden/keywarden/pkg/spec/check"
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
	MaxWeight   = 1000
	maxPriority = 100
)

// SetDefaults fills in what a document need not say.
func (t *Target) SetDefaults() { t.Weight = 1 }

func (t *Target) Normalise() {
	if u, err := parseServiceURL(t.URL); err == nil {
		t.URL = u.String()
	}
}

func (t *Target) Validate(path string, v *check.Checker) {
	switch u, err := parseServiceURL(t.URL); {
	case t.URL == "":
		v.Required(path + ".url")
	case err != nil:
		v.Fail(path+".url", "%s", err.Error())
	case u.Path != "":
		v.Fail(path+".url", "must not have a path; a service with several targets has its base path in path")
	case u.String() != t.URL:
		v.Fail(path+".url", "is not in its normal form, %s", u)
	}
	v.Between(path+".weight", t.Weight, 1, MaxWeight)
	v.Between(path+".priority", t.Priority, 0, maxPriority)
}

// validateTargets checks that a service has one way to name its addresses.
func (s *Service) validateTargets(path string, v *check.Checker) {
	switch {
	case s.Discovery != nil && (s.URL != "" || s.Targets != nil):
		v.Fail(path+".discovery", "cannot be given together with url or targets")
	case s.URL != "" && s.Targets != nil:
		v.Fail(path+".targets", "cannot be given together with url")
	case s.URL == "" && s.Targets == nil && s.Discovery == nil:
		v.Fail(path+".url", "is required, or targets, or discovery")
	case s.Targets != nil && len(s.Targets) == 0:
		v.Fail(path+".targets", "must name at least one target")
	case len(s.Targets) > maxTargets:
		v.Fail(path+".targets", "must not name more than %d targets", maxTargets)
	}
	if s.Discovery != nil {
		s.Discovery.Validate(path+".discovery", v)
	}
	seen, scheme := make(check.Firsts, len(s.Targets)), ""
	for i := range s.Targets {
		at := check.Index(path+".targets", i)
		s.Targets[i].Validate(at, v)
		if first, taken := seen[s.Targets[i].URL]; taken && s.Targets[i].URL != "" {
			v.Conflict(at+".url", "is named twice", first)
		}
		seen[s.Targets[i].URL] = at
		if u, err := parseServiceURL(s.Targets[i].URL); err == nil {
			if scheme != "" && u.Scheme != scheme {
				v.Fail(at+".url", "must have the scheme of the other targets, %s", scheme)
			}
			scheme = u.Scheme
		}
	}
	if s.Path != "" {
		if s.URL != "" {
			v.Fail(path+".path", "belongs to targets; put it into url")
		} else {
			v.Path(path+".path", s.Path, true)
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
		decoded, escaped, err := check.CanonicalPath(s.Path)
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
