package traffic

import (
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/keywarden/keywarden/pkg/gateway/policy"
	"github.com/keywarden/keywarden/pkg/problem"
	"github.com/keywarden/keywarden/pkg/reqctx"
)

// What a request is told whose version there is not. The details name the ones
// that there are.
var (
	ErrVersion = problem.Define(problem.Invalid, "gateway.version_invalid",
		"The request does not name a version of this API.")
	ErrVersionPath = problem.Define(problem.NotFound, "gateway.version_not_found",
		"The path does not name a version of this API.")
	ErrVersionAccept = problem.Define(problem.NotAcceptable, "gateway.version_not_acceptable",
		"The media types that the request accepts name no version of this API.")
	ErrVersionBody = problem.Define(problem.UnsupportedMedia, "gateway.version_not_supported",
		"The media type of the body names no version of this API.")
)

// VersionsConfig is what versions are made of. One of Header, MediaType and Path
// says where the version stands.
type VersionsConfig struct {
	Header    string    // name of a field
	MediaType [2]string // what stands before and after the version
	Path      bool
	Prefix    string // decoded path before the version, without a slash at its end

	Default  string       // version of a request that names none; empty: it is refused
	Unnamed  http.Handler // what such a request gets; nil: the handler of the default
	Services []Version
}

// Version is the service of one version.
type Version struct {
	Service
	Version    string
	Deprecated *Deprecated // nil: it is not
}

// Deprecated is what clients are told of a version that comes to its end.
type Deprecated struct {
	Since, Sunset time.Time // Sunset may be zero
	Link          string    // URL; may be empty
}

// Versions is a handler that leads each request to the service of its version. It
// is immutable and safe for concurrent use.
type Versions struct {
	header        string
	before, after string // of the version in a media type, in lower case
	path          bool
	prefix        string
	versions      []version
	byDefault     int // -1: none
	vary          []string
	refusal       *problem.Error // when none is named, or none that there is
	refusalBody   *problem.Error // when that is due to the body
}

type version struct {
	Version
	deprecation, sunset, link []string // fields of the answer
}

// NewVersions makes versions.
func NewVersions(c VersionsConfig) (*Versions, error) {
	vs := &Versions{
		header: http.CanonicalHeaderKey(c.Header), path: c.Path, prefix: c.Prefix, byDefault: -1,
		before: strings.ToLower(c.MediaType[0]), after: strings.ToLower(c.MediaType[1]),
	}
	names := make([]string, len(c.Services))
	for i, of := range c.Services {
		if of.Handler == nil || of.Version == "" {
			return nil, fmt.Errorf("version %q needs a name and a handler", of.Version)
		}
		if of.Version == c.Default {
			vs.byDefault = i
		}
		names[i] = of.Version
		vs.versions = append(vs.versions, newVersion(of))
	}
	if vs.byDefault >= 0 && c.Unnamed != nil {
		of := vs.versions[vs.byDefault]
		of.Handler = c.Unnamed
		vs.byDefault = len(vs.versions)
		vs.versions = append(vs.versions, of) // after that of the name, which is found first
	}
	if len(names) == 0 || c.Default != "" && vs.byDefault < 0 {
		return nil, errors.New("there is no version, or not the default one")
	}
	known := strings.Join(names, ", ")
	switch {
	case c.Path:
		vs.refusal = ErrVersionPath.WithDetail("The path does not name a version of this API, after %s/. There are: %s.", c.Prefix, known)
	case c.Header != "":
		vs.vary = []string{vs.header}
		vs.refusal = ErrVersion.WithDetail("The field %s does not name a version of this API. There are: %s.", vs.header, known)
	default:
		vs.vary = []string{"Accept"}
		form := vs.before + "{version}" + vs.after
		vs.refusal = ErrVersionAccept.WithDetail("No media type that the request accepts names a version of this API, as %s. There are: %s.", form, known)
		vs.refusalBody = ErrVersionBody.WithDetail("The media type of the body does not name a version of this API, as %s. There are: %s.", form, known)
	}
	return vs, nil
}

// newVersion makes the fields of answers once: RFC 9745 section 2 (a date of
// structured fields) and RFC 8594 section 3 (a date of HTTP).
func newVersion(of Version) version {
	v := version{Version: of}
	d := of.Deprecated
	if d == nil {
		return v
	}
	v.deprecation = []string{"@" + strconv.FormatInt(d.Since.Unix(), 10)}
	rel := "deprecation"
	if !d.Sunset.IsZero() {
		v.sunset = []string{d.Sunset.UTC().Format(http.TimeFormat)}
		rel += " sunset"
	}
	if d.Link != "" {
		v.link = []string{"<" + d.Link + `>; rel="` + rel + `"`}
	}
	return v
}

