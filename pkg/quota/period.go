package quota

import (
	"errors"
	"fmt"
	"strings"
	"time"
)

// Unit is how long a period is.
type Unit uint8

// The units.
const (
	Minute Unit = iota
	Hour
	Day
	Week // from Monday (ISO 8601)
	Month
)

var unitNames = [...]string{Minute: "minute", Hour: "hour", Day: "day", Week: "week", Month: "month"}

// String is the name of the unit in the gateway document.
func (u Unit) String() string { return unitNames[u] }

// ParseUnit reads the name of a unit.
func ParseUnit(name string) (Unit, error) {
	for u, known := range unitNames {
		if name == known {
			return Unit(u), nil
		}
	}
	return 0, fmt.Errorf("quota: %q is not one of %s", name, strings.Join(unitNames[:], ", "))
}

// Period says when what was used is forgotten. It is immutable.
type Period struct {
	Unit Unit

	// Zone is where days, weeks and months begin; nil is UTC.
	Zone *time.Location

	// Rolling lets the period begin with the first use after the one before has ended.
	Rolling bool
}

// Span is from Begins, included, to Ends, excluded.
type Span struct{ Begins, Ends time.Time }

// Holds reports whether t is in the span.
func (s Span) Holds(t time.Time) bool { return !t.Before(s.Begins) && t.Before(s.Ends) }

// String is the period as accounts have it in their identity, such as
// "month Europe/Berlin" or "rolling day UTC".
func (p Period) String() string {
	text := p.Unit.String() + " " + p.zone().String()
	if p.Rolling {
		return "rolling " + text
	}
	return text
}

// ParsePeriod reads what [Period.String] has written.
func ParsePeriod(text string) (p Period, err error) {
	text, p.Rolling = strings.CutPrefix(text, "rolling ")
	unit, zone, found := strings.Cut(text, " ")
	if !found || zone == "Local" || zone == "" {
		return p, errors.New("quota: a period has a unit and a time zone")
	}
	if p.Unit, err = ParseUnit(unit); err != nil {
		return p, err
	}
	p.Zone, err = time.LoadLocation(zone)
	return p, err
}

func (p Period) zone() *time.Location {
	if p.Zone == nil {
		return time.UTC
	}
	return p.Zone
}

// At is the period that holds t. A rolling one begins with t.
//
// Periods of the calendar follow one another without a gap and without an overlap,
// whatever the clocks of the zone do: a day is from the first moment of its date
// until that of a later one, and an hour during which the clocks change ends with
// the change.
func (p Period) At(t time.Time) Span {
	switch {
	case p.Rolling:
		return Span{Begins: t, Ends: p.after(t)}
	case p.Unit == Minute:
		return aligned(t.In(p.zone()), time.Minute)
	case p.Unit == Hour:
		return aligned(t.In(p.zone()), time.Hour)
	}
	day := p.first(date(t.In(p.zone())))
	begins := opening(day, p.zone())
	for begins.After(t) {
		day = p.first(day.AddDate(0, 0, -1))
		begins = opening(day, p.zone())
	}
	for {
		day = p.next(day)
		// Where the clocks are set back over midnight, a date can begin and be left
		// again, and where the zone crosses the date line, one does not exist.
		ends := opening(day, p.zone())
		if ends.After(t) && ends.After(begins) {
			return Span{Begins: begins, Ends: ends}
		}
		begins = ends
	}
}

// Window is how long a period is; 0 for months, which differ.
func (p Period) Window() time.Duration {
	switch p.Unit {
	case Minute:
		return time.Minute
	case Hour:
		return time.Hour
	case Day:
		return 24 * time.Hour
	case Week:
		return 7 * 24 * time.Hour
	case Month:
	}
	return 0
}

// after is the end of a rolling period that begins at t: for a month the same time
// of the day in the next one, or of its last day.
func (p Period) after(t time.Time) time.Time {
	if p.Unit != Month {
		return t.Add(p.Window())
	}
	local := t.In(p.zone())
	year, month, day := local.Date()
	last := time.Date(year, month+2, 0, 0, 0, 0, 0, time.UTC).Day()
	hour, minute, second := local.Clock()
	ends := time.Date(year, month+1, min(day, last), hour, minute, second, local.Nanosecond(), p.zone())
	return ends.In(t.Location())
}

// aligned is the minute or hour of the local clock that holds t.
func aligned(t time.Time, unit time.Duration) Span {
	_, offset := t.Zone()
	local := t.Unix() + int64(offset)
	seconds := int64(unit / time.Second)
	past := local % seconds
	if past < 0 {
		past += seconds
	}
	s := Span{Begins: time.Unix(t.Unix()-past, 0).In(t.Location())}
	s.Ends = s.Begins.Add(unit)
	if offsetAt(s.Begins) != offset {
		s.Begins = changeBetween(s.Begins, t)
	}
	if offsetAt(s.Ends.Add(-time.Second)) != offset {
		s.Ends = changeBetween(t, s.Ends)
	}
	return s
}

// offsetAt is how many seconds the clocks of t's zone are ahead of UTC.
func offsetAt(t time.Time) int {
	_, offset := t.Zone()
	return offset
}

// changeBetween is the second at which the clocks change between two moments, of
// which the offsets differ. [time.Time.ZoneBounds] would say so, too, but for some
// moments of years to come it names an end that lies before them (Go 1.26).
func changeBetween(from, to time.Time) time.Time {
	before := offsetAt(from)
	first, last := from.Unix(), to.Unix() // the offset is before's at first, and another one at last or just after
	if offsetAt(to) == before {
		return to
	}
	for last-first > 1 {
		middle := first + (last-first)/2
		if offsetAt(time.Unix(middle, 0).In(from.Location())) == before {
			first = middle
		} else {
			last = middle
		}
	}
	return time.Unix(last, 0).In(from.Location())
}

// date is midnight of t's date as if the zone were UTC: a date without a zone.
func date(t time.Time) time.Time {
	year, month, day := t.Date()
	return time.Date(year, month, day, 0, 0, 0, 0, time.UTC)
}

// first is the date with which the period of a date begins.
func (p Period) first(day time.Time) time.Time {
	switch p.Unit {
	case Week:
		return day.AddDate(0, 0, -(int(day.Weekday())+6)%7)
	case Month:
		return day.AddDate(0, 0, 1-day.Day())
	case Minute, Hour, Day:
	}
	return day
}

// next is the date with which the period after the one of day begins.
func (p Period) next(day time.Time) time.Time {
	switch p.Unit {
	case Week:
		return day.AddDate(0, 0, 7)
	case Month:
		return day.AddDate(0, 1, 0)
	case Minute, Hour, Day:
	}
	return day.AddDate(0, 0, 1)
}

// farthest is more than any zone was ever away from UTC.
const farthest = 17 * time.Hour

// opening is the first moment at which the clocks of a zone show the date or a
// later one. [time.Date] alone does not say: it may be at 00:00, at 01:00 where
// there is no midnight, or at the first of two midnights.
func opening(day time.Time, zone *time.Location) time.Time {
	from, to := day.Add(-farthest).In(zone), day.Add(farthest).In(zone)
	earlier := day.Add(-time.Duration(offsetAt(from)) * time.Second).In(zone)
	if offsetAt(from) == offsetAt(to) {
		return earlier
	}
	change := changeBetween(from, to)
	later := day.Add(-time.Duration(offsetAt(to)) * time.Second).In(zone)
	switch {
	case earlier.Before(change):
		return earlier
	case later.After(change):
		return later
	}
	return change
}
