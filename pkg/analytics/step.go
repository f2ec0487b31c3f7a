package analytics

import "time"

// Step is the length of the intervals of a series, and of the sums that are kept.
// Hours, days and months are those of UTC.
type Step string

// The steps, shortest first.
const (
	Whole Step = "" // one interval, from the beginning to the end; of no sum
	Hour  Step = "hour"
	Day   Step = "day"
	Month Step = "month"
)

// Steps are those that sums are kept of, shortest first.
func Steps() []Step { return []Step{Hour, Day, Month} }

// Floor is the beginning of the interval that t is in; of [Whole], t itself.
func (s Step) Floor(t time.Time) time.Time {
	t = t.UTC()
	switch s {
	case Hour:
		return t.Truncate(time.Hour)
	case Day:
		return time.Date(t.Year(), t.Month(), t.Day(), 0, 0, 0, 0, time.UTC)
	case Month:
		return time.Date(t.Year(), t.Month(), 1, 0, 0, 0, 0, time.UTC)
	default:
		return t
	}
}

// Ceil is the first beginning at t or after it.
func (s Step) Ceil(t time.Time) time.Time {
	floor := s.Floor(t)
	if floor.Equal(t) {
		return floor
	}
	return s.Next(floor)
}

// Next is the beginning after at, which is one.
func (s Step) Next(at time.Time) time.Time {
	switch s {
	case Hour:
		return at.Add(time.Hour)
	case Day:
		return at.AddDate(0, 0, 1)
	case Month:
		return at.AddDate(0, 1, 0)
	default:
		return at
	}
}

// Until says until when there are sums of each step; zero for none at all. What
// came later is known by the minute only.
type Until struct{ Hours, Days, Months time.Time }

// Of is the time for a step.
func (u Until) Of(s Step) time.Time {
	switch s {
	case Hour:
		return u.Hours
	case Day:
		return u.Days
	case Month:
		return u.Months
	default:
		return time.Time{}
	}
}

// Pieces are what a time is put together from, without a gap and without an overlap.
type Pieces struct {
	Sums map[Step][]time.Time // the beginnings of sums of each step, in order
	Rest time.Time            // from here on, until the end, minutes
}

// Pieces takes for every part of the time the longest sums that there are, none longer
// than the step of the series.
func (q Query) Pieces(until Until) Pieces {
	p := Pieces{Sums: map[Step][]time.Time{}, Rest: q.From}
	for p.Rest.Before(q.To) {
		step := q.longest(p.Rest, until)
		if step == Whole {
			return p
		}
		p.Sums[step] = append(p.Sums[step], p.Rest)
		p.Rest = step.Next(p.Rest)
	}
	return p
}

// longest is the step of the longest sum that begins at at and is in the time of q;
// Whole where there is none.
func (q Query) longest(at time.Time, until Until) (longest Step) {
	for _, s := range Steps() {
		end := s.Next(at)
		if s.Floor(at).Equal(at) && !end.After(q.To) && !end.After(until.Of(s)) {
			longest = s
		}
		if s == q.Step {
			break
		}
	}
	return longest
}

// Retention says for how long sums are kept at least; months are dropped as a whole.
type Retention struct{ Hours, Days, Months time.Duration }

// DefaultRetention keeps hours for five weeks, days for 400 and months for five years.
func DefaultRetention() Retention {
	const day = 24 * time.Hour
	return Retention{Hours: 35 * day, Days: 400 * day, Months: 5 * 366 * day}
}

// Finest is the shortest step that a time as old as t can be told by.
func (r Retention) Finest(t, now time.Time) Step {
	switch age := now.Sub(t); {
	case age <= r.Hours:
		return Hour
	case age <= r.Days:
		return Day
	}
	return Month
}
