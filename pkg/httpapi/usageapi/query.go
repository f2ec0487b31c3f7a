package usageapi

import (
	"time"

	"github.com/keywarden/keywarden/pkg/httpapi/figures"
	"github.com/keywarden/keywarden/pkg/usage"
)

const maxSpan = 400 * 24 * time.Hour

// parse reads the query string of a call that knows these dimensions; the error
// names every wrong parameter.
func parse(raw string, now time.Time, dimensions ...usage.Dimension) (usage.Query, error) {
	p, err := figures.Parse(raw, dimensions)
	if err != nil {
		return usage.Query{}, err
	}
	q := usage.Query{
		Step: figures.Choice(p, "step", usage.Whole, usage.Whole, usage.Minute, usage.Hour, usage.Day),
		By:   p.By(), Filter: p.Filter(), Top: p.Top(usage.MaxTop),
	}
	if name, given := q.Filter[usage.ByStatus]; given {
		class, ok := classOf(name)
		if !ok {
			p.Refuse(figures.Parameter(usage.ByStatus), "must be 1xx, 2xx, 3xx, 4xx, 5xx or none")
		}
		q.Filter[usage.ByStatus] = class
	}
	q.From, q.To = span(p, now, q.Step)
	if q.Step == usage.Minute && q.From.Before(now.Add(-usage.MinutesKept)) {
		p.Refuse("from", "must be within the last 12 hours for a series of minutes; what is older is known by the hour")
	}
	if p.Err() == nil {
		bounds(p, q)
	}
	return q, p.Err()
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
func span(p *figures.Parser[usage.Dimension], now time.Time, step usage.Step) (from, to time.Time) {
	to = p.Time("to", now)
	span := figures.DefaultSpan
	if step == usage.Minute {
		span = time.Hour
	}
	from = p.Time("from", to.Add(-span))
	resolution := func(t time.Time) time.Duration {
		if step == usage.Whole && t.Before(now.Add(-usage.MinutesKept)) {
			return time.Hour
		}
		return step.Duration()
	}
	end := to.Truncate(resolution(to))
	if end.Before(to) {
		end = end.Add(resolution(to))
	}
	return from.Truncate(resolution(from)), end
}

// bounds refuses what would be too long an answer.
func bounds(p *figures.Parser[usage.Dimension], q usage.Query) {
	groups := 1
	if len(q.By) > 0 {
		groups = q.Top
	}
	switch {
	case !q.From.Before(q.To):
		p.Refuse("from", "must be before to")
	case q.To.Sub(q.From) > maxSpan:
		p.Refuse("from", "must be at most 400 days before to")
	default:
		p.Bound(q.Points(), groups, usage.MaxPoints, usage.MaxValues)
	}
}
