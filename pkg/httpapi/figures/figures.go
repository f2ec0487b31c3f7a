// Package figures reads questions about figures over time: from when to when, told
// apart by what, only of whom, how many. The questions about usage and those of
// analytics are such. What is known, and how it is added up, is not its business.
package figures

import (
	"context"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/keywarden/keywarden/pkg/access"
	"github.com/keywarden/keywarden/pkg/httpapi"
	"github.com/keywarden/keywarden/pkg/problem"
	"github.com/keywarden/keywarden/pkg/usage"
)

const (
	// DefaultSpan is how long before its end a question begins that does not say when.
	DefaultSpan = 24 * time.Hour

	defaultTop = 20
	maxFilter  = 512 // bytes
	maxNotes   = 20  // wrong parameters that are told
)

// Gate bounds how many questions are worked on at the same time, since one may keep the
// database busy for seconds. Others wait. It is safe for concurrent use.
type Gate chan struct{}

// NewGate makes a gate that lets most through at a time.
func NewGate(most int) Gate { return make(Gate, most) }

// Read asks q of read when it is its turn, or returns the error of ctx.
func Read[Q, R any](ctx context.Context, g Gate, read func(context.Context, Q) (R, error), q Q) (R, error) {
	select {
	case g <- struct{}{}:
		defer func() { <-g }()
		return read(ctx, q)
	case <-ctx.Done():
		var none R
		return none, ctx.Err()
	}
}

// Owns reports whether a key or an app is the user's, whatever became of it. kind is
// [KindKey] or [KindApp].
type Owns func(ctx context.Context, userID, kind, value string) (bool, error)

// What a question can name that is somebody's; they are dimensions too.
const (
	KindKey = "key"
	KindApp = "app"
)

// Owned returns refusal where a question that found nothing names a key or an app that
// is not the caller's. There is no difference between those of others and such that do
// not exist: neither answer may tell the caller that there is one.
func Owned[D ~string](ctx context.Context, owns Owns, caller *access.Principal, filter map[D]string, refusal error) error {
	for _, kind := range [...]string{KindKey, KindApp} {
		value := filter[D(kind)]
		if value == "" || value == usage.Folded || kind == KindKey && value == caller.KeyID {
			continue
		}
		if yes, err := owns(ctx, caller.UserID, kind, value); err != nil {
			return err
		} else if !yes {
			return refusal
		}
	}
	return nil
}

// Parser reads one query string, whose dimensions are D. It collects what is wrong, so
// that one answer names all of it.
type Parser[D ~string] struct {
	given      url.Values
	dimensions []D
	wrong      []problem.Field
}

// Parse begins with a query string of a call that knows these dimensions, and other
// parameters beside from, to, step, by and top.
func Parse[D ~string](raw string, dimensions []D, others ...string) (*Parser[D], error) {
	given, err := url.ParseQuery(raw)
	if err != nil {
		return nil, problem.ErrInvalid.WithDetail("The query string is malformed.").With(err)
	}
	p := &Parser[D]{given: given, dimensions: dimensions}
	p.known(append([]string{"from", "to", "step", "by", "top"}, others...))
	return p, nil
}

// Parameter is the name of the parameter that says of which value of a dimension things
// are counted: that of the dimension, but what is an id says so.
func Parameter[D ~string](d D) string {
	if d == "user" || d == "key" {
		return string(d) + "_id"
	}
	return string(d)
}

// Err names every wrong parameter, or is nil.
func (p *Parser[D]) Err() error {
	if len(p.wrong) == 0 {
		return nil
	}
	return problem.ErrInvalid.WithFields(p.wrong)
}

// Refuse notes that a parameter is wrong; detail goes on after its name.
func (p *Parser[D]) Refuse(field, detail string) {
	if len(p.wrong) < maxNotes {
		p.wrong = append(p.wrong, problem.Field{Field: field, Detail: detail})
	}
}

// known refuses what this call does not know, and what is given twice.
func (p *Parser[D]) known(known []string) {
	for _, d := range p.dimensions {
		known = append(known, Parameter(d))
	}
	var strange []string
	for name, values := range p.given {
		switch {
		case !slices.Contains(known, name):
			strange = append(strange, name)
		case len(values) > 1:
			p.Refuse(name, "is given twice")
		}
	}
	slices.Sort(strange)
	for _, name := range strange {
		const longest = 64
		p.Refuse(strings.ToValidUTF8(name[:min(len(name), longest)], ""), "is not a parameter of this call; it knows "+strings.Join(known, ", "))
	}
}

// Choice is what a parameter says if it is one of these words, and otherwise if it is not
// given.
func Choice[D, T ~string](p *Parser[D], name string, otherwise T, words ...T) T {
	if !p.given.Has(name) {
		return otherwise
	}
	if word := T(p.given.Get(name)); slices.Contains(words, word) {
		return word
	}
	said := names(words)
	last := len(said) - 1
	p.Refuse(name, "must be "+strings.Join(said[:last], ", ")+" or "+said[last])
	return otherwise
}

func names[T ~string](words []T) []string {
	said := make([]string, 0, len(words))
	for _, w := range words {
		if w != "" {
			said = append(said, string(w))
		}
	}
	return said
}

// By is what groups are told apart by.
func (p *Parser[D]) By() (by []D) {
	text := p.given.Get("by")
	if text == "" {
		return nil
	}
	for i, name := range strings.SplitN(text, ",", len(p.dimensions)+1) {
		d := D(name)
		switch {
		case i == len(p.dimensions) || !slices.Contains(p.dimensions, d):
			p.Refuse("by", "must be a comma-separated list of "+strings.Join(names(p.dimensions), ", "))
			return nil
		case slices.Contains(by, d):
			p.Refuse("by", "names "+name+" twice")
			return nil
		}
		by = append(by, d)
	}
	return by
}

// Top is how many groups are shown, at most most.
func (p *Parser[D]) Top(most int) int {
	if !p.given.Has("top") {
		return defaultTop
	}
	n, err := strconv.Atoi(p.given.Get("top"))
	if err != nil || n < 1 || n > most {
		p.Refuse("top", "must be a whole number from 1 to "+strconv.Itoa(most))
		return defaultTop
	}
	return n
}

// Filter is what alone is counted, by dimension.
func (p *Parser[D]) Filter() map[D]string {
	filter := map[D]string{}
	for _, d := range p.dimensions {
		name := Parameter(d)
		if !p.given.Has(name) {
			continue
		}
		value := p.given.Get(name)
		if len(value) > maxFilter || !utf8.ValidString(value) || strings.ContainsRune(value, 0) {
			p.Refuse(name, "is not a name that anything has")
			continue
		}
		filter[d] = value
	}
	return filter
}

// Time is what a parameter says, in UTC.
func (p *Parser[D]) Time(name string, otherwise time.Time) time.Time {
	if !p.given.Has(name) {
		return otherwise.UTC()
	}
	t, err := httpapi.ParseTime(name, p.given.Get(name))
	if err != nil {
		p.Refuse(name, "must be a time such as 2030-01-31T12:00:00Z")
		return otherwise.UTC()
	}
	return t.UTC()
}

// Bound refuses series that would be too long an answer: points intervals for each of
// top groups, or for the total alone.
func (p *Parser[D]) Bound(points, groups, maxPoints, maxValues int) {
	switch {
	case points > maxPoints:
		p.Refuse("step", "must be longer: a series has at most "+strconv.Itoa(maxPoints)+" intervals")
	case points*groups > maxValues:
		p.Refuse("top", "must be less: top times the intervals of a series is at most "+strconv.Itoa(maxValues))
	}
}
