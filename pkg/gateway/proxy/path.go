package proxy

import (
	"errors"
	"net/http"
	"net/url"
	"strings"

	"github.com/keywarden/keywarden/pkg/canonical"
)

// errNotCanonical cannot happen: routes match canonical paths by their prefix.
var errNotCanonical = errors.New("the path does not begin with the prefix that is to be stripped")

// Check tells why the route would refuse a canonical request by itself; nil when
// it would not.
func (rt *Route) Check(r *http.Request) error {
	_, err := rt.outboundPath(r.URL)
	return err
}

// outboundPath works out the escaped path that the service sees. What stripping
// and rewriting leave is held to be canonical as it stands: otherwise the service
// would see another path than the one that was matched. It always stands below
// the base of the service.
func (rt *Route) outboundPath(u *url.URL) (string, error) {
	escaped := canonical.Escaped(u)
	switch {
	case rt.rewrite != nil:
		rewritten, err := rt.rewrite.Apply(u)
		if err != nil {
			return "", err
		}
		escaped = rewritten
	case rt.strip != "":
		rest, ok := strings.CutPrefix(u.Path, rt.strip)
		if !ok || rest != "" && rest[0] != '/' {
			return "", errNotCanonical
		}
		escaped = skipSegments(escaped, rt.stripSegments)
		if rest == "" {
			escaped = ""
		} else if decoded, again, err := canonical.PathWithSlashes(escaped); err != nil || decoded != rest || again != escaped {
			return "", canonical.ErrPath.With(err)
		}
	}
	escaped = rt.service.base + rt.add + escaped
	if escaped == "" {
		escaped = "/"
	}
	return escaped, nil
}

// setPath works out the path of the outbound URL.
func (x *exchange) setPath(u *url.URL) error {
	escaped, err := x.route.outboundPath(u)
	if err != nil {
		return err
	}
	path, err := url.PathUnescape(escaped)
	if err != nil {
		return canonical.ErrPath.With(err)
	}
	x.path = path
	if path != escaped {
		x.rawPath = escaped
	}
	return nil
}

// skipSegments drops the first n segments of an escaped path.
func skipSegments(escaped string, n int) string {
	for ; n > 0 && escaped != ""; n-- {
		next := strings.IndexByte(escaped[1:], '/')
		if next < 0 {
			return ""
		}
		escaped = escaped[1+next:]
	}
	return escaped
}
