package translate

import (
	"fmt"
	"regexp/syntax"
)

// Bounds of one object: whoever may write objects in one namespace must not take the
// memory and the time of all.
const (
	// maxPlaces bounds the matches of an object times the hosts that they are at.
	maxPlaces = 4096
	// maxExpressions bounds the size of its regular expressions together, counted with
	// their repetitions written out: so much is kept of each, and is gone through for
	// each character of a request. A text of ten bytes can stand for thousands.
	maxExpressions = 4000
)

// bounded refuses what is too large, before anything is made of it.
func bounded(drafts []draft) error {
	places := 0
	for _, d := range drafts {
		if places += max(1, len(d.hosts)); places > maxPlaces {
			return fmt.Errorf("there are more than %d paths at all hosts together: make several objects of it", maxPlaces)
		}
	}
	return boundedExpressions(drafts)
}

func boundedExpressions(drafts []draft) error {
	size := 0
	add := func(text any) error {
		expression, _ := text.(string)
		if expression == "" {
			return nil
		}
		if len(expression) > maxExpressions {
			return errExpressions()
		}
		parsed, err := syntax.Parse(expression, syntax.Perl)
		if err != nil {
			return nil //nolint:nilerr // package spec says better what is wrong with it
		}
		if size += written(parsed); size > maxExpressions {
			return errExpressions()
		}
		return nil
	}
	for _, d := range drafts {
		match, _ := d.route["match"].(fields)
		path, _ := match["path"].(fields)
		if err := add(path["regex"]); err != nil {
			return err
		}
		for _, name := range []string{"headers", "query"} {
			list, _ := match[name].([]fields)
			for _, one := range list {
				if err := add(one["regex"]); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

func errExpressions() error {
	return fmt.Errorf("the regular expressions are too large together, with {n} written out: more than %d characters and classes", maxExpressions)
}

// written is the size of an expression with its repetitions written out. The parser
// refuses those whose product is above 1000, and more depth than 1000.
func written(e *syntax.Regexp) int {
	const rangesOfOne = 8 // ranges of a class are looked up by halves
	size := 1
	switch e.Op {
	case syntax.OpLiteral:
		size = len(e.Rune)
	case syntax.OpCharClass:
		size += len(e.Rune) / rangesOfOne
	default:
	}
	for _, sub := range e.Sub {
		size += written(sub)
	}
	if e.Op == syntax.OpRepeat {
		size *= max(1, e.Min, e.Max)
	}
	return size
}
