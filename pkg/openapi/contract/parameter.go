package contract

import (
	"fmt"
	"net/http"
	"net/textproto"
	"net/url"
	"regexp"
	"slices"
	"strings"

	"github.com/santhosh-tekuri/jsonschema/v6"

	"github.com/keywarden/keywarden/pkg/openapi"
	"github.com/keywarden/keywarden/pkg/openapi/contract/tree"
	"github.com/keywarden/keywarden/pkg/openapi/jsonvalue"
)

// parameter is one parameter with the way in which its value is written.
type parameter struct {
	name     string
	in       string // path, query, header, cookie; body for a field of a form in 2.0
	required bool
	empty    bool // an empty value is as good as one of the schema
	style    string
	explode  bool
	json     bool // the text is a value of JSON
	schema   *jsonschema.Schema
	shape    *shape
}

// ignored reports whether the parameter says nothing: OpenAPI leaves these fields
// to others.
func (p *parameter) ignored() bool {
	if p.in != "header" {
		return false
	}
	name := textproto.CanonicalMIMEHeaderKey(p.name)
	return name == "Accept" || name == "Content-Type" || name == "Authorization"
}

// styles are those of a place; the first is the default.
func styles(in string) []string {
	switch in {
	case "path":
		return []string{"simple", "label", "matrix"}
	case "header":
		return []string{"simple"}
	case "cookie":
		return []string{"form"}
	}
	return []string{"form", "spaceDelimited", "pipeDelimited", "tabDelimited", "deepObject"}
}

// parameter compiles a parameter.
func (b *builder) parameter(at tree.Place) (parameter, error) {
	p := parameter{name: at.Text("name"), in: at.Text("in")}
	p.required, _ = at.Flag("required")
	p.required = p.required || p.in == "path"
	p.empty, _ = at.Flag("allowEmptyValue")
	t := b.api.requests
	of := t.Field(at, "schema")
	if content := t.Field(at, "content"); content.There() {
		for _, name := range t.Fields(content) {
			p.json = isJSON(name)
			of = t.Field(t.Field(content, name), "schema")
		}
		if !p.json { // in a form that is not known here
			of = tree.Place{}
		}
	}
	if err := p.write(at, b.dialect); err != nil {
		return p, err
	}
	var err error
	if p.schema, err = t.schema(of); err != nil {
		return p, err
	}
	p.shape = shapeOf(p.schema, 0)
	return p, nil
}

// write finds out how the value is written.
func (p *parameter) write(at tree.Place, dialect openapi.Dialect) error {
	known := styles(p.in)
	p.style, p.explode = known[0], known[0] == "form"
	if dialect == openapi.Dialect20 {
		p.explode = false
		switch at.Text("collectionFormat") {
		case "ssv":
			p.style = "spaceDelimited"
		case "tsv":
			p.style = "tabDelimited"
		case "pipes":
			p.style = "pipeDelimited"
		case "multi":
			p.explode = true
		}
		return nil
	}
	if style := at.Text("style"); style != "" {
		if !slices.Contains(known, style) || style == "tabDelimited" {
			return fmt.Errorf("the style %q cannot be read", style)
		}
		p.style, p.explode = style, style == "form"
	}
	if explode, given := at.Flag("explode"); given {
		p.explode = explode
	}
	return nil
}

// check holds the texts of a parameter, which are decoded, against its schema.
func (p *parameter) check(f *failures, texts []string, others map[string][]string) {
	at := "/" + jsonvalue.Escape(p.name)
	v, there, why := p.value(texts, others)
	switch {
	case why != "":
		f.add(at, "%s", why)
	case !there:
		if p.required {
			f.add(at, "is required")
		}
	case p.empty && v == "":
	default:
		before := len(f.list)
		f.check(p.schema, at, v)
		// A text that looks like a number may be allowed as a text.
		if _, text := v.(string); len(f.list) > before && !text && len(texts) == 1 && p.shape.types["string"] && p.schema.Validate(texts[0]) == nil {
			f.list = f.list[:before]
		}
	}
}

// value makes a value of the texts. why says what is wrong with them.
func (p *parameter) value(texts []string, others map[string][]string) (v any, there bool, why string) {
	switch {
	case p.shape.object() && !p.json && p.in != "path" && p.in != "header" && (p.style == "deepObject" || p.style == "form" && p.explode):
		m := p.spread(others)
		return m, len(m) > 0, ""
	case len(texts) == 0:
		return nil, false, ""
	case p.json:
		if len(texts) > 1 {
			return nil, true, "is given more than once"
		}
		v, _, why := jsonvalue.Parse([]byte(texts[0]))
		return v, true, why
	case p.shape.array() && p.explode && p.style == "form":
		return p.list(texts), true, ""
	case len(texts) > 1 && p.in != "header":
		return nil, true, "is given more than once"
	}
	text := strings.Join(texts, ",")
	if p.style == "label" || p.style == "matrix" {
		if text, why = p.unprefixed(text); why != "" {
			return nil, true, why
		}
	}
	switch {
	case p.shape.array():
		if text == "" {
			return []any{}, true, ""
		}
		return p.list(p.split(text)), true, ""
	case p.shape.object():
		m, why := p.object(p.split(text))
		return m, true, why
	}
	return p.shape.scalar(text), true, ""
}

// unprefixed takes off what label and matrix put before a value.
func (p *parameter) unprefixed(text string) (rest, why string) {
	prefix := "."
	if p.style == "matrix" {
		prefix = ";" + p.name + "="
		if p.shape.object() && p.explode {
			prefix = ";"
		}
	}
	rest, ok := strings.CutPrefix(text, prefix)
	if !ok {
		return "", "does not have the style " + p.style
	}
	return rest, ""
}

