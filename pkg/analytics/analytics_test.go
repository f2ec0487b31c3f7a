package analytics

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
	"pgregory.net/rapid"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func start() time.Time { return time.Date(2030, 1, 30, 0, 0, 0, 0, time.UTC) }

// However far sums are, a time is put together from pieces that cover it once, of which
// none is longer than the series allows, and none could be part of a longer one.
func TestPiecesCoverTheTimeOnce(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		hours := func(name string, most int) time.Duration {
			return time.Duration(rapid.IntRange(0, most).Draw(t, name)) * time.Hour
		}
		q := Query{Step: rapid.SampledFrom([]Step{Whole, Hour, Day, Month}).Draw(t, "step")}
		q.From = q.Step.Floor(start().Add(hours("from", 2000)))
		q.To = q.Step.Ceil(q.From.Add(time.Hour + hours("length", 3000)))
		until := Until{Hours: start().Add(hours("until", 6000))}
		until.Days = Day.Floor(until.Hours.Add(-hours("days behind", 50)))
		until.Months = Month.Floor(until.Days.Add(-hours("months behind", 2000)))

		p := q.Pieces(until)
		at := q.From
		next := map[Step][]time.Time{}
		for s, list := range p.Sums {
			next[s] = list
			if q.Step != Whole && s.Next(start()).After(q.Step.Next(q.Step.Floor(start())).Add(62*24*time.Hour)) {
				t.Fatalf("%s in a series of %s", s, q.Step)
			}
		}
		for at.Before(p.Rest) {
			var step Step
			for s, list := range next {
				if len(list) > 0 && list[0].Equal(at) {
					step = s
				}
			}
			if step == Whole || !step.Floor(at).Equal(at) || step.Next(at).After(until.Of(step)) || step.Next(at).After(q.To) {
				t.Fatalf("%q at %v, until %+v", step, at, until)
			}
			if step == Hour && Day.Floor(at).Equal(at) && q.Step != Hour && !Day.Next(at).After(until.Days) && !Day.Next(at).After(q.To) {
				t.Fatalf("hours of the day %v", at)
			}
			if q.Step == Hour && step != Hour || q.Step == Day && step == Month {
				t.Fatalf("a %s in a series by %s", step, q.Step)
			}
			next[step] = next[step][1:]
			at = step.Next(at)
		}
		for s, list := range next {
			if len(list) > 0 {
				t.Fatalf("%s of %v is left over", s, list[0])
			}
		}
		if p.Rest.Before(q.To) && p.Rest.Before(until.Hours) {
			t.Fatalf("minutes from %v on, though there are sums until %v", p.Rest, until.Hours)
		}
	})
}

func TestStepsBeginAndEndByTheCalendarOfUTC(t *testing.T) {
	at := time.Date(2028, 2, 29, 23, 30, 0, 0, time.FixedZone("west", -7*60*60)) // the 1st of March in UTC
	for step, want := range map[Step][3]string{
		Hour: {"2028-03-01T06:00:00Z", "2028-03-01T07:00:00Z", "2028-03-01T07:00:00Z"}, Day: {"2028-03-01T00:00:00Z", "2028-03-02T00:00:00Z", "2028-03-02T00:00:00Z"},
		Month: {"2028-03-01T00:00:00Z", "2028-04-01T00:00:00Z", "2028-04-01T00:00:00Z"},
	} {
		floor := step.Floor(at)
		if got := [3]string{floor.Format(time.RFC3339), step.Next(floor).Format(time.RFC3339), step.Ceil(at).Format(time.RFC3339)}; got != want || !step.Ceil(floor).Equal(floor) {
			t.Errorf("%s: %v", step, got)
		}
	}
}

// store does as it is told and notes what it is asked.
type store struct {
	mu           sync.Mutex
	due          int
	err          error
	rolled, drop int
	since        time.Time
}

// RollUpAnalytics implements Store.
func (s *store) RollUpAnalytics(_ context.Context, _, since time.Time, _ Limits) (bool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.since = since; s.err != nil || s.due == 0 {
		return false, s.err
	}
	s.due--
	s.rolled++
	return true, nil
}

// DropAnalytics implements Store.
func (s *store) DropAnalytics(context.Context, time.Time, Retention) error {
	s.drop++
	return nil
}

func TestRollerDoesAllThatIsDueEachMinuteAndTellsOutagesOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &store{due: 7}
		var log bytes.Buffer
		r := &Roller{Store: s, Raw: 30 * 24 * time.Hour, Retention: DefaultRetention(), Limits: DefaultLimits(), Now: time.Now, Logger: slog.New(slog.NewTextHandler(&log, nil))}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- r.Run(ctx) }()
		time.Sleep(rollInterval + time.Second)
		synctest.Wait()
		if s.rolled != 7 || s.drop != 1 || !s.since.Equal(time.Now().Add(-time.Second).Add(time.Hour-r.Raw)) {
			t.Errorf("%+v", s)
		}
		s.mu.Lock()
		s.err = errors.New("away")
		s.mu.Unlock()
		time.Sleep(5 * rollInterval)
		synctest.Wait()
		s.mu.Lock()
		s.err = nil
		s.mu.Unlock()
		time.Sleep(3 * rollInterval)
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		if away, back := strings.Count(log.String(), "cannot be summed up"), strings.Count(log.String(), "summed up again"); away != 1 || back != 1 || s.drop != 4 {
			t.Errorf("%d dropped, the log says %q", s.drop, log.String())
		}
	})
}
