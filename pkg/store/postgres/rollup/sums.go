package rollup

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/keywarden/keywarden/pkg/analytics"
)

// analyticsTable is where the sums of a step are.
func analyticsTable(s analytics.Step) string {
	switch s {
	case analytics.Hour:
		return "analytics_hours"
	case analytics.Day:
		return "analytics_days"
	default:
		return "analytics_months"
	}
}

// What is in the column dimension beside the names of dimensions.
const (
	everything   = ""    // the sum
	combinations = "all" // each combination of all dimensions
)

// analyticsColumn is the column of a dimension among the combinations, and in
// usage_minutes.
func analyticsColumn(d analytics.Dimension) string {
	switch d {
	case analytics.ByUser:
		return "user_id"
	case analytics.ByKey:
		return "key_id"
	case analytics.ByAPI, analytics.ByProduct, analytics.ByApp, analytics.ByRoute, analytics.ByRefusal, analytics.ByClient:
		return string(d)
	}
	return "NULL" // no row has it
}

// carried are the dimensions that sums by d are told apart by, too: those that mostly
// follow from d, and such that make few rows.
func carried(d analytics.Dimension) []analytics.Dimension {
	switch d {
	case analytics.ByProduct, analytics.ByRoute, analytics.ByRefusal:
		return []analytics.Dimension{analytics.ByAPI}
	case analytics.ByApp:
		return []analytics.Dimension{analytics.ByProduct}
	case analytics.ByKey:
		return []analytics.Dimension{analytics.ByUser, analytics.ByApp, analytics.ByProduct}
	case analytics.ByClient:
		return []analytics.Dimension{analytics.ByRefusal}
	case analytics.ByAPI, analytics.ByUser:
	}
	return nil
}

// analyticsCounts are the counts of usage_minutes under the names of the sums.
const analyticsCounts = `requests, CASE WHEN refusal <> '' THEN requests ELSE 0 END AS refused,
	CASE status_class WHEN 4 THEN requests ELSE 0 END AS client_errors, CASE status_class WHEN 5 THEN requests ELSE 0 END AS server_errors,
	request_bytes, response_bytes, buckets, counts`

// analyticsSums are those of the tables of sums.
const analyticsSums = `requests, refused, client_errors, server_errors, request_bytes, response_bytes, buckets, counts`

// analyticsTimeout bounds each statement that makes sums, in milliseconds: nobody waits
// for it. Those that drop sums wait for a lock that keeps others waiting, so not long.
const (
	analyticsTimeout  = "300000"
	analyticsDropWait = "2000"
)

// round is one round of work on the sums, while it has their state locked.
type round struct {
	pgx.Tx
	until analytics.Until
	over  time.Time // what ended before may be summed up
	analytics.Limits
}

// errBusy says that another replica makes sums.
var errBusy = errors.New("another replica is at it")

// withSums runs work with the state locked.
func (s *Store) withSums(ctx context.Context, now time.Time, work func(*round) error) error {
	err := s.db.Transact(ctx, pgx.TxOptions{}, func(tx pgx.Tx) error {
		r := &round{Tx: tx}
		var hours, days, months *time.Time
		// What is in the future of the database may still be written without a mark.
		err := tx.QueryRow(ctx, `SELECT hours, days, months, least($1, now()) FROM analytics_state FOR UPDATE SKIP LOCKED`, now).
			Scan(&hours, &days, &months, &r.over)
		if errors.Is(err, pgx.ErrNoRows) {
			return errBusy
		}
		if err != nil {
			return err
		}
		r.over, r.until = r.over.Add(-analytics.Grace), untilOf(hours, days, months)
		return work(r)
	})
	if errors.Is(err, errBusy) {
		return nil
	}
	return err
}

// RollUpAnalytics implements analytics.Store. Sums, and how far they are, change in one
// transaction. A minute that is written while it runs has left a mark, or will; see
// postgres.Store.WriteUsage and sum.
func (s *Store) RollUpAnalytics(ctx context.Context, now, rawSince time.Time, l analytics.Limits) (more bool, err error) {
	err = s.withSums(ctx, now, func(r *round) error {
		r.Limits = l
		if err := r.prepare(ctx); err != nil {
			return err
		}
		if more, err = r.again(ctx, rawSince); more || err != nil {
			return err
		}
		more, err = r.next(ctx)
		return err
	})
	return more && err == nil, err
}

