package postgres

import (
	"context"
	"errors"
	"log/slog"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/keywarden/keywarden/pkg/usage"
)

var _ usage.Store = (*Store)(nil)

// WriteUsage implements usage.Store, in one statement. A row has one writer, its
// replica; only a statement that nobody waits for any more can come too late, and
// then the number of its flush keeps it from undoing what came after it. An hour that
// is over gets a mark, so that it is summed up again; see package rollup.
func (s *Store) WriteUsage(ctx context.Context, f usage.Flush) error {
	columns := newUsageColumns(len(f.Cells))
	for i := range f.Cells {
		columns.add(&f.Cells[i])
	}
	_, err := s.pool.Exec(ctx, `
		WITH late AS (
			INSERT INTO analytics_pending (step, at)
			SELECT DISTINCT 'hour', date_trunc('hour', minute, 'UTC') AS hour FROM unnest($3::timestamptz[]) AS t (minute)
			WHERE minute < date_trunc('hour', now(), 'UTC') ORDER BY hour
			ON CONFLICT (step, at) DO UPDATE SET marks = analytics_pending.marks + 1
		)
		INSERT INTO usage_minutes (minute, replica, cell, flush, route, user_id, key_id, app, status_class,
			requests, request_bytes, response_bytes, buckets, counts, api, product, refusal, client)
		SELECT minute, $1, cell, $2, route, user_id, key_id, app, status_class,
			requests, request_bytes, response_bytes, buckets::smallint[], counts::bigint[], api, product, refusal, client
		FROM unnest($3::timestamptz[], $4::bigint[], $5::text[], $6::text[], $7::text[], $8::text[], $9::smallint[],
			$10::bigint[], $11::bigint[], $12::bigint[], $13::text[], $14::text[], $15::text[], $16::text[], $17::text[], $18::text[])
			AS t (minute, cell, route, user_id, key_id, app, status_class, requests, request_bytes, response_bytes, buckets, counts,
				api, product, refusal, client)
		ON CONFLICT (minute, replica, cell) DO UPDATE SET
			flush = excluded.flush, requests = excluded.requests, request_bytes = excluded.request_bytes,
			response_bytes = excluded.response_bytes, buckets = excluded.buckets, counts = excluded.counts
		WHERE usage_minutes.flush < excluded.flush`,
		append([]any{f.Replica, f.Number}, columns.args()...)...)
	return unavailable(err)
}

// usageColumns are cells as a statement takes them: a list for each column.
type usageColumns struct {
	minute                   []time.Time
	cell                     []int64
	route, user, key, app    []string
	class                    []int16
	requests, received, sent []int64
	api, product             []string
	refusal, client          []string
	buckets, counts          []string // array literals, for arrays of arrays of several lengths do not exist
}

func newUsageColumns(n int) *usageColumns {
	return &usageColumns{
		minute: make([]time.Time, 0, n), cell: make([]int64, 0, n),
		route: make([]string, 0, n), user: make([]string, 0, n), key: make([]string, 0, n), app: make([]string, 0, n),
		class: make([]int16, 0, n), requests: make([]int64, 0, n), received: make([]int64, 0, n), sent: make([]int64, 0, n),
		api: make([]string, 0, n), product: make([]string, 0, n), refusal: make([]string, 0, n), client: make([]string, 0, n),
		buckets: make([]string, 0, n), counts: make([]string, 0, n),
	}
}

func (u *usageColumns) add(c *usage.Cell) {
	u.minute, u.cell = append(u.minute, c.Minute), append(u.cell, c.Number)
	u.route, u.user = append(u.route, stored(c.Route)), append(u.user, stored(c.UserID))
	u.key, u.app = append(u.key, stored(c.KeyID)), append(u.app, stored(c.App))
	u.api, u.product = append(u.api, stored(c.API)), append(u.product, stored(c.Product))
	u.refusal, u.client = append(u.refusal, stored(c.Refusal)), append(u.client, stored(c.Client))
	u.class, u.requests = append(u.class, int16(c.Class)), append(u.requests, c.Requests)
	u.received, u.sent = append(u.received, c.RequestBytes), append(u.sent, c.ResponseBytes)
	u.buckets, u.counts = append(u.buckets, arrayLiteral(c.Latency.Buckets)), append(u.counts, arrayLiteral(c.Latency.Counts))
}

func (u *usageColumns) args() []any {
	return []any{u.minute, u.cell, u.route, u.user, u.key, u.app, u.class, u.requests, u.received, u.sent, u.buckets, u.counts,
		u.api, u.product, u.refusal, u.client}
}

// maxUsageText bounds a text that is part of an index, in bytes.
const maxUsageText = 512

