package rollup

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sync/errgroup"

	"github.com/keywarden/keywarden/pkg/analytics"
	"github.com/keywarden/keywarden/pkg/store/postgres"
	"github.com/keywarden/keywarden/pkg/store/postgres/storetest"
	"github.com/keywarden/keywarden/pkg/usage"
)

// leapDay is when the requests of these tests begin: in the past of the database, as it
// is of hours that are summed up, and three days before the end of a month.
func leapDay() time.Time { return time.Date(2020, 2, 27, 0, 0, 0, 0, time.UTC) }

// request is one as the reference adds it up.
type request struct {
	values map[analytics.Dimension]string
	usage.Event
}

// traffic makes requests, counts them by meters of several replicas, and keeps them.
type traffic struct {
	*world
	random *rand.Rand
	at     time.Time
	meters []*usage.Meter
	all    []request
}

func newTraffic(w *world, seed uint64) *traffic {
	f := &traffic{world: w, random: rand.New(rand.NewPCG(seed, 0)), at: leapDay()}
	for range 3 {
		f.meters = append(f.meters, w.meter(&f.at))
	}
	return f
}

func (f *traffic) pick(list ...string) string { return list[f.random.IntN(len(list))] }

// request counts one on one of the replicas.
func (f *traffic) request() {
	e := usage.Event{
		At: f.at, Route: f.pick("orders", "orders", "carts", ""), Status: []int{200, 200, 404, 503, 0}[f.random.IntN(5)],
		RequestBytes: f.random.Int64N(100), ResponseBytes: f.random.Int64N(1e6),
		Duration: time.Duration(math.Exp(f.random.NormFloat64()) * float64(10*time.Millisecond)),
	}
	if e.Route != "" {
		e.API = f.pick("shop", "shop", "")
	}
	if f.random.IntN(3) > 0 {
		e.UserID, e.KeyID = f.pick("ann", "bob"), f.pick("k1", "k2", "")
		if e.KeyID != "" {
			e.App, e.Product = "app of "+e.UserID, f.pick("gold", "")
		}
	}
	if e.Status >= 400 {
		e.Refusal = f.pick("auth.missing", "gateway.rate_limited", "")
	}
	e.Client = netip.MustParseAddr(f.pick("192.0.2.1", "192.0.2.99", "198.51.100.7", "2001:db8::1"))
	client := ""
	if e.Refusal != "" && e.UserID == "" {
		client = map[bool]string{true: "192.0.2.0/24", false: e.Client.String()}[strings.HasPrefix(e.Client.String(), "192")]
		switch client {
		case "198.51.100.7":
			client = "198.51.100.0/24"
		case "2001:db8::1":
			client = "2001:db8::/56"
		}
	}
	f.all = append(f.all, request{map[analytics.Dimension]string{
		analytics.ByAPI: e.API, analytics.ByProduct: e.Product, analytics.ByApp: e.App, analytics.ByUser: e.UserID,
		analytics.ByKey: e.KeyID, analytics.ByRoute: e.Route, analytics.ByRefusal: e.Refusal, analytics.ByClient: client,
	}, e})
	f.meters[f.random.IntN(len(f.meters))].Record(e)
}

func (f *traffic) flush() {
	for _, m := range f.meters {
		f.Must(m.Flush(context.Background()))
	}
}

// catchUp makes all sums that are due.
func (w *world) catchUp(now time.Time, l analytics.Limits) {
	w.T.Helper()
	for {
		more, err := w.RollUpAnalytics(context.Background(), now, time.Time{}, l)
		w.Must(err)
		if !more {
			return
		}
	}
}

// addedUp adds requests up as the store should; quantiles are exact.
func addedUp(requests []request) (t analytics.Totals) {
	var took []time.Duration
	for _, r := range requests {
		t.Requests++
		if r.Refusal != "" {
			t.Refused++
		}
		switch r.Status / 100 {
		case 4:
			t.ClientErrors++
		case 5:
			t.ServerErrors++
		}
		t.RequestBytes += r.RequestBytes
		t.ResponseBytes += r.ResponseBytes
		took = append(took, r.Duration.Truncate(time.Microsecond))
	}
	slices.Sort(took)
	rank := func(q float64) time.Duration { return took[int(math.Ceil(q*float64(len(took))))-1] }
	t.P50, t.P95, t.P99 = rank(0.50), rank(0.95), rank(0.99)
	return t
}

