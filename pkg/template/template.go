// Package template renders the small texts of the gateway document that are made
// of a request and its principal: values of header fields and of the access log.
// A template is literal text with actions such as {{ request.header "X-Tenant" }}.
// There are no conditions and no loops. No action shows a credential, and what
// comes from a request cannot break out of a header field or a line.
//
// What a service alone gets to see may also hold secrets of the gateway. It is an
// [Outgoing], which is a type of its own, so that no such text can end in a log or in
// an answer.
//
// It knows neither the document nor what a text is for.
package template

import (
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"unicode/utf8"

	"github.com/keywarden/keywarden/pkg/nearest"
)

// Bounds, in bytes but for the actions.
const (
	MaxText    = 4 << 10
	MaxOutput  = 8 << 10
	maxActions = 64
)

// Value appends what an action stands for to dst. It must not keep r.
type Value func(dst []byte, r *http.Request) []byte

// Function is what an action can name.
type Function struct {
	Name string

	// Argument is what the text after the name is, such as "a header field"; empty
	// when there is none.
	Argument string

	// Principal says that the value depends on who calls.
	Principal bool

	// Make makes the action; argument is empty when there is none. The error says
	// what is wrong with the argument.
	Make func(argument string) (Value, error)
}

// Error is why a text is no template.
type Error struct {
	Offset int    // of the place in the text, in bytes
	Column int    // of the place, in characters from 1; a template is one line
	Reason string // one line
}

// Error implements error.
func (e *Error) Error() string { return fmt.Sprintf("column %d: %s", e.Column, e.Reason) }

// Template is a compiled template. It is immutable and safe for concurrent use.
type Template struct {
	literal   string // of a template without values
	parts     []part // nil without values
	principal bool
}

// part is literal text and the value after it, which is nil at the end.
type part struct {
	literal string
	value   Value
	secret  string // name of the secret that stands in place of the value; empty: none
}

// Parse compiles text. more are functions beyond those that always exist; the
// error is an *[Error].
func Parse(text string, more ...Function) (*Template, error) {
	p := &parser{text: text, functions: append(builtin(), more...)}
	return p.check()
}

// check looks at the text as a whole before it is parsed.
func (p *parser) check() (*Template, error) {
	text := p.text
	if len(text) > MaxText {
		return nil, p.fail(0, "is longer than %d bytes", MaxText)
	}
	if !utf8.ValidString(text) {
		return nil, p.fail(0, "is not valid UTF-8")
	}
	for i := range len(text) {
		if isControl(text[i]) {
			return nil, p.fail(i, "holds a control character")
		}
	}
	return p.parse()
}

// Literal returns the text of a template that is the same for every request.
func (t *Template) Literal() (text string, ok bool) { return t.literal, t.parts == nil }

// UsesPrincipal reports whether the template asks who calls.
func (t *Template) UsesPrincipal() bool { return t.principal }

// Append appends what the template gives for r to dst: at most [MaxOutput] bytes
// and no control character.
func (t *Template) Append(dst []byte, r *http.Request) []byte {
	if t.parts == nil {
		return append(dst, t.literal...)
	}
	begin := len(dst)
	for _, p := range t.parts {
		dst = append(dst, p.literal...)
		if p.value != nil {
			at := len(dst)
			dst = dropControls(p.value(dst, r), at)
		}
		if len(dst)-begin > MaxOutput {
			return cut(dst, begin+MaxOutput)
		}
	}
	return dst
}

// Render returns what the template gives for r.
func (t *Template) Render(r *http.Request) string {
	if t.parts == nil {
		return t.literal
	}
	space, _ := buffers.Get().(*[]byte)
	*space = t.Append((*space)[:0], r)
	text := string(*space)
	buffers.Put(space)
	return text
}

// buffers are for texts that are copied out of them; none outgrows a header much.
var buffers = sync.Pool{New: func() any { return new([]byte) }}

// dropControls takes the control characters out of b from at on.
func dropControls(b []byte, at int) []byte {
	kept := at
	for _, c := range b[at:] {
		if !isControl(c) {
			b[kept] = c
			kept++
		}
	}
	return b[:kept]
}

func isControl(c byte) bool { return c < ' ' || c == 0x7F }

// cut shortens b to at most n bytes without splitting a character.
func cut(b []byte, n int) []byte {
	for back := n; back > 0 && back > n-utf8.UTFMax; back-- {
		if utf8.RuneStart(b[back]) {
			return b[:back]
		}
	}
	return b[:n]
}