// ServeHTTP implements [http.Handler].
func (vs *Versions) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	if vs.vary != nil {
		h["Vary"] = joined(h["Vary"], vs.vary)
	}
	at, refusal := vs.find(r)
	if refusal != nil {
		policy.Refuse(w, r, "", refusal)
		return
	}
	of := &vs.versions[at]
	if of.deprecation != nil {
		of.announce(h)
	}
	reqctx.From(r.Context()).Service = of.Name
	of.Handler.ServeHTTP(w, r)
}

// joined is list with one more; it allocates only when there are others.
func joined(list, more []string) []string {
	if len(list) == 0 {
		return more
	}
	return append(list[:len(list):len(list)], more...)
}

func (v *version) announce(h http.Header) {
	h["Deprecation"] = v.deprecation
	if v.sunset != nil {
		h["Sunset"] = v.sunset
	}
	if v.link != nil {
		h["Link"] = joined(h["Link"], v.link)
	}
}

// Choose tells which service would get the request, and why; no service when there
// is none for its version.
func (vs *Versions) Choose(r *http.Request) (service, why string) {
	at, refusal := vs.find(r)
	if refusal != nil {
		return "", refusal.Detail
	}
	return vs.versions[at].Name, "it is the service of version " + vs.versions[at].Version.Version
}

// Check refuses a request whose version there is not.
func (vs *Versions) Check(r *http.Request) error {
	if _, refusal := vs.find(r); refusal != nil {
		return refusal
	}
	return nil
}

// find returns the place of the request's version, or why there is none.
func (vs *Versions) find(r *http.Request) (int, *problem.Error) {
	switch {
	case vs.path:
		return vs.fromPath(r.URL.Path)
	case vs.header != "":
		return vs.fromHeader(r.Header[vs.header])
	default:
		return vs.fromMediaTypes(r)
	}
}

// orDefault is for requests that name no version.
func (vs *Versions) orDefault(refusal *problem.Error) (int, *problem.Error) {
	if vs.byDefault < 0 {
		return 0, refusal
	}
	return vs.byDefault, nil
}

// fromPath takes the segment after the prefix. A path can always be read as one
// that names no version, so that the default is for whatever is none.
func (vs *Versions) fromPath(path string) (int, *problem.Error) {
	if rest, ok := strings.CutPrefix(path, vs.prefix); ok && rest != "" && rest[0] == '/' {
		segment, _, _ := strings.Cut(rest[1:], "/")
		if at := vs.named(segment); at >= 0 {
			return at, nil
		}
	}
	return vs.orDefault(vs.refusal)
}

// fromHeader takes the field's value. Two fields are refused: the service may go
// by the other one.
func (vs *Versions) fromHeader(values []string) (int, *problem.Error) {
	if len(values) == 0 {
		return vs.orDefault(vs.refusal)
	}
	if at := vs.named(values[0]); at >= 0 && len(values) == 1 {
		return at, nil
	}
	return 0, vs.refusal
}

// named is the place of a version, -1 when there is none.
func (vs *Versions) named(name string) int {
	for i := range vs.versions {
		if vs.versions[i].Version.Version == name {
			return i
		}
	}
	return -1
}

// fromMediaTypes goes by what the client prefers to accept, then by the body. Of
// versions that there are not, it refuses those that the client cannot do without.
func (vs *Versions) fromMediaTypes(r *http.Request) (int, *problem.Error) {
	best, quality := -1, 0
	unknown, other := false, false
	for _, line := range r.Header["Accept"] {
		for element, rest := cutElement(line); element != ""; element, rest = cutElement(rest) {
			name, q := mediaRange(element)
			if name == "" || q == 0 {
				continue
			}
			switch at, is := vs.versionOf(name); {
			case !is:
				other = true
			case at < 0:
				unknown = true
			case q > quality:
				best, quality = at, q
			}
		}
	}
	if best >= 0 {
		return best, nil
	}
	if unknown && !other {
		return 0, vs.refusal
	}
	if bodies := r.Header["Content-Type"]; len(bodies) > 0 {
		name, _ := mediaRange(bodies[0])
		if at, is := vs.versionOf(name); is && (at < 0 || len(bodies) > 1) {
			return 0, vs.refusalBody
		} else if is {
			return at, nil
		}
	}
	return vs.orDefault(vs.refusal)
}

// versionOf is the place of the version that a media type names, -1 when there is
// none; is says that the type has the form of one.
func (vs *Versions) versionOf(name string) (at int, is bool) {
	end := len(name) - len(vs.after)
	if end <= len(vs.before) || !strings.EqualFold(name[:len(vs.before)], vs.before) || !strings.EqualFold(name[end:], vs.after) {
		return -1, false
	}
	asked := name[len(vs.before):end]
	for i := range vs.versions {
		if strings.EqualFold(vs.versions[i].Version.Version, asked) {
			return i, true
		}
	}
	return -1, true
}