// nearly compares totals, quantiles within their error.
func nearly(want, got analytics.Totals) string {
	for _, q := range [][2]*time.Duration{{&want.P50, &got.P50}, {&want.P95, &got.P95}, {&want.P99, &got.P99}} {
		if math.Abs(float64(*q[0]-*q[1])) <= usage.RelativeError*float64(*q[0])+1 {
			*q[1] = *q[0]
		}
	}
	return cmp.Diff(want, got)
}

// compare compares a report with what the reference makes of the requests.
func (f *traffic) compare(q analytics.Query) {
	f.T.Helper()
	got, err := f.ReadAnalytics(context.Background(), q)
	f.Must(err)
	var events []request
	groups := map[string][]request{}
	name := func(values map[analytics.Dimension]string) (text string) {
		for _, d := range q.By {
			text += values[d] + "|"
		}
		return text
	}
	for _, e := range f.all {
		wanted := !e.At.Before(q.From) && e.At.Before(q.To)
		for d, v := range q.Filter {
			wanted = wanted && e.values[d] == v
		}
		for _, d := range q.Named {
			wanted = wanted && e.values[d] != ""
		}
		if wanted {
			events, groups[name(e.values)] = append(events, e), append(groups[name(e.values)], e)
		}
	}
	if len(events) == 0 {
		if diff := cmp.Diff(analytics.Report{}, got); diff != "" {
			f.T.Errorf("%+v: %s", q, diff)
		}
		return
	}
	if diff := nearly(addedUp(events), got.Total); diff != "" {
		f.T.Errorf("%+v: total: %s", q, diff)
	}
	f.compareSeries(q, events, got.Series)
	if len(q.By) == 0 {
		return
	}
	if len(got.Groups) != min(len(groups), q.Top) || got.More != (len(groups) > q.Top) {
		f.T.Fatalf("%+v: %d of %d groups, more: %v", q, len(got.Groups), len(groups), got.More)
	}
	last := int64(math.MaxInt64)
	for _, g := range got.Groups {
		if diff := nearly(addedUp(groups[name(g.Values)]), g.Totals); diff != "" {
			f.T.Errorf("%+v: %v: %s", q, g.Values, diff)
		}
		f.compareSeries(q, groups[name(g.Values)], g.Series)
		measure := map[analytics.Measure]int64{
			analytics.Requests: g.Requests, analytics.Errors: g.ClientErrors + g.ServerErrors, analytics.Bytes: g.RequestBytes + g.ResponseBytes,
		}[q.Sort]
		if measure > last {
			f.T.Errorf("%+v: %v is not in its place", q, g.Values)
		}
		last = measure
	}
}

func (f *traffic) compareSeries(q analytics.Query, events []request, got []analytics.Point) {
	f.T.Helper()
	points := map[time.Time][]request{}
	if q.Step != analytics.Whole {
		for _, e := range events {
			points[q.Step.Floor(e.At)] = append(points[q.Step.Floor(e.At)], e)
		}
	}
	if len(points) != len(got) || !slices.IsSortedFunc(got, func(a, b analytics.Point) int { return a.At.Compare(b.At) }) {
		f.T.Fatalf("%+v: %d points, want %d, in order", q, len(got), len(points))
	}
	for _, p := range got {
		if diff := nearly(addedUp(points[p.At]), p.Totals); diff != "" {
			f.T.Errorf("%+v: %v: %s", q, p.At, diff)
		}
	}
}

// somehow is a question.
func (f *traffic) somehow() analytics.Query {
	q := analytics.Query{
		Step: analytics.Step(f.pick("", "hour", "day", "month")), Filter: map[analytics.Dimension]string{}, Top: 1 + f.random.IntN(6),
		Sort: analytics.Measures()[f.random.IntN(3)],
	}
	floor := q.Step
	if floor == analytics.Whole {
		floor = analytics.Hour
	}
	q.From = floor.Floor(leapDay().Add(time.Duration(f.random.IntN(100)) * time.Hour))
	q.To = floor.Ceil(q.From.Add(time.Duration(1+f.random.IntN(140)) * time.Hour))
	for range f.random.IntN(3) {
		if d := analytics.Dimensions()[f.random.IntN(8)]; !slices.Contains(q.By, d) {
			q.By = append(q.By, d)
		}
	}
	for range f.random.IntN(3) - 1 {
		d, some := analytics.Dimensions()[f.random.IntN(8)], f.all[f.random.IntN(len(f.all))]
		q.Filter[d] = some.values[d]
	}
	if f.random.IntN(4) == 0 {
		q.Named = []analytics.Dimension{analytics.Dimensions()[f.random.IntN(8)]}
	}
	return q
}

