package quota_test

import (
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/keywarden/keywarden/pkg/quota"
)

// zones are those in which clocks do what people do not expect of them.
var zones = []string{
	"UTC", "Europe/Berlin", "America/New_York",
	"America/Sao_Paulo",   // no midnight on the day the clocks went forward
	"America/Havana",      // two midnights
	"America/St_Johns",    // set back at 00:01, into the day before
	"Australia/Lord_Howe", // by half an hour
	"Asia/Kathmandu",      // 5:45 ahead
	"Pacific/Apia",        // a day was left out
	"Pacific/Kwajalein",   // another one
	"Asia/Manila",         // a day that was left out in 1844
	"Africa/Monrovia",     // -0:44:30 until 1972
}

func zone(t interface{ Fatal(args ...any) }, name string) *time.Location {
	l, err := time.LoadLocation(name)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func anyPeriod(t *rapid.T) quota.Period {
	l, err := time.LoadLocation(rapid.SampledFrom(zones).Draw(t, "zone"))
	if err != nil {
		t.Fatal(err)
	}
	return quota.Period{Unit: quota.Unit(rapid.IntRange(0, 4).Draw(t, "unit")), Zone: l}
}

// anyTime is from 1840 to 2100, and often near a change of the clocks.
func anyTime(t *rapid.T, l *time.Location) time.Time {
	from, to := time.Date(1840, 1, 1, 0, 0, 0, 0, time.UTC).Unix(), time.Date(2100, 1, 1, 0, 0, 0, 0, time.UTC).Unix()
	at := time.Unix(rapid.Int64Range(from, to).Draw(t, "at"), rapid.Int64Range(0, 999_999_999).Draw(t, "nanoseconds"))
	if rapid.Bool().Draw(t, "near a change") {
		if _, ends := at.In(l).ZoneBounds(); !ends.IsZero() {
			at = ends.Add(time.Duration(rapid.Int64Range(int64(-30*time.Hour), int64(30*time.Hour)).Draw(t, "away")))
		}
	}
	return at
}

func TestPeriodsOfTheCalendarFollowOneAnother(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := anyPeriod(t)
		at := anyTime(t, p.Zone)
		s := p.At(at)
		if !s.Holds(at) {
			t.Fatalf("%s: %v is not in %v", p, at.In(p.Zone), s)
		}
		for _, inside := range []time.Time{s.Begins, s.Ends.Add(-1), s.Begins.Add(s.Ends.Sub(s.Begins) / 2)} {
			if same := p.At(inside); !same.Begins.Equal(s.Begins) || !same.Ends.Equal(s.Ends) {
				t.Fatalf("%s: %v is in %v, and %v in %v", p, at.In(p.Zone), s, inside.In(p.Zone), same)
			}
		}
		if next := p.At(s.Ends); !next.Begins.Equal(s.Ends) {
			t.Fatalf("%s: %v is followed by %v", p, s, next)
		}
	})
}

func TestPeriodsBeginWhereTheCalendarSays(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		// Elsewhere a day need not begin at midnight.
		p := quota.Period{Unit: quota.Unit(rapid.IntRange(int(quota.Day), int(quota.Month)).Draw(t, "unit")), Zone: zone(t, "Europe/Berlin")}
		at := time.Unix(rapid.Int64Range(0, 4_000_000_000).Draw(t, "at"), 0) // since 1970 Berlin always has one midnight
		b := p.At(at).Begins.In(p.Zone)
		hour, minute, second := b.Clock()
		if hour+minute+second != 0 || p.Unit == quota.Week && b.Weekday() != time.Monday || p.Unit == quota.Month && b.Day() != 1 {
			t.Fatalf("%s begins at %v", p, b)
		}
	})
}

