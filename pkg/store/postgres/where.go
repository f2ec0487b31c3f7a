package postgres

import (
	"strconv"
	"strings"
)

// Where collects conditions for a query. Conditions are constants of this
// package with a question mark per value; values are always parameters.
type Where struct {
	conditions []string
	Args       []any // the values, in the order of their placeholders
}

// Add adds a condition with its values.
func (w *Where) Add(condition string, values ...any) {
	for _, v := range values {
		condition = strings.Replace(condition, "?", w.Arg(v), 1)
	}
	w.conditions = append(w.conditions, condition)
}

// Arg adds a parameter and returns its placeholder.
func (w *Where) Arg(v any) string {
	w.Args = append(w.Args, v)
	return "$" + strconv.Itoa(len(w.Args))
}

// SQL is the WHERE clause, empty when there is no condition.
func (w *Where) SQL() string {
	if len(w.conditions) == 0 {
		return ""
	}
	return " WHERE " + strings.Join(w.conditions, " AND ")
}

// escapeLike makes the wildcards of LIKE ordinary characters.
func escapeLike(s string) string {
	return strings.NewReplacer(`\`, `\\`, `%`, `\%`, `_`, `\_`).Replace(s)
}