// prepare sets what statements that make sums need. The planner cannot know how many
// groups there will be, and must not bet on few.
func (r *round) prepare(ctx context.Context) error {
	_, err := r.Exec(ctx, `SELECT set_config('statement_timeout', $1, true), set_config('work_mem', '32MB', true),
		set_config('enable_nestloop', 'off', true), set_config('jit', 'off', true)`, analyticsTimeout)
	return err
}

// again sums up the first interval that something came late for.
func (r *round) again(ctx context.Context, rawSince time.Time) (more bool, err error) {
	var step analytics.Step
	var at time.Time
	var marks int64
	err = r.QueryRow(ctx, `
		SELECT step, at, marks FROM analytics_pending
		WHERE step = 'hour' AND at < $1 OR step = 'day' AND at < $2 OR step = 'month' AND at < $3
		ORDER BY array_position(ARRAY['hour', 'day', 'month'], step), at LIMIT 1`, r.until.Hours, r.until.Days, r.until.Months).
		Scan(&step, &at, &marks)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return false, nil
	case err != nil:
		return false, err
	case step == analytics.Hour && at.Before(rawSince):
		return true, r.unmark(ctx, step, at, marks)
	}
	return true, r.sum(ctx, step, at)
}

// next sums up the next interval that has ended.
func (r *round) next(ctx context.Context) (more bool, err error) {
	if err := r.skip(ctx); err != nil {
		return false, err
	}
	ends := r.over // of the step before
	for _, step := range analytics.Steps() {
		at := r.until.Of(step)
		if end := step.Next(at); !end.After(ends) {
			if err := r.sum(ctx, step, at); err != nil {
				return false, err
			}
			_, err := r.Exec(ctx, `UPDATE analytics_state SET `+string(step)+`s = $1`, end)
			return true, err
		}
		ends = at
	}
	return false, nil
}

// skip goes to the first hour that has minutes. Where there are no sums at all, they
// begin there.
func (r *round) skip(ctx context.Context) error {
	first := r.until.Hours
	err := r.QueryRow(ctx, `SELECT coalesce(min(minute), $2) FROM usage_minutes WHERE minute >= $1`, first, r.over).Scan(&first)
	if err != nil {
		return err
	}
	if first.After(r.over) {
		first = r.over
	}
	if first = analytics.Hour.Floor(first); !first.After(r.until.Hours) {
		return nil
	}
	if r.until.Hours.IsZero() {
		r.until.Days, r.until.Months = analytics.Day.Floor(first), analytics.Month.Floor(first)
	}
	r.until.Hours = first
	_, err = r.Exec(ctx, `UPDATE analytics_state SET hours = $1, days = $2, months = $3`, r.until.Hours, r.until.Days, r.until.Months)
	return err
}

// sum makes the sums of an interval, in place of those that are there.
//
// Its mark is read before anything else and deleted after everything else, unless there
// is one more by then: who writes to a minute has the mark locked until that is
// committed. So nothing is missing without a mark, whatever happens at the same time.
func (r *round) sum(ctx context.Context, step analytics.Step, at time.Time) error {
	var marks int64
	err := r.QueryRow(ctx, `SELECT marks FROM analytics_pending WHERE step = $1 AND at = $2`, step, at).Scan(&marks)
	if err != nil && !errors.Is(err, pgx.ErrNoRows) {
		return err
	}
	if err := r.partition(ctx, step, at); err != nil {
		return fmt.Errorf("make a partition of %s: %w", analyticsTable(step), err)
	}
	kinds := []string{everything, combinations}
	for _, d := range analytics.Dimensions() {
		kinds = append(kinds, string(d))
	}
	if _, err := r.Exec(ctx, `DELETE FROM `+analyticsTable(step)+` WHERE at = $1 AND dimension = ANY($2)`, at, kinds); err != nil {
		return err
	}
	for _, kind := range kinds {
		if _, err := r.Exec(ctx, r.sumSQL(step, kind), pgx.QueryExecModeExec, at, step.Next(at)); err != nil {
			return fmt.Errorf("sum up the %s of %s by %q: %w", step, at, kind, err)
		}
	}
	if longer, ok := nextStep(step); ok && at.Before(r.until.Of(longer)) {
		if _, err := r.Exec(ctx, `INSERT INTO analytics_pending (step, at) VALUES ($1, $2) ON CONFLICT (step, at) DO UPDATE SET marks = analytics_pending.marks + 1`,
			longer, longer.Floor(at)); err != nil {
			return err
		}
	}
	return r.unmark(ctx, step, at, marks)
}

