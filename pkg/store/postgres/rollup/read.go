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
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/keywarden/keywarden/pkg/analytics"
	"github.com/keywarden/keywarden/pkg/usage"
)

// ReadAnalytics adds up what q asks for, as it was at one moment. An answer that takes
// longer than a statement may is analytics.ErrTooMuch.
func (s *Store) ReadAnalytics(ctx context.Context, q analytics.Query) (r analytics.Report, err error) {
	err = s.db.Transact(ctx, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly}, func(tx pgx.Tx) error {
		until, err := readUntil(ctx, tx)
		if err == nil {
			r, err = (&figures{tx, q, q.Pieces(until)}).read(ctx)
		}
		var pg *pgconn.PgError
		if errors.As(err, &pg) && pg.Code == queryCanceled {
			return analytics.ErrTooMuch.With(err)
		}
		return err
	})
	return r, err
}

// queryCanceled is the SQLSTATE of a statement that took longer than it may.
const queryCanceled = "57014"

func readUntil(ctx context.Context, tx pgx.Tx) (u analytics.Until, err error) {
	var hours, days, months *time.Time
	err = tx.QueryRow(ctx, `SELECT hours, days, months FROM analytics_state`).Scan(&hours, &days, &months)
	return untilOf(hours, days, months), err
}

// untilOf is what the row of analytics_state says, all columns of which are NULL at first.
func untilOf(hours, days, months *time.Time) (u analytics.Until) {
	if hours != nil && days != nil && months != nil {
		u = analytics.Until{Hours: *hours, Days: *days, Months: *months}
	}
	return u
}

// figures is a question that is being answered.
type figures struct {
	tx interface { // pgx.Tx is one
		Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
	}
	analytics.Query
	pieces analytics.Pieces
}

// read asks for the sum, and for groups twice: which they are, which takes the counts
// of all, and then what they have of the rest.
func (f *figures) read(ctx context.Context) (r analytics.Report, err error) {
	whole, err := f.gather(ctx, nil, [][]string{nil})
	if err != nil || whole[0].Requests == 0 {
		return r, err
	}
	r.Total, r.Series = whole[0].Totals, whole[0].Series
	if len(f.By) == 0 {
		return r, nil
	}
	first, err := f.first(ctx)
	if err != nil {
		return r, err
	}
	if r.More = len(first) > f.Top; r.More {
		first = first[:f.Top]
	}
	r.Groups, err = f.gather(ctx, f.By, first)
	return r, err
}

// first are the values of the groups that come first, and of the one after them.
func (f *figures) first(ctx context.Context) (first [][]string, err error) {
	var p params
	names := groupNames(f.By)
	sql := "SELECT " + names + " FROM (" + f.sources(&p, f.By, nil) + ") hit GROUP BY " + names +
		" ORDER BY " + measureSQL(f.Sort) + " DESC, " + names + " LIMIT " + p.add(f.Top+1)
	err = f.rows(ctx, sql, p, func(rows pgx.Rows) error {
		values := make([]string, len(f.By))
		first = append(first, values)
		return rows.Scan(pointers(values)...)
	})
	return first, err
}

func measureSQL(m analytics.Measure) string {
	switch m {
	case analytics.Errors:
		return "sum(client_errors + server_errors)"
	case analytics.Bytes:
		return "sum(request_bytes + response_bytes)"
	default:
		return "sum(requests)"
	}
}

// gathered is a group while its rows are added up.
type gathered struct {
	tally
	points map[time.Time]*tally
}

type tally struct {
	analytics.Totals
	latency usage.Histogram
}

func (t *tally) add(row analytics.Totals, latency usage.Histogram) {
	t.Requests += row.Requests
	t.Refused += row.Refused
	t.ClientErrors += row.ClientErrors
	t.ServerErrors += row.ServerErrors
	t.RequestBytes += row.RequestBytes
	t.ResponseBytes += row.ResponseBytes
	t.latency.Merge(latency)
}

func (t *tally) totals() analytics.Totals {
	t.P50, t.P95, t.P99 = t.latency.Quantile(0.50), t.latency.Quantile(0.95), t.latency.Quantile(0.99)
	return t.Totals
}

