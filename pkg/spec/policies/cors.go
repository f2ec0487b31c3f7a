package policies

import (
	"net/http"
	"net/netip"
	"slices"
	"strings"

	"golang.org/x/net/publicsuffix"

	"github.com/keywarden/keywarden/pkg/canonical"
	"github.com/keywarden/keywarden/pkg/spec/check"
	"github.com/keywarden/keywarden/pkg/spec/quantity"
)

// CORS lets pages of other origins call the route (Fetch standard, CORS
// protocol). Preflight requests are answered by the gateway, before the caller is
// asked for a credential.
type CORS struct {
	Gate

	// Origins are those that may call, as browsers send them, without the port that
	// the scheme implies: https://app.example.com, https://*.example.com for every
	// name below, or * for all.
	Origins []string `json:"origins"`

	// Methods that may be used; GET, HEAD and POST always may.
	Methods []string `json:"methods,omitempty"`

	// Headers that may be sent beyond those that always may; * for all.
	Headers []string `json:"headers,omitempty"`

	// Expose names the headers of the answer that scripts may read beyond those that
	// they always may; * for all, where there are no credentials.
	Expose []string `json:"expose,omitempty"`

	// Credentials lets pages send cookies and client certificates. Not with the
	// origin *.
	Credentials bool `json:"credentials,omitempty"`

	// MaxAge is how long a browser may remember a preflight.
	MaxAge quantity.Duration `json:"max_age"`
}

// Bounds and defaults of CORS.
const (
	maxOrigins    = 100
	maxCORSNames  = 64
	defaultMaxAge = quantity.Duration(600e9)
	maxMaxAge     = quantity.Duration(86400e9)
)

// SetDefaults fills in what a document need not say.
func (c *CORS) SetDefaults() { c.MaxAge = defaultMaxAge }

func (c *CORS) Normalise() {
	for i := range c.Origins {
		c.Origins[i] = check.Lower(c.Origins[i])
	}
	for _, list := range [][]string{c.Headers, c.Expose} {
		for i := range list {
			list[i] = http.CanonicalHeaderKey(list[i])
		}
	}
}

func (c *CORS) Validate(path string, v *check.Checker) {
	if c.Origins == nil {
		v.Required(path + ".origins")
	}
	v.Distinct(path+".origins", c.Origins, maxOrigins, "an origin such as https://app.example.com, without a path, or *", isOrigin)
	for i, origin := range c.Origins {
		if reason := whyUnused(origin); reason != "" {
			v.Fail(check.Index(path+".origins", i), "%s", reason)
		}
	}
	switch all := slices.Contains(c.Origins, "*"); {
	case all && c.Credentials:
		v.Fail(path+".credentials", "cannot be given to every origin; name the origins")
	case all && len(c.Origins) > 1:
		v.Fail(path+".origins", "cannot name others beside *, which is all")
	}
	if c.Credentials && slices.Contains(c.Expose, "*") {
		v.Fail(path+".expose", "cannot be * with credentials: browsers take it for a name then; name the headers")
	}
	v.Methods(path+".methods", c.Methods)
	name := func(s string) bool { return s == "*" || check.IsToken(s) }
	v.Distinct(path+".headers", c.Headers, maxCORSNames, "the name of a header field", name)
	v.Distinct(path+".expose", c.Expose, maxCORSNames, "the name of a header field", name)
	if c.MaxAge < 0 || c.MaxAge > maxMaxAge {
		v.Fail(path+".max_age", "must be from 0s to 24h")
	}
}

// isOrigin reports whether s is an origin in its ASCII serialisation (RFC 6454
// section 6.2), one with a wildcard, or "*". The origin "null" is none: every
// page in a sandbox has it.
func isOrigin(s string) bool {
	if s == "*" {
		return true
	}
	scheme, authority, _ := cutOrigin(s)
	host, port, err := canonical.Host(authority)
	if err != nil {
		return false
	}
	if port != "" {
		host += ":" + port
	}
	return (scheme == "https" || scheme == "http") && host == authority
}

// cutOrigin takes an origin apart. wild is for one with a wildcard, which is not
// part of the authority.
func cutOrigin(s string) (scheme, authority string, wild bool) {
	scheme, authority, _ = strings.Cut(s, "://")
	authority, wild = strings.CutPrefix(authority, "*.")
	return scheme, authority, wild
}

// whyUnused says why an origin, or what looks like one, should not be named,
// although it is one.
func whyUnused(origin string) string {
	scheme, authority, wild := cutOrigin(origin)
	host, port, err := canonical.Host(authority)
	if err != nil || origin == "*" {
		return ""
	}
	if implied := map[string]string{"https": "443", "http": "80"}[scheme]; implied != "" && port == implied {
		return "must not name the port that the scheme implies, which browsers leave out"
	}
	if !wild {
		return ""
	}
	if _, err := netip.ParseAddr(strings.Trim(host, "[]")); err == nil {
		return "must not have a wildcard before an address"
	}
	// What ends in no known suffix is a name of somebody's own network.
	if suffix, public := publicsuffix.PublicSuffix(host); suffix == host && (public || strings.Contains(suffix, ".")) {
		return "must not have a wildcard before " + check.Quote(host) + ", below which everybody can have a name"
	}
	return ""
}

// isMediaRange accepts type/subtype and type/*, in lower case and without
// parameters.
func isMediaRange(s string) bool {
	kind, sub, ok := strings.Cut(s, "/")
	return ok && isMediaWord(kind) && (sub == "*" || isMediaWord(sub)) && len(s) <= 128
}

func isMediaWord(s string) bool {
	for i := range len(s) {
		switch c := s[i]; {
		case 'a' <= c && c <= 'z', '0' <= c && c <= '9', strings.IndexByte("!#$&-^_.+", c) >= 0:
		default:
			return false
		}
	}
	return s != ""
}
