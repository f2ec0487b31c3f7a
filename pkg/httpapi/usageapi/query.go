package usageapi

import (
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/keywarden/keywarden/pkg/httpapi"
	"github.com/keywarden/keywarden/pkg/problem"
	"github.com/keywarden/keywarden/pkg/usage"
)

const (
	defaultTop  = 20
	defaultSpan = 24 * time.Hour // an hour for a series of minutes
	maxSpan     = 400 * 24 * time.Hour

	maxFilter = 512 // bytes
	maxNotes  = 20  // wrong parameters that are told
)

// filterNames are the parameters that say what is counted, by dimension.
func filterNames() map[usage.Dimension]string {
	return map[usage.Dimension]string{
		usage.ByRoute: "route", usage.ByUser: "user_id", usage.ByKey: "key_id", usage.ByApp: "app", usage.ByStatus: "status",
	}
}

// parse reads the query string of a call that knows these dimensions; the error
// names every wrong parameter.
func parse(raw string, now time.Time, dimensions ...usage.Dimension) (usage.Query, error) {
	given, err := url.ParseQuery(raw)
	if err != nil {
		return usage.Query{}, problem.ErrInvalid.WithDetail("The query string is malformed.").With(err)
	}
	p := parser{given: given, dimensions: dimensions}
	p.known()
	q := usage.Query{Step: p.step(), By: p.by(), Filter: p.filter(), Top: p.top()}
	q.From, q.To = p.span(now, q.Step)
	if q.Step == usage.Minute && q.From.Before(now.Add(-usage.MinutesKept)) {
		p.refuse("from", "must be within the last 12 hours for a series of minutes; what is older is known by the hour")
	}
	if len(p.wrong) == 0 {
		p.bounds(q)
	}
	if len(p.wrong) > 0 {
		return q, problem.ErrInvalid.WithFields(p.wrong)
	}
	return q, nil
}

type parser struct {
	given      url.Values
	dimensions []usage.Dimension
	wrong      []problem.Field
}

func (p *parser) refuse(field, detail string) {
	if len(p.wrong) < maxNotes {
		p.wrong = append(p.wrong, problem.Field{Field: field, Detail: detail})
	}
}

// known refuses what this call does not know, and what is given twice.
func (p *parser) known() {
	known := []string{"from", "to", "step", "by", "top"}
	names := filterNames()
	for _, d := range p.dimensions {
		known = append(known, names[d])
	}
	var strange []string
	for name, values := range p.given {
		switch {
		case !slices.Contains(known, name):
			strange = append(strange, name)
		case len(values) > 1:
			p.refuse(name, "is given twice")
		}
	}
	slices.Sort(strange)
	for _, name := range strange {
		const longest = 64
		p.refuse(strings.ToValidUTF8(name[:min(len(name), longest)], ""), "is not a parameter of this call; it knows "+strings.Join(known, ", "))
	}
}

func (p *parser) step() usage.Step {
	switch step := usage.Step(p.given.Get("step")); step {
	case usage.Whole, usage.Minute, usage.Hour, usage.Day:
		return step
	}
	p.refuse("step", "must be minute, hour or day")
	return usage.Whole
}

func (p *parser) by() (by []usage.Dimension) {
	text := p.given.Get("by")
	if text == "" {
		return nil
	}
	for i, name := range strings.SplitN(text, ",", len(p.dimensions)+1) {
		d := usage.Dimension(name)
		switch {
		case i == len(p.dimensions) || !slices.Contains(p.dimensions, d):
			names := make([]string, len(p.dimensions))
			for i, d := range p.dimensions {
				names[i] = string(d)
			}
			p.refuse("by", "must be a comma-separated list of "+strings.Join(names, ", "))
			return nil
		case slices.Contains(by, d):
			p.refuse("by", "names "+name+" twice")
			return nil
		}
		by = append(by, d)
	}
	return by
}

func (p *parser) top() int {
	if !p.given.Has("top") {
		return defaultTop
	}
	n, err := strconv.Atoi(p.given.Get("top"))
	if err != nil || n < 1 || n > usage.MaxTop {
		p.refuse("top", "must be a whole number from 1 to "+strconv.Itoa(usage.MaxTop))
		return defaultTop
	}
	return n
}

func (p *parser) filter() map[usage.Dimension]string {
	filter, names := map[usage.Dimension]string{}, filterNames()
	for _, d := range p.dimensions {
		name := names[d]
		if !p.given.Has(name) {
			continue
		}
		value := p.given.Get(name)
		if d == usage.ByStatus {
			class, ok := classOf(value)
			if !ok {
				p.refuse(name, "must be 1xx, 2xx, 3xx, 4xx, 5xx or none")
			}
			value = class
		}
		if len(value) > maxFilter || !utf8.ValidString(value) || strings.ContainsRune(value, 0) {
			p.refuse(name, "is not a name that anything has")
			continue
		}
		filter[d] = value
	}
	return filter
}

// classOf reads the name of a class of status.
func classOf(name string) (class string, ok bool) {
	if name == noStatus {
		return "0", true
	}
	if len(name) == 3 && name[0] >= '1' && name[0] <= '5' && name[1:] == "xx" {
		return name[:1], true
	}
	return "", false
}

// noStatus is the class of requests that got no answer.
const noStatus = "none"

// className is the name of a class of status.
func className(class string) string {
	if class == "0" {
		return noStatus
	}
	return class + "xx"
}

// span is the time that is asked for, rounded outwards to the step, and to the hour
// where minutes are not known any more.
func (p *parser) span(now time.Time, step usage.Step) (from, to time.Time) {
	to = p.time("to", now)
	span := defaultSpan
	if step == usage.Minute {
		span = time.Hour
	}
	from = p.time("from", to.Add(-span))
	resolution := func(t time.Time) time.Duration {
		if step == usage.Whole && t.Before(now.Add(-usage.MinutesKept)) {
			return time.Hour
		}
		return step.Duration()
	}
	end := to.UTC().Truncate(resolution(to))
	if end.Before(to) {
		end = end.Add(resolution(to))
	}
	return from.UTC().Truncate(resolution(from)), end
}

func (p *parser) time(name string, otherwise time.Time) time.Time {
	if !p.given.Has(name) {
		return otherwise
	}
	t, err := httpapi.ParseTime(name, p.given.Get(name))
	if err != nil {
		p.refuse(name, "must be a time such as 2030-01-31T12:00:00Z")
		return otherwise
	}
	return t
}

// bounds refuses what would be too long an answer.
func (p *parser) bounds(q usage.Query) {
	groups := 1
	if len(q.By) > 0 {
		groups = q.Top
	}
	switch {
	case !q.From.Before(q.To):
		p.refuse("from", "must be before to")
	case q.To.Sub(q.From) > maxSpan:
		p.refuse("from", "must be at most 400 days before to")
	case q.Points() > usage.MaxPoints:
		p.refuse("step", "must be longer: a series has at most "+strconv.Itoa(usage.MaxPoints)+" intervals")
	case q.Points()*groups > usage.MaxValues:
		p.refuse("top", "must be less: top times the intervals of a series is at most "+strconv.Itoa(usage.MaxValues))
	}
}