// checkSums compares the sums of every step and dimension with the minutes.
func (w *world) checkSums(until time.Time) {
	w.T.Helper()
	for _, step := range analytics.Steps() {
		end := step.Floor(until)
		for _, kind := range append([]string{everything, combinations}, dimensionNames()...) {
			const counts = `sum(requests), sum(request_bytes + response_bytes), sum((SELECT sum(n) FROM unnest(counts) n))`
			if n := w.Number(`SELECT count(*) FROM (
				(SELECT date_trunc('`+string(step)+`', minute, 'UTC') AS at, `+counts+` FROM usage_minutes WHERE minute < $1 GROUP BY 1
				EXCEPT SELECT at, `+counts+` FROM `+analyticsTable(step)+` WHERE dimension = $2 GROUP BY 1)
				UNION ALL (SELECT at, `+counts+` FROM `+analyticsTable(step)+` WHERE dimension = $2 GROUP BY 1
				EXCEPT SELECT date_trunc('`+string(step)+`', minute, 'UTC') AS at, `+counts+` FROM usage_minutes WHERE minute < $1 GROUP BY 1)) x`,
				end, kind); n != 0 {
				w.T.Errorf("%d sums of a %s by %q differ from the minutes", n, step, kind)
			}
		}
	}
}

func dimensionNames() (names []string) {
	for _, d := range analytics.Dimensions() {
		names = append(names, string(d))
	}
	return names
}

// Whatever comes when, sums are those of the minutes, and answers those of the requests.
func TestSumsAreThoseOfTheMinutesWheneverTheyCome(t *testing.T) {
	for seed := range uint64(3) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			f := newTraffic(newWorld(t), seed)
			for hour := range 5 * 24 { // beyond the end of the month
				for range f.random.IntN(12) {
					f.request()
					f.at = f.at.Add(4 * time.Minute)
				}
				f.at = leapDay().Add(time.Duration(hour+1) * time.Hour)
				switch f.random.IntN(4) {
				case 0:
					f.catchUp(f.at, analytics.DefaultLimits()) // without the last minutes
				case 1, 2:
					f.flush()
					if f.random.IntN(3) == 0 {
						f.catchUp(f.at, analytics.DefaultLimits())
					}
				}
				if hour%20 == 19 { // as it is while some is summed up and some is not
					f.flush()
					f.catchUp(f.at.Add(-2*time.Hour), analytics.DefaultLimits())
					f.compare(f.somehow())
				}
			}
			f.flush()
			f.at = f.at.Add(analytics.Grace)
			f.catchUp(f.at, analytics.DefaultLimits())
			f.checkSums(f.at)
			if n := f.Number(`SELECT count(*) FROM analytics_pending WHERE at < $1`, f.at.Add(-time.Hour)); n != 0 {
				t.Errorf("%d intervals are marked", n)
			}
			for range 60 {
				f.compare(f.somehow())
			}
		})
	}
}