// stored is text as it can be stored: one bad name must not keep the rest of its
// batch out for good.
func stored(text string) string {
	if len(text) <= maxUsageText && storable(text) {
		return text
	}
	return strings.ReplaceAll(strings.ToValidUTF8(text[:min(len(text), maxUsageText)], "\uFFFD"), "\x00", "\uFFFD")
}

// arrayLiteral is a list as PostgreSQL writes it: {1,2}.
func arrayLiteral[N uint16 | int64](list []N) string {
	b := make([]byte, 0, 2+8*len(list))
	b = append(b, '{')
	for i, n := range list {
		if i > 0 {
			b = append(b, ',')
		}
		b = strconv.AppendInt(b, int64(n), 10)
	}
	return string(append(b, '}'))
}

// ReadUsage adds up what q asks for, as it was at one moment.
func (s *Store) ReadUsage(ctx context.Context, q usage.Query) (r usage.Report, err error) {
	err = pgx.BeginTxFunc(ctx, s.pool, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly}, func(tx pgx.Tx) error {
		r, err = readUsage(ctx, tx, q)
		return err
	})
	var pg *pgconn.PgError
	if errors.As(err, &pg) && pg.Code == queryCanceled {
		return r, usage.ErrTooMuch.With(err)
	}
	return r, unavailable(err)
}

// queryCanceled is the SQLSTATE of a statement that took longer than it may.
const queryCanceled = "57014"

func readUsage(ctx context.Context, tx pgx.Tx, q usage.Query) (r usage.Report, err error) {
	whole, err := sumUsage(ctx, tx, usageSum{Query: q, limit: 1})
	if err != nil || len(whole) == 0 {
		return r, err
	}
	r.Total = whole[0].Totals
	if q.Step != usage.Whole {
		points, err := sumUsage(ctx, tx, usageSum{Query: q, step: q.Step, limit: q.Points()})
		if err != nil {
			return r, err
		}
		for _, p := range points {
			r.Series = append(r.Series, usage.Point{At: p.at, Totals: p.Totals})
		}
	}
	if len(q.By) == 0 {
		return r, nil
	}
	rows, err := sumUsage(ctx, tx, usageSum{Query: q, by: q.By, limit: q.Top + 1})
	if err != nil {
		return r, err
	}
	if r.More = len(rows) > q.Top; r.More {
		rows = rows[:q.Top]
	}
	for _, row := range rows {
		g := usage.Group{Values: map[usage.Dimension]string{}, Totals: row.Totals}
		for i, d := range q.By {
			g.Values[d] = row.values[i]
		}
		r.Groups = append(r.Groups, g)
	}
	if q.Step == usage.Whole {
		return r, nil
	}
	return r, addSeries(ctx, tx, q, rows, r.Groups)
}

// addSeries adds the points of each group, of which rows are the values.
func addSeries(ctx context.Context, tx pgx.Tx, q usage.Query, rows []usageRow, groups []usage.Group) error {
	points, err := sumUsage(ctx, tx, usageSum{Query: q, by: q.By, step: q.Step, among: rows, limit: len(rows) * q.Points()})
	if err != nil {
		return err
	}
	index := map[string]int{}
	for i, row := range rows {
		index[strings.Join(row.values, "\x00")] = i
	}
	for _, p := range points {
		g := &groups[index[strings.Join(p.values, "\x00")]]
		g.Series = append(g.Series, usage.Point{At: p.at, Totals: p.Totals})
	}
	return nil
}

// usageSum says what to add up: the rows that the query wants, for each combination
// of by, if among is not nil only for those, and for each interval of step.
type usageSum struct {
	usage.Query
	by    []usage.Dimension
	step  usage.Step
	among []usageRow
	limit int
}

// usageRow is one sum.
type usageRow struct {
	values []string // of the dimensions
	at     time.Time
	usage.Totals
}

// usageDimension is the column of a dimension.
func usageDimension(d usage.Dimension) string {
	switch d {
	case usage.ByRoute:
		return "route"
	case usage.ByUser:
		return "user_id"
	case usage.ByKey:
		return "key_id"
	case usage.ByApp:
		return "app"
	case usage.ByStatus:
		return "status_class::text"
	}
	return "NULL" // groups nothing, and no row has it
}

