package alert_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/keywarden/keywarden/pkg/alert"
	"github.com/keywarden/keywarden/pkg/usage"
)

// counted is usage by when it begins; it notes what it is asked.
type counted struct {
	totals  map[time.Time]usage.Totals
	refused map[time.Time]int64
	asked   []usage.Query
	err     error
}

func (c *counted) ReadUsage(_ context.Context, q usage.Query) (usage.Report, error) {
	c.asked = append(c.asked, q)
	return usage.Report{Total: c.totals[q.From]}, c.err
}

func (c *counted) RefusedRequests(_ context.Context, from, to time.Time, filter map[usage.Dimension]string) (int64, error) {
	c.asked = append(c.asked, usage.Query{From: from, To: to, Filter: filter})
	return c.refused[from], c.err
}

func TestFiguresOfTraffic(t *testing.T) {
	at := start.Add(30 * time.Second)
	now, before, yesterday := start.Add(-5*time.Minute), start.Add(-10*time.Minute), start.Add(-24*time.Hour-5*time.Minute).Truncate(time.Hour)
	many := usage.Totals{Requests: 200, ClientErrors: 30, ServerErrors: 10, P50: time.Millisecond, P95: 250 * time.Millisecond, P99: time.Second}
	figures := func(c *counted) alert.Sources { return alert.Sources{Usage: c, Refusals: c} }
	one := func(now, before int64) *counted {
		return &counted{totals: map[time.Time]usage.Totals{start.Add(-5 * time.Minute): {Requests: now}, start.Add(-10 * time.Minute): {Requests: before}}}
	}
	for name, c := range map[string]struct {
		spec alert.Spec
		from *counted
		want alert.Reading
	}{
		"4xx":                 {alert.Spec{Signal: alert.ClientErrorRate}, &counted{totals: map[time.Time]usage.Totals{now: many}}, alert.Reading{Known: true, Value: 15, Volume: 200}},
		"5xx":                 {alert.Spec{Signal: alert.ServerErrorRate}, &counted{totals: map[time.Time]usage.Totals{now: many}}, alert.Reading{Known: true, Value: 5, Volume: 200}},
		"p95":                 {alert.Spec{Signal: alert.Latency}, &counted{totals: map[time.Time]usage.Totals{now: many}}, alert.Reading{Known: true, Value: 250, Volume: 200}},
		"p99":                 {alert.Spec{Signal: alert.Latency, Percentile: 99}, &counted{totals: map[time.Time]usage.Totals{now: many}}, alert.Reading{Known: true, Value: 1000, Volume: 200}},
		"too few":             {alert.Spec{Signal: alert.ServerErrorRate}, one(19, 0), alert.Reading{Volume: 19, Why: "19 requests, fewer than 20"}},
		"none":                {alert.Spec{Signal: alert.ServerErrorRate, MinRequests: 1}, one(0, 0), alert.Reading{Why: "0 requests, fewer than 1"}},
		"half of the traffic": {alert.Spec{Signal: alert.TrafficDrop}, one(50, 100), alert.Reading{Known: true, Value: 50, Volume: 50}},
		"no traffic":          {alert.Spec{Signal: alert.TrafficDrop}, one(0, 100), alert.Reading{Known: true, Value: 100}},
		"more traffic":        {alert.Spec{Signal: alert.TrafficDrop}, one(300, 100), alert.Reading{Known: true, Volume: 300}},
		"little before":       {alert.Spec{Signal: alert.TrafficDrop}, one(0, 19), alert.Reading{Volume: 19, Why: "19 requests, fewer than 20 in the window to compare with"}},
		"since yesterday": {
			alert.Spec{Signal: alert.TrafficDrop, CompareTo: 24 * time.Hour},
			&counted{totals: map[time.Time]usage.Totals{now: {Requests: 25}, yesterday: {Requests: 1200}}}, // 100 in five minutes of an hour
			alert.Reading{Known: true, Value: 75, Volume: 25},
		},
		"refused": {
			alert.Spec{Signal: alert.RefusalRate},
			&counted{totals: map[time.Time]usage.Totals{now: many}, refused: map[time.Time]int64{now: 20}}, alert.Reading{Known: true, Value: 10, Volume: 200},
		},
		"four times as many": {
			alert.Spec{Signal: alert.RefusalRise}, &counted{refused: map[time.Time]int64{now: 100, before: 25}}, alert.Reading{Known: true, Value: 4, Volume: 100},
		},
		"out of nothing": {alert.Spec{Signal: alert.RefusalRise}, &counted{refused: map[time.Time]int64{now: 100}}, alert.Reading{Known: true, Value: 100, Volume: 100}},
		"a few are none": {alert.Spec{Signal: alert.RefusalRise}, &counted{refused: map[time.Time]int64{now: 19}}, alert.Reading{Known: true, Volume: 19}},
	} {
		c.spec.Filter = map[string]string{"route": "orders"}
		got, err := figures(c.from).Measure(t.Context(), c.spec.Complete(), at)
		if diff := cmp.Diff(c.want, got); diff != "" || err != nil {
			t.Errorf("%s: %v %s", name, err, diff)
		}
		for _, q := range c.from.asked {
			if !q.From.Before(q.To) || q.To.After(start) || !q.From.Equal(q.From.Truncate(time.Minute)) || q.Filter[usage.ByRoute] != "orders" {
				t.Errorf("%s: it asked for %+v", name, q)
			}
		}
	}
}

// TestMinuteThatIsNotWrittenYetDoesNotCount: right after the minute, its end may be
// missing, which would look like less traffic.
func TestMinuteThatIsNotWrittenYetDoesNotCount(t *testing.T) {
	spec := alert.Spec{Signal: alert.ServerErrorRate, Window: time.Minute}
	for after, want := range map[time.Duration]time.Time{0: start.Add(-time.Minute), 4 * time.Second: start.Add(-time.Minute), 5 * time.Second: start, 59 * time.Second: start} {
		c := &counted{}
		if _, err := (alert.Sources{Usage: c}).Measure(t.Context(), spec, start.Add(after)); err != nil || !c.asked[0].To.Equal(want) {
			t.Errorf("%v after the minute: until %v, %v", after, c.asked[0].To, err)
		}
	}
}

func TestFiguresThatThereAreNone(t *testing.T) {
	failed := errors.New("no database")
	c := &counted{err: failed}
	for _, s := range alert.Signals() {
		spec := alert.Spec{Signal: s}.Complete()
		m, err := alert.Sources{Usage: c, Refusals: c}.Measure(t.Context(), spec, start)
		if s.Counts() && !errors.Is(err, failed) || !s.Counts() && (err != nil || m.Known || !strings.Contains(m.Why, "not measured")) {
			t.Errorf("%s: %+v, %v", s, m, err)
		}
	}
	m, err := alert.Sources{Usage: c}.Measure(t.Context(), alert.Spec{Signal: alert.RefusalRise}.Complete(), start)
	if err != nil || m.Known || m.Why == "" {
		t.Errorf("%+v, %v", m, err)
	}
	gauge := func(_ context.Context, r alert.Spec, at time.Time) (alert.Reading, error) {
		return alert.Reading{Known: at.Equal(start), Value: r.Threshold}, nil
	}
	m, err = alert.Sources{Gauges: map[alert.Signal]alert.Gauge{alert.TargetsDown: gauge}}.Measure(t.Context(), alert.Spec{Signal: alert.TargetsDown, Threshold: 3}, start)
	if err != nil || !m.Known || m.Value != 3 {
		t.Errorf("%+v, %v", m, err)
	}
}
