package operate

import (
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/keywarden/keywarden/pkg/cli/shell"
	"github.com/keywarden/keywarden/pkg/httpapi/usageapi"
)

func (c *command) usage() *cobra.Command {
	var r shell.Remote
	var q figuresQuery
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
			query, err := q.values(time.Now(), []string{"route", "user_id", "key_id", "app", "status"})
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
			return c.Print(out, func(w io.Writer) { usageTable(out).write(w) })
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

func usageTable(u usageapi.Usage) figuresTable {
	t := figuresTable{
		from: u.From, to: u.To, step: u.Step, more: u.More, total: usageGroup(u.Total, u.Series),
		numbers: []string{"REQUESTS", "4XX", "5XX", "BYTES IN", "BYTES OUT", "P50 MS", "P95 MS", "P99 MS"},
	}
	for _, g := range u.Items {
		group := usageGroup(g.Totals, g.Series)
		group.values = []figuresValue{{"ROUTE", g.Route}, {"USER", g.UserID}, {"KEY", g.KeyID}, {"APP", g.App}, {"STATUS", g.Status}}
		t.groups = append(t.groups, group)
	}
	return t
}

func usageGroup(totals usageapi.Totals, series []usageapi.Point) figuresGroup {
	numbers := func(v usageapi.Totals) []any {
		return []any{v.Requests, v.ClientErrors, v.ServerErrors, v.RequestBytes, v.ResponseBytes, shortMS(v.P50), shortMS(v.P95), shortMS(v.P99)}
	}
	g := figuresGroup{totals: numbers(totals)}
	for _, p := range series {
		g.series = append(g.series, figuresPoint{p.At, numbers(p.Totals)})
	}
	return g
}
