package postgres

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/keywarden/keywarden/pkg/pglocal/pgtest"
	"github.com/keywarden/keywarden/pkg/seal"
	"github.com/keywarden/keywarden/pkg/usage"
)

// noon is when the usage of these tests begins.
func noon() time.Time { return time.Date(2030, 1, 31, 12, 0, 0, 0, time.UTC) }

// meter is one over the store, of a replica of its own, whose clock is at.
func (w *world) meter(s usage.Store, at *time.Time) *usage.Meter {
	return usage.NewMeter(usage.Options{
		Store: s, Replica: newID(), Now: func() time.Time { return *at }, Logger: slog.New(slog.DiscardHandler),
	})
}

// usageOf is what was used on the day of noon.
func (w *world) usageOf(by ...usage.Dimension) usage.Report {
	w.t.Helper()
	r, err := w.ReadUsage(w.t.Context(), usage.Query{From: noon().Add(-12 * time.Hour), To: noon().Add(12 * time.Hour), By: by, Top: usage.MaxTop})
	w.must(err)
	return r
}

func oneCell(requests int64) []usage.Cell {
	return []usage.Cell{{
		Number: 1, Minute: noon(), Route: "orders", UserID: "u", Class: 2, Requests: requests, RequestBytes: 2 * requests,
		Latency: usage.Histogram{Buckets: []uint16{100}, Counts: []int64{requests}},
	}}
}

func TestReplayedFlushCountsOnce(t *testing.T) {
	w := newWorld(t)
	replica, other := newID(), newID()
	for _, f := range []usage.Flush{
		{Replica: replica, Number: 1, Cells: oneCell(5)},
		{Replica: replica, Number: 1, Cells: oneCell(5)},
		{Replica: replica, Number: 2, Cells: oneCell(9)},
		{Replica: replica, Number: 1, Cells: oneCell(5)}, // that was believed to be lost
		{Replica: replica, Number: 2, Cells: oneCell(9)},
		{Replica: other, Number: 1, Cells: oneCell(100)},
		{Replica: other, Number: 3},
	} {
		w.must(w.WriteUsage(t.Context(), f))
	}
	if got := w.usageOf().Total; got.Requests != 109 || got.RequestBytes != 218 {
		t.Errorf("%+v", got)
	}
}

// lossy is a store whose answers are lost now and then: before the write, or after it.
type lossy struct {
	usage.Store
	calls int
}

var errLost = errors.New("the answer is lost")

// WriteUsage implements usage.Store.
func (l *lossy) WriteUsage(ctx context.Context, f usage.Flush) error {
	l.calls++
	if l.calls%3 == 1 {
		return errLost
	}
	if err := l.Store.WriteUsage(ctx, f); err != nil || l.calls%3 == 0 {
		return err
	}
	return errLost
}

func TestLostAnswersLoseAndDoubleNoUsage(t *testing.T) {
	w, at := newWorld(t), noon()
	m := w.meter(&lossy{Store: w.Store}, &at)
	for range 300 {
		m.Record(usage.Event{At: at, UserID: "u", Route: "orders", Status: 200})
		_ = m.Flush(t.Context())
		at = at.Add(5 * time.Second)
	}
	for m.Flush(t.Context()) != nil { // the third call works
	}
	if got := w.usageOf().Total.Requests; got != 300 {
		t.Errorf("%d of 300 counted", got)
	}
}

func TestUsageOutlivesAnOutageAndIsNotCountedTwice(t *testing.T) {
	server := pgtest.NewServer(t)
	w, at := worldAt(t, server.URL(), newRing(t)), noon()
	m := w.meter(w.Store, &at)
	record := func(n int) {
		for range n {
			m.Record(usage.Event{At: at, UserID: "u", Route: "orders", Status: 200})
		}
		at = at.Add(40 * time.Second)
	}
	record(10)
	w.must(m.Flush(t.Context()))
	record(20)
	server.Stop()
	for range 5 {
		if err := m.Flush(t.Context()); !errors.Is(err, ErrUnavailable) {
			t.Fatal(err)
		}
		record(30)
	}
	server.Start()
	eventually(t, "the store is back", func() bool { return m.Flush(t.Context()) == nil })
	if got := w.usageOf().Total.Requests; got != 180 {
		t.Errorf("%d of 180 counted", got)
	}
	if s := m.Stats(); s.Dropped != 0 || s.Folded != 0 || s.Failed < 5 {
		t.Errorf("%+v", s)
	}
}

