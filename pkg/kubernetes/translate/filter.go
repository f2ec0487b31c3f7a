package translate

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"regexp"
	"strconv"
	"strings"

	"github.com/keywarden/keywarden/pkg/canonical"
	"github.com/keywarden/keywarden/pkg/kubernetes/object"
)

// end is what becomes of the requests of a rule: fields of a route, and what depends on
// the match.
type end struct {
	route    fields
	backends []backend
	redirect *object.RedirectFilter
	path     *object.PathModifier // of a rewrite
}

// respond answers in the place of a service.
func (e *end) respond(status int, body string) {
	e.route["respond"] = fields{"status": status, "body": body}
	for _, name := range []string{"timeout", "upstream_host", "mirror"} {
		delete(e.route, name)
	}
	e.path, e.backends = nil, nil
}

// filters reads the filters of a rule. One that is not known is an error: none may be
// left out. missing is the backend of a mirror that is not there.
func (j *job) filters(namespace string, list []object.HTTPFilter, e *end) (missing *unresolved, err error) {
	seen := map[string]bool{}
	for i := range list {
		f := &list[i]
		if seen[f.Type] {
			return missing, fmt.Errorf("there are two filters %.50s, and one is supported", f.Type)
		}
		seen[f.Type] = true
		switch {
		case f.Type == "RequestHeaderModifier" && f.RequestHeaderModifier != nil:
			err = e.headers("request_headers", f.RequestHeaderModifier)
		case f.Type == "ResponseHeaderModifier" && f.ResponseHeaderModifier != nil:
			err = e.headers("response_headers", f.ResponseHeaderModifier)
		case f.Type == "RequestRedirect" && f.RequestRedirect != nil:
			e.redirect = f.RequestRedirect
		case f.Type == "URLRewrite" && f.URLRewrite != nil:
			if h := f.URLRewrite.Hostname; h != nil {
				e.route["upstream_host"] = *h
			}
			e.path = f.URLRewrite.Path
		case f.Type == "RequestMirror" && f.RequestMirror != nil:
			missing, err = j.mirror(namespace, f.RequestMirror, e)
		default:
			err = fmt.Errorf("the filter %.50s is not supported", f.Type)
		}
		if err != nil {
			return missing, err
		}
	}
	if e.redirect != nil && seen["URLRewrite"] {
		return missing, errors.New("RequestRedirect and URLRewrite cannot be together")
	}
	return missing, nil
}

// headers sets the changes of header fields. Values of the document are templates,
// which may name secrets of the gateway; those of filters never are.
func (e *end) headers(policy string, f *object.HeaderFilter) error {
	out := fields{}
	for name, list := range map[string][]object.NamedValue{"set": f.Set, "add": f.Add} {
		if len(list) == 0 {
			continue
		}
		values := map[string]string{}
		for _, v := range list {
			if strings.Contains(v.Value, "{{") {
				return fmt.Errorf("the value of the header field %.100s has two braces, which are not supported", v.Name)
			}
			values[v.Name] = v.Value
		}
		out[name] = values
	}
	if len(f.Remove) > 0 {
		out["remove"] = f.Remove
	}
	if len(out) > 0 {
		e.route[policy] = out
	}
	return nil
}

func (j *job) mirror(namespace string, f *object.MirrorFilter, e *end) (*unresolved, error) {
	b, err := j.reference(namespace, &f.BackendRef, 0)
	var missed *unresolved
	if errors.As(err, &missed) {
		return missed, nil // nobody waits for a copy: the requests themselves are served
	} else if err != nil {
		return nil, err
	}
	mirror := fields{"service": b.name}
	switch {
	case f.Percent != nil:
		mirror["percent"] = *f.Percent
	case f.Fraction != nil:
		of := value(f.Fraction.Denominator, 100)
		if of < 1 || f.Fraction.Numerator < 0 {
			return nil, errors.New("the fraction of a RequestMirror is none")
		}
		mirror["percent"] = 100 * float64(f.Fraction.Numerator) / float64(of)
	}
	if p, given := mirror["percent"]; given && (p == 0 || p == float64(0)) {
		return nil, nil // no request at all
	}
	e.route["mirror"], e.backends = mirror, append(e.backends, b)
	return nil, nil
}

// drafts makes the routes of one match: one for all hosts, unless a redirect has to
// name its own.
func (e *end) drafts(m *object.HTTPRouteMatch, hosts []string, at []*listener) ([]draft, error) {
	match, path, err := matchOf(m)
	if err != nil {
		return nil, err
	}
	base := maps.Clone(e.route)
	base["match"] = match
	if e.redirect == nil {
		if err := rewrite(e.path, path, base); err != nil {
			return nil, err
		}
		return []draft{{hosts: hosts, route: base, backends: e.backends}}, nil
	}
	delete(base, "timeout") // belongs to services
	if e.redirect.Hostname != nil {
		hosts = []string{strings.Join(hosts, " ")} // once, for all
	}
	var out []draft
	for _, h := range hosts {
		to, err := redirect(e.redirect, path, h, at)
		if err != nil {
			return nil, err
		}
		route := maps.Clone(base)
		route["redirect"], route["match"] = to, maps.Clone(match)
		names := []string{h}
		if e.redirect.Hostname != nil {
			names = strings.Split(h, " ")
		}
		out = append(out, draft{hosts: names, route: route})
	}
	return out, nil
}

