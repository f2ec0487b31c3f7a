package postgres

import (
	"strconv"
	"strings"
)

// where collects conditions for a query. Conditions are constants of this
// package with a question mark per value; values are always parameters.
type where struct {
	conditions []string
	args       []any
}

// add adds a condition with its values.
func (w *where) add(condition string, values ...any) {
	for _, v := range values {
		condition = strings.Replace(condition, "?", w.arg(v), 1)
	}
	w.conditions = append(w.conditions, condition)
}

// arg adds a parameter and returns its placeholder.
func (w *where) arg(v any) string {
	w.args = append(w.args, v)
	return "$" + strconv.Itoa(len(w.args))
}

// sql is the WHERE clause, empty when there is no condition.
func (w *where) sql() string {
	if len(w.conditions) == 0 {
		return ""
	}
	return " WHERE " + strings.Join(w.conditions, " AND ")
}

// escapeLike makes the wildcards of LIKE ordinary characters.
func escapeLike(s string) string {
	return strings.NewReplacer(`\`, `\\`, `%`, `\%`, `_`, `\_`).Replace(s)
}