func (r *round) unmark(ctx context.Context, step analytics.Step, at time.Time, marks int64) error {
	_, err := r.Exec(ctx, `DELETE FROM analytics_pending WHERE step = $1 AND at = $2 AND marks = $3`, step, at, marks)
	return err
}

// nextStep is the step whose sums are made from those of s.
func nextStep(s analytics.Step) (longer analytics.Step, ok bool) {
	switch s {
	case analytics.Hour:
		return analytics.Day, true
	case analytics.Day:
		return analytics.Month, true
	default:
		return "", false
	}
}

// partition makes the partition of a month if there is none. A table that is attached,
// unlike one that is created as a partition, keeps nobody from reading.
func (r *round) partition(ctx context.Context, step analytics.Step, at time.Time) error {
	parent, month := analyticsTable(step), analytics.Month.Floor(at)
	name := parent + month.Format("_200601")
	var exists bool
	if err := r.QueryRow(ctx, `SELECT to_regclass($1) IS NOT NULL`, name).Scan(&exists); err != nil || exists {
		return err
	}
	if _, err := r.Exec(ctx, `CREATE TABLE `+name+` (LIKE `+parent+` INCLUDING ALL)`); err != nil {
		return err
	}
	_, err := r.Exec(ctx, fmt.Sprintf(`ALTER TABLE %s ATTACH PARTITION %s FOR VALUES FROM ('%s') TO ('%s')`,
		parent, name, month.Format(time.RFC3339), analytics.Month.Next(month).Format(time.RFC3339)))
	return err
}

// sumColumns are what sums of a kind are told apart by.
func sumColumns(kind string) (columns []string) {
	others := analytics.Dimensions()
	if kind != combinations {
		columns, others = []string{"value"}, carried(analytics.Dimension(kind))
	}
	for _, d := range others {
		columns = append(columns, analyticsColumn(d))
	}
	return columns
}

// sumSQL sums up the rows of the interval from $1 to $2. Beyond the limit, consumers are
// folded and the rest is kept; what stands for nothing, or for the folded, takes nobody's
// place. Groups have a number on the way: texts are compared once for each row, not once
// for each bucket of its histogram.
func (r *round) sumSQL(step analytics.Step, kind string) string {
	columns, limit, reserved := sumColumns(kind), r.Values, "value IN ('', '"+analytics.Folded+"')"
	if kind == combinations {
		limit, reserved = r.Combinations, "'"+analytics.Folded+"' IN (user_id, key_id, client)"
	}
	folded, named := slices.Clone(columns), make([]string, len(columns))
	for i, c := range columns {
		switch c {
		case "value", "user_id", "key_id", "app", "client":
			folded[i] = "CASE WHEN beyond AND " + c + " <> '' THEN '" + analytics.Folded + "' ELSE " + c + " END"
		}
		named[i] = folded[i] + " AS named_" + c
	}
	selected := strings.Join(columns, ", ")
	return strings.NewReplacer(
		"{source}", sumSource(step, kind, selected), "{columns}", selected, "{folded}", strings.Join(folded, ", "),
		"{named}", strings.Join(named, ", "), "{names}", "named_"+strings.Join(columns, ", named_"),
		"{limit}", strconv.Itoa(limit), "{reserved}", reserved, "{table}", analyticsTable(step), "{kind}", kind,
	).Replace(rollUpAnalyticsSQL)
}

