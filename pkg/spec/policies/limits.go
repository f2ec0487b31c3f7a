package policies

import (
	"slices"

	"github.com/keywarden/keywarden/pkg/spec/check"
	"github.com/keywarden/keywarden/pkg/spec/quantity"
)

// Networks is a list of networks that clients may, or may not, call from.
type Networks struct {
	Gate
	Networks []quantity.Network `json:"networks"`
}

// MaxBody bounds the body of a request.
type MaxBody struct {
	Gate
	Limit quantity.Size `json:"limit"`
}

// Timeout bounds the whole exchange with the service, from its begin to the last
// byte of the response. Once a WebSocket has been opened, or a stream of
// server-sent events (text/event-stream) has begun, it no longer counts.
type Timeout struct {
	Gate
	After quantity.Duration `json:"after"`
}

// Methods are the request methods that are accepted; others are answered with
// 405.
type Methods struct {
	Gate
	Methods []string `json:"methods"`
}

// MediaTypes are the media types of request bodies that are accepted, such as
// application/json or image/*; others are answered with 415. Requests without a
// body are not asked.
type MediaTypes struct {
	Gate
	Types []string `json:"types"`
}

// Short names the field that a bare value stands for.
func (*Networks) Short() string { return "networks" }

// Short names the field that a bare value stands for.
func (*MaxBody) Short() string { return "limit" }

// Short names the field that a bare value stands for.
func (*Timeout) Short() string { return "after" }

// Short names the field that a bare value stands for.
func (*Methods) Short() string { return "methods" }

// Short names the field that a bare value stands for.
func (*MediaTypes) Short() string { return "types" }

// maxIPs bounds the networks of a policy: they are compared one by one.
const maxIPs = 256

func (n *Networks) Validate(path string, v *check.Checker) {
	path += ".networks"
	if len(n.Networks) == 0 {
		v.Fail(path, "must name at least one network; without the policy every address is allowed")
	}
	if len(n.Networks) > maxIPs {
		v.Fail(path, "must not name more than %d networks", maxIPs)
		return
	}
	for i, network := range n.Networks {
		switch {
		case !network.Prefix().IsValid() || network != network.Normal():
			v.Fail(check.Index(path, i), "must be a network such as 10.0.0.0/8")
		case slices.Contains(n.Networks[:i], network):
			v.Fail(check.Index(path, i), "is named twice")
		}
	}
}

func (m *MaxBody) Validate(path string, v *check.Checker) {
	if m.Limit <= 0 {
		v.Fail(path+".limit", "must be above 0")
	}
}

func (t *Timeout) Validate(path string, v *check.Checker) { v.Timeout(path+".after", t.After) }

func (m *Methods) Validate(path string, v *check.Checker) {
	if m.Methods == nil {
		v.Required(path + ".methods")
	}
	v.Methods(path+".methods", m.Methods)
}

// maxMediaTypes bounds the media types of a policy.
const maxMediaTypes = 32

func (m *MediaTypes) Normalise() {
	for i := range m.Types {
		m.Types[i] = check.Lower(m.Types[i])
	}
}

func (m *MediaTypes) Validate(path string, v *check.Checker) {
	if m.Types == nil {
		v.Required(path + ".types")
	}
	v.Distinct(path+".types", m.Types, maxMediaTypes, "a media type such as application/json or image/*, without parameters", isMediaRange)
}
