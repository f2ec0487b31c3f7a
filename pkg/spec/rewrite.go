package spec

import (
	"regexp"
	"strconv"
	"strings"

	"github.com/keywarden/keywarden/pkg/spec/check"
)

// Rewrite makes the path that the service sees from parts of the one that the
// client asked for.
type Rewrite struct {
	// Regex is a regular expression (RE2) that matches the whole decoded path; a
	// request whose path it does not match is refused. Without it, it is the one that
	// the route matches by.
	Regex string `json:"regex,omitempty"`

	// Path is the new path in its escaped form. $1 and ${name} stand for what a group
	// has matched, in the form in which the client sent it; $$ is a dollar sign.
	Path string `json:"path"`
}

// PathPiece is a part of the path of a rewrite: a text, or, when that is empty,
// what a group of the expression has matched.
type PathPiece struct {
	Text  string // escaped
	Group int
}

// Compile returns the expression and the pieces of the path. match is the
// expression of the route's match, which may be empty.
func (w *Rewrite) Compile(match string) (*regexp.Regexp, []PathPiece, error) {
	text := w.Regex
	if text == "" {
		text = match
	}
	expression, err := check.Regexp(text)
	if err != nil {
		return nil, nil, err
	}
	pieces, err := pathPieces(w.Path, expression)
	return expression, pieces, err
}

func (w *Rewrite) validate(path string, r *Route, v *validator) {
	switch match := r.Match.Path.Regex; {
	case w.Regex == "" && match == "":
		v.Fail(path+".regex", "is required, unless the route matches its path by a regular expression")
		return
	case w.Regex != "" && !v.IsRegex(path+".regex", w.Regex):
		return
	case w.Regex == "":
		if _, err := check.Regexp(match); err != nil {
			return // said already
		}
	}
	if r.StripPrefix != "" {
		v.Fail(path, "cannot be given together with strip_prefix")
	}
	w.validatePath(path+".path", r.Match.Path.Regex, v)
}

func (w *Rewrite) validatePath(path, match string, v *validator) {
	switch {
	case w.Path == "":
		v.Required(path)
		return
	case len(w.Path) > check.MaxRegex:
		v.Fail(path, "must be at most %d bytes", check.MaxRegex)
		return
	}
	_, pieces, err := w.Compile(match)
	if err != nil {
		v.Fail(path, "%s", err.Error())
		return
	}
	// A letter in the place of each group: texts alone decide whether the path can be
	// good, groups do for each request.
	var sample strings.Builder
	for _, p := range pieces {
		if p.Text == "" {
			sample.WriteByte('x')
		}
		sample.WriteString(p.Text)
	}
	_, escaped, err := check.CanonicalPath(sample.String())
	switch {
	case pieces[0].Text == "" || pieces[0].Text[0] != '/':
		v.Fail(path, "must begin with a slash")
	case err != nil:
		v.Fail(path, "%s", err.Error())
	case escaped != sample.String():
		v.Fail(path, "is not in its escaped form, as in a URL")
	}
}

// pathPieces takes a path apart. Unlike with [regexp.Regexp.Expand], a group that
// does not exist is an error, and $1 ends with its last digit.
func pathPieces(path string, expression *regexp.Regexp) ([]PathPiece, error) {
	var pieces []PathPiece
	text := func(s string) {
		if last := len(pieces) - 1; last >= 0 && pieces[last].Text != "" {
			pieces[last].Text += s
		} else if s != "" {
			pieces = append(pieces, PathPiece{Text: s})
		}
	}
	for rest := path; rest != ""; {
		before, after, found := strings.Cut(rest, "$")
		text(before)
		if !found {
			break
		}
		if strings.HasPrefix(after, "$") {
			text("$")
			rest = after[1:]
			continue
		}
		name, remains, ok := groupName(after)
		if !ok {
			return nil, check.ErrText("has a dollar sign that is neither $1 nor ${name}; write $$ for the sign itself")
		}
		group := groupOf(expression, name)
		if group < 0 {
			return nil, check.ErrText("names the group " + check.Quote(name) + ", which the regular expression does not have")
		}
		pieces = append(pieces, PathPiece{Group: group})
		rest = remains
	}
	return pieces, nil
}

// groupName reads what follows a dollar sign.
func groupName(s string) (name, rest string, ok bool) {
	if braced, found := strings.CutPrefix(s, "{"); found {
		name, rest, ok = strings.Cut(braced, "}")
		return name, rest, ok && name != ""
	}
	end := 0
	for end < len(s) && '0' <= s[end] && s[end] <= '9' {
		end++
	}
	return s[:end], s[end:], end > 0
}

// groupOf is the number of a group by its number or name, -1 when there is none.
// Group 0 is the whole path.
func groupOf(expression *regexp.Regexp, name string) int {
	if n, err := strconv.Atoi(name); err == nil {
		if n < 0 || n > expression.NumSubexp() {
			return -1
		}
		return n
	}
	return expression.SubexpIndex(name)
}
