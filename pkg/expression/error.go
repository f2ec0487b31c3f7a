package expression

import (
	"fmt"
	"regexp"
	"strings"
	"unicode/utf8"

	"cel.dev/cel-go/cel"
)

// Error is why a text is no expression.
type Error struct {
	Offset int    // of the place in the text, in bytes
	Line   int    // of the place, from 1
	Column int    // of the place, in characters from 1
	Reason string // one line
}

// Error implements error.
func (e *Error) Error() string {
	if e.Line > 1 {
		return fmt.Sprintf("line %d, column %d: %s", e.Line, e.Column, e.Reason)
	}
	return fmt.Sprintf("column %d: %s", e.Column, e.Reason)
}

// newError makes the error of a place, given the way the library does: the line
// from 1, the column in characters from 0. What it does not know is negative.
func newError(text string, line, column int, reason string) *Error {
	e := &Error{Line: max(line, 1), Column: max(column, 0) + 1, Reason: oneLine(reason)}
	for range e.Line - 1 {
		next := strings.IndexByte(text[e.Offset:], '\n')
		if next < 0 {
			break
		}
		e.Offset += next + 1
	}
	for range e.Column - 1 {
		_, size := utf8.DecodeRuneInString(text[e.Offset:])
		e.Offset += size
	}
	return e
}

// firstIssue is the first thing that the library found wrong.
func firstIssue(text string, issues *cel.Issues) *Error {
	list := issues.Errors()
	if len(list) == 0 {
		return &Error{Line: 1, Column: 1, Reason: oneLine(issues.Err().Error())}
	}
	return newError(text, list[0].Location.Line(), list[0].Location.Column(), plainReason(list[0].Message))
}

// operator is the library's name of an operator, such as _==_.
var operator = regexp.MustCompile(`'(_?)([-!=<>+*/%&|?:\[\]@a-z]+)(_?)'`)

// plainReason says what the library says without the words of its inside.
func plainReason(reason string) string {
	if before, _, long := strings.Cut(reason, " expecting {"); long {
		reason = before
	}
	reason = strings.TrimPrefix(reason, "Syntax error: ")
	reason = strings.ReplaceAll(reason, " (in container '')", "")
	for library, plain := range map[string]string{
		"'_[_]'": "'[]'", "'_?_:_'": "'?:'", "'@in'": "'in'", "'!_'": "'!'", "'-_'": "'-'", "'<EOF>'": "the end",
	} {
		reason = strings.ReplaceAll(reason, library, plain)
	}
	return operator.ReplaceAllString(reason, "'$2'")
}

// maxReason bounds a reason, which may quote the text, in bytes.
const maxReason = 300

func oneLine(reason string) string {
	reason = strings.Join(strings.Fields(reason), " ")
	if len(reason) > maxReason {
		reason = strings.ToValidUTF8(reason[:maxReason], "") + "..."
	}
	return reason
}
