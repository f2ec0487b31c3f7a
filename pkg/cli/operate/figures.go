package operate

import (
	"errors"
	"fmt"
	"io"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/keywarden/keywarden/pkg/cli/shell"
)

// figuresQuery is what the flags of a command ask for that shows figures over time.
type figuresQuery struct {
	from, to, step, by, sort string
	top                      int
	only                     []string
}

// values are the parameters for the server, which checks what they say. The names that
// --only may give are filters.
func (q figuresQuery) values(now time.Time, filters []string) (url.Values, error) {
	v := url.Values{"top": {strconv.Itoa(q.top)}}
	for name, text := range map[string]string{"by": q.by, "step": q.step, "sort": q.sort} {
		if text != "" {
			v.Set(name, text)
		}
	}
	for name, text := range map[string]string{"from": q.from, "to": q.to} {
		if text == "" {
			continue
		}
		at, err := moment(text, now)
		if err != nil {
			return nil, fmt.Errorf("--%s: %w", name, err)
		}
		v.Set(name, at.UTC().Format(time.RFC3339))
	}
	for _, filter := range q.only {
		name, value, ok := strings.Cut(filter, "=")
		if !ok || v.Has(name) || !slices.Contains(filters, name) {
			return nil, fmt.Errorf("--only %q: must be %s=…, each once", filter, strings.Join(filters, "=…, "))
		}
		v.Set(name, value)
	}
	return v, nil
}

// moment reads a time, or how long before now it is.
func moment(text string, now time.Time) (time.Time, error) {
	if at, err := time.Parse(time.RFC3339, text); err == nil {
		return at, nil
	}
	const most = 10_000 // days
	if number, ok := strings.CutSuffix(text, "d"); ok {
		if days, err := strconv.Atoi(number); err == nil && days >= 0 && days <= most {
			return now.AddDate(0, 0, -days), nil
		}
	} else if ago, err := time.ParseDuration(text); err == nil && ago >= 0 {
		return now.Add(-ago), nil
	}
	return time.Time{}, errors.New("must be a time such as 2030-01-31T12:00:00Z, or how long ago, such as 90m, 2h or 7d")
}

// figuresTable is a table of groups, with one line for each interval of each where there
// is a step.
type figuresTable struct {
	from, to time.Time
	step     string
	numbers  []string // heads of the columns of numbers
	groups   []figuresGroup
	total    figuresGroup // without values
	more     bool         // there are groups that are not shown
}

// figuresGroup is what has the same values in the dimensions of a table.
type figuresGroup struct {
	values []figuresValue
	totals []any
	series []figuresPoint
}

type figuresPoint struct {
	at     time.Time
	totals []any
}

// figuresValue is what a group has in one dimension. Those that the table does not tell
// apart have none.
type figuresValue struct {
	name  string
	value *string
}

// dimensions are the values of those dimensions that the table tells apart.
func (g figuresGroup) dimensions() (names, values []string) {
	for _, d := range g.values {
		switch {
		case d.value == nil:
			continue
		case *d.value == "":
			values = append(values, "-")
		default:
			values = append(values, shell.Printable(*d.value))
		}
		names = append(names, d.name)
	}
	return names, values
}

func (t figuresTable) write(w io.Writer) {
	_, _ = fmt.Fprintf(w, "from %s to %s\n\n", t.from.Format(time.RFC3339), t.to.Format(time.RFC3339))
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	var heads, total []string
	if len(t.groups) > 0 {
		heads, _ = t.groups[0].dimensions()
	}
	if len(heads) > 0 {
		total = make([]string, len(heads))
		total[0] = "TOTAL"
	}
	if t.step != "" {
		heads = append(heads, "TIME")
	}
	writeCells(table, append(heads, t.numbers...))
	for _, g := range t.groups {
		_, values := g.dimensions()
		t.writeLines(table, values, g)
	}
	t.writeLines(table, total, t.total)
	_ = table.Flush()
	if t.more {
		_, _ = fmt.Fprintln(w, "\nThere are more; the total counts them. See --top.")
	}
}

// writeLines writes the totals of a group, and before them a line for each interval.
func (t figuresTable) writeLines(w io.Writer, values []string, g figuresGroup) {
	line := func(at string, totals []any) {
		cells := values[:len(values):len(values)]
		if t.step != "" {
			cells = append(cells, at)
		}
		for _, n := range totals {
			cells = append(cells, fmt.Sprint(n))
		}
		writeCells(w, cells)
	}
	for _, p := range g.series {
		line(p.at.Format(time.RFC3339), p.totals)
	}
	line("all", g.totals)
}

func writeCells(w io.Writer, cells []string) {
	_, _ = fmt.Fprintln(w, strings.Join(cells, "\t"))
}

// shortMS is a number of milliseconds without digits that say nothing.
func shortMS(ms float64) string {
	if ms >= 1000 {
		return strconv.FormatFloat(ms, 'f', 0, 64)
	}
	return strconv.FormatFloat(ms, 'g', 4, 64)
}
