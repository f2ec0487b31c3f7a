package rollup

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/keywarden/keywarden/pkg/analytics"
)

// volume is 90 days of traffic, as sums.
type volume struct {
	events, keys, cells int // cells are draws of a combination in a day
}

const (
	volumeDays  = 90
	volumeHours = 3 * 24 // the last ones, that are known by the hour, too
)

// volumeEnd is the end of the last hour that is summed up. The month has begun long ago:
// that is when most days must be added up one by one.
func volumeEnd() time.Time { return time.Date(2020, 6, 28, 17, 0, 0, 0, time.UTC) }

// fillAnalytics makes sums of 5,000 keys and the like, some of which are used much more
// than others. Counts are exact: they add up to the events, in each dimension.
// Histograms have about as many buckets as such sums have, and any counts.
func (w *world) fillAnalytics(v volume) {
	w.T.Helper()
	end := volumeEnd()
	r := &round{Tx: nil}
	for _, level := range []struct {
		step  analytics.Step
		from  time.Time
		count int
		cells int
	}{
		{analytics.Day, analytics.Day.Floor(end).AddDate(0, 0, -volumeDays), volumeDays, v.cells},
		{analytics.Hour, end.Add(-volumeHours * time.Hour), volumeHours, v.cells / 8},
	} {
		w.Must(pgx.BeginFunc(w.T.Context(), w.Pool, func(tx pgx.Tx) error {
			r.Tx = tx
			for at, n := level.from, 0; n < level.count; at, n = level.step.Next(at), n+1 {
				if err := r.partition(w.T.Context(), level.step, at); err != nil {
					return err
				}
			}
			return nil
		}))
		each := float64(v.events) / volumeDays / float64(level.cells)
		if level.step == analytics.Hour {
			each /= 24
		}
		next := map[analytics.Step]string{analytics.Day: "1 day", analytics.Hour: "1 hour"}[level.step]
		w.Exec(`
			INSERT INTO `+analyticsTable(level.step)+` (at, dimension, api, product, app, user_id, key_id, route, refusal, client,
				requests, refused, client_errors, server_errors, request_bytes, response_bytes, buckets, counts)
			SELECT $1::timestamptz + n * $2::text::interval, 'all', 'api-' || route % 10, CASE key % 2 WHEN 0 THEN 'product-' || key / 2 % 50 % 20 ELSE '' END, CASE key % 2 WHEN 0 THEN 'app-' || key / 2 % 50 ELSE '' END,
				'user-' || CASE key % 2 WHEN 0 THEN key / 2 % 50 ELSE key % 500 END, 'key-' || key,
				'route-' || route, CASE odd WHEN 1 THEN 'auth.missing' WHEN 2 THEN 'gateway.rate_limited' WHEN 3 THEN 'auth.insufficient_scope' ELSE '' END, '',
				sum(c), sum(CASE WHEN odd BETWEEN 1 AND 3 THEN c ELSE 0 END), 0, 0, sum(c), sum(c) * 100, `+strings.ReplaceAll(buckets(12), "requests", "c")+`
			FROM generate_series(0, $3::int - 1) n CROSS JOIN LATERAL (
				SELECT key, (key * 7 + floor(random() * 8)::int) % 200 AS route, floor(random() * 50)::int AS odd,
					floor(i * $6::float8)::bigint - floor((i - 1) * $6::float8)::bigint AS c
				FROM (SELECT i, floor($5::int * power(random() + n * 0, 3))::int AS key FROM generate_series(1, $4::int) i) x
			) y WHERE c > 0 GROUP BY n, key, route, odd ORDER BY n, key, route`,
			level.from, next, level.count, level.cells, v.keys, each)
		w.fillMarginals(level.step)
	}
	w.Exec(`UPDATE analytics_state SET hours = $1, days = $2, months = $3`, end, analytics.Day.Floor(end), analytics.Month.Floor(end))
	w.Must(pgx.BeginFunc(w.T.Context(), w.Pool, func(tx pgx.Tx) error {
		r.Tx, r.Limits = tx, analytics.DefaultLimits()
		if err := r.prepare(w.T.Context()); err != nil {
			return err
		}
		for at := analytics.Month.Floor(end).AddDate(0, -3, 0); at.Before(analytics.Month.Floor(end)); at = analytics.Month.Next(at) {
			began := time.Now()
			if err := r.sum(w.T.Context(), analytics.Month, at); err != nil {
				return err
			}
			w.T.Logf("the sums of a month took %v", time.Since(began))
		}
		return nil
	}))
	w.Exec(`INSERT INTO usage_minutes (minute, replica, cell, flush, route, user_id, key_id, app, status_class, requests, request_bytes, response_bytes, buckets, counts)
		SELECT $1::timestamptz + i % 30 * interval '1 minute', $2::uuid, i, 1, 'route-' || i % 200, 'user-' || i % 500, 'key-' || i % 5000, 'app-' || i % 50, 2, 1, 1, 1, '{100}', '{1}'
		FROM generate_series(1, $3::int / 180) i`, end, uuid.NewString(), v.events/volumeDays/12)
	w.Exec(`VACUUM ANALYZE`)
}

