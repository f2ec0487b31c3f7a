package cors

import (
	"errors"
	"fmt"
	"strings"
)

// origins are those whose pages may use a route. They are immutable.
type origins struct {
	all       bool
	exact     map[string]bool
	wildcards []wildcard
}

// wildcard is an origin such as https://*.example.com:8443, cut where the names
// go.
type wildcard struct {
	before string // "https://"
	after  string // ".example.com:8443"
}

func newOrigins(list []string) (*origins, error) {
	if len(list) == 0 {
		return nil, errors.New("no origin is allowed")
	}
	o := &origins{exact: map[string]bool{}}
	for _, origin := range list {
		scheme, host, ok := strings.Cut(origin, "://")
		after, wild := strings.CutPrefix(host, "*")
		switch {
		case origin == "*":
			o.all = true
		case !ok, scheme == "", len(after) < 2, strings.ContainsAny(after, "*/"), wild && after[0] != '.':
			return nil, fmt.Errorf("%q is no origin", origin)
		case wild:
			o.wildcards = append(o.wildcards, wildcard{scheme + "://", after})
		default:
			o.exact[origin] = true
		}
	}
	return o, nil
}

// allow reports whether pages of the origin may use the route. Origins are
// compared as a whole and byte by byte (Fetch standard, CORS check): scheme, host
// and port. Browsers send them in lower case, without the port that the scheme
// implies. "null" is the origin of every sandbox and every local file, and is
// allowed only where all are.
func (o *origins) allow(origin string) bool {
	if o.all || o.exact[origin] {
		return true
	}
	for _, w := range o.wildcards {
		host, ok := strings.CutPrefix(origin, w.before)
		if !ok {
			continue
		}
		if names, ok := strings.CutSuffix(host, w.after); ok && areLabels(names) {
			return true
		}
	}
	return false
}

// areLabels accepts the labels of a host name, separated by dots: nothing in them
// can end the host, so that what follows in the origin is its end.
func areLabels(s string) bool {
	label := 0 // length of the current one
	for i := range len(s) {
		switch c := s[i]; {
		case 'a' <= c && c <= 'z', '0' <= c && c <= '9', c == '-', c == '_':
			label++
		case c == '.' && label > 0:
			label = 0
		default:
			return false
		}
	}
	return label > 0
}