func TestDaysOnWhichTheClocksChange(t *testing.T) {
	for _, c := range []struct {
		zone, at, begins, ends string
		unit                   quota.Unit
	}{
		{"Europe/Berlin", "2026-03-29T12:00:00Z", "2026-03-28T23:00:00Z", "2026-03-29T22:00:00Z", quota.Day}, // 23 hours
		{"Europe/Berlin", "2026-10-25T12:00:00Z", "2026-10-24T22:00:00Z", "2026-10-25T23:00:00Z", quota.Day}, // 25 hours
		{"Europe/Berlin", "2026-10-25T12:00:00Z", "2026-09-30T22:00:00Z", "2026-10-31T23:00:00Z", quota.Month},
		{"Europe/Berlin", "2026-10-25T00:30:00Z", "2026-10-25T00:00:00Z", "2026-10-25T01:00:00Z", quota.Hour}, // 02:30, the first time
		{"Europe/Berlin", "2026-10-25T01:30:00Z", "2026-10-25T01:00:00Z", "2026-10-25T02:00:00Z", quota.Hour}, // and the second
		{"America/Sao_Paulo", "2018-11-04T12:00:00Z", "2018-11-04T03:00:00Z", "2018-11-05T02:00:00Z", quota.Day},
		{"America/Havana", "2025-11-02T12:00:00Z", "2025-11-02T04:00:00Z", "2025-11-03T05:00:00Z", quota.Day},
		{"Pacific/Apia", "2011-12-30T09:00:00Z", "2011-12-29T10:00:00Z", "2011-12-30T10:00:00Z", quota.Day}, // the 29th
		{"Pacific/Apia", "2011-12-30T11:00:00Z", "2011-12-30T10:00:00Z", "2011-12-31T10:00:00Z", quota.Day}, // the 31st
		{"Asia/Kathmandu", "2026-01-01T00:20:00Z", "2026-01-01T00:15:00Z", "2026-01-01T01:15:00Z", quota.Hour},
		{"UTC", "2026-01-04T23:59:59Z", "2025-12-29T00:00:00Z", "2026-01-05T00:00:00Z", quota.Week},
		{"UTC", "2024-02-29T00:00:00Z", "2024-02-01T00:00:00Z", "2024-03-01T00:00:00Z", quota.Month},
		{"UTC", "2026-01-01T00:00:30Z", "2026-01-01T00:00:00Z", "2026-01-01T00:01:00Z", quota.Minute},
	} {
		p := quota.Period{Unit: c.unit, Zone: zone(t, c.zone)}
		s := p.At(clock(t, c.at))
		if !s.Begins.Equal(clock(t, c.begins)) || !s.Ends.Equal(clock(t, c.ends)) {
			t.Errorf("%s at %s is from %v to %v", p, c.at, s.Begins.UTC(), s.Ends.UTC())
		}
	}
}

func TestRollingPeriods(t *testing.T) {
	for _, c := range []struct {
		at, ends string
		unit     quota.Unit
	}{
		{"2026-01-31T10:20:30Z", "2026-02-28T10:20:30Z", quota.Month}, // there is no 31st
		{"2026-02-28T10:20:30Z", "2026-03-28T10:20:30Z", quota.Month},
		{"2026-12-15T00:00:00Z", "2027-01-15T00:00:00Z", quota.Month},
		{"2026-12-15T00:00:00Z", "2026-12-22T00:00:00Z", quota.Week},
		{"2026-03-28T12:00:00Z", "2026-03-29T12:00:00Z", quota.Day}, // 24 hours, whatever the clocks do
		{"2026-03-28T12:00:01Z", "2026-03-28T12:01:01Z", quota.Minute},
	} {
		p := quota.Period{Unit: c.unit, Zone: time.UTC, Rolling: true}
		if s := p.At(clock(t, c.at)); !s.Begins.Equal(clock(t, c.at)) || !s.Ends.Equal(clock(t, c.ends)) {
			t.Errorf("%s at %s is from %v to %v", p, c.at, s.Begins, s.Ends)
		}
	}
}

func TestPeriodsAreReadAsTheyWereWritten(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := anyPeriod(t)
		p.Rolling = rapid.Bool().Draw(t, "rolling")
		read, err := quota.ParsePeriod(p.String())
		if err != nil || read.String() != p.String() || read.Rolling != p.Rolling || read.Unit != p.Unit {
			t.Fatalf("%q is read as %q: %v", p, read, err)
		}
	})
	for _, text := range []string{"", "month", "month ", "rolling", "year UTC", "month Local", "month Nowhere/Else", "rolling rolling day UTC"} {
		if p, err := quota.ParsePeriod(text); err == nil {
			t.Errorf("%q is read as %q", text, p)
		}
	}
}

func clock(t testing.TB, text string) time.Time {
	t.Helper()
	at, err := time.Parse(time.RFC3339, text)
	if err != nil {
		t.Fatal(err)
	}
	return at
}