// buckets is an array of buckets, and one of counts: of as many as there are requests, and
// n at most.
func buckets(n int) string {
	var b, c []string
	for i := range n {
		b, c = append(b, fmt.Sprint(120+i*100/n)), append(c, fmt.Sprint(1+i%7))
	}
	return "('{" + strings.Join(b, ",") + "}'::smallint[])[1:sum(requests)::int], ('{" + strings.Join(c, ",") + "}'::bigint[])[1:sum(requests)::int]"
}

// fillMarginals adds the combinations up by each dimension.
func (w *world) fillMarginals(step analytics.Step) {
	w.T.Helper()
	for _, kind := range append([]string{everything}, dimensionNames()...) {
		selected, n := "''", 100
		switch d := analytics.Dimension(kind); {
		case d == analytics.ByKey, d == analytics.ByUser:
			selected, n = analyticsColumn(d), 25
		case kind != everything:
			selected = analyticsColumn(d)
		}
		columns := strings.Join(sumColumns(kind), ", ")
		selected += strings.TrimPrefix(columns, "value")
		w.Exec(`INSERT INTO ` + analyticsTable(step) + ` (at, dimension, ` + columns + `, requests, refused, client_errors, server_errors, request_bytes, response_bytes, buckets, counts)
			SELECT at, '` + kind + `', ` + selected + `, sum(requests), sum(refused), 0, 0, sum(request_bytes), sum(response_bytes), ` + buckets(n) + `
			FROM ` + analyticsTable(step) + ` WHERE dimension = 'all' GROUP BY at, ` + strings.ReplaceAll(columns, "value", "3") + ` ORDER BY 1, 3`)
	}
}

// question is a typical one, about 90 days unless it says otherwise.
type question struct {
	name string
	analytics.Query
	rows int // that may be read for it with 5,000 keys; see TestTypicalQuestionsReadFewRows
}

func typicalQuestions() []question {
	end := analytics.Hour.Next(volumeEnd())
	ask := func(q analytics.Query) analytics.Query {
		q.To, q.Top, q.Sort = end, 20, analytics.Requests
		if q.From.IsZero() {
			q.From = analytics.Day.Floor(end).AddDate(0, 0, -volumeDays+1)
		}
		if q.Step == analytics.Day {
			q.To = analytics.Day.Ceil(end)
		}
		return q
	}
	by := func(d ...analytics.Dimension) []analytics.Dimension { return d }
	only := func(d analytics.Dimension, v string) map[analytics.Dimension]string {
		return map[analytics.Dimension]string{d: v}
	}
	// The time is two months, 57 days (of March and June) or 90, 17 hours, and the minutes since.
	const minutes = 100
	return []question{
		{"overview/by-day", ask(analytics.Query{Step: analytics.Day}), 4*(90+17) + 4*minutes},
		{"percentiles", ask(analytics.Query{}), 2*80 + 2*minutes},
		{"top-keys", ask(analytics.Query{By: by(analytics.ByKey)}), 82 * 5000 * 11 / 10},
		{"top-users", ask(analytics.Query{By: by(analytics.ByUser)}), 82 * 500 * 11 / 10},
		{"top-apps/by-day", ask(analytics.Query{By: by(analytics.ByApp), Step: analytics.Day}), 3 * 110 * 51 * 20},
		{"top-routes", ask(analytics.Query{By: by(analytics.ByRoute)}), 82 * 200 * 3},
		{"refusals/by-reason", ask(analytics.Query{By: by(analytics.ByRefusal), Named: by(analytics.ByRefusal)}), 3 * 82 * 3 * 200},
		{"key/by-day", ask(analytics.Query{Filter: only(analytics.ByKey, "key-7"), Step: analytics.Day}), 5 * 110},
		{"key/routes", ask(analytics.Query{Filter: only(analytics.ByKey, "key-7"), By: by(analytics.ByRoute)}), 6 * 82 * 8 * 4},
		{"app/keys", ask(analytics.Query{Filter: only(analytics.ByApp, "app-7"), By: by(analytics.ByKey)}), 1 << 30},
		{"api/top-routes", ask(analytics.Query{Filter: only(analytics.ByAPI, "api-3"), By: by(analytics.ByRoute)}), 1 << 30},
		{"day/top-keys/by-hour", ask(analytics.Query{From: end.Add(-24 * time.Hour), By: by(analytics.ByKey), Step: analytics.Hour}), 1 << 30},
	}
}

