package spec

import (
	"slices"
	"strings"

	"github.com/keywarden/keywarden/pkg/canonical"
)

// Match selects requests. All of its conditions have to hold.
type Match struct {
	// Hosts are the exact names that are matched, whatever the port; empty means
	// every host.
	Hosts []string `json:"hosts,omitempty"`

	Path PathMatch `json:"path"`

	// Methods are the request methods that are matched; empty means every method
	// that no other route with the same path names.
	Methods []string `json:"methods,omitempty"`
}

// PathMatch is one of two ways to match the path, both in the escaped form of a
// URL. Without either the prefix is "/", which matches every path.
type PathMatch struct {
	Exact string `json:"exact,omitempty"`

	// Prefix matches whole segments: /api matches /api and /api/users, not /apis.
	// A slash at its end means nothing.
	Prefix string `json:"prefix,omitempty"`
}

func (m *Match) normalise() {
	for i, host := range m.Hosts {
		if h, port, err := canonical.Host(host); err == nil && port == "" {
			m.Hosts[i] = h
		}
	}
	if m.Path == (PathMatch{}) {
		m.Path.Prefix = "/"
	}
	m.Path.Prefix = normalPrefix(m.Path.Prefix)
	if _, escaped, err := canonical.Path(m.Path.Exact); err == nil {
		m.Path.Exact = escaped
	}
}

// normalPrefix is the canonical escaped form of prefix without a slash at its
// end; what is no path is returned as it is.
func normalPrefix(prefix string) string {
	_, escaped, err := canonical.Path(prefix)
	if err != nil || escaped == "/" {
		return prefix
	}
	return strings.TrimSuffix(escaped, "/")
}

func (m *Match) validate(path string, v *validator) {
	m.validateHosts(path+".hosts", v)
	switch p := m.Path; {
	case p.Exact != "" && p.Prefix != "":
		v.fail(path+".path", "must have one of exact and prefix, not both")
	case p.Exact != "":
		v.path(path+".path.exact", p.Exact, false)
	default:
		v.path(path+".path.prefix", p.Prefix, true)
	}
	m.validateMethods(path+".methods", v)
}

func (m *Match) validateHosts(path string, v *validator) {
	if m.Hosts != nil && len(m.Hosts) == 0 {
		v.fail(path, "must name at least one host; without the field every host is matched")
	}
	for i, host := range m.Hosts {
		h, port, err := canonical.Host(host)
		switch {
		case strings.Contains(host, "*"):
			v.fail(index(path, i), "must be an exact name: wildcards are not supported")
		case err != nil || port != "" || h != host:
			v.fail(index(path, i), "must be a host name without port, in its ASCII form")
		case slices.Contains(m.Hosts[:i], host):
			v.fail(index(path, i), "is named twice")
		}
	}
}

func (m *Match) validateMethods(path string, v *validator) {
	if m.Methods != nil && len(m.Methods) == 0 {
		v.fail(path, "must name at least one method; without the field every method is matched")
	}
	for i, method := range m.Methods {
		switch {
		case method == "CONNECT" || method == "TRACE" || method == "TRACK":
			v.fail(index(path, i), "is never forwarded")
		case !isMethod(method):
			v.fail(index(path, i), "must be a request method in capital letters, such as GET")
		case slices.Contains(m.Methods[:i], method):
			v.fail(index(path, i), "is named twice")
		}
	}
}

// isMethod accepts less than a token of RFC 9110: methods are case-sensitive and
// all registered ones consist of capital letters and hyphens.
func isMethod(s string) bool {
	for i := range len(s) {
		if (s[i] < 'A' || s[i] > 'Z') && s[i] != '-' {
			return false
		}
	}
	return s != "" && len(s) <= 32
}
