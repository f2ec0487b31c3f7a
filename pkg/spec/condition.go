package spec

import "github.com/keywarden/keywarden/pkg/expression"

// compiled is the outcome of compiling an expression: many routes may share one.
type compiled struct {
	err       error
	principal bool // it asks for the principal
}

// condition checks the condition of a policy. known reports whether the caller is
// known where the policy decides.
func (v *validator) condition(path, text string, known bool) {
	c, ok := v.expressions[text]
	if !ok {
		e, err := expression.Compile(text, expression.Bool)
		c.err = err
		if err == nil {
			c.principal = e.UsesPrincipal()
		}
		v.expressions[text] = c
	}
	switch {
	case c.err != nil:
		v.fail(path, "is not a condition: %s", c.err.Error())
	case c.principal && !known:
		v.fail(path, "cannot ask for the principal: this policy decides before the caller is known")
	}
}