// BenchmarkReadAnalytics answers typical questions about 90 days of ten million requests,
// of 5,000 keys, 500 users, 50 apps and 200 routes.
func BenchmarkReadAnalytics(b *testing.B) {
	w := newWorld(b)
	began := time.Now()
	w.fillAnalytics(volume{events: 10_000_000, keys: 5000, cells: 40_000})
	b.Logf("filled in %v: %d rows of days, %d of months, %d of hours, %d requests", time.Since(began), w.Number(`SELECT count(*) FROM analytics_days`),
		w.Number(`SELECT count(*) FROM analytics_months`), w.Number(`SELECT count(*) FROM analytics_hours`),
		w.Number(`SELECT sum(requests)::bigint FROM analytics_days WHERE dimension = ''`))
	for _, q := range typicalQuestions() {
		b.Run(q.name, func(b *testing.B) {
			var took []time.Duration
			for b.Loop() {
				began := time.Now()
				r, err := w.ReadAnalytics(b.Context(), q.Query)
				if err != nil || r.Total.Requests == 0 {
					b.Fatal(r.Total, err)
				}
				took = append(took, time.Since(began))
			}
			slices.Sort(took)
			b.ReportMetric(float64(took[len(took)/2].Microseconds())/1000, "median-ms")
			b.ReportMetric(float64(took[len(took)*9/10].Microseconds())/1000, "p90-ms")
		})
	}
}

// plan is what EXPLAIN tells of a node.
type plan struct {
	Type    string  `json:"Node Type"`
	Rows    float64 `json:"Actual Rows"`
	Loops   float64 `json:"Actual Loops"`
	Removed float64 `json:"Rows Removed by Filter"`
	Plans   []plan  `json:"Plans"`
}

// read is how many rows the scans of a plan have read.
func (p plan) read() (n float64) {
	if strings.HasSuffix(p.Type, "Scan") && p.Type != "CTE Scan" && p.Type != "Bitmap Index Scan" && p.Type != "Subquery Scan" && p.Type != "Function Scan" {
		n = (p.Rows + p.Removed) * p.Loops
	}
	for _, below := range p.Plans {
		n += below.read()
	}
	return n
}

// explaining is a transaction that adds up what its statements read.
type explaining struct {
	pgx.Tx
	read float64
	log  func(format string, args ...any)
}

// Query implements pgx.Tx.
func (e *explaining) Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error) {
	var text string
	rest := args
	if len(args) > 0 && args[0] == pgx.QueryExecModeDescribeExec {
		rest = args[1:]
	}
	if err := e.QueryRow(ctx, `EXPLAIN (ANALYZE, TIMING OFF, FORMAT JSON) `+sql, append([]any{pgx.QueryExecModeExec}, rest...)...).Scan(&text); err != nil {
		return nil, fmt.Errorf("explain: %w", err)
	}
	var plans []struct {
		Plan  plan    `json:"Plan"`
		Took  float64 `json:"Execution Time"`
		Plan2 float64 `json:"Planning Time"`
	}
	if err := json.Unmarshal([]byte(text), &plans); err != nil {
		return nil, err
	}
	for _, p := range plans {
		e.read += p.Plan.read()
		e.log("%.0f rows, %.1f + %.1f ms", p.Plan.read(), p.Plan2, p.Took)
	}
	return e.Tx.Query(ctx, sql, args...)
}

// What a question costs is what it reads. Sums by one dimension are read, and of these as
// few as there are in the time; times in milliseconds are for the benchmark.
func TestTypicalQuestionsReadFewRows(t *testing.T) {
	w := newWorld(t)
	w.fillAnalytics(volume{events: 500_000, keys: 5000, cells: 2500})
	for _, q := range typicalQuestions() {
		t.Run(q.name, func(t *testing.T) {
			err := pgx.BeginFunc(t.Context(), w.Pool, func(tx pgx.Tx) error {
				until, err := readUntil(t.Context(), tx)
				if err != nil {
					return err
				}
				e := &explaining{Tx: tx, log: t.Logf}
				r, err := (&figures{e, q.Query, q.Pieces(until)}).read(t.Context())
				if r.Total.Requests == 0 || int(e.read) > q.rows {
					t.Errorf("%.0f rows read for %d requests, at most %d should be", e.read, r.Total.Requests, q.rows)
				}
				return err
			})
			if err != nil {
				t.Fatal(err)
			}
		})
	}
}
