package spec

import (
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/keywarden/keywarden/pkg/nearest"
	"github.com/keywarden/keywarden/pkg/spec/check"
	"github.com/keywarden/keywarden/pkg/spec/quantity"
)

// Versions leads a request to the service of the version that it asks for.
type Versions struct {
	From VersionFrom `json:"from"`

	// Default is the version of a request that names none. Without it such a request
	// is refused.
	Default string `json:"default,omitempty"`

	Services []VersionService `json:"services"`
}

// VersionFrom says where the version of a request stands: in one of three places.
type VersionFrom struct {
	// Header is the name of a field whose value is the version.
	Header string `json:"header,omitempty"`

	// MediaType is a media type with {version} in the place of the version. It is
	// looked for in Accept, then in Content-Type.
	MediaType string `json:"media_type,omitempty"`

	// Path says that the segment after the prefix of the route is the version, and
	// Strip that the service does not see it.
	Path  bool `json:"path,omitempty"`
	Strip bool `json:"strip,omitempty"`
}

// VersionService is the service of one version.
type VersionService struct {
	Version    string      `json:"version"`
	Service    string      `json:"service"`
	Deprecated *Deprecated `json:"deprecated,omitempty"`
}

// Deprecated tells clients that a version comes to its end.
type Deprecated struct {
	// Since is the day from which on the version should not be used any more
	// (Deprecation, RFC 9745). It may lie ahead.
	Since quantity.Date `json:"since"`

	// Sunset is the day on which the version will be gone (RFC 8594).
	Sunset quantity.Date `json:"sunset,omitempty"`

	// Link is the URL of a page that tells people what to do.
	Link string `json:"link,omitempty"`
}

// MediaTypeVersion stands for the version in a media type.
const MediaTypeVersion = "{version}"

// maxVersions bounds the versions of a route: they are compared one by one.
const maxVersions = 32

func (vs *Versions) normalise() {
	vs.From.Header = http.CanonicalHeaderKey(vs.From.Header)
	vs.From.MediaType = strings.ToLower(vs.From.MediaType)
}

func (vs *Versions) validate(path string, r *Route, v *validator) {
	vs.From.validate(path+".from", r, v)
	switch {
	case len(vs.Services) == 0:
		v.Fail(path+".services", "must name at least one version")
	case len(vs.Services) > maxVersions:
		v.Fail(path+".services", "must not name more than %d", maxVersions)
		return
	}
	var names []string
	taken := make(check.Firsts, len(vs.Services))
	for i := range vs.Services {
		of, at := &vs.Services[i], check.Index(path+".services", i)
		if of.Version == "" {
			v.Required(at + ".version")
		} else if !check.IsName(of.Version) {
			v.Fail(at+".version", "must consist of at most %d letters, digits, dots, hyphens and underscores, and begin with a letter or digit", check.MaxName)
		}
		// Media types are the same in upper and lower case, so versions differ by more.
		taken.Unique(&v.Checker, at+".version", strings.ToLower(of.Version))
		names = append(names, of.Version)
		v.serviceName(at+".service", of.Service)
		if of.Deprecated != nil {
			of.Deprecated.validate(at+".deprecated", v)
		}
	}
	if vs.Default != "" && !slices.Contains(names, vs.Default) {
		v.Fail(path+".default", "no version is named %s%s", check.Quote(vs.Default), nearest.Question(vs.Default, names))
	}
}

func (f VersionFrom) validate(path string, r *Route, v *validator) {
	given := 0
	for _, is := range []bool{f.Header != "", f.MediaType != "", f.Path} {
		if is {
			given++
		}
	}
	switch {
	case given != 1:
		v.Fail(path, "must have one of header, media_type and path")
		return
	case f.Header != "" && !check.IsToken(f.Header):
		v.Fail(path+".header", "must be the name of a header field")
	case f.MediaType != "" && !isVersionedType(f.MediaType):
		v.Fail(path+".media_type", "must be a media type with {version} once after the slash, such as application/vnd.acme.{version}+json")
	case f.Path && r.Match.Path.Prefix == "":
		v.Fail(path+".path", "belongs to routes that match a prefix")
	}
	switch {
	case f.Strip && !f.Path:
		v.Fail(path+".strip", "belongs to path")
	case f.Strip && r.StripPrefix != "" && r.StripPrefix != r.Match.Path.Prefix:
		v.Fail(path+".strip", "needs strip_prefix to be the whole prefix, or not there")
	case f.Strip && r.Rewrite != nil:
		v.Fail(path+".strip", "cannot be given together with rewrite")
	}
}

// isVersionedType accepts restricted names (RFC 6838 section 4.2) with the
// version in the second.
func isVersionedType(s string) bool {
	kind, name, ok := strings.Cut(s, "/")
	before, after, found := strings.Cut(name, MediaTypeVersion)
	return ok && found && isTypeName(kind) && isTypeName("x"+before+after)
}

func isTypeName(s string) bool {
	for i := range len(s) {
		switch c := s[i]; {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9':
		case strings.IndexByte("!#$&-^_.+", c) >= 0:
		default:
			return false
		}
	}
	return s != "" && len(s) <= 127
}

func (d *Deprecated) validate(path string, v *validator) {
	if d.Since == "" {
		v.Required(path + ".since")
	}
	if d.Sunset != "" && d.Sunset.Time().Before(d.Since.Time()) {
		v.Fail(path+".sunset", "must not be before since")
	}
	if d.Link == "" {
		return
	}
	u, err := url.Parse(d.Link)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || strings.ContainsAny(d.Link, "<>\" ") || !isASCII(d.Link) {
		v.Fail(path+".link", "must be an http or https URL")
	}
}

func isASCII(s string) bool {
	for i := range len(s) {
		if s[i] < ' ' || s[i] > '~' {
			return false
		}
	}
	return true
}
