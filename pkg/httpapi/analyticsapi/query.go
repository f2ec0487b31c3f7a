package analyticsapi

import (
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/gin-gonic/gin"

	"github.com/keywarden/keywarden/pkg/analytics"
	"github.com/keywarden/keywarden/pkg/httpapi"
	"github.com/keywarden/keywarden/pkg/problem"
)

const (
	defaultTop  = 20
	defaultSpan = 24 * time.Hour
	maxFilter   = 512 // bytes
	maxNotes    = 20  // wrong parameters that are told
)

// question is what a request asks for.
type question struct {
	analytics.Query
	csv bool
}

// parameter is the one that says what is counted, by dimension.
func parameter(d analytics.Dimension) string {
	switch d {
	case analytics.ByUser:
		return "user_id"
	case analytics.ByKey:
		return "key_id"
	case analytics.ByAPI, analytics.ByProduct, analytics.ByApp, analytics.ByRoute, analytics.ByRefusal, analytics.ByClient:
	}
	return string(d)
}

// parser reads query strings.
type parser struct {
	now  time.Time
	keep analytics.Retention

	given      url.Values
	dimensions []analytics.Dimension
	wrong      []problem.Field
}

// query reads that of a call which knows these dimensions; the error names every wrong
// parameter.
func (p parser) query(c *gin.Context, dimensions ...analytics.Dimension) (q question, err error) {
	q.Query, err = p.parse(c.Request.URL.RawQuery, dimensions)
	if err != nil {
		return q, err
	}
	switch c.Query("format") {
	case "csv":
		q.csv = true
	case "":
		q.csv = c.NegotiateFormat(gin.MIMEJSON, mimeCSV) == mimeCSV
	}
	return q, nil
}

func (p parser) parse(raw string, dimensions []analytics.Dimension) (q analytics.Query, err error) {
	if p.given, err = url.ParseQuery(raw); err != nil {
		return q, problem.ErrInvalid.WithDetail("The query string is malformed.").With(err)
	}
	p.dimensions = dimensions
	p.known()
	if format := p.given.Get("format"); p.given.Has("format") && format != "json" && format != "csv" {
		p.refuse("format", "must be json or csv")
	}
	q = analytics.Query{Step: p.step(), By: p.by(), Filter: p.filter(), Top: p.top(), Sort: p.sort()}
	q.From, q.To = p.span(q.Step)
	if len(p.wrong) == 0 {
		p.bounds(q)
	}
	if len(p.wrong) > 0 {
		return q, problem.ErrInvalid.WithFields(p.wrong)
	}
	return q, nil
}

func (p *parser) refuse(field, detail string) {
	if len(p.wrong) < maxNotes {
		p.wrong = append(p.wrong, problem.Field{Field: field, Detail: detail})
	}
}

// known refuses what this call does not know, and what is given twice.
func (p *parser) known() {
	known := []string{"from", "to", "step", "by", "top", "sort", "format"}
	for _, d := range p.dimensions {
		known = append(known, parameter(d))
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

func (p *parser) step() analytics.Step {
	step := analytics.Step(p.given.Get("step"))
	if step != analytics.Whole && !slices.Contains(analytics.Steps(), step) {
		p.refuse("step", "must be hour, day or month")
		return analytics.Whole
	}
	return step
}

func (p *parser) by() (by []analytics.Dimension) {
	text := p.given.Get("by")
	if text == "" {
		return nil
	}
	for i, name := range strings.SplitN(text, ",", len(p.dimensions)+1) {
		d := analytics.Dimension(name)
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
	if err != nil || n < 1 || n > analytics.MaxTop {
		p.refuse("top", "must be a whole number from 1 to "+strconv.Itoa(analytics.MaxTop))
		return defaultTop
	}
	return n
}

func (p *parser) sort() analytics.Measure {
	if !p.given.Has("sort") {
		return analytics.Requests
	}
	m := analytics.Measure(p.given.Get("sort"))
	if !slices.Contains(analytics.Measures(), m) {
		p.refuse("sort", "must be requests, errors or bytes")
	}
	return m
}

func (p *parser) filter() map[analytics.Dimension]string {
	filter := map[analytics.Dimension]string{}
	for _, d := range p.dimensions {
		name := parameter(d)
		if !p.given.Has(name) {
			continue
		}
		value := p.given.Get(name)
		if len(value) > maxFilter || !utf8.ValidString(value) || strings.ContainsRune(value, 0) {
			p.refuse(name, "is not a name that anything has")
			continue
		}
		filter[d] = value
	}
	return filter
}

// span is the time that is asked for, rounded outwards to the step, and to what is known
// of times so long ago.
func (p *parser) span(step analytics.Step) (from, to time.Time) {
	to = p.time("to", p.now)
	from = p.time("from", to.Add(-defaultSpan))
	floor := func(t time.Time) analytics.Step {
		if step != analytics.Whole {
			return step
		}
		return p.keep.Finest(t, p.now)
	}
	from = floor(from).Floor(from)
	return from, floor(from).Ceil(to)
}

func (p *parser) time(name string, otherwise time.Time) time.Time {
	if !p.given.Has(name) {
		return otherwise.UTC()
	}
	t, err := httpapi.ParseTime(name, p.given.Get(name))
	if err != nil {
		p.refuse(name, "must be a time such as 2030-01-31T12:00:00Z")
		return otherwise.UTC()
	}
	return t.UTC()
}

// bounds refuses what would be too long an answer, and intervals that are not known
// any more.
func (p *parser) bounds(q analytics.Query) {
	groups := 1
	if len(q.By) > 0 {
		groups = q.Top
	}
	finest := p.keep.Finest(q.Step.Next(q.From), p.now)
	order := analytics.Steps()
	switch points := q.Points(); {
	case !q.From.Before(q.To):
		p.refuse("from", "must be before to")
	case q.To.Sub(q.From) > maxSpan(p.keep):
		p.refuse("from", "must be within the time for which months are kept")
	case q.Step != analytics.Whole && slices.Index(order, q.Step) < slices.Index(order, finest):
		p.refuse("step", "must be "+string(finest)+" or longer: of times so long ago nothing else is kept")
	case points > analytics.MaxPoints:
		p.refuse("step", "must be longer: a series has at most "+strconv.Itoa(analytics.MaxPoints)+" intervals")
	case points*groups > analytics.MaxValues:
		p.refuse("top", "must be less: top times the intervals of a series is at most "+strconv.Itoa(analytics.MaxValues))
	}
}

// maxSpan is a bit longer than anything is kept for, since months are dropped as a whole.
func maxSpan(keep analytics.Retention) time.Duration { return keep.Months + 32*24*time.Hour }