// gather adds up the groups that have these values by the dimensions. It does so here,
// not in the database, which is slower at merging histograms than at sending them.
func (f *figures) gather(ctx context.Context, by []analytics.Dimension, wanted [][]string) ([]analytics.Group, error) {
	index, all := map[string]*gathered{}, make([]gathered, len(wanted))
	for i, values := range wanted {
		all[i].points = map[time.Time]*tally{}
		index[strings.Join(values, "\x00")] = &all[i]
	}
	var among [][]string
	if len(by) > 0 {
		if len(wanted) == 0 {
			return nil, nil
		}
		among = wanted
	}
	var p params
	names := ""
	if len(by) > 0 {
		names = groupNames(by) + ", "
	}
	sql := "SELECT " + names + "at, " + analyticsSums + " FROM (" + f.sources(&p, by, among) + ") hit"
	values := make([]string, len(by))
	err := f.rows(ctx, sql, p, func(rows pgx.Rows) error {
		var at time.Time
		var row analytics.Totals
		var latency usage.Histogram
		if err := rows.Scan(append(pointers(values), &at, &row.Requests, &row.Refused, &row.ClientErrors, &row.ServerErrors,
			&row.RequestBytes, &row.ResponseBytes, &latency.Buckets, &latency.Counts)...); err != nil {
			return err
		}
		g := index[strings.Join(values, "\x00")]
		if g == nil {
			return fmt.Errorf("a row of %q, which is no group", values)
		}
		g.add(row, latency)
		if f.Step != analytics.Whole {
			at = f.Step.Floor(at)
			if g.points[at] == nil {
				g.points[at] = &tally{}
			}
			g.points[at].add(row, latency)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	groups := make([]analytics.Group, len(wanted))
	for i, want := range wanted {
		groups[i] = f.group(by, want, &all[i])
	}
	return groups, nil
}

func (f *figures) group(by []analytics.Dimension, values []string, g *gathered) analytics.Group {
	group := analytics.Group{Values: map[analytics.Dimension]string{}, Totals: g.totals()}
	for i, d := range by {
		group.Values[d] = values[i]
	}
	for at, p := range g.points {
		group.Series = append(group.Series, analytics.Point{At: at, Totals: p.totals()})
	}
	slices.SortFunc(group.Series, func(a, b analytics.Point) int { return a.At.Compare(b.At) })
	return group
}

// rows runs a statement and hands its rows on, one by one. It is unprepared: there are
// too many statements to keep, and a plan fits its parameters.
func (f *figures) rows(ctx context.Context, sql string, args []any, each func(pgx.Rows) error) error {
	rows, err := f.tx.Query(ctx, sql, append([]any{pgx.QueryExecModeDescribeExec}, args...)...)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		if err := each(rows); err != nil {
			return err
		}
	}
	return rows.Err()
}

func pointers(values []string) []any {
	list := make([]any, 0, len(values)+9)
	for i := range values {
		list = append(list, &values[i])
	}
	return list
}

// groupNames are the columns of the dimensions in what is selected from the sources.
func groupNames(by []analytics.Dimension) string {
	names := make([]string, len(by))
	for i := range by {
		names[i] = "d" + strconv.Itoa(i)
	}
	return strings.Join(names, ", ")
}

// sources selects the rows to add up: the sums of each step, and the minutes since. They
// are by one dimension where no more than that matters. If among is not nil, it is only
// rows with one of these combinations of values.
func (f *figures) sources(p *params, by []analytics.Dimension, among [][]string) string {
	kind := f.kind(by)
	column := func(d analytics.Dimension) string {
		if kind == string(d) {
			return "value"
		}
		return analyticsColumn(d)
	}
	var list []string
	add := func(from, at, counts string, column func(analytics.Dimension) string, when string) {
		selected := ""
		for i, d := range by {
			selected += column(d) + " AS d" + strconv.Itoa(i) + ", "
		}
		list = append(list, "SELECT "+selected+at+" AS at, "+counts+" FROM "+from+
			" WHERE "+strings.Join(append([]string{when}, f.conditions(p, by, among, column)...), " AND "))
	}
	for _, step := range analytics.Steps() {
		if at := f.pieces.Sums[step]; len(at) > 0 {
			add(analyticsTable(step), "at", analyticsSums, column, "dimension = '"+kind+"' AND at = ANY("+p.add(at)+"::timestamptz[])")
		}
	}
	if f.pieces.Rest.Before(f.To) {
		add("usage_minutes", "minute", analyticsCounts, analyticsColumn, "minute >= "+p.add(f.pieces.Rest)+" AND minute < "+p.add(f.To))
	}
	return strings.Join(list, " UNION ALL ")
}

// kind is the kind of sums with the fewest rows that have what matters.
func (f *figures) kind(by []analytics.Dimension) string {
	needs := f.needs(by)
	if len(needs) == 0 {
		return everything
	}
	// Those with fewer values first.
	for _, d := range []analytics.Dimension{
		analytics.ByAPI, analytics.ByProduct, analytics.ByApp, analytics.ByRoute, analytics.ByRefusal, analytics.ByClient, analytics.ByUser, analytics.ByKey,
	} {
		has := append(carried(d), d)
		if slices.ContainsFunc(needs, func(n analytics.Dimension) bool { return !slices.Contains(has, n) }) {
			continue
		}
		_, user := f.Filter[analytics.ByUser]
		_, app := f.Filter[analytics.ByApp]
		if d != analytics.ByKey || len(needs) == 1 || !user && !app { // there is an index for the combinations of these
			return string(d)
		}
	}
	return combinations
}

// needs are the dimensions that matter for groups by some.
func (f *figures) needs(by []analytics.Dimension) (needs []analytics.Dimension) {
	for _, d := range analytics.Dimensions() {
		if _, filtered := f.Filter[d]; filtered || slices.Contains(by, d) || slices.Contains(f.Named, d) {
			needs = append(needs, d)
		}
	}
	return needs
}

// conditions are those of the question, and of among.
func (f *figures) conditions(p *params, by []analytics.Dimension, among [][]string, column func(analytics.Dimension) string) (list []string) {
	for _, d := range analytics.Dimensions() {
		if value, given := f.Filter[d]; given {
			list = append(list, column(d)+" = "+p.add(value))
		}
		if slices.Contains(f.Named, d) {
			list = append(list, column(d)+" <> ''")
		}
	}
	if among == nil {
		return list
	}
	columns, lists := make([]string, len(by)), make([]string, len(by))
	for i, d := range by {
		values := make([]string, len(among))
		for j := range among {
			values[j] = among[j][i]
		}
		columns[i], lists[i] = column(d), p.add(values)+"::text[]"
		list = append(list, columns[i]+" = ANY("+lists[i]+")")
	}
	if len(by) > 1 {
		list = append(list, "("+strings.Join(columns, ", ")+") IN (SELECT * FROM unnest("+strings.Join(lists, ", ")+"))")
	}
	return list
}

// params are the parameters of a statement.
type params []any

// add adds one and returns its placeholder.
func (p *params) add(v any) string {
	*p = append(*p, v)
	return "$" + strconv.Itoa(len(*p))
}
