package expression

import (
	"net/http"
	"net/netip"
	"regexp/syntax"
	"slices"
	"strings"
	"time"

	"cel.dev/cel-go/common/ast"
	"cel.dev/cel-go/common/operators"
	"cel.dev/cel-go/common/types"

	"github.com/keywarden/keywarden/pkg/header"
	"github.com/keywarden/keywarden/pkg/nearest"
)

// lint looks over a parsed expression for what the library would let pass or not
// explain: unknown fields, fields that nobody may see, and texts that have to be
// good when they are compiled, not when a request comes.
type lint struct {
	text      string
	info      *ast.SourceInfo
	names     map[string]string
	locals    []string // variables of macros around the place
	principal bool
	err       error // the first
}

func newLint(text string, tree *ast.AST) *lint {
	return &lint{text: text, info: tree.SourceInfo(), names: map[string]string{}}
}

func (l *lint) fail(at ast.Expr, reason string) {
	if l.err != nil {
		return
	}
	place := l.info.GetStartLocation(at.ID())
	l.err = newError(l.text, place.Line(), place.Column(), reason)
}

// visit looks at e and everything in it.
func (l *lint) visit(e ast.Expr) {
	if l.err != nil {
		return
	}
	switch e.Kind() {
	case ast.IdentKind:
		l.ident(e)
	case ast.SelectKind:
		l.selection(e)
	case ast.CallKind:
		l.call(e)
	case ast.ListKind:
		l.visitAll(e.AsList().Elements())
	case ast.MapKind:
		for _, entry := range e.AsMap().Entries() {
			l.visit(entry.AsMapEntry().Key())
			l.visit(entry.AsMapEntry().Value())
		}
	case ast.ComprehensionKind:
		l.comprehension(e)
	case ast.StructKind:
		l.fail(e, "there are no types to make values of")
	default: // a literal
	}
}

func (l *lint) visitAll(list []ast.Expr) {
	for _, e := range list {
		l.visit(e)
	}
}

// isObject reports whether name has fields.
func isObject(name string) bool { return name == "request" || name == "principal" }

func (l *lint) ident(e ast.Expr) {
	name := e.AsIdent()
	if isObject(name) {
		l.fail(e, name+" is no value; name one of its fields: "+strings.Join(fieldsOf(name), ", "))
	}
}

// selection checks request.x and request.headers.x.
func (l *lint) selection(e ast.Expr) {
	s := e.AsSelect()
	operand := s.Operand()
	if operand.Kind() == ast.IdentKind {
		l.objectField(e, operand, s.FieldName())
		return
	}
	if values := valuesOf(operand); values != "" {
		l.name(e, values, s.FieldName())
	}
	l.visit(operand)
}

func (l *lint) objectField(e, object ast.Expr, name string) {
	of := object.AsIdent()
	if isObject(of) {
		l.field(e, of, name)
		return
	}
	if meant := nearest.Name(of, []string{"request", "principal"}); meant != "" && !slices.Contains(l.locals, of) {
		l.fail(object, "there is no "+of+", did you mean "+meant+"?")
	}
}

func (l *lint) field(at ast.Expr, object, name string) {
	fields := fieldsOf(object)
	for _, f := range fields {
		if f == name {
			l.principal = l.principal || object == "principal"
			return
		}
	}
	l.fail(at, object+" has no field "+name+nearest.Question(name, fields))
}

// valuesOf is "headers" or "query" when e is one of those maps.
func valuesOf(e ast.Expr) string {
	if e.Kind() != ast.SelectKind {
		return ""
	}
	s := e.AsSelect()
	if s.Operand().Kind() != ast.IdentKind || s.Operand().AsIdent() != "request" {
		return ""
	}
	if name := s.FieldName(); name == "headers" || name == "query" {
		return name
	}
	return ""
}

// name checks the name of a header field or query parameter and remembers it.
func (l *lint) name(at ast.Expr, values, name string) {
	switch {
	case header.Credential(name):
		l.fail(at, name+" may hold a credential, which expressions never see; the caller is in principal")
	case values == "headers" && !header.IsName(name):
		l.fail(at, "this cannot be the name of a header field")
	case values == "headers" && header.Reserved(name):
		l.fail(at, name+" is set by the gateway alone, and what a client sends as such is dropped; the caller is in principal and request")
	case values == "headers":
		l.names[name] = http.CanonicalHeaderKey(name)
	}
}

func (l *lint) comprehension(e ast.Expr) {
	c := e.AsComprehension()
	variables := []string{c.IterVar(), c.IterVar2(), c.AccuVar()}
	for _, v := range variables {
		if isObject(v) || v == "now" {
			l.fail(e, v+" cannot be the name of a variable")
		}
	}
	outer := l.locals
	l.locals = append(slices.Clip(outer), variables...)
	defer func() { l.locals = outer }()
	l.visitAll([]ast.Expr{c.IterRange(), c.AccuInit(), c.LoopCondition(), c.LoopStep(), c.Result()})
}

func (l *lint) call(e ast.Expr) {
	c := e.AsCall()
	all := c.Args()
	if c.IsMemberFunction() {
		all = append([]ast.Expr{c.Target()}, all...)
	}
	switch name := c.FunctionName(); {
	case name == "has":
		l.fail(e, `there is no has(): a name that is missing gives an empty text; ask with "name" in request.headers`)
	case name == operators.Index && len(all) == 2 && valuesOf(all[0]) != "":
		if key, ok := textOf(all[1]); ok {
			l.name(all[1], valuesOf(all[0]), key)
		}
	case name == operators.In && len(all) == 2 && valuesOf(all[1]) != "":
		if key, ok := textOf(all[0]); ok {
			l.name(all[0], valuesOf(all[1]), key)
		}
	case name == "matches" && len(all) == 2:
		l.literal(all[1], "the pattern of matches", checkPattern)
	case name == inNetwork && len(all) == 2:
		l.literal(all[1], "the network of inNetwork", checkNetwork)
	case c.IsMemberFunction() && strings.HasPrefix(name, "get") && len(all) == 2:
		l.literal(all[1], "the time zone", checkZone)
	}
	l.visitAll(all)
}

func textOf(e ast.Expr) (string, bool) {
	if e.Kind() != ast.LiteralKind {
		return "", false
	}
	s, ok := e.AsLiteral().(types.String)
	return string(s), ok
}

// literal wants a text that is there when the expression is compiled: made from a
// request, it would be the client's choice what has to be compiled or read.
func (l *lint) literal(e ast.Expr, what string, check func(string) string) {
	s, ok := textOf(e)
	if !ok {
		l.fail(e, what+" must be a literal text")
		return
	}
	if reason := check(s); reason != "" {
		l.fail(e, what+" "+reason)
	}
}

func checkPattern(s string) string {
	if len(s) > maxRegex {
		return "is too long"
	}
	if _, err := syntax.Parse(s, syntax.Perl); err != nil {
		return "is no regular expression (RE2): " + err.Error()
	}
	return ""
}

func checkNetwork(s string) string {
	if p, err := netip.ParsePrefix(s); err != nil || p.Masked() != p {
		return "must be one such as 10.0.0.0/8"
	}
	return ""
}

func checkZone(s string) string {
	if strings.Contains(s, ":") {
		return "" // an offset, +01:00
	}
	if _, err := time.LoadLocation(s); err != nil {
		return "must be a name such as Europe/Berlin or an offset such as +01:00"
	}
	return ""
}
