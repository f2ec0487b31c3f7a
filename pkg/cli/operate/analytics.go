package operate

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/keywarden/keywarden/pkg/cli/shell"
	"github.com/keywarden/keywarden/pkg/httpapi/analyticsapi"
)

func (c *command) analytics() *cobra.Command {
	var r shell.Remote
	var q figuresQuery
	var refusals bool
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
			query, err := q.values(time.Now(), analyticsFilters())
			if err != nil {
				return shell.Usage(err)
			}
			client, err := c.Client(&r)
			if err != nil {
				return err
			}
			if c.Output == "csv" {
				text, err := client.AnalyticsCSV(cmd.Context(), refusals, query)
				if err == nil {
					_, err = c.Sys.Stdout.Write(text)
				}
				return err
			}
			out, err := client.Analytics(cmd.Context(), refusals, query)
			if err != nil {
				return err
			}
			return c.Print(out, func(w io.Writer) { analyticsTable(out).write(w) })
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
	f.BoolVar(&refusals, "refusals", false, "only what was refused, by the reason unless --by says otherwise")
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

func analyticsTable(a analyticsapi.Analytics) figuresTable {
	t := figuresTable{
		from: a.From, to: a.To, step: a.Step, more: a.More, total: analyticsGroup(a.Total, a.Series),
		numbers: []string{"REQUESTS", "REFUSED", "4XX", "5XX", "BYTES IN", "BYTES OUT", "P50 MS", "P95 MS", "P99 MS"},
	}
	for _, g := range a.Items {
		group := analyticsGroup(g.Totals, g.Series)
		group.values = []figuresValue{
			{"API", g.API}, {"PRODUCT", g.Product}, {"APP", g.App}, {"USER", g.UserID}, {"KEY", g.KeyID}, {"ROUTE", g.Route},
			{"REFUSAL", g.Refusal}, {"CLIENT", g.Client},
		}
		t.groups = append(t.groups, group)
	}
	return t
}

func analyticsGroup(totals analyticsapi.Totals, series []analyticsapi.Point) figuresGroup {
	numbers := func(v analyticsapi.Totals) []any {
		return []any{
			v.Requests, v.Refused, v.ClientErrors, v.ServerErrors, v.RequestBytes, v.ResponseBytes,
			shortMS(v.P50), shortMS(v.P95), shortMS(v.P99),
		}
	}
	g := figuresGroup{totals: numbers(totals)}
	for _, p := range series {
		g.series = append(g.series, figuresPoint{p.At, numbers(p.Totals)})
	}
	return g
}
