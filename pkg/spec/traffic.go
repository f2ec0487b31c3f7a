package spec

import "github.com/keywarden/keywarden/pkg/canonical"

// Traffic is what a route does with a request beyond handing it to one service as
// it is.
type Traffic struct {
	// Split and Versions stand in the place of service: each leads to one of several.
	Split    *Split    `json:"split,omitempty"`
	Versions *Versions `json:"versions,omitempty"`

	Rewrite *Rewrite `json:"rewrite,omitempty"`

	// UpstreamHost is the Host that the service is told instead of its own, with a
	// port or without. It has no influence on TLS: the certificate is still asked for
	// by the name of the target.
	UpstreamHost string `json:"upstream_host,omitempty"`

	// PreserveHost tells the service the Host that the client has used. A client can
	// choose that freely, unless the route names its hosts.
	PreserveHost bool `json:"preserve_host,omitempty"`

	Mirror *Mirror `json:"mirror,omitempty"`
}

func (t *Traffic) normalise() {
	if t.Split != nil {
		t.Split.normalise()
	}
	if t.Versions != nil {
		t.Versions.normalise()
	}
	if host, port, err := canonical.Host(t.UpstreamHost); err == nil {
		t.UpstreamHost = authority(host, port)
	}
}

func authority(host, port string) string {
	if port == "" {
		return host
	}
	return host + ":" + port
}

// forwards reports whether requests of the route reach a service.
func (r *Route) forwards() bool { return r.Service != "" || r.Split != nil || r.Versions != nil }

// validateTraffic checks what the route says beyond its service.
func (r *Route) validateTraffic(path string, v *validator) {
	if r.Split != nil {
		r.Split.validate(path+".split", v)
	}
	if r.Versions != nil {
		r.Versions.validate(path+".versions", r, v)
	}
	if r.Rewrite != nil {
		r.Rewrite.validate(path+".rewrite", r, v)
	}
	if r.Mirror != nil {
		r.Mirror.validate(path+".mirror", v)
	}
	if r.UpstreamHost != "" {
		v.upstreamHost(path+".upstream_host", r.UpstreamHost)
	}
	if r.UpstreamHost != "" && r.PreserveHost {
		v.Fail(path+".preserve_host", "cannot be given together with upstream_host")
	}
	if r.forwards() {
		return
	}
	for _, f := range []struct {
		name  string
		given bool
	}{
		{"strip_prefix", r.StripPrefix != ""}, {"rewrite", r.Rewrite != nil}, {"upstream_host", r.UpstreamHost != ""},
		{"preserve_host", r.PreserveHost}, {"mirror", r.Mirror != nil},
	} {
		if f.given {
			v.Fail(path+"."+f.name, "belongs to service")
		}
	}
}

func (v *validator) upstreamHost(path, value string) {
	if host, port, err := canonical.Host(value); err != nil || authority(host, port) != value {
		v.Fail(path, "must be a host name in its ASCII form, with a port or without")
	}
}