// A replica that is killed loses what came after its last flush; the one in its
// place counts on beside it.
func TestKilledReplicaLosesWhatItHadNotFlushed(t *testing.T) {
	w, at := newWorld(t), noon()
	killed := w.meter(w.Store, &at)
	for range 100 {
		killed.Record(usage.Event{At: at, UserID: "u", Route: "orders", Status: 200})
	}
	w.must(killed.Flush(t.Context()))
	for range 7 {
		killed.Record(usage.Event{At: at, UserID: "u", Route: "orders", Status: 200})
	}
	next := w.meter(w.Store, &at)
	for range 5 {
		next.Record(usage.Event{At: at, UserID: "u", Route: "orders", Status: 200})
	}
	w.must(next.Flush(t.Context()))
	if got := w.usageOf().Total.Requests; got != 105 {
		t.Errorf("%d counted", got)
	}
}

func TestTextThatCannotBeStoredKeepsNothingElseOut(t *testing.T) {
	w, at := newWorld(t), noon()
	m := w.meter(w.Store, &at)
	for _, route := range []string{"good", "N\x00UL", "bro\xffken", strings.Repeat("é", 10_000), `"quoted",{}\`} {
		m.Record(usage.Event{At: at, Route: route, UserID: route, Status: 200})
	}
	w.must(m.Flush(t.Context()))
	if r := w.usageOf(usage.ByRoute); r.Total.Requests != 5 || len(r.Groups) != 5 {
		t.Errorf("%+v", r)
	}
}

// counted is an event as the reference adds it up.
type counted struct {
	values map[usage.Dimension]string
	usage.Event
}

// someUsage is events of three replicas over three hours, stored, each of them also
// returned.
func (w *world) someUsage(n int, seed uint64) []counted {
	w.t.Helper()
	random, at := rand.New(rand.NewPCG(seed, 0)), noon()
	pick := func(list ...string) string { return list[random.IntN(len(list))] }
	var meters []*usage.Meter
	for range 3 {
		meters = append(meters, w.meter(w.Store, &at))
	}
	var all []counted
	for i := range n {
		e := usage.Event{
			At: at, Route: pick("a", "a", "a", "b", "c", ""), UserID: pick("", "u1", "u2"), KeyID: pick("", "", "k1"), App: pick("", "app"),
			Status: []int{200, 200, 200, 304, 404, 500, 503, 0}[random.IntN(8)], RequestBytes: random.Int64N(100), ResponseBytes: random.Int64N(1e6),
			Duration: time.Duration(math.Exp(random.NormFloat64()) * float64(10*time.Millisecond)),
		}
		class := "0"
		if e.Status > 0 {
			class = fmt.Sprint(e.Status / 100)
		}
		all = append(all, counted{map[usage.Dimension]string{
			usage.ByRoute: e.Route, usage.ByUser: e.UserID, usage.ByKey: e.KeyID, usage.ByApp: e.App, usage.ByStatus: class,
		}, e})
		meters[i%3].Record(e)
		if i%20 == 0 {
			w.must(meters[random.IntN(3)].Flush(w.t.Context()))
		}
		at = at.Add(3 * time.Hour / time.Duration(n))
	}
	for _, m := range meters {
		w.must(m.Flush(w.t.Context()))
	}
	return all
}

// reference adds events up as the database should. Quantiles are exact.
func reference(events []counted) (t usage.Totals) {
	var took []time.Duration
	for _, e := range events {
		t.Requests++
		switch e.values[usage.ByStatus] {
		case "4":
			t.ClientErrors++
		case "5":
			t.ServerErrors++
		}
		t.RequestBytes += e.RequestBytes
		t.ResponseBytes += e.ResponseBytes
		took = append(took, e.Duration.Truncate(time.Microsecond))
	}
	slices.Sort(took)
	rank := func(q float64) time.Duration { return took[int(math.Ceil(q*float64(len(took))))-1] }
	t.P50, t.P95, t.P99 = rank(0.50), rank(0.95), rank(0.99)
	return t
}

// near compares totals, quantiles within their error.
func near(want, got usage.Totals) string {
	for _, q := range [][2]*time.Duration{{&want.P50, &got.P50}, {&want.P95, &got.P95}, {&want.P99, &got.P99}} {
		if math.Abs(float64(*q[0]-*q[1])) <= usage.RelativeError*float64(*q[0])+1 {
			*q[1] = *q[0]
		}
	}
	return cmp.Diff(want, got)
}

func TestUsageIsAddedUpAsItWasCounted(t *testing.T) {
	w := newWorld(t)
	events := w.someUsage(3000, 1)
	day := usage.Query{From: noon().Add(-12 * time.Hour), To: noon().Add(12 * time.Hour), Top: usage.MaxTop}
	for name, change := range map[string]func(q *usage.Query){
		"everything":        func(*usage.Query) {},
		"by route":          func(q *usage.Query) { q.By = []usage.Dimension{usage.ByRoute} },
		"by all":            func(q *usage.Query) { q.By = usage.Dimensions() },
		"top":               func(q *usage.Query) { q.By, q.Top = []usage.Dimension{usage.ByStatus, usage.ByUser}, 3 },
		"hours":             func(q *usage.Query) { q.Step = usage.Hour },
		"days by key":       func(q *usage.Query) { q.Step, q.By = usage.Day, []usage.Dimension{usage.ByKey} },
		"minutes of an app": func(q *usage.Query) { q.Step, q.Filter = usage.Minute, map[usage.Dimension]string{usage.ByApp: "app"} },
		"hours by two, of errors of a user": func(q *usage.Query) {
			q.Step, q.By, q.Top = usage.Hour, []usage.Dimension{usage.ByKey, usage.ByRoute}, 5
			q.Filter = map[usage.Dimension]string{usage.ByUser: "u1", usage.ByStatus: "5"}
		},
		"anonymous in an hour": func(q *usage.Query) {
			q.From, q.To = noon().Add(time.Hour), noon().Add(2*time.Hour)
			q.By, q.Filter = []usage.Dimension{usage.ByRoute}, map[usage.Dimension]string{usage.ByUser: ""}
		},
		"nothing": func(q *usage.Query) {
			q.By, q.Step, q.Filter = usage.Dimensions(), usage.Hour, map[usage.Dimension]string{usage.ByRoute: "x' OR true --"}
		},
	} {
		t.Run(name, func(t *testing.T) {
			q := day
			change(&q)
			got, err := w.ReadUsage(t.Context(), q)
			if err != nil {
				t.Fatal(err)
			}
			compareUsage(t, q, events, got)
		})
	}
}

// compareUsage compares a report with what the reference makes of the events.
func compareUsage(t *testing.T, q usage.Query, all []counted, got usage.Report) {
	t.Helper()
	var events []counted
	groups := map[string][]counted{}
	name := func(values map[usage.Dimension]string) string {
		var b strings.Builder
		for _, d := range q.By {
			b.WriteString(values[d] + "|")
		}
		return b.String()
	}
	for _, e := range all {
		wanted := !e.At.Before(q.From) && e.At.Before(q.To)
		for d, v := range q.Filter {
			wanted = wanted && e.values[d] == v
		}
		if wanted {
			events, groups[name(e.values)] = append(events, e), append(groups[name(e.values)], e)
		}
	}
	if len(events) == 0 {
		if diff := cmp.Diff(usage.Report{}, got); diff != "" {
			t.Error(diff)
		}
		return
	}
	if diff := near(reference(events), got.Total); diff != "" {
		t.Error("total: ", diff)
	}
	compareSeries(t, q, events, got.Series)
	if len(q.By) == 0 {
		if got.Groups != nil || got.More {
			t.Errorf("groups %v", got.Groups)
		}
		return
	}
	if len(got.Groups) != min(len(groups), q.Top) || got.More != (len(groups) > q.Top) {
		t.Fatalf("%d of %d groups, more: %v", len(got.Groups), len(groups), got.More)
	}
	var last int64 = math.MaxInt64
	for _, g := range got.Groups {
		if diff := near(reference(groups[name(g.Values)]), g.Totals); diff != "" {
			t.Errorf("%v: %s", g.Values, diff)
		}
		compareSeries(t, q, groups[name(g.Values)], g.Series)
		if g.Requests > last {
			t.Errorf("%v is not in its place", g.Values)
		}
		last = g.Requests
		delete(groups, name(g.Values))
	}
	for rest, events := range groups {
		if int64(len(events)) > last {
			t.Errorf("%s is missing", rest)
		}
	}
}

func compareSeries(t *testing.T, q usage.Query, events []counted, got []usage.Point) {
	t.Helper()
	if q.Step == usage.Whole {
		if got != nil {
			t.Errorf("a series of %d", len(got))
		}
		return
	}
	points := map[time.Time][]counted{}
	for _, e := range events {
		at := e.At.Truncate(q.Step.Duration())
		points[at] = append(points[at], e)
	}
	if len(points) != len(got) || !slices.IsSortedFunc(got, func(a, b usage.Point) int { return a.At.Compare(b.At) }) {
		t.Fatalf("%d points, want %d, in order", len(got), len(points))
	}
	for _, p := range got {
		if diff := near(reference(points[p.At]), p.Totals); diff != "" {
			t.Errorf("%v: %s", p.At, diff)
		}
	}
}

func TestUsageThatTakesTooLongToAddUpIsRefused(t *testing.T) {
	w := newWorld(t)
	w.exec(`INSERT INTO usage_minutes SELECT $1, $2, n, 1, n::text, n::text, '', '', 2, 1, 1, 1, '{1,2,3}', '{1,2,3}' FROM generate_series(1, 100000) n`,
		noon(), newID())
	s, err := Open(t.Context(), Options{URL: seal.NewSecret(w.url), MaxConnections: 1, ConnectTimeout: patience, QueryTimeout: 10 * time.Millisecond})
	w.must(err)
	defer s.Close()
	_, err = s.ReadUsage(t.Context(), usage.Query{From: noon(), To: noon().Add(time.Hour), By: usage.Dimensions(), Top: 1})
	if !errors.Is(err, usage.ErrTooMuch) {
		t.Error(err)
	}
}

func TestRolledUpUsageAddsUpToTheSame(t *testing.T) {
	w := newWorld(t)
	events := w.someUsage(2000, 2)
	before := w.number(`SELECT count(*) FROM usage_minutes`)
	q := usage.Query{From: noon(), To: noon().Add(3 * time.Hour), Step: usage.Hour, By: []usage.Dimension{usage.ByRoute, usage.ByKey}, Top: 4}
	for _, until := range []time.Duration{0, 59 * time.Minute, 2*time.Hour + time.Minute, 3 * time.Hour, 3 * time.Hour} {
		// All replicas are at it.
		errs := together(times(4, func(int) error { _, err := w.RollUpUsage(t.Context(), noon().Add(until)); return err })...)
		if count(errs, nil) != len(errs) {
			t.Fatal(errs)
		}
		got, err := w.ReadUsage(t.Context(), q)
		if err != nil {
			t.Fatal(err)
		}
		compareUsage(t, q, events, got)
	}
	if after := w.number(`SELECT count(*) FROM usage_minutes`); after*2 > before {
		t.Errorf("%d rows became %d", before, after)
	}
	if n := w.number(`SELECT count(*) FROM usage_minutes WHERE minute <> date_trunc('hour', minute) OR flush <> 0`); n != 0 {
		t.Errorf("%d rows are left as they were", n)
	}
	w.must(w.WriteUsage(t.Context(), usage.Flush{Replica: newID(), Number: 1, Cells: oneCell(5)}))
	w.must(w.SweepUsage(t.Context(), 0, noon().Add(48*time.Hour)))
	if got := w.usageOf().Total.Requests; got != 2005 {
		t.Errorf("%d counted with one that came late", got)
	}
	w.must(w.SweepUsage(t.Context(), 24*time.Hour, noon().Add(23*time.Hour)))
	if got := w.usageOf().Total.Requests; got != 2005 {
		t.Errorf("%d counted after a sweep that had nothing to delete", got)
	}
	w.must(w.SweepUsage(t.Context(), 24*time.Hour, noon().Add(72*time.Hour)))
	if got := w.usageOf().Total.Requests; got != 0 {
		t.Errorf("%d counted after all were too old", got)
	}
}

func TestOldUsageIsDeletedAndNothingElse(t *testing.T) {
	w := newWorld(t)
	const old = usageBatch + 1 // more than one statement deletes
	w.exec(`INSERT INTO usage_minutes SELECT $1, $2, n, 1, '', '', '', '', 2, 1, 1, 1, '{}', '{}' FROM generate_series(1, $3::bigint) n`,
		noon().Add(-time.Minute), newID(), old)
	w.must(w.WriteUsage(t.Context(), usage.Flush{Replica: newID(), Number: 1, Cells: oneCell(3)}))
	for _, want := range []int64{old, 0} {
		if n, err := w.PruneUsage(t.Context(), noon()); n != want || err != nil {
			t.Errorf("%d deleted, want %d: %v", n, want, err)
		}
	}
	if got := w.usageOf().Total.Requests; got != 3 {
		t.Errorf("%d requests are left", got)
	}
}

// The cells of a busy replica: 10,000 different callers in a second.
func BenchmarkWriteUsage(b *testing.B) {
	w := newWorld(b)
	at := noon()
	m := w.meter(w.Store, &at)
	const cells = 10_000
	b.ReportAllocs()
	for b.Loop() {
		for i := range cells {
			m.Record(usage.Event{At: at, UserID: fmt.Sprint("user-", i), KeyID: fmt.Sprint("key-", i), Route: "orders", Status: 200, Duration: time.Duration(i) * time.Microsecond})
		}
		if err := m.Flush(b.Context()); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Milliseconds())/float64(b.N), "ms/10^4_cells")
}

// A day of a thousand keys that are busy all the time is 1.44 million cells, of which
// half are rolled up.
func BenchmarkReadUsage(b *testing.B) {
	w := newWorld(b)
	w.exec(`INSERT INTO usage_minutes
		SELECT $1::timestamptz + make_interval(mins => m), $2::uuid, k, 1, 'route-' || k % 10, 'user-' || k / 3, 'key-' || k, '', 2, 60, 1, 1,
			'{100,110,120,130,140}', '{12,12,12,12,12}' FROM generate_series(0, 1439) m, generate_series(1, 1000) k`, noon().Add(-12*time.Hour), newID())
	began := time.Now()
	if _, err := w.RollUpUsage(b.Context(), noon()); err != nil {
		b.Fatal(err)
	}
	b.Logf("720,000 rows rolled up in %v", time.Since(began))
	w.exec(`VACUUM ANALYZE usage_minutes`)
	day := usage.Query{From: noon().Add(-12 * time.Hour), To: noon().Add(12 * time.Hour), Top: 20}
	for name, change := range map[string]func(q *usage.Query){
		"all/by=route": func(q *usage.Query) { q.By = []usage.Dimension{usage.ByRoute} },
		"all/by=key":   func(q *usage.Query) { q.By = []usage.Dimension{usage.ByKey} },
		"own/by=key/step=hour": func(q *usage.Query) {
			q.By, q.Step, q.Filter = []usage.Dimension{usage.ByKey}, usage.Hour, map[usage.Dimension]string{usage.ByUser: "user-7"}
		},
		"hour/by=route": func(q *usage.Query) { q.From, q.By = q.To.Add(-time.Hour), []usage.Dimension{usage.ByRoute} },
	} {
		b.Run(name, func(b *testing.B) {
			q := day
			change(&q)
			for b.Loop() {
				if _, err := w.ReadUsage(b.Context(), q); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