// sql is the statement and its parameters. The quantiles are worked out by the
// database, where the histograms are; a quantile is the first bucket below whose end
// that share of the requests is.
func (u usageSum) sql() (string, []any) {
	var w Where
	w.Add("minute >= ? AND minute < ?", u.From, u.To)
	for _, d := range usage.Dimensions() {
		if v, given := u.Filter[d]; given {
			w.Add(usageDimension(d)+" = ?", v)
		}
	}
	columns := make([]string, 0, len(u.by)+1)
	selected := make([]string, 0, len(u.by)+1)
	for i, d := range u.by {
		columns = append(columns, "d"+strconv.Itoa(i))
		selected = append(selected, usageDimension(d)+" AS d"+strconv.Itoa(i))
	}
	if u.among != nil {
		w.Add(u.amongSQL(&w))
	}
	var at, order string
	if u.step == usage.Whole {
		at, order = w.Arg(u.From)+"::timestamptz", "requests DESC, "
	} else {
		at = "date_trunc(" + w.Arg(string(u.step)) + ", minute, 'UTC')"
	}
	columns, selected = append(columns, "at"), append(selected, at+" AS at")
	return strings.NewReplacer(
		"{hit}", strings.Join(selected, ", "), "{where}", w.SQL(), "{cols}", strings.Join(columns, ", "),
		"{order}", order, "{limit}", w.Arg(u.limit),
	).Replace(usageSQL), w.Args
}

// amongSQL is the condition that the dimensions have one of the given combinations
// of values.
func (u usageSum) amongSQL(w *Where) string {
	var columns, lists []string
	for i, d := range u.by {
		values := make([]string, len(u.among))
		for j, row := range u.among {
			values[j] = row.values[i]
		}
		columns, lists = append(columns, usageDimension(d)), append(lists, w.Arg(values)+"::text[]")
	}
	return "(" + strings.Join(columns, ", ") + ") IN (SELECT * FROM unnest(" + strings.Join(lists, ", ") + "))"
}

const usageSQL = `
	WITH hit AS NOT MATERIALIZED (
		SELECT {hit}, status_class, requests, request_bytes, response_bytes, buckets, counts FROM usage_minutes{where}
	), sums AS (
		SELECT {cols}, sum(requests)::bigint AS requests,
			coalesce(sum(requests) FILTER (WHERE status_class = 4), 0)::bigint AS client_errors,
			coalesce(sum(requests) FILTER (WHERE status_class = 5), 0)::bigint AS server_errors,
			sum(request_bytes)::bigint AS request_bytes, sum(response_bytes)::bigint AS response_bytes
		FROM hit GROUP BY {cols} ORDER BY {order}{cols} LIMIT {limit}
	), spread AS (
		SELECT {cols}, bucket, sum(n) AS n
		FROM hit JOIN sums USING ({cols}) CROSS JOIN LATERAL unnest(hit.buckets, hit.counts) AS b (bucket, n)
		GROUP BY {cols}, bucket
	), ranked AS (
		SELECT {cols}, bucket, sum(n) OVER (PARTITION BY {cols} ORDER BY bucket) AS below, sum(n) OVER (PARTITION BY {cols}) AS n
		FROM spread
	), quantiles AS (
		SELECT {cols}, min(bucket) FILTER (WHERE below >= 0.50 * n) AS p50, min(bucket) FILTER (WHERE below >= 0.95 * n) AS p95,
			min(bucket) FILTER (WHERE below >= 0.99 * n) AS p99
		FROM ranked GROUP BY {cols}
	)
	SELECT {cols}, requests, client_errors, server_errors, request_bytes, response_bytes,
		coalesce(p50, 0), coalesce(p95, 0), coalesce(p99, 0)
	FROM sums LEFT JOIN quantiles USING ({cols}) ORDER BY {order}{cols}`

func sumUsage(ctx context.Context, tx pgx.Tx, u usageSum) ([]usageRow, error) {
	sql, args := u.sql()
	// Unprepared: there are too many statements to keep, and a plan fits its parameters.
	rows, err := tx.Query(ctx, sql, append([]any{pgx.QueryExecModeExec}, args...)...)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (r usageRow, err error) {
		r.values = make([]string, len(u.by))
		var p50, p95, p99 int32
		dest := make([]any, 0, len(u.by)+9)
		for i := range r.values {
			dest = append(dest, &r.values[i])
		}
		err = row.Scan(append(dest, &r.at, &r.Requests, &r.ClientErrors, &r.ServerErrors, &r.RequestBytes, &r.ResponseBytes, &p50, &p95, &p99)...)
		r.P50, r.P95, r.P99 = usage.BucketValue(uint16(p50)), usage.BucketValue(uint16(p95)), usage.BucketValue(uint16(p99))
		return r, err
	})
}

// RollUpUsage turns the minutes of each hour that ended before into one row for each
// combination, and tells how many rows that were. Nobody writes to a minute that is
// so old any more; if somebody did, that would be one row more.
func (s *Store) RollUpUsage(ctx context.Context, before time.Time) (rolled int64, err error) {
	before = before.UTC().Truncate(time.Hour)
	for {
		n, err := s.rollUpHour(ctx, before)
		rolled += n
		if err != nil || n == 0 {
			return rolled, unavailable(err)
		}
	}
}