// split parts a text at the delimiter of the style.
func (p *parameter) split(text string) []string {
	by := ","
	switch {
	case p.style == "spaceDelimited":
		by = " "
	case p.style == "pipeDelimited":
		by = "|"
	case p.style == "tabDelimited":
		by = "\t"
	case p.style == "label" && p.explode:
		by = "."
	case p.style == "matrix" && p.explode && p.shape.object():
		by = ";"
	case p.style == "matrix" && p.explode:
		by = ";" + p.name + "="
	}
	parts := strings.Split(text, by)
	if p.in == "header" {
		for i := range parts {
			parts[i] = strings.Trim(parts[i], " \t")
		}
	}
	return parts
}

func (p *parameter) list(texts []string) []any {
	list := make([]any, len(texts))
	for i, text := range texts {
		list[i] = p.shape.item().scalar(text)
	}
	return list
}

// object makes an object of name=value, or of names and values in turn.
func (p *parameter) object(parts []string) (m map[string]any, why string) {
	m = map[string]any{}
	if !p.explode {
		if len(parts)%2 != 0 {
			return nil, "must be names and values in turn"
		}
		for i := 0; i < len(parts); i += 2 {
			m[parts[i]] = p.shape.of(parts[i]).scalar(parts[i+1])
		}
		return m, ""
	}
	for _, part := range parts {
		name, text, ok := strings.Cut(part, "=")
		if !ok {
			return nil, "must be pairs of name=value"
		}
		m[name] = p.shape.of(name).scalar(text)
	}
	return m, ""
}

// spread collects an object of which each property is a parameter of its own:
// filter[name]=x of deepObject, or name=x.
func (p *parameter) spread(others map[string][]string) map[string]any {
	m := map[string]any{}
	for name, texts := range others {
		if p.style == "deepObject" {
			inner, ok := strings.CutPrefix(name, p.name+"[")
			if !ok || !strings.HasSuffix(inner, "]") {
				continue
			}
			name = strings.TrimSuffix(inner, "]")
		} else if p.shape.properties[name] == nil {
			continue // of another parameter, or of none
		}
		of := p.shape.of(name)
		if of.array() {
			m[name] = (&parameter{shape: of}).list(texts)
			continue
		}
		if len(texts) == 1 {
			m[name] = of.scalar(texts[0])
			continue
		}
		m[name] = (&parameter{shape: of}).list(texts) // no schema of a text takes that
	}
	return m
}

// pathMatcher finds the values of parameters in a path. What stands before the
// template, such as a base path, was for the route to match.
type pathMatcher struct {
	pattern *regexp.Regexp
	names   []string
}

// slash stands in for an encoded slash while segments are matched. No path that is
// served has a NUL.
const slash = "\x00"

func newPathMatcher(t openapi.Template) (*pathMatcher, error) {
	text := strings.ReplaceAll(t.Regex(), "[^/]+", "([^/]+)") // a literal of this form is quoted
	pattern, err := regexp.Compile(`(?s)^(?:.*/)?` + text + `$`)
	if err != nil {
		return nil, fmt.Errorf("the path %s: %w", t, err)
	}
	return &pathMatcher{pattern, t.Parameters()}, nil
}

// values are those of the parameters, decoded.
func (m *pathMatcher) values(u *url.URL) (map[string]string, bool) {
	if len(m.names) == 0 {
		return nil, true
	}
	segments := strings.Split(u.EscapedPath(), "/")
	for i, s := range segments {
		text, err := url.PathUnescape(s)
		if err != nil {
			return nil, false
		}
		segments[i] = strings.ReplaceAll(text, "/", slash)
	}
	found := m.pattern.FindStringSubmatch(strings.Join(segments, "/"))
	if found == nil {
		return nil, false
	}
	values := make(map[string]string, len(m.names))
	for i, name := range m.names {
		values[name] = strings.ReplaceAll(found[i+1], slash, "/")
	}
	return values, true
}

// CheckParameters holds path, query, header and cookies of a request against the
// description.
func (o *Operation) CheckParameters(r *http.Request) []Failure {
	if len(o.parameters) == 0 {
		return nil
	}
	f := &failures{in: "path"}
	path, ok := o.path.values(r.URL)
	if !ok {
		f.add("", "is not that of the operation")
		return f.list
	}
	var query url.Values
	if r.URL.RawQuery != "" {
		var err error
		if query, err = url.ParseQuery(r.URL.RawQuery); err != nil {
			f.in = "query"
			f.add("", "is malformed")
			return f.list
		}
	}
	var cookies map[string][]string
	for i := range o.parameters {
		p := &o.parameters[i]
		f.in = p.in
		switch p.in {
		case "path":
			if text, ok := path[p.name]; ok { // else the template has no place for it
				p.check(f, []string{text}, nil)
			}
		case "query":
			p.check(f, query[p.name], query)
		case "header":
			values := r.Header.Values(p.name)
			if strings.EqualFold(p.name, "Host") {
				values = []string{r.Host}
			}
			p.check(f, values, nil)
		case "cookie":
			if cookies == nil {
				cookies = map[string][]string{}
				for _, c := range r.Cookies() {
					cookies[c.Name] = append(cookies[c.Name], c.Value)
				}
			}
			p.check(f, cookies[p.name], cookies)
		}
	}
	return f.list
}
