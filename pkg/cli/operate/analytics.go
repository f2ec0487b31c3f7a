package operate

import (
	"fmt"
	"io"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/keywarden/keywarden/pkg/cli/shell"
	"github.com/keywarden/keywarden/pkg/httpapi/analyticsapi"
)

// analyticsQuery is what the flags of the command ask for.
type analyticsQuery struct {
	from, to, step, by, sort string
	top                      int
	only                     []string
	refusals                 bool
}

func (c *command) analytics() *cobra.Command {
	var r shell.Remote
	var q analyticsQuery
	cmd := &cobra.Command{
		Use:   "analytics",
		Short: "Say what became of requests over hours, days and months",
		Long: `Say what has become of the requests to a running instance, in the last 24 hours if
nothing else is asked for. --by tells apart by one or more of api, product, app, user,
key, route, refusal and client, which is the network of refused anonymous callers.
` + shell.WhoCalls + shell.ExitCodes,
		Example: `  keywarden analytics --from 90d --step day          # an overview
  keywarden analytics --by key --from 90d --top 20   # the top consumers
  keywarden analytics --by route --sort errors
  keywarden analytics --refusals --by client         # who knocked without a key
  keywarden analytics --by app --only product=gold --from 30d -o csv >gold.csv`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if !slices.Contains([]string{"text", "json", "csv"}, c.Output) {
				return shell.Usage(fmt.Errorf("--output is %q, must be text, json or csv", c.Output))
			}
			query, err := q.values(time.Now())
			if err != nil {
				return shell.Usage(err)
			}
			client, err := c.Client(&r)
			if err != nil {
				return err
			}
			if c.Output == "csv" {
				text, err := client.AnalyticsCSV(cmd.Context(), q.refusals, query)
				if err == nil {
					_, err = c.Sys.Stdout.Write(text)
				}
				return err
			}
			out, err := client.Analytics(cmd.Context(), q.refusals, query)
			if err != nil {
				return err
			}
			return c.Print(out, func(w io.Writer) { writeAnalytics(w, out) })
		},
	}
	r.Flags(cmd)
	f := cmd.Flags()
	f.StringVarP(&c.Output, "output", "o", "text", "form of the output: text, json or csv")
	f.StringVar(&q.by, "by", "", "what to tell apart, comma-separated: api, product, app, user, key, route, refusal, client; empty for the sum")
	f.StringVar(&q.from, "from", "", "beginning: a time such as 2030-01-31T12:00:00Z, or how long ago, such as 2h or 90d")
	f.StringVar(&q.to, "to", "", "end, likewise; default is now")
	f.StringVar(&q.step, "step", "", "also over time: hour, day or month")
	f.StringVar(&q.sort, "sort", "", "what comes first: requests, errors or bytes")
	f.IntVar(&q.top, "top", 20, "how many groups, those that come first")
	f.BoolVar(&q.refusals, "refusals", false, "only what was refused, by the reason unless --by says otherwise")
	f.StringArrayVar(&q.only, "only", nil, "count only "+strings.Join(analyticsFilters(), "=…, ")+"=… (repeatable)")
	for name, words := range map[string][]string{
		"output": {"text", "json", "csv"}, "step": {"hour", "day", "month"}, "sort": {"requests", "errors", "bytes"},
		"by": {"api", "product", "app", "user", "key", "route", "refusal", "client"},
	} {
		_ = cmd.RegisterFlagCompletionFunc(name, cobra.FixedCompletions(words, cobra.ShellCompDirectiveNoFileComp))
	}
	return cmd
}

func analyticsFilters() []string {
	return []string{"api", "product", "app", "user_id", "key_id", "route", "refusal", "client"}
}

// values are the parameters for the server, which checks what they say.
func (q analyticsQuery) values(now time.Time) (url.Values, error) {
	v := url.Values{"top": {strconv.Itoa(q.top)}}
	for name, text := range map[string]string{"by": q.by, "step": q.step, "sort": q.sort} {
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
		if !ok || v.Has(name) || !slices.Contains(analyticsFilters(), name) {
			return nil, fmt.Errorf("--only %q: must be %s=…, each once", filter, strings.Join(analyticsFilters(), "=…, "))
		}
		v.Set(name, value)
	}
	return v, nil
}

// writeAnalytics writes a table of groups, and one of intervals for each where there are
// some.
func writeAnalytics(w io.Writer, a analyticsapi.Analytics) {
	_, _ = fmt.Fprintf(w, "from %s to %s\n\n", a.From.Format(time.RFC3339), a.To.Format(time.RFC3339))
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	var heads, total []string
	if len(a.Items) > 0 {
		for _, d := range analyticsValues(a.Items[0]) {
			heads, total = append(heads, d.name), append(total, "")
		}
		total[0] = "TOTAL"
	}
	if a.Step != "" {
		heads = append(heads, "TIME")
	}
	_, _ = fmt.Fprintln(t, strings.Join(append(heads, "REQUESTS\tREFUSED\t4XX\t5XX\tBYTES IN\tBYTES OUT\tP50 MS\tP95 MS\tP99 MS"), "\t"))
	for _, g := range a.Items {
		var cells []string
		for _, d := range analyticsValues(g) {
			cells = append(cells, d.value)
		}
		writeAnalyticsLines(t, cells, a.Step, g.Totals, g.Series)
	}
	writeAnalyticsLines(t, total, a.Step, a.Total, a.Series)
	_ = t.Flush()
	if a.More {
		_, _ = fmt.Fprintln(w, "\nThere are more; the total counts them. See --top.")
	}
}

// writeAnalyticsLines writes the totals, and before them a line for each interval.
func writeAnalyticsLines(w io.Writer, cells []string, step string, totals analyticsapi.Totals, series []analyticsapi.Point) {
	line := func(at string, v analyticsapi.Totals) {
		columns := cells[:len(cells):len(cells)]
		if step != "" {
			columns = append(columns, at)
		}
		columns = append(columns, fmt.Sprintf("%d\t%d\t%d\t%d\t%d\t%d\t%s\t%s\t%s", v.Requests, v.Refused, v.ClientErrors, v.ServerErrors,
			v.RequestBytes, v.ResponseBytes, shortMS(v.P50), shortMS(v.P95), shortMS(v.P99)))
		_, _ = fmt.Fprintln(w, strings.Join(columns, "\t"))
	}
	for _, p := range series {
		line(p.At.Format(time.RFC3339), p.Totals)
	}
	line("all", totals)
}

// analyticsValues are the dimensions of a group, in the order of the table.
func analyticsValues(g analyticsapi.Group) (list []usageValue) {
	for _, d := range []struct {
		name  string
		value *string
	}{
		{"API", g.API}, {"PRODUCT", g.Product}, {"APP", g.App}, {"USER", g.UserID}, {"KEY", g.KeyID}, {"ROUTE", g.Route},
		{"REFUSAL", g.Refusal}, {"CLIENT", g.Client},
	} {
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
