package analyticsapi

import (
	"slices"
	"time"

	"github.com/gin-gonic/gin"

	"github.com/keywarden/keywarden/pkg/analytics"
	"github.com/keywarden/keywarden/pkg/httpapi/figures"
)

// question is what a request asks for.
type question struct {
	analytics.Query
	form form
}

// parser reads query strings.
type parser struct {
	now  time.Time
	keep analytics.Retention
	*figures.Parser[analytics.Dimension]
}

// query reads that of a call which knows these dimensions; the error names every wrong
// parameter.
func (p parser) query(c *gin.Context, dimensions ...analytics.Dimension) (q question, err error) {
	q, err = p.parse(c.Request.URL.RawQuery, dimensions)
	if q.form == "" && c.NegotiateFormat(gin.MIMEJSON, mimeCSV) == mimeCSV {
		q.form = formCSV
	}
	return q, err
}

// form is what an answer is written as; empty is what the client accepts.
type form string

const (
	formJSON form = "json"
	formCSV  form = "csv"
)

func (p parser) parse(raw string, dimensions []analytics.Dimension) (q question, err error) {
	if p.Parser, err = figures.Parse(raw, dimensions, "sort", "format"); err != nil {
		return q, err
	}
	q.form = figures.Choice(p.Parser, "format", "", formJSON, formCSV)
	q.Query = analytics.Query{
		Step: figures.Choice(p.Parser, "step", analytics.Whole, append(analytics.Steps(), analytics.Whole)...),
		By:   p.By(), Filter: p.Filter(), Top: p.Top(analytics.MaxTop),
		Sort: figures.Choice(p.Parser, "sort", analytics.Requests, analytics.Measures()...),
	}
	q.From, q.To = p.span(q.Step)
	if p.Err() == nil {
		p.bounds(q.Query)
	}
	return q, p.Err()
}

// span is the time that is asked for, rounded outwards to the step, and to what is known
// of times so long ago.
func (p parser) span(step analytics.Step) (from, to time.Time) {
	to = p.Time("to", p.now)
	from = p.Time("from", to.Add(-figures.DefaultSpan))
	floor := func(t time.Time) analytics.Step {
		if step != analytics.Whole {
			return step
		}
		return p.keep.Finest(t, p.now)
	}
	from = floor(from).Floor(from)
	return from, floor(from).Ceil(to)
}

// bounds refuses what would be too long an answer, and intervals that are not known
// any more.
func (p parser) bounds(q analytics.Query) {
	groups := 1
	if len(q.By) > 0 {
		groups = q.Top
	}
	finest := p.keep.Finest(q.Step.Next(q.From), p.now)
	order := analytics.Steps()
	switch {
	case !q.From.Before(q.To):
		p.Refuse("from", "must be before to")
	case q.To.Sub(q.From) > maxSpan(p.keep):
		p.Refuse("from", "must be within the time for which months are kept")
	case q.Step != analytics.Whole && slices.Index(order, q.Step) < slices.Index(order, finest):
		p.Refuse("step", "must be "+string(finest)+" or longer: of times so long ago nothing else is kept")
	default:
		p.Bound(q.Points(), groups, analytics.MaxPoints, analytics.MaxValues)
	}
}

// maxSpan is a bit longer than anything is kept for, since months are dropped as a whole.
func maxSpan(keep analytics.Retention) time.Duration { return keep.Months + 32*24*time.Hour }