// sumSource selects what sums are made from: minutes, or the sums of the step before.
func sumSource(step analytics.Step, kind, columns string) string {
	shorter := analytics.Hour
	switch step {
	case analytics.Hour:
		value := "''::text"
		if kind != everything {
			value = analyticsColumn(analytics.Dimension(kind))
		}
		if rest, ok := strings.CutPrefix(columns, "value"); ok {
			columns = value + " AS value" + rest
		}
		return "SELECT " + columns + ", " + analyticsCounts + " FROM usage_minutes WHERE minute >= $1 AND minute < $2"
	case analytics.Month:
		shorter = analytics.Day
	default: // days are made of hours
	}
	return "SELECT " + columns + ", " + analyticsSums + " FROM " + analyticsTable(shorter) +
		" WHERE dimension = '" + kind + "' AND at >= $1 AND at < $2"
}

const rollUpAnalyticsSQL = `
	WITH source AS MATERIALIZED (
		{source}
	), placed AS (
		SELECT {columns}, row_number() OVER (PARTITION BY {reserved} ORDER BY sum(requests) DESC, {columns}) > {limit} AS beyond FROM source GROUP BY {columns}
	), named AS MATERIALIZED (
		SELECT {columns}, {named}, dense_rank() OVER (ORDER BY {folded}) AS g FROM placed
	), numbered AS MATERIALIZED (
		SELECT g, requests, refused, client_errors, server_errors, request_bytes, response_bytes, buckets, counts
		FROM source JOIN named USING ({columns})
	), sums AS (
		SELECT g, sum(requests)::bigint AS requests, sum(refused)::bigint AS refused,
			sum(client_errors)::bigint AS client_errors, sum(server_errors)::bigint AS server_errors,
			sum(request_bytes)::bigint AS request_bytes, sum(response_bytes)::bigint AS response_bytes
		FROM numbered GROUP BY g
	), spread AS (
		SELECT g, bucket, sum(n)::bigint AS n FROM numbered CROSS JOIN LATERAL unnest(buckets, counts) AS b (bucket, n) GROUP BY g, bucket
	), histograms AS (
		SELECT g, array_agg(bucket ORDER BY bucket) AS buckets, array_agg(n ORDER BY bucket) AS counts FROM spread GROUP BY g
	), names AS (
		SELECT DISTINCT g, {names} FROM named
	)
	INSERT INTO {table} (at, dimension, {columns}, requests, refused, client_errors, server_errors, request_bytes, response_bytes, buckets, counts)
	SELECT $1, '{kind}', {names}, requests, refused, client_errors, server_errors, request_bytes, response_bytes,
		coalesce(buckets, '{}'), coalesce(counts, '{}')
	FROM names JOIN sums USING (g) LEFT JOIN histograms USING (g) ORDER BY g`

// DropAnalytics implements analytics.Store.
func (s *Store) DropAnalytics(ctx context.Context, now time.Time, keep analytics.Retention) error {
	return s.withSums(ctx, now, func(r *round) error {
		if _, err := r.Exec(ctx, `SET LOCAL lock_timeout = `+analyticsDropWait); err != nil {
			return err
		}
		for _, old := range []struct {
			step   analytics.Step
			before time.Time
		}{
			{analytics.Hour, earlier(now.Add(-keep.Hours), r.until.Days)},
			{analytics.Day, earlier(now.Add(-keep.Days), r.until.Months)},
			{analytics.Month, now.Add(-keep.Months)},
		} {
			if err := r.drop(ctx, old.step, old.before); err != nil {
				return err
			}
		}
		return nil
	})
}

func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}

// drop drops the partitions of months that ended before.
func (r *round) drop(ctx context.Context, step analytics.Step, before time.Time) error {
	parent := analyticsTable(step)
	rows, err := r.Query(ctx, `SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = to_regclass($1) ORDER BY 1`, parent)
	if err != nil {
		return err
	}
	names, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return err
	}
	for _, name := range names {
		month, err := time.Parse(parent+"_200601", name)
		if err != nil || analytics.Month.Next(month).After(before) {
			continue // not ours, or not old
		}
		if _, err := r.Exec(ctx, `DROP TABLE `+name); err != nil {
			return fmt.Errorf("drop %s: %w", name, err)
		}
	}
	return nil
}
