package expression

import (
	"errors"
	"net/http"
	"reflect"
	"strings"
	"sync"
	"time"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"
	"cel.dev/cel-go/common/types/traits"

	"github.com/keywarden/keywarden/pkg/access"
	"github.com/keywarden/keywarden/pkg/header"
	"github.com/keywarden/keywarden/pkg/reqctx"
)

// scope resolves the variables of one evaluation, each when it is asked for. It
// belongs to one goroutine and is used again: no result of an expression holds
// on to it.
type scope struct {
	request *http.Request
	info    *reqctx.Info
	headers values
	query   values
}

var scopes = sync.Pool{New: func() any { return new(scope) }}

func newScope(r *http.Request, names map[string]string) *scope {
	s, _ := scopes.Get().(*scope)
	s.request, s.info = r, reqctx.From(r.Context())
	s.headers = values{request: r, names: names}
	s.query = values{request: r, query: true}
	return s
}

func (s *scope) release() {
	*s = scope{}
	scopes.Put(s)
}

// Parent implements [cel.Activation].
func (*scope) Parent() cel.Activation { return nil }

// ResolveName implements [cel.Activation].
func (s *scope) ResolveName(name string) (any, bool) {
	if field, ok := strings.CutPrefix(name, "request."); ok {
		return s.resolveRequest(field)
	}
	if field, ok := strings.CutPrefix(name, "principal."); ok {
		return resolvePrincipal(access.PrincipalFrom(s.request.Context()), field)
	}
	if name != "now" {
		return nil, false
	}
	if s.info.Start.IsZero() { // a request that is only described
		return types.Timestamp{Time: time.Now().UTC()}, true
	}
	return types.Timestamp{Time: s.info.Start.UTC()}, true
}

func (s *scope) resolveRequest(field string) (any, bool) {
	switch field {
	case "method":
		return types.String(s.request.Method), true
	case "host":
		return types.String(s.info.Host), true
	case "path":
		return types.String(s.request.URL.Path), true
	case "scheme":
		return types.String(s.info.Scheme), true
	case "id":
		return types.String(s.info.ID), true
	case "client":
		if !s.info.Client.IsValid() {
			return types.String(""), true
		}
		return types.String(s.info.Client.String()), true
	case "headers":
		return &s.headers, true
	case "query":
		return &s.query, true
	case "size":
		return types.Int(s.request.ContentLength), true
	case "route":
		return types.String(s.info.Route), true
	}
	return nil, false
}

// nobody is the principal of an anonymous request.
var nobody = &access.Principal{}

func resolvePrincipal(p *access.Principal, field string) (any, bool) {
	if field == "authenticated" {
		return types.Bool(p != nil), true
	}
	if p == nil {
		p = nobody
	}
	switch field {
	case "kind":
		return types.String(p.Kind), true
	case "user_id":
		return types.String(p.UserID), true
	case "role":
		return types.String(p.Role), true
	case "scopes":
		return types.NewStringList(types.DefaultTypeAdapter, p.Scopes), true
	case "key_id":
		return types.String(p.KeyID), true
	case "key_name":
		return types.String(p.KeyName), true
	}
	return nil, false
}

// values are the header fields or the query parameters of a request, as a map of
// texts in which every name is there: one that is missing is empty.
type values struct {
	request *http.Request
	names   map[string]string // known canonical forms, of visible names
	query   bool
}

var _ traits.Mapper = (*values)(nil)

// lookup returns the first value under name; ok is false when there is none, or
// none that may be seen.
func (m *values) lookup(name string) (value string, ok bool) {
	if m.query {
		if header.Credential(name) {
			return "", false
		}
		return header.Query(m.request.URL.RawQuery, name)
	}
	canonical, known := m.names[name]
	if !known {
		if !header.Visible(name) {
			return "", false
		}
		canonical = http.CanonicalHeaderKey(name)
	}
	list := m.request.Header[canonical]
	if len(list) == 0 {
		return "", false
	}
	return list[0], true
}

// visible lists the names that are there and may be seen: of fields in lower case.
func (m *values) visible() []string {
	var list []string
	if m.query {
		for name := range m.request.URL.Query() {
			if !header.Credential(name) {
				list = append(list, name)
			}
		}
		return list
	}
	for name, of := range m.request.Header {
		if len(of) > 0 && header.Visible(name) {
			list = append(list, strings.ToLower(name))
		}
	}
	return list
}

// Find implements [traits.Mapper].
func (m *values) Find(key ref.Val) (ref.Val, bool) {
	name, ok := key.(types.String)
	if !ok {
		return types.MaybeNoSuchOverloadErr(key), false
	}
	value, _ := m.lookup(string(name))
	return types.String(value), true
}

// Get implements [traits.Indexer].
func (m *values) Get(key ref.Val) ref.Val {
	v, _ := m.Find(key)
	return v
}

// Contains implements [traits.Container].
func (m *values) Contains(key ref.Val) ref.Val {
	name, ok := key.(types.String)
	if !ok {
		return types.MaybeNoSuchOverloadErr(key)
	}
	_, there := m.lookup(string(name))
	return types.Bool(there)
}

// Iterator implements [traits.Iterable].
func (m *values) Iterator() traits.Iterator {
	return types.NewStringList(types.DefaultTypeAdapter, m.visible()).Iterator()
}

// Size implements [traits.Sizer].
func (m *values) Size() ref.Val { return types.Int(len(m.visible())) }

// errNoConversion is what converting the map to something else ends with.
var errNoConversion = errors.New("the fields of a request cannot be converted")

// ConvertToNative implements [ref.Val].
func (*values) ConvertToNative(reflect.Type) (any, error) { return nil, errNoConversion }

// ConvertToType implements [ref.Val].
func (m *values) ConvertToType(t ref.Type) ref.Val {
	switch t {
	case types.MapType:
		return m
	case types.TypeType:
		return types.MapType
	}
	return types.WrapErr(errNoConversion)
}

// Equal implements [ref.Val].
func (m *values) Equal(other ref.Val) ref.Val {
	o, ok := other.(traits.Mapper)
	if !ok {
		return types.False
	}
	names := m.visible()
	if o.Size() != types.Int(len(names)) {
		return types.False
	}
	for _, name := range names {
		value, there := o.Find(types.String(name))
		mine, _ := m.lookup(name)
		if !there || types.String(mine).Equal(value) != types.True {
			return types.False
		}
	}
	return types.True
}

// Type implements [ref.Val].
func (*values) Type() ref.Type { return types.MapType }

// Value implements [ref.Val].
func (m *values) Value() any { return m }
