package config

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// maxErrors bounds the report: a file that is something else altogether would
// otherwise give one error for each of its lines.
const maxErrors = 100

// Layer is where a value comes from. A higher layer overrides a lower one.
type Layer uint8

// The layers, lowest first.
const (
	LayerDefault Layer = iota
	LayerFile
	LayerEnvironment
	LayerFlag
)

// rank orders a report: a mistake without a place comes last.
func (l Layer) rank() int {
	if l == LayerDefault {
		return int(LayerFlag) + 1
	}
	return int(l)
}

// Origin is the place of a value: a position in a file, the name of an
// environment variable, or the path of the option that a flag sets.
type Origin struct {
	Layer        Layer
	Name         string // file name, variable or option path; empty for a default
	Line, Column int    // 1-based; 0 outside of a file and where unknown
}

// Error is one mistake. Its text is one line and never holds the value of a
// secret.
type Error struct {
	Origin Origin
	Path   string // option path, such as server.tls.cert_file; empty where no option is meant
	Detail string // what is wrong, for a person
	cause  error
}

// Error implements error.
func (e *Error) Error() string {
	var b strings.Builder
	switch e.Origin.Layer {
	case LayerFile:
		b.WriteString(oneLine(e.Origin.Name))
		if e.Origin.Line > 0 {
			fmt.Fprintf(&b, ":%d:%d", e.Origin.Line, e.Origin.Column)
		}
		b.WriteString(": ")
	case LayerEnvironment:
		fmt.Fprintf(&b, "environment variable %s: ", oneLine(e.Origin.Name))
	case LayerFlag:
		b.WriteString("flag ")
	case LayerDefault: // nothing was set, the path says it all
	}
	if e.Path != "" {
		b.WriteString(oneLine(e.Path) + ": ")
	}
	b.WriteString(e.Detail)
	return b.String()
}

// Unwrap is the cause, such as fs.ErrNotExist, or nil.
func (e *Error) Unwrap() error { return e.cause }

// Errors is everything that is wrong with a configuration: the file first, in
// its order, then the environment by name, then the flags by path, then what
// follows from defaults. [Load] returns no other error.
type Errors []*Error

// Error implements error: one line for each mistake.
func (es Errors) Error() string {
	lines := make([]string, len(es))
	for i, e := range es {
		lines[i] = e.Error()
	}
	return strings.Join(lines, "\n")
}

// Unwrap lets errors.Is and errors.As look at each mistake.
func (es Errors) Unwrap() []error {
	all := make([]error, len(es))
	for i, e := range es {
		all[i] = e
	}
	return all
}

// sorted returns es in the order that [Errors] promises.
func (es Errors) sorted() Errors {
	slices.SortStableFunc(es, func(a, b *Error) int {
		return cmp.Or(
			cmp.Compare(a.Origin.Layer.rank(), b.Origin.Layer.rank()),
			cmp.Compare(a.Origin.Line, b.Origin.Line),
			cmp.Compare(a.Origin.Column, b.Origin.Column),
			cmp.Compare(a.Origin.Name, b.Origin.Name),
		)
	})
	return es
}

// maxEcho bounds how much of somebody's input a message repeats, in bytes.
const maxEcho = 64

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

// quoted repeats a value in a message.
func quoted(value string) string {
	if len(value) > maxEcho {
		value = value[:maxEcho] + "..."
	}
	return strconv.Quote(value)
}
