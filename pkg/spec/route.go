package spec

import (
	"slices"
	"strings"
)

// Route says which requests go to which service, and what they need for it.
type Route struct {
	Name  string `json:"name"`
	Match Match  `json:"match"`

	// Priority puts the route before all with a smaller one, however specific.
	Priority int `json:"priority,omitempty"`

	// One of these says what becomes of the request.
	Service  string    `json:"service,omitempty"`
	Redirect *Redirect `json:"redirect,omitempty"`
	Respond  *Respond  `json:"respond,omitempty"`

	// StripPrefix is removed from the path before the request is forwarded. It is
	// the whole path of the match or a part of it that ends where a segment ends.
	StripPrefix string `json:"strip_prefix,omitempty"`

	Auth Auth `json:"auth"`

	// AllowIPs names the networks that clients may call from; empty means all.
	AllowIPs []Network `json:"allow_ips,omitempty"`

	// MaxBody bounds the body of a request; 0 means the default of the process.
	MaxBody Size `json:"max_body,omitempty"`

	// Timeout bounds the whole exchange with the service, from its begin to the last
	// byte of the response; 0 means no bound. Once a WebSocket has been opened, or
	// a stream of server-sent events (text/event-stream) has begun, it no longer
	// counts.
	Timeout Duration `json:"timeout,omitempty"`
}

func (r *Route) setDefaults() { r.Auth.Mode = AuthRequired }

func (r *Route) normalise() {
	r.Match.normalise()
	r.Auth.normalise()
	r.StripPrefix = normalPrefix(r.StripPrefix)
}

func (r *Route) validate(path string, v *validator) {
	v.name(path, r.Name)
	r.Match.validate(path+".match", v)
	v.between(path+".priority", r.Priority, -maxRoutePriority, maxRoutePriority)
	r.validateEnd(path, v)
	r.validateStrip(path+".strip_prefix", v)
	r.Auth.validate(path+".auth", v)
	r.validateIPs(path+".allow_ips", v)
	if r.MaxBody < 0 {
		v.fail(path+".max_body", "must not be negative")
	}
	if r.Timeout != 0 {
		v.timeout(path+".timeout", r.Timeout)
	}
}

// maxRoutePriority bounds priorities: each that is in use costs a search.
const maxRoutePriority = 1000

func (r *Route) validateStrip(path string, v *validator) {
	if r.StripPrefix == "" || !v.path(path, r.StripPrefix, true) {
		return
	}
	if r.Match.Path.Regex != "" {
		v.fail(path, "cannot be given together with a regular expression")
		return
	}
	if r.StripPrefix == "/" {
		v.fail(path, "must name at least one segment")
		return
	}
	of := r.Match.Path.Exact + r.Match.Path.Prefix
	if of != r.StripPrefix && !strings.HasPrefix(of, r.StripPrefix+"/") {
		v.fail(path, "must be the beginning of the path that the route matches, %s, and end where a segment ends", quote(of))
	}
}

// maxIPs bounds the networks of a route: they are compared one by one.
const maxIPs = 256

func (r *Route) validateIPs(path string, v *validator) {
	if r.AllowIPs != nil && len(r.AllowIPs) == 0 {
		v.fail(path, "must name at least one network; without the field every address is allowed")
	}
	if len(r.AllowIPs) > maxIPs {
		v.fail(path, "must not name more than %d networks", maxIPs)
		return
	}
	for i, n := range r.AllowIPs {
		switch {
		case !n.Prefix().IsValid() || n != n.normal():
			v.fail(index(path, i), "must be a network such as 10.0.0.0/8")
		case slices.Contains(r.AllowIPs[:i], n):
			v.fail(index(path, i), "is named twice")
		}
	}
}
