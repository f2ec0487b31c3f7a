package policies

import (
	"github.com/keywarden/keywarden/pkg/expression"
	"github.com/keywarden/keywarden/pkg/spec/check"
)

// Subject says whom a request counts for.
type Subject struct {
	// By is the kind of subject. A request that has no user, key, header or text
	// counts for nobody.
	By         string `json:"by" enum:"address,user,key,route,service,header,expression"`
	Header     string `json:"header,omitempty"`     // for by header
	Expression string `json:"expression,omitempty"` // for by expression: CEL with a text as its result
}

// What a limit can go by.
const (
	ByAddress    = "address"
	ByUser       = "user"
	ByKey        = "key"
	ByRoute      = "route"
	ByService    = "service"
	ByHeader     = "header"
	ByExpression = "expression"
)

// Cost is how many units a request takes: 1 when nothing is said.
type Cost struct {
	// Cost is the same for every request; or CostHeader names the field of the request
	// that says so, or CostExpression is CEL with a whole number as its result.
	Cost           int    `json:"cost,omitempty"`
	CostHeader     string `json:"cost_header,omitempty"`
	CostExpression string `json:"cost_expression,omitempty"`
}

// limit is an item of a policy that has several.
type limit[T any] interface {
	*T
	name() string
	Validate(path string, v *check.Checker)
}

// maxLimits bounds the limits of one kind that a route has.
const maxLimits = 8

// limits checks the items of a policy.
func limits[T any, L limit[T]](path string, list []T, v *check.Checker) {
	if len(list) == 0 {
		v.Fail(path, "must name at least one limit")
	}
	if len(list) > maxLimits {
		v.Fail(path, "must not name more than %d limits", maxLimits)
		return
	}
	names := make(check.Firsts, len(list))
	for i := range list {
		item := L(&list[i])
		item.Validate(check.Index(path, i), v)
		names.Unique(v, check.Index(path, i)+".name", item.name())
	}
}

func (s *Subject) Validate(path string, v *check.Checker) {
	if !v.OneOf(path+".by", s.By, ByAddress, ByUser, ByKey, ByRoute, ByService, ByHeader, ByExpression) {
		return
	}
	switch {
	case s.By == ByHeader && s.Header == "":
		v.Required(path + ".header")
	case s.By != ByHeader && s.Header != "":
		v.Fail(path+".header", "belongs to by: header")
	case s.By == ByHeader && !check.IsToken(s.Header):
		v.Fail(path+".header", "must be the name of a header field")
	}
	switch {
	case s.By == ByExpression && s.Expression == "":
		v.Required(path + ".expression")
	case s.By != ByExpression && s.Expression != "":
		v.Fail(path+".expression", "belongs to by: expression")
	case s.By == ByExpression:
		v.Compiles(path+".expression", s.Expression, expression.String)
	}
}

func (c *Cost) Validate(path string, v *check.Checker) {
	costs := 0
	for _, given := range []bool{c.Cost != 0, c.CostHeader != "", c.CostExpression != ""} {
		if given {
			costs++
		}
	}
	switch {
	case costs > 1:
		v.Fail(path, "must have one of cost, cost_header and cost_expression")
	case c.Cost < 0:
		v.Fail(path+".cost", "must be above 0")
	case c.CostHeader != "" && !check.IsToken(c.CostHeader):
		v.Fail(path+".cost_header", "must be the name of a header field")
	case c.CostExpression != "":
		v.Compiles(path+".cost_expression", c.CostExpression, expression.Int)
	}
}
