package spec

import "slices"

// Networks is a list of networks that clients may, or may not, call from.
type Networks struct {
	Gate
	Networks []Network `json:"networks"`
}

// MaxBody bounds the body of a request.
type MaxBody struct {
	Gate
	Limit Size `json:"limit"`
}

// Timeout bounds the whole exchange with the service, from its begin to the last
// byte of the response. Once a WebSocket has been opened, or a stream of
// server-sent events (text/event-stream) has begun, it no longer counts.
type Timeout struct {
	Gate
	After Duration `json:"after"`
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

func (n *Networks) validate(path string, v *validator) {
	path += ".networks"
	if len(n.Networks) == 0 {
		v.fail(path, "must name at least one network; without the policy every address is allowed")
	}
	if len(n.Networks) > maxIPs {
		v.fail(path, "must not name more than %d networks", maxIPs)
		return
	}
	for i, network := range n.Networks {
		switch {
		case !network.Prefix().IsValid() || network != network.normal():
			v.fail(index(path, i), "must be a network such as 10.0.0.0/8")
		case slices.Contains(n.Networks[:i], network):
			v.fail(index(path, i), "is named twice")
		}
	}
}

func (m *MaxBody) validate(path string, v *validator) {
	if m.Limit <= 0 {
		v.fail(path+".limit", "must be above 0")
	}
}

func (t *Timeout) validate(path string, v *validator) { v.timeout(path+".after", t.After) }

func (m *Methods) validate(path string, v *validator) {
	if m.Methods == nil {
		v.required(path + ".methods")
	}
	validateMethods(path+".methods", m.Methods, v)
}

// maxMediaTypes bounds the media types of a policy.
const maxMediaTypes = 32

func (m *MediaTypes) normalise() {
	for i := range m.Types {
		m.Types[i] = lower(m.Types[i])
	}
}

func (m *MediaTypes) validate(path string, v *validator) {
	if m.Types == nil {
		v.required(path + ".types")
	}
	v.distinct(path+".types", m.Types, maxMediaTypes, "a media type such as application/json or image/*, without parameters", isMediaRange)
}
