package operate

import (
	"errors"
	"fmt"
	"io"
	"net/url"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/keywarden/keywarden/pkg/cli/shell"
	"github.com/keywarden/keywarden/pkg/httpapi/usageapi"
)

// usageQuery is what the flags of the command ask for.
type usageQuery struct {
	from, to, step, by string
	top                int
	only               []string
}

func (c *command) usage() *cobra.Command {
	var r shell.Remote
	var q usageQuery
	cmd := c.WithOutput(&cobra.Command{
		Use:   "usage",
		Short: "Say who uses what: requests, errors, bytes and latency",
		Long: `Say who has used what of a running instance, in the last 24 hours if nothing else is
asked for. --by tells apart by one or more of route, user, key, app and status.
` + shell.WhoCalls + shell.ExitCodes,
		Example: `  keywarden usage                               # by route
  keywarden usage --by user,key --from 7d --top 5
  keywarden usage --by status --only route=orders-api --from 2h --step minute
  keywarden usage --by key --only user_id= -o json   # an empty value: callers without one`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			query, err := q.values(time.Now())
			if err != nil {
				return shell.Usage(err)
			}
			client, err := c.Client(&r)
			if err != nil {
				return err
			}
			out, err := client.Usage(cmd.Context(), query)
			if err != nil {
				return err
			}
			return c.Print(out, func(w io.Writer) { writeUsage(w, out) })
		},
	})
	r.Flags(cmd)
	f := cmd.Flags()
	f.StringVar(&q.by, "by", "route", "what to tell apart, comma-separated: route, user, key, app, status; empty for the sum")
	f.StringVar(&q.from, "from", "", "beginning: a time such as 2030-01-31T12:00:00Z, or how long ago, such as 2h or 7d")
	f.StringVar(&q.to, "to", "", "end, likewise; default is now")
	f.StringVar(&q.step, "step", "", "also over time: minute, hour or day")
	f.IntVar(&q.top, "top", 20, "how many, those with most requests")
	f.StringArrayVar(&q.only, "only", nil, "count only route=…, user_id=…, key_id=…, app=… or status=4xx (repeatable)")
	for name, words := range map[string][]string{"by": {"route", "user", "key", "app", "status"}, "step": {"minute", "hour", "day"}} {
		_ = cmd.RegisterFlagCompletionFunc(name, cobra.FixedCompletions(words, cobra.ShellCompDirectiveNoFileComp))
	}
	return cmd
}

// values are the parameters for the server, which checks what they say.
func (q usageQuery) values(now time.Time) (url.Values, error) {
	v := url.Values{"top": {strconv.Itoa(q.top)}}
	for name, text := range map[string]string{"by": q.by, "step": q.step} {
		if text != "" {
			v.Set(name, text)
		}
	}
	for name, text := range map[string]string{"from": q.from, "to": q.to} {
		if text == "" {
			continue
		}
		at, err := moment(text, now)
		if err != nil {
			return nil, fmt.Errorf("--%s: %w", name, err)
		}
		v.Set(name, at.UTC().Format(time.RFC3339))
	}
	for _, filter := range q.only {
		name, value, ok := strings.Cut(filter, "=")
		switch name {
		case "route", "user_id", "key_id", "app", "status":
		default:
			ok = false
		}
		if !ok || v.Has(name) {
			return nil, fmt.Errorf("--only %q: must be route=…, user_id=…, key_id=…, app=… or status=…, each once", filter)
		}
		v.Set(name, value)
	}
	return v, nil
}

// moment reads a time, or how long before now it is.
func moment(text string, now time.Time) (time.Time, error) {
	if at, err := time.Parse(time.RFC3339, text); err == nil {
		return at, nil
	}
	const most = 10_000 // days
	if number, ok := strings.CutSuffix(text, "d"); ok {
		if days, err := strconv.Atoi(number); err == nil && days >= 0 && days <= most {
			return now.AddDate(0, 0, -days), nil
		}
	} else if ago, err := time.ParseDuration(text); err == nil && ago >= 0 {
		return now.Add(-ago), nil
	}
	return time.Time{}, errors.New("must be a time such as 2030-01-31T12:00:00Z, or how long ago, such as 90m, 2h or 7d")
}

// writeUsage writes a table of groups, and one of intervals for each where there
// are some.
func writeUsage(w io.Writer, u usageapi.Usage) {
	_, _ = fmt.Fprintf(w, "from %s to %s\n\n", u.From.Format(time.RFC3339), u.To.Format(time.RFC3339))
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	var heads, total []string
	if len(u.Items) > 0 {
		for _, d := range usageValues(u.Items[0]) {
			heads, total = append(heads, d.name), append(total, "")
		}
		total[0] = "TOTAL"
	}
	if u.Step != "" {
		heads = append(heads, "TIME")
	}
	_, _ = fmt.Fprintln(t, strings.Join(append(heads, "REQUESTS\t4XX\t5XX\tBYTES IN\tBYTES OUT\tP50 MS\tP95 MS\tP99 MS"), "\t"))
	for _, g := range u.Items {
		var cells []string
		for _, d := range usageValues(g) {
			cells = append(cells, d.value)
		}
		writeUsageLines(t, cells, u.Step, g.Totals, g.Series)
	}
	writeUsageLines(t, total, u.Step, u.Total, u.Series)
	_ = t.Flush()
	if u.More {
		_, _ = fmt.Fprintln(w, "\nThere are more; the total counts them. See --top.")
	}
}

// writeUsageLines writes the totals, and before them a line for each interval.
func writeUsageLines(w io.Writer, cells []string, step string, totals usageapi.Totals, series []usageapi.Point) {
	line := func(at string, v usageapi.Totals) {
		columns := cells[:len(cells):len(cells)]
		if step != "" {
			columns = append(columns, at)
		}
		columns = append(columns, fmt.Sprintf("%d\t%d\t%d\t%d\t%d\t%s\t%s\t%s", v.Requests, v.ClientErrors, v.ServerErrors,
			v.RequestBytes, v.ResponseBytes, shortMS(v.P50), shortMS(v.P95), shortMS(v.P99)))
		_, _ = fmt.Fprintln(w, strings.Join(columns, "\t"))
	}
	for _, p := range series {
		line(p.At.Format(time.RFC3339), p.Totals)
	}
	line("all", totals)
}

// shortMS is a number of milliseconds without digits that say nothing.
func shortMS(ms float64) string {
	if ms >= 1000 {
		return strconv.FormatFloat(ms, 'f', 0, 64)
	}
	return strconv.FormatFloat(ms, 'g', 4, 64)
}

// usageValue is what a group has in one dimension.
type usageValue struct{ name, value string }

// usageValues are the dimensions of a group, in the order of the table.
func usageValues(g usageapi.Group) (list []usageValue) {
	for _, d := range []struct {
		name  string
		value *string
	}{{"ROUTE", g.Route}, {"USER", g.UserID}, {"KEY", g.KeyID}, {"APP", g.App}, {"STATUS", g.Status}} {
		switch {
		case d.value == nil:
		case *d.value == "":
			list = append(list, usageValue{d.name, "-"})
		default:
			list = append(list, usageValue{d.name, shell.Printable(*d.value)})
		}
	}
	return list
}
