package strictyaml

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// maxViolations bounds the report: a file that is something else altogether
// would otherwise give one for each of its lines.
const maxViolations = 100

// Place is where something stands in a document.
type Place struct {
	Path         string // such as routes[3].service; empty for the whole document
	Line, Column int    // 1-based; 0 when the document was not read from text
}

// Violation is one thing that is wrong with a document.
type Violation struct {
	Place
	Detail  string // what is wrong, for a person
	Related Place  // the other half of a conflict; zero when there is none
}

// String is one line: position, path and detail.
func (v Violation) String() string {
	var b strings.Builder
	if v.Line > 0 {
		fmt.Fprintf(&b, "%d:%d: ", v.Line, v.Column)
	}
	if v.Path != "" {
		b.WriteString(oneLine(v.Path) + ": ")
	}
	b.WriteString(v.Detail)
	switch {
	case v.Related.Path != "" && v.Related.Line > 0:
		fmt.Fprintf(&b, " (%s in line %d)", oneLine(v.Related.Path), v.Related.Line)
	case v.Related.Path != "":
		fmt.Fprintf(&b, " (%s)", oneLine(v.Related.Path))
	}
	return b.String()
}

// Violations is everything that is wrong with a document, in the order of its
// lines, at most 100 entries.
type Violations struct {
	Source string // name of the file, if there is one
	List   []Violation
	More   int // how many were left out
}

// Error implements error: one line for each violation.
func (vs *Violations) Error() string { return strings.Join(vs.Lines(), "\n") }

// Lines is the report, one line for each violation.
func (vs *Violations) Lines() []string {
	lines := make([]string, 0, len(vs.List)+1)
	for _, v := range vs.List {
		line := v.String()
		if vs.Source != "" {
			separator := ": "
			if v.Line > 0 {
				separator = ":"
			}
			line = oneLine(vs.Source) + separator + line
		}
		lines = append(lines, line)
	}
	if vs.More > 0 {
		lines = append(lines, fmt.Sprintf("and %d more", vs.More))
	}
	return lines
}

// Collector gathers violations, and counts them once they are far too many.
type Collector struct {
	list []Violation
	more int
}

// Add adds a violation.
func (c *Collector) Add(v Violation) {
	if c.Full() {
		c.more++
		return
	}
	c.list = append(c.list, v)
}

// Full reports whether nobody will read what is added from now on.
func (c *Collector) Full() bool { return len(c.list) >= 10*maxViolations }

// Report makes the error of what was gathered, a *[Violations], nil when there is
// nothing. source, which may be empty, is the name of the file in it.
func (c *Collector) Report(source string) error { return report(source, c.list, c.more) }

// report makes the error of a list and what was left out of it already, nil when
// there is nothing.
func report(source string, list []Violation, more int) error {
	if len(list) == 0 {
		return nil
	}
	slices.SortStableFunc(list, func(a, b Violation) int {
		return cmp.Or(cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column))
	})
	shown := min(len(list), maxViolations)
	return &Violations{Source: source, List: list[:shown], More: more + len(list) - shown}
}

// maxEcho bounds how much of a document a message repeats, in bytes.
const maxEcho = 64

// Quote repeats a value in a message, as far as it is short.
func Quote(value string) string {
	if len(value) > maxEcho {
		value = value[:maxEcho] + "..."
	}
	return strconv.Quote(value)
}

// oneLine makes a name fit for a message: short and without control characters.
func oneLine(name string) string {
	if len(name) > 4*maxEcho {
		name = name[:4*maxEcho] + "..."
	}
	if quoted := strconv.Quote(name); quoted[1:len(quoted)-1] != name {
		return quoted
	}
	return name
}
