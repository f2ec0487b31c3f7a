package spec

import (
	"net/http"
	"slices"
	"strings"

	"github.com/keywarden/keywarden/pkg/canonical"
	"github.com/keywarden/keywarden/pkg/spec/check"
)

// Match selects requests. All of its conditions have to hold.
type Match struct {
	// Hosts are the names that are matched, whatever the port; *.example.com is
	// every name below example.com. Empty means every host.
	Hosts []string `json:"hosts,omitempty"`

	Path PathMatch `json:"path"`

	// Methods are the request methods that are matched; empty means every method
	// that no other route with the same path names.
	Methods []string `json:"methods,omitempty"`

	// Headers and Query are demands on header fields and query parameters.
	Headers []ValueMatch `json:"headers,omitempty"`
	Query   []ValueMatch `json:"query,omitempty"`
}

// ValueMatch holds when one of the values that are there under Name is Value or
// matches Regex as a whole; with neither, when there is any.
type ValueMatch struct {
	Name  string `json:"name"`
	Value string `json:"value,omitempty"`
	Regex string `json:"regex,omitempty"`
}

// PathMatch is one of three ways to match the path: exact and prefix in the
// escaped form of a URL, regex over the decoded path. Without any the prefix is
// "/", which matches every path.
type PathMatch struct {
	// Regex is a regular expression (RE2) that matches the whole decoded path.
	Regex string `json:"regex,omitempty"`

	Exact string `json:"exact,omitempty"`

	// Prefix matches whole segments: /api matches /api and /api/users, not /apis.
	// A slash at its end means nothing.
	Prefix string `json:"prefix,omitempty"`
}

// decoded returns m with its path as that of requests is compared: what is written
// differently, such as /a+b and /a%2Bb, can be one path.
func (m PathMatch) decoded() (PathMatch, error) {
	for _, path := range []*string{&m.Exact, &m.Prefix} {
		if *path == "" {
			continue
		}
		decoded, _, err := canonical.Path(*path)
		if err != nil {
			return PathMatch{}, err
		}
		*path = decoded
	}
	return m, nil
}

// field is which of exact and prefix is given.
func (m *PathMatch) field() string {
	if m.Exact != "" {
		return "exact"
	}
	return "prefix"
}

func (m *Match) normalise() {
	for i, host := range m.Hosts {
		name, wild := strings.CutPrefix(host, "*.")
		if h, port, err := canonical.Host(name); err == nil && port == "" {
			m.Hosts[i] = h
			if wild {
				m.Hosts[i] = "*." + h
			}
		}
	}
	for i := range m.Headers {
		m.Headers[i].Name = http.CanonicalHeaderKey(m.Headers[i].Name)
	}
	if m.Path == (PathMatch{}) {
		m.Path.Prefix = "/"
	}
	m.Path.Prefix = check.NormalPrefix(m.Path.Prefix)
	if _, escaped, err := canonical.Path(m.Path.Exact); err == nil {
		m.Path.Exact = escaped
	}
}

func (m *Match) validate(path string, v *validator) {
	m.validateHosts(path+".hosts", v)
	switch p := m.Path; {
	case p.Exact != "" && p.Prefix != "":
		v.Fail(path+".path", "must have one of exact and prefix, not both")
	case p.Regex != "" && p.Exact+p.Prefix != "":
		v.Fail(path+".path", "must have one of exact, prefix and regex")
	case p.Regex != "":
		v.Regex(path+".path.regex", p.Regex)
	case p.Exact != "":
		v.Path(path+".path.exact", p.Exact, false)
	default:
		v.Path(path+".path.prefix", p.Prefix, true)
	}
	m.validateMethods(path+".methods", v)
	validateValues(path+".headers", m.Headers, "field", v)
	validateValues(path+".query", m.Query, "parameter", v)
}

// maxConditions bounds the demands of a route of each kind: they are checked one
// by one.
const maxConditions = 16

func validateValues(path string, list []ValueMatch, what string, v *validator) {
	if list != nil && len(list) == 0 {
		v.Fail(path, "must name at least one %s", what)
	}
	if len(list) > maxConditions {
		v.Fail(path, "must not name more than %d", maxConditions)
		return
	}
	for i, m := range list {
		at := check.Index(path, i)
		switch {
		case m.Name == "":
			v.Required(at + ".name")
		case what == "field" && !check.IsToken(m.Name):
			v.Fail(at+".name", "must be the name of a header field")
		}
		if m.Value != "" && m.Regex != "" {
			v.Fail(at, "must have one of value and regex, not both")
		}
		if m.Regex != "" {
			v.Regex(at+".regex", m.Regex)
		}
	}
}

func (m *Match) validateHosts(path string, v *validator) {
	if m.Hosts != nil && len(m.Hosts) == 0 {
		v.Fail(path, "must name at least one host; without the field every host is matched")
	}
	for i, host := range m.Hosts {
		name, _ := strings.CutPrefix(host, "*.")
		h, port, err := canonical.Host(name)
		switch {
		case strings.Contains(name, "*"):
			v.Fail(check.Index(path, i), "must have a wildcard as its first label only, *.example.com")
		case err != nil || port != "" || h != name:
			v.Fail(check.Index(path, i), "must be a host name without port, in its ASCII form")
		case slices.Contains(m.Hosts[:i], host):
			v.Fail(check.Index(path, i), "is named twice")
		}
	}
}

func (m *Match) validateMethods(path string, v *validator) {
	if m.Methods != nil && len(m.Methods) == 0 {
		v.Fail(path, "must name at least one method; without the field every method is matched")
	}
	v.Methods(path, m.Methods)
}
