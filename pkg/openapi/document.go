package openapi

import (
	"net/url"
	"strings"

	"github.com/keywarden/keywarden/pkg/canonical"
	"github.com/keywarden/keywarden/pkg/nearest"
	"github.com/keywarden/keywarden/pkg/strictyaml"
)

func question(name string, list []string) string { return nearest.Question(name, list) }

// document reads the whole.
func (r *reader) document() *Document {
	root := r.top()
	top := r.entries(root)
	d := &Document{Dialect: r.dialect(root)}
	if d.Dialect == "" {
		return nil
	}
	(&scan{reader: r, good: map[string]bool{}}).walk(nil, root.node, fields)
	info := root.field("info")
	if !info.there() {
		r.fail(root, "info is required, with title and version")
	}
	d.Title, d.Version = r.text(info.field("title")), r.text(info.field("version"))
	if d.Dialect == Dialect20 {
		d.Server = r.server20(root)
		d.Schemes = r.schemes(root.field("securityDefinitions"), d.Dialect)
	} else {
		d.Server = r.server(root.field("servers"))
		d.Schemes = r.schemes(root.field("components").field("securitySchemes"), d.Dialect)
	}
	d.Security = r.security(root.field("security"), d.Schemes)
	r.known(top, documentExtensions())
	d.Service, d.Policies = r.extensions(top)
	d.Backend = r.backend(root.field("x-google-backend"), false)
	d.Limits = r.metricLimits(root.field("x-google-management"))
	r.paths(root.field("paths"), d)
	r.lost(root, d)
	d.Notes = r.notes
	return d
}

// dialect is the version of OpenAPI, "" where it is none that is known.
func (r *reader) dialect(root at) Dialect {
	swagger, openapi := root.field("swagger"), root.field("openapi")
	switch {
	case swagger.there() && openapi.there():
		r.fail(openapi, "cannot be given together with swagger")
	case swagger.there():
		if v := r.text(swagger); v == "2.0" || v == "2" {
			return Dialect20
		}
		r.fail(swagger, "must be 2.0")
	case openapi.there():
		v := r.text(openapi)
		for _, d := range []Dialect{Dialect30, Dialect31} {
			if v == string(d) || strings.HasPrefix(v, string(d)+".") {
				return d
			}
		}
		r.fail(openapi, "is %s; 3.0, 3.1 and (as swagger) 2.0 can be read", strictyaml.Quote(v))
	default:
		r.fail(root, "is no OpenAPI document: it has neither openapi nor swagger at its top")
	}
	return ""
}

// lost tells what a gateway has no use for.
func (r *reader) lost(root at, d *Document) {
	if hooks := root.field("webhooks"); hooks.there() && d.Dialect == Dialect31 {
		r.note(hooks, "webhooks are calls of the service to others and get no route")
	}
	if more := r.items(root.field("servers")); len(more) > 1 && d.Dialect != Dialect20 {
		r.note(more[1], "only the first server is used")
	}
	for _, name := range []string{"x-google-endpoints", "x-google-allow", "x-google-api-name"} {
		if x := root.field(name); x.there() {
			r.note(x, "has no counterpart")
		}
	}
	if x := root.field("x-google-allow"); x.there() && r.text(x) == "all" {
		r.note(x, "is not followed: only documented paths are open")
	}
}

// server20 is the server of 2.0: schemes, host and basePath.
func (r *reader) server20(root at) Server {
	host, base := root.field("host"), root.field("basePath")
	s := Server{Place: host.place()}
	scheme := "https"
	for i, item := range r.items(root.field("schemes")) {
		switch word := r.text(item); word {
		case "https":
			scheme = word
		case "http":
			if i == 0 {
				scheme = word
			}
		default:
			r.note(item, "the scheme %s is not used; WebSockets pass over http and https", strictyaml.Quote(word))
		}
	}
	if host.there() {
		name, port, err := canonical.Host(r.text(host))
		if err != nil {
			r.fail(host, "must be a host with a port or without, such as api.example.com")
		} else {
			s.Origin = scheme + "://" + authority(name, port)
		}
	}
	if base.there() {
		s.Base = r.base(base, r.text(base))
	}
	return s
}

func authority(host, port string) string {
	if port == "" {
		return host
	}
	return host + ":" + port
}

// base is a base path in its canonical form.
func (r *reader) base(a at, path string) string {
	if path == "" || path == "/" {
		return ""
	}
	_, escaped, err := canonical.Path(path)
	if err != nil {
		r.fail(a, "has a base path, %s, that %s", strictyaml.Quote(path), unacceptable(err))
		return ""
	}
	return strings.TrimSuffix(escaped, "/")
}

// server is the first of a list of servers of 3.x.
func (r *reader) server(list at) Server {
	servers := r.items(list)
	if len(servers) == 0 {
		return Server{Place: list.place()}
	}
	from := servers[0].field("url")
	s := Server{Place: from.place()}
	text := r.text(from)
	if text == "" {
		r.fail(servers[0], "url is required")
		return s
	}
	for _, v := range r.entries(servers[0].field("variables")) {
		text = strings.ReplaceAll(text, "{"+v.name+"}", r.text(v.value.field("default")))
	}
	u, err := url.Parse(text)
	switch {
	case err != nil || strings.ContainsAny(text, "{}"):
		r.fail(from, "is no URL, or has a variable without a default: %s", strictyaml.Quote(text))
		return s
	case u.User != nil || u.RawQuery != "" || u.Fragment != "":
		r.fail(from, "must have no user, query or fragment")
		return s
	case u.Host == "" && u.Scheme == "": // relative to where the description is served
		if !strings.HasPrefix(text, "/") {
			r.note(from, "is relative to the address of the description, which is not known; its base path is taken to be /")
			return s
		}
	case u.Scheme != "http" && u.Scheme != "https":
		r.fail(from, "must be an http or https URL, or a path")
		return s
	default:
		name, port, err := canonical.Host(u.Host)
		if err != nil {
			r.fail(from, "must have a valid host")
			return s
		}
		s.Origin = u.Scheme + "://" + authority(name, port)
	}
	s.Base = r.base(from, u.EscapedPath())
	return s
}