// Replicas write, sum up, and are killed in the middle of it, all at the same time.
func TestSumsAreRightAfterKillsInTheMiddleOfThem(t *testing.T) {
	w := newWorld(t)
	f := newTraffic(w, 7)
	done := make(chan struct{})
	now := leapDay().Add(60 * 24 * time.Hour)
	work := []func() error{
		func() error { // requests, of which many are late
			defer close(done)
			for range 150 {
				for range 20 {
					f.at = leapDay().Add(time.Duration(f.random.IntN(6*60)) * time.Minute)
					f.request()
				}
				f.at = leapDay().Add(6 * time.Hour)
				f.flush()
			}
			return nil
		},
		func() error { // kills
			for {
				select {
				case <-done:
					return nil
				case <-time.After(20 * time.Millisecond):
					w.Exec(`SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND query LIKE '%analytics_hours%' AND query NOT LIKE '%terminate%' AND random() < 0.5`)
				}
			}
		},
	}
	for range 3 {
		work = append(work, func() error {
			for {
				select {
				case <-done:
					return nil
				default:
					_, _ = w.RollUpAnalytics(context.Background(), now, time.Time{}, analytics.DefaultLimits()) // or killed
				}
			}
		})
	}
	var group errgroup.Group
	for _, some := range work {
		group.Go(some)
	}
	w.Must(group.Wait())
	w.catchUp(now, analytics.DefaultLimits())
	w.checkSums(now)
	if got := w.Number(`SELECT sum(requests) FROM analytics_days WHERE dimension = ''`); got != int64(len(f.all)) {
		t.Errorf("%d of %d requests are summed up", got, len(f.all))
	}
}

func TestSumsOfTooManyValuesAreFolded(t *testing.T) {
	w := newWorld(t)
	at := leapDay()
	m := w.meter(&at)
	for hour := range 48 {
		for key := range 20 {
			for range 20 - key {
				m.Record(usage.Event{At: at, UserID: "u", KeyID: fmt.Sprintf("k%02d-%d", key, hour/24), Route: fmt.Sprint("r", key%2), API: "a", Status: 200})
			}
		}
		at = at.Add(time.Hour)
		w.Must(m.Flush(t.Context()))
	}
	w.catchUp(at.Add(time.Hour), analytics.Limits{Values: 5, Combinations: 7})
	w.checkSums(at)
	for _, table := range []string{"analytics_hours", "analytics_days"} {
		if n := w.Number(`SELECT max(n) FROM (SELECT count(*) AS n FROM ` + table + ` WHERE dimension <> 'all' GROUP BY dimension, at) x`); n > 6 {
			t.Errorf("%d values in %s", n, table)
		}
		if n := w.Number(`SELECT max(n) FROM (SELECT count(*) AS n FROM ` + table + ` WHERE dimension = 'all' GROUP BY at) x`); n > 7+2 { // two routes
			t.Errorf("%d combinations in %s", n, table)
		}
	}
	q := analytics.Query{From: leapDay(), To: leapDay().Add(24 * time.Hour), By: []analytics.Dimension{analytics.ByKey}, Top: 3, Sort: analytics.Requests}
	r, err := w.ReadAnalytics(t.Context(), q)
	w.Must(err)
	got := map[string]int64{}
	for _, g := range r.Groups {
		got[g.Values[analytics.ByKey]] = g.Requests
	}
	if want := map[string]int64{analytics.Folded: 24 * 120, "k00-0": 24 * 20, "k01-0": 24 * 19}; !maps.Equal(want, got) || r.Total.Requests != 24*210 {
		t.Errorf("%v of %d", got, r.Total.Requests)
	}
	// A route is told apart among the folded, too.
	q.Filter = map[analytics.Dimension]string{analytics.ByRoute: "r0"}
	r, err = w.ReadAnalytics(t.Context(), q)
	w.Must(err)
	if want := int64(24 * (20 + 18 + 16 + 14 + 12 + 10 + 8 + 6 + 4 + 2)); r.Total.Requests != want {
		t.Errorf("%d of a route, want %d", r.Total.Requests, want)
	}
}

func (w *world) partitions(table string) (n int64) {
	return w.Number(`SELECT count(*) FROM pg_inherits WHERE inhparent = to_regclass($1)`, table)
}

