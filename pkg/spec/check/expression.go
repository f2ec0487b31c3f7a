package check

import "github.com/keywarden/keywarden/pkg/expression"

// compiled is the outcome of compiling an expression: many routes may share one.
type compiled struct {
	err       error
	principal bool // it asks for the principal
}

// Condition checks the condition of a policy. known reports whether the caller is
// known where the policy decides.
func (v *Checker) Condition(path, text string, known bool) {
	c, ok := v.expressions[text]
	if !ok {
		e, err := expression.Compile(text, expression.Bool)
		c.err = err
		if err == nil {
			c.principal = e.UsesPrincipal()
		}
		if v.expressions == nil {
			v.expressions = map[string]compiled{}
		}
		v.expressions[text] = c
	}
	switch {
	case c.err != nil:
		v.Fail(path, "is not a condition: %s", c.err.Error())
	case c.principal && !known:
		v.Fail(path, "cannot ask for the principal: this policy decides before the caller is known")
	}
}

// Compiles checks an expression with another result than a condition's.
func (v *Checker) Compiles(path, text string, want expression.Type) {
	if _, err := expression.Compile(text, want); err != nil {
		v.Fail(path, "is not an expression for a %s: %s", want, err.Error())
	}
}