// parser reads a template.
type parser struct {
	text      string
	functions []Function
	outgoing  bool // the text is an Outgoing, and may name secrets
	template  Template
	pending   strings.Builder // literal text before the next value
	actions   int
}

func (p *parser) fail(offset int, format string, args ...any) *Error {
	return &Error{
		Offset: offset,
		Column: utf8.RuneCountInString(p.text[:min(offset, len(p.text))]) + 1,
		Reason: fmt.Sprintf(format, args...),
	}
}

func (p *parser) parse() (*Template, error) {
	at := 0
	for {
		open := strings.Index(p.text[at:], "{{")
		if open < 0 {
			break
		}
		p.pending.WriteString(p.text[at : at+open])
		next, err := p.action(at + open)
		if err != nil {
			return nil, err
		}
		at = next
	}
	p.pending.WriteString(p.text[at:])
	if p.template.parts == nil {
		p.template.literal = p.pending.String()
	} else if p.pending.Len() > 0 {
		p.template.parts = append(p.template.parts, part{literal: p.pending.String()})
	}
	return &p.template, nil
}

// action reads the action that begins with the brackets at open and returns where
// the text goes on.
func (p *parser) action(open int) (next int, failure *Error) {
	if p.actions++; p.actions > maxActions {
		return 0, p.fail(open, "there are more than %d actions", maxActions)
	}
	at := p.skipSpaces(open + 2)
	begin := at
	for at < len(p.text) && isNameByte(p.text[at]) {
		at++
	}
	name, argumentAt := p.text[begin:at], p.skipSpaces(at)
	argument, quoted, failure := p.quoted(argumentAt)
	if failure != nil {
		return 0, failure
	}
	end := p.skipSpaces(argumentAt + len(quoted))
	switch rest := p.text[end:]; {
	case rest == "" || !strings.Contains(rest, "}}"):
		return 0, p.fail(open, "this action is not closed with }}")
	case !strings.HasPrefix(rest, "}}"):
		return 0, p.fail(end, "expected }}; an action is a name and at most one text in double quotes")
	case name == "" && quoted != "": // a text that could not be written otherwise
		p.pending.WriteString(argument)
		return end + 2, nil
	case name == "":
		return 0, p.fail(begin, "this action names nothing")
	}
	return end + 2, p.call(begin, name, argumentAt, argument, quoted != "")
}

// call adds the value of a function.
func (p *parser) call(at int, name string, argumentAt int, argument string, given bool) *Error {
	for _, f := range p.functions {
		switch {
		case f.Name != name:
			continue
		case f.Argument == "" && given:
			return p.fail(argumentAt, "%s takes nothing", name)
		case f.Argument != "" && argument == "":
			return p.fail(at, `%s needs the name of %s, such as {{ %s "name" }}`, name, f.Argument, name)
		}
		value, err := f.Make(argument)
		if err != nil {
			return p.fail(argumentAt, "%s", err.Error())
		}
		p.template.parts = append(p.template.parts, part{literal: p.pending.String(), value: value})
		p.template.principal = p.template.principal || f.Principal
		p.pending.Reset()
		return nil
	}
	if name == secretFunction {
		return p.secret(at, argumentAt, argument)
	}
	names := make([]string, len(p.functions))
	for i, f := range p.functions {
		names[i] = f.Name
	}
	if p.outgoing {
		names = append(names, secretFunction)
	}
	return p.fail(at, "there is no %s%s", name, nearest.Question(name, names))
}

// quoted reads the text in double quotes at offset at; its source is empty when
// there is none.
func (p *parser) quoted(at int) (text, source string, failure *Error) {
	if at >= len(p.text) || !strings.ContainsRune("\"'`", rune(p.text[at])) {
		return "", "", nil
	}
	if p.text[at] != '"' {
		return "", "", p.fail(at, "texts stand in double quotes")
	}
	source, err := strconv.QuotedPrefix(p.text[at:])
	if err != nil {
		return "", "", p.fail(at, "this text is not closed")
	}
	text, err = strconv.Unquote(source)
	if err != nil || !utf8.ValidString(text) {
		return "", "", p.fail(at, "this text cannot be read")
	}
	for i := range len(text) {
		if isControl(text[i]) {
			return "", "", p.fail(at, "holds a control character")
		}
	}
	return text, source, nil
}

func (p *parser) skipSpaces(at int) int {
	for at < len(p.text) && p.text[at] == ' ' {
		at++
	}
	return at
}

func isNameByte(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c == '.' || c == '_' || c == '-'
}