// rollUpTimeout bounds the statement for one hour, in milliseconds: it is not one that
// somebody waits for.
const rollUpTimeout = "60000"

// rollUpHour does so for the oldest hour that is left, if no other replica is at it.
func (s *Store) rollUpHour(ctx context.Context, before time.Time) (rolled int64, err error) {
	err = pgx.BeginFunc(ctx, s.pool, func(tx pgx.Tx) error {
		var mine bool
		if err := tx.QueryRow(ctx, `SELECT pg_try_advisory_xact_lock(hashtext('usage_hours'))`).Scan(&mine); err != nil || !mine {
			return err
		}
		if _, err := tx.Exec(ctx, `SET LOCAL statement_timeout = `+rollUpTimeout); err != nil {
			return err
		}
		return tx.QueryRow(ctx, rollUpSQL, before).Scan(&rolled)
	})
	return rolled, err
}

// usageCombination is what a row of an hour is of.
const usageCombination = "route, user_id, key_id, app, status_class, api, product, refusal, client"

const rollUpSQL = `
	WITH hour AS (
		SELECT date_trunc('hour', min(minute), 'UTC') AS begins FROM usage_minutes
		WHERE minute < $1 AND replica <> '00000000-0000-0000-0000-000000000000'
	), gone AS (
		DELETE FROM usage_minutes u USING hour
		WHERE u.minute >= begins AND u.minute < begins + interval '1 hour' AND u.replica <> '00000000-0000-0000-0000-000000000000'
		RETURNING u.*
	), sums AS (
		SELECT ` + usageCombination + `, sum(requests)::bigint AS requests,
			sum(request_bytes)::bigint AS request_bytes, sum(response_bytes)::bigint AS response_bytes
		FROM gone GROUP BY ` + usageCombination + `
	), spread AS (
		SELECT ` + usageCombination + `, b.bucket, sum(b.n)::bigint AS n
		FROM gone CROSS JOIN LATERAL unnest(gone.buckets, gone.counts) AS b (bucket, n)
		GROUP BY ` + usageCombination + `, b.bucket
	), histograms AS (
		SELECT ` + usageCombination + `,
			array_agg(bucket ORDER BY bucket) AS buckets, array_agg(n ORDER BY bucket) AS counts
		FROM spread GROUP BY ` + usageCombination + `
	), hours AS (
		INSERT INTO usage_minutes (minute, replica, cell, flush, ` + usageCombination + `,
			requests, request_bytes, response_bytes, buckets, counts)
		SELECT begins, '00000000-0000-0000-0000-000000000000', nextval('usage_hours'), 0, ` + usageCombination + `,
			requests, request_bytes, response_bytes, coalesce(buckets, '{}'), coalesce(counts, '{}')
		FROM hour, sums LEFT JOIN histograms USING (` + usageCombination + `)
	)
	SELECT count(*) FROM gone`

// usageBatch is how many rows a statement deletes: there are many, so that more
// than one batch is deleted in a sweep.
const usageBatch = 20_000

// PruneUsage deletes what was counted before, and tells how many rows that was.
func (s *Store) PruneUsage(ctx context.Context, before time.Time) (deleted int64, err error) {
	for {
		tag, err := s.pool.Exec(ctx, `
			DELETE FROM usage_minutes WHERE (minute, replica, cell) IN (
				SELECT minute, replica, cell FROM usage_minutes WHERE minute < $1
				ORDER BY minute LIMIT $2 FOR UPDATE SKIP LOCKED)`, before, usageBatch)
		deleted += tag.RowsAffected()
		if err != nil || tag.RowsAffected() < usageBatch {
			return deleted, unavailable(err)
		}
	}
}

// RunUsageJanitor rolls up the usage of hours that are over for long, and deletes what
// is older than keep, until ctx ends; 0 keeps it for ever. Every replica runs it.
func (s *Store) RunUsageJanitor(ctx context.Context, keep time.Duration, now func() time.Time, logger *slog.Logger) error {
	tick := time.NewTicker(sweepInterval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			if err := s.SweepUsage(ctx, keep, now().UTC()); err != nil && ctx.Err() == nil {
				logger.WarnContext(ctx, "old usage could not be put in order; the next sweep will", "error", err)
			}
		}
	}
}

// SweepUsage is one round of RunUsageJanitor.
func (s *Store) SweepUsage(ctx context.Context, keep time.Duration, now time.Time) error {
	ctx, cancel := context.WithTimeout(ctx, sweepInterval)
	defer cancel()
	if keep > 0 {
		if _, err := s.PruneUsage(ctx, now.Add(-keep)); err != nil {
			return err
		}
	}
	_, err := s.RollUpUsage(ctx, now.Add(-usage.MinutesKept))
	return err
}