// pathOf is the path of a match.
type pathOf struct{ kind, value string }

// Path types of HTTPRoutes.
const (
	typeExact  = "Exact"
	typePrefix = "PathPrefix"
	typeRegex  = "RegularExpression"
)

// matchOf is a match of the document.
func matchOf(m *object.HTTPRouteMatch) (fields, pathOf, error) {
	path := pathOf{typePrefix, "/"}
	if m.Path != nil {
		path = pathOf{value(m.Path.Type, typePrefix), value(m.Path.Value, "/")}
	}
	field := map[string]string{typeExact: "exact", typePrefix: "prefix", typeRegex: "regex"}[path.kind]
	if field == "" {
		return nil, path, fmt.Errorf("the path type %.50q is not supported", path.kind)
	}
	match := fields{"path": fields{field: path.value}}
	if m.Method != nil {
		match["methods"] = []string{*m.Method}
	}
	for name, list := range map[string][]object.ValueMatch{"headers": m.Headers, "query": m.QueryParams} {
		var out []fields
		for _, v := range list {
			one := fields{"name": v.Name}
			switch value(v.Type, typeExact) {
			case typeExact:
				one["value"] = v.Value
			case typeRegex:
				one["regex"] = v.Value
			default:
				return nil, path, fmt.Errorf("the match type %.50q is not supported", *v.Type)
			}
			if v.Value == "" { // would mean "is there" in the document
				return nil, path, fmt.Errorf("the match of %.100s has no value", v.Name)
			}
			out = append(out, one)
		}
		if len(out) > 0 {
			match[name] = out
		}
	}
	return match, path, nil
}

// rewrite sets the path that the service sees.
func rewrite(p *object.PathModifier, match pathOf, route fields) error {
	switch {
	case p == nil:
		return nil
	case p.Type == "ReplaceFullPath" && p.ReplaceFullPath != nil:
		route["rewrite"] = fields{"regex": "(?s).*", "path": literal(*p.ReplaceFullPath)}
		return nil
	case p.Type != "ReplacePrefixMatch" || p.ReplacePrefixMatch == nil:
		return fmt.Errorf("the path modifier %.50s is not supported", p.Type)
	case match.kind != typePrefix:
		return errors.New("ReplacePrefixMatch needs a match of the type PathPrefix")
	}
	decoded, _, err := canonical.Path(match.value)
	if err != nil {
		return fmt.Errorf("the path %.100q is not acceptable", match.value)
	}
	from, to := strings.TrimSuffix(decoded, "/"), strings.TrimSuffix(*p.ReplacePrefixMatch, "/")
	switch {
	case from == "" && to == "":
	case to == "":
		route["strip_prefix"] = strings.TrimSuffix(match.value, "/")
	default:
		route["rewrite"] = fields{"regex": "(?s)" + regexp.QuoteMeta(from) + "(/.*)?", "path": literal(to) + "$1"}
	}
	return nil
}

// literal is a path of a rewrite without groups.
func literal(path string) string {
	if !strings.HasPrefix(path, "/") {
		path = "/" + path
	}
	return strings.ReplaceAll(path, "$", "$$")
}

// clientSide is scheme and port of the listeners that a route is at: of the first with
// TLS, or else of the first.
func clientSide(at []*listener) (scheme string, port int) {
	for _, l := range at {
		switch {
		case l.Protocol == protocolHTTPS:
			return "https", l.Port
		case port == 0:
			port = l.Port
		}
	}
	return "http", port
}

// redirect is a redirect of the document. What the filter leaves out is what the client
// has used: its host, which has to be known here, and scheme and port of the listeners.
func redirect(f *object.RedirectFilter, match pathOf, host string, at []*listener) (fields, error) {
	out := fields{"status": value(f.StatusCode, 302)}
	target := url.URL{}
	if f.Scheme == nil && f.Hostname == nil && f.Port == nil {
		target.Path = "/"
	} else {
		target.Scheme, target.Host = value(f.Scheme, ""), value(f.Hostname, host)
		if target.Host == "" || strings.HasPrefix(target.Host, "*") {
			return nil, errors.New("a RequestRedirect without hostname needs hostnames of the route without a wildcard")
		}
		port := value(f.Port, 0)
		if target.Scheme == "" {
			scheme, listened := clientSide(at)
			target.Scheme, port = scheme, cmp.Or(port, listened)
		}
		if port != 0 && port != map[string]int{"http": 80, "https": 443}[target.Scheme] {
			target.Host += ":" + strconv.Itoa(port)
		}
	}
	switch p := f.Path; {
	case p == nil:
		out["keep_path"] = true
	case p.Type == "ReplaceFullPath" && p.ReplaceFullPath != nil:
		target.Path = *p.ReplaceFullPath
	case p.Type == "ReplacePrefixMatch" && p.ReplacePrefixMatch != nil && match == (pathOf{typePrefix, "/"}):
		target.Path, out["keep_path"] = *p.ReplacePrefixMatch, true
	default:
		return nil, errors.New("a RequestRedirect can replace the full path, or the prefix / of a match, and nothing else")
	}
	out["to"] = target.String()
	return out, nil
}
