// Package expression compiles and evaluates the expressions of the gateway
// document: CEL (Common Expression Language, cel.dev) over a request and its
// principal. Expressions are checked for their types when they are compiled, see
// no credential, and are bounded in text, nesting and cost, so that neither a
// document nor a client can make one run long.
//
// It knows neither the document nor what an expression is for.
package expression

import (
	"fmt"
	"net/http"
	"unicode/utf8"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"
)

// Type is the type of an expression's result.
type Type uint8

// The types of results.
const (
	Bool Type = iota
	String
	Int
)

// String implements [fmt.Stringer].
func (t Type) String() string { return t.cel().String() }

func (t Type) cel() *cel.Type {
	switch t {
	case String:
		return cel.StringType
	case Int:
		return cel.IntType
	default:
		return cel.BoolType
	}
}

// MaxText bounds the text of an expression, in bytes.
const MaxText = 2000

// costLimit bounds one evaluation, in CEL's units of cost: about the operations,
// and a tenth of the bytes of texts that are looked at.
const costLimit = 50_000

// Expression is a compiled expression. It is immutable and safe for concurrent
// use.
type Expression struct {
	program   cel.Program
	want      Type
	names     map[string]string // fields in the text, to their canonical form
	principal bool
}

// Compile parses and checks text, whose result has to be of type want. The error
// is an *[Error].
func Compile(text string, want Type) (*Expression, error) {
	if len(text) > MaxText {
		return nil, &Error{Line: 1, Column: 1, Reason: fmt.Sprintf("is longer than %d bytes", MaxText)}
	}
	if !utf8.ValidString(text) {
		return nil, &Error{Line: 1, Column: 1, Reason: "is not valid UTF-8"}
	}
	env, err := environment()
	if err != nil {
		return nil, fmt.Errorf("making the environment of expressions: %w", err)
	}
	parsed, issues := env.Parse(text)
	if issues.Err() != nil {
		return nil, firstIssue(text, issues)
	}
	l := newLint(text, parsed.NativeRep())
	l.visit(parsed.NativeRep().Expr())
	if l.err != nil {
		return nil, l.err
	}
	checked, issues := env.Check(parsed)
	if issues.Err() != nil {
		return nil, firstIssue(text, issues)
	}
	if got := checked.OutputType(); !got.IsExactType(want.cel()) {
		return nil, &Error{Line: 1, Column: 1, Reason: fmt.Sprintf("is of type %s, must be of type %s", got, want)}
	}
	program, err := newProgram(env, checked)
	if err != nil {
		return nil, &Error{Line: 1, Column: 1, Reason: oneLine(err.Error())}
	}
	return &Expression{program: program, want: want, names: l.names, principal: l.principal}, nil
}

// newProgram makes the program. Keeping account of the cost slows it down, so
// that is left out where the cost is known to stay below the limit.
func newProgram(env *cel.Env, checked *cel.Ast) (cel.Program, error) {
	options := []cel.ProgramOption{cel.EvalOptions(cel.OptOptimize)}
	if estimate, err := env.EstimateCost(checked, sizes{}); err != nil || estimate.Max > costLimit {
		options = append(options, cel.CostLimit(costLimit))
	}
	return env.Program(checked, options...)
}

// UsesPrincipal reports whether the expression asks who calls.
func (e *Expression) UsesPrincipal() bool { return e.principal }

// Bool evaluates an expression compiled for [Bool]. An error means that it has no
// result for this request: it was too costly, divided by zero and the like.
func (e *Expression) Bool(r *http.Request) (bool, error) {
	v, err := e.evaluate(r)
	if err != nil {
		return false, err
	}
	b, ok := v.(types.Bool)
	if !ok {
		return false, e.mismatch(v)
	}
	return bool(b), nil
}

// String evaluates an expression compiled for [String].
func (e *Expression) String(r *http.Request) (string, error) {
	v, err := e.evaluate(r)
	if err != nil {
		return "", err
	}
	s, ok := v.(types.String)
	if !ok {
		return "", e.mismatch(v)
	}
	return string(s), nil
}

// Int evaluates an expression compiled for [Int].
func (e *Expression) Int(r *http.Request) (int64, error) {
	v, err := e.evaluate(r)
	if err != nil {
		return 0, err
	}
	i, ok := v.(types.Int)
	if !ok {
		return 0, e.mismatch(v)
	}
	return int64(i), nil
}

func (e *Expression) mismatch(v ref.Val) error {
	return fmt.Errorf("the expression, compiled for %s, gave a %s", e.want, v.Type().TypeName())
}

func (e *Expression) evaluate(r *http.Request) (ref.Val, error) {
	s := newScope(r, e.names)
	v, _, err := e.program.Eval(s)
	s.release()
	if err != nil {
		return nil, fmt.Errorf("evaluating the expression: %w", err)
	}
	return v, nil
}
