package spec

import (
	"net/url"

	"github.com/keywarden/keywarden/pkg/spec/policies"
)

// Redirect sends the client elsewhere.
type Redirect struct {
	// To is a URL or a path. Without a query of its own it gets the request's.
	To     string `json:"to"`
	Status int    `json:"status"`

	// KeepPath appends the path of the request to To.
	KeepPath bool `json:"keep_path,omitempty"`
}

// Respond is an answer that needs no service.
type Respond struct {
	Status      int    `json:"status"`
	Body        string `json:"body,omitempty"`
	ContentType string `json:"content_type"`
}

// SetDefaults fills in what a document need not say.
func (r *Redirect) SetDefaults() { r.Status = 308 }

// SetDefaults fills in what a document need not say.
func (r *Respond) SetDefaults() {
	r.Status = 200
	r.ContentType = "text/plain; charset=utf-8"
}

// maxRespondBody bounds a fixed answer, in bytes.
const maxRespondBody = 64 << 10

// validateEnd checks that a route has one end, and that it is well.
func (r *Route) validateEnd(path string, v *validator) {
	ends := 0
	for _, given := range []bool{r.Service != "", r.Split != nil, r.Versions != nil, r.Redirect != nil, r.Respond != nil} {
		if given {
			ends++
		}
	}
	switch {
	case ends == 0:
		v.Fail(path+".service", "is required, or split, versions, redirect or respond")
	case ends > 1:
		v.Fail(path, "must have one of service, split, versions, redirect and respond")
	}
	if r.Service != "" {
		v.serviceName(path+".service", r.Service)
	}
	if r.Redirect != nil {
		r.Redirect.validate(path+".redirect", v)
	}
	if r.Respond != nil {
		r.Respond.validate(path+".respond", v)
	}
	if (r.Redirect != nil || r.Respond != nil) && r.Timeout != nil && r.Timeout.Mode != policies.Off {
		v.Fail(path+".timeout", "belongs to service")
	}
}

func (r *Redirect) validate(path string, v *validator) {
	u, err := url.Parse(r.To)
	switch {
	case r.To == "":
		v.Required(path + ".to")
	case err != nil || u.Opaque != "" || u.User != nil || u.Scheme != "" && u.Scheme != "http" && u.Scheme != "https",
		u.Scheme != "" && u.Host == "", u.Scheme == "" && (u.Host != "" || r.To[0] != '/'):
		v.Fail(path+".to", "must be an http or https URL, or a path")
	case r.KeepPath && (u.RawQuery != "" || u.Fragment != ""):
		v.Fail(path+".to", "must not have a query or fragment together with keep_path")
	}
	switch r.Status {
	case 301, 302, 303, 307, 308:
	default:
		v.Fail(path+".status", "must be 301, 302, 303, 307 or 308")
	}
}

func (r *Respond) validate(path string, v *validator) {
	v.Between(path+".status", r.Status, 200, 599)
	if len(r.Body) > maxRespondBody {
		v.Fail(path+".body", "must be at most %d bytes", maxRespondBody)
	}
	if (r.Status == 204 || r.Status == 304) && r.Body != "" {
		v.Fail(path+".body", "an answer of this status has none")
	}
	for i := range len(r.ContentType) {
		if c := r.ContentType[i]; c < ' ' || c > '~' {
			v.Fail(path+".content_type", "must be a media type")
			return
		}
	}
}
