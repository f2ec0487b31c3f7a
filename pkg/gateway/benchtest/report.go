package main

import (
	"flag"
	"fmt"
	"runtime"
	"strings"
	"time"

	"github.com/keywarden/keywarden/pkg/loadtest"
)

// Markers between which the tables stand in a Markdown file.
const (
	markBegin = "<!-- bench: begin, written by make bench -->\n"
	markEnd   = "<!-- bench: end -->\n"
)

// preamble is what one needs to know to read the tables.
func preamble(o settings, flags *flag.FlagSet) string {
	command := "make bench"
	var given []string
	flags.Visit(func(f *flag.Flag) {
		switch f.Name {
		case "doc", "program", "set": // say nothing about the figures, or come below
		default:
			given = append(given, fmt.Sprintf("-%s=%s", f.Name, f.Value))
		}
	})
	for _, s := range o.set {
		given = append(given, "-set="+s)
	}
	if len(given) > 0 {
		command = "go run ./pkg/gateway/benchtest " + strings.Join(given, " ")
	}
	return fmt.Sprintf("%s, %s, %s, %d processors; `%s`: %d rounds of %v, %d connections.\n", time.Now().UTC().Format(time.DateOnly),
		runtime.Version(), loadtest.Processor(), runtime.NumCPU(), command, o.rounds, o.window, o.connections)
}

// text is the table in Markdown.
func (t *table) text() string {
	var b strings.Builder
	_, _ = fmt.Fprintf(&b, "**%s**\n\n", t.title)
	columns := []string{"what", "CPU µs per " + t.per + ", median (least to most)", "times its counterpart", t.per + "s per second"}
	if t.alloc {
		columns = append(columns, "heap allocations per "+t.per)
	}
	line(&b, columns...)
	line(&b, strings.Split(strings.Repeat("---,", len(columns)-1)+"---", ",")...)
	for _, r := range t.rows {
		ratio := ""
		if r.beside != nil {
			ratio = spread(ratios(r.cost, r.beside.cost), 2)
		}
		cells := []string{r.name, spread(r.cost, decimals(median(r.cost))), ratio, r.paceText()}
		if t.alloc {
			cell := ""
			if len(r.allocations) > 0 {
				cell = fmt.Sprintf("%.1f", median(r.allocations))
			}
			cells = append(cells, cell)
		}
		line(&b, cells...)
	}
	return b.String()
}

// keepingUp is the share of its rate that a row in an open loop has to reach.
const keepingUp = 0.97

// paceText tells the rate that was meant as well where it was not reached.
func (r *row) paceText() string {
	if got := median(r.pace); got < keepingUp*r.rate {
		return fmt.Sprintf("%.0f of %.0f", got, r.rate)
	}
	return fmt.Sprintf("%.0f", median(r.pace))
}

// decimals are those that still say something of v.
func decimals(v float64) int {
	if v < 10 {
		return 2
	}
	return 1
}

// line writes a row of a table in Markdown.
func line(b *strings.Builder, cells ...string) {
	_, _ = fmt.Fprintf(b, "| %s |\n", strings.Join(cells, " | "))
}

// facts are figures that are no costs of a request.
type facts struct {
	title   string
	columns []string
	rows    [][]string
}

func (f *facts) add(cells ...string) { f.rows = append(f.rows, cells) }

// text is the table in Markdown.
func (f *facts) text() string {
	var b strings.Builder
	_, _ = fmt.Fprintf(&b, "**%s**\n\n", f.title)
	line(&b, f.columns...)
	line(&b, strings.Split(strings.Repeat("---,", len(f.columns)-1)+"---", ",")...)
	for _, r := range f.rows {
		line(&b, r...)
	}
	return b.String()
}