func TestOldSumsAreDroppedByTheMonthOnceThereAreLongerOnes(t *testing.T) {
	w := newWorld(t)
	const day = 24 * time.Hour
	at := time.Date(2020, 1, 15, 0, 0, 0, 0, time.UTC)
	m := w.meter(&at)
	for range 120 / 5 {
		m.Record(usage.Event{At: at, Route: "r", Status: 200})
		w.Must(m.Flush(t.Context()))
		at = at.Add(5 * day)
	}
	now := at // the 14th of May
	keep := analytics.Retention{Hours: 35 * day, Days: 80 * day, Months: 400 * day}
	w.Must(w.DropAnalytics(t.Context(), now.Add(1000*day), keep)) // nothing is there
	for range 3 {                                                 // the first hours, and nothing else
		_, err := w.RollUpAnalytics(t.Context(), now, time.Time{}, analytics.DefaultLimits())
		w.Must(err)
	}
	w.Must(w.DropAnalytics(t.Context(), now.Add(1000*day), keep))
	if n := w.Number(`SELECT count(*) FROM analytics_hours WHERE dimension = ''`); n == 0 {
		t.Fatal("hours are dropped that no day has")
	}
	w.catchUp(now, analytics.DefaultLimits())
	w.Must(w.DropAnalytics(t.Context(), now, keep))
	for table, want := range map[string]int64{"analytics_hours": 2, "analytics_days": 4, "analytics_months": 4} {
		// Hours of April and May; days since February, the last day of which is 75 days ago.
		if got := w.partitions(table); got != want {
			t.Errorf("%d partitions of %s, want %d", got, table, want)
		}
	}
	r, err := w.ReadAnalytics(t.Context(), analytics.Query{From: time.Date(2020, 1, 1, 0, 0, 0, 0, time.UTC), To: now, Top: 1, Sort: analytics.Requests})
	if err != nil || r.Total.Requests != 24 {
		t.Errorf("%d of 24 are known: %v", r.Total.Requests, err)
	}
	w.Must(w.DropAnalytics(t.Context(), now.Add(3000*day), keep))
	if n := w.partitions("analytics_months"); n != 0 {
		t.Errorf("%d months are kept", n)
	}
}

// What is marked after its minutes were deleted keeps the sums that it has.
func TestSumsOutliveTheirMinutes(t *testing.T) {
	w := newWorld(t)
	at := leapDay()
	m := w.meter(&at)
	m.Record(usage.Event{At: at, Route: "r", Status: 200})
	w.Must(m.Flush(t.Context()))
	w.catchUp(at.Add(48*time.Hour), analytics.DefaultLimits())
	w.Exec(`DELETE FROM usage_minutes`)
	w.Exec(`INSERT INTO analytics_pending (step, at) VALUES ('hour', $1)`, at)
	for more := true; more; {
		var err error
		more, err = w.RollUpAnalytics(t.Context(), at.Add(48*time.Hour), at.Add(time.Hour), analytics.DefaultLimits())
		w.Must(err)
	}
	if got := w.Number(`SELECT sum(requests) FROM analytics_hours WHERE dimension = ''`); got != 1 {
		t.Errorf("%d requests", got)
	}
	if n := w.Number(`SELECT count(*) FROM analytics_pending`); n != 0 {
		t.Errorf("%d marks", n)
	}
}

func TestQuestionThatTakesTooLongIsRefused(t *testing.T) {
	w := newWorld(t)
	w.Exec(`INSERT INTO usage_minutes (minute, replica, cell, flush, route, user_id, key_id, app, status_class, requests, request_bytes, response_bytes, buckets, counts)
		SELECT $1, gen_random_uuid(), n, 1, n::text, n::text, '', '', 2, 1, 1, 1, '{1,2,3}', '{1,2,3}' FROM generate_series(1, 100000) n`, leapDay())
	q := analytics.Query{From: leapDay(), To: leapDay().Add(time.Hour), By: []analytics.Dimension{analytics.ByRoute}, Top: 1, Sort: analytics.Requests}
	if _, err := w.open(10*time.Millisecond).ReadAnalytics(t.Context(), q); !errors.Is(err, analytics.ErrTooMuch) {
		t.Error(err)
	}
}

func TestOutageIsToldApart(t *testing.T) {
	s := newWorld(t).open(storetest.Patience)
	s.db.Close()
	_, read := s.ReadAnalytics(t.Context(), analytics.Query{From: leapDay(), To: leapDay().Add(time.Hour)})
	_, made := s.RollUpAnalytics(t.Context(), leapDay(), time.Time{}, analytics.DefaultLimits())
	for what, err := range map[string]error{"read": read, "make": made, "drop": s.DropAnalytics(t.Context(), leapDay(), analytics.Retention{})} {
		if !errors.Is(err, postgres.ErrUnavailable) {
			t.Errorf("%s: %v", what, err)
		}
	}
}
