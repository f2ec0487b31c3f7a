package operate

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/keywarden/keywarden/pkg/cli/adminclient"
	"github.com/keywarden/keywarden/pkg/cli/shell"
	"github.com/keywarden/keywarden/pkg/httpapi/alertsapi"
)

func (c *command) alerts() *cobra.Command {
	cmd := &cobra.Command{Use: "alerts", Short: "See what fires, and change rules, channels and silences"}
	cmd.AddCommand(c.alertsList(), c.alertRules(), c.alertChannels(), c.alertSilences(), c.alertDeliveries())
	return cmd
}

// asks is a command that asks the server once and prints what it answers.
func asks[T any](c *command, cmd *cobra.Command, ask func(context.Context, *adminclient.Client, []string) (T, error), text func(io.Writer, T)) *cobra.Command {
	var r shell.Remote
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		client, err := c.Client(&r)
		if err != nil {
			return err
		}
		out, err := ask(cmd.Context(), client, args)
		if err != nil {
			return err
		}
		return c.Print(out, func(w io.Writer) { text(w, out) })
	}
	cmd.Long = strings.TrimSpace(cmd.Short+".\n\n"+cmd.Long) + "\n" + shell.WhoCalls + shell.ExitCodes
	cmd = c.WithOutput(cmd)
	r.Flags(cmd)
	return cmd
}

// removes is a command that deletes something by its id.
func (c *command) removes(use, short, list string) *cobra.Command {
	var r shell.Remote
	cmd := &cobra.Command{
		Use: use + " ID", Short: short, Long: short + ".\n" + shell.WhoCalls + shell.ExitCodes,
		RunE: func(cmd *cobra.Command, args []string) error {
			client, err := c.Client(&r)
			if err != nil {
				return err
			}
			return client.DeleteAlertThing(cmd.Context(), list, args[0])
		},
	}
	r.Flags(cmd)
	return shell.WithArguments(cmd, 1, 1)
}

// maxObject bounds an object on standard input, in bytes.
const maxObject = 64 << 10

// object reads a JSON object from standard input: it may hold a secret, which must
// not be an argument.
func (c *command) object() ([]byte, error) {
	text, err := io.ReadAll(io.LimitReader(c.Sys.Stdin, maxObject+1))
	switch {
	case err != nil:
		return nil, fmt.Errorf("reading standard input: %w", err)
	case len(text) > maxObject:
		return nil, shell.Usage(fmt.Errorf("standard input has more than %d bytes", maxObject))
	case len(strings.TrimSpace(string(text))) == 0:
		return nil, shell.Usage(errors.New("standard input is empty; the object comes from there, in JSON"))
	}
	return text, nil
}

func table(w io.Writer, head string, lines func(line func(cells ...string))) {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	_, _ = fmt.Fprintln(t, strings.ReplaceAll(head, " ", "\t"))
	lines(func(cells ...string) {
		for i, cell := range cells {
			cells[i] = "-"
			if cell != "" {
				cells[i] = shell.Printable(cell)
			}
		}
		_, _ = fmt.Fprintln(t, strings.Join(cells, "\t"))
	})
	_ = t.Flush()
}

func clock(t *time.Time) string {
	if t == nil || t.IsZero() {
		return ""
	}
	return t.UTC().Format(time.RFC3339)
}

func figure(v float64, unit string) string {
	return strings.TrimSpace(strconv.FormatFloat(v, 'g', 6, 64) + " " + unit)
}

func (c *command) alertsList() *cobra.Command {
	var all bool
	cmd := asks(c, &cobra.Command{Use: "list", Short: "List what fires, or with --all what has fired in the last 90 days"},
		func(ctx context.Context, client *adminclient.Client, _ []string) ([]alertsapi.Alert, error) {
			if all {
				return client.Alerts(ctx, "")
			}
			return client.Alerts(ctx, "firing")
		},
		func(w io.Writer, list []alertsapi.Alert) {
			table(w, "STATE SEVERITY RULE VALUE THRESHOLD FIRED RESOLVED ABOUT", func(line func(...string)) {
				for _, a := range list {
					line(a.State, a.Severity, a.Rule, figure(a.Value, a.Unit), figure(a.Threshold, a.Unit), clock(&a.FiredAt), clock(a.ResolvedAt), a.Subject)
				}
			})
		})
	cmd.Flags().BoolVar(&all, "all", false, "also what is over")
	return cmd
}

func (c *command) alertRules() *cobra.Command {
	cmd := &cobra.Command{Use: "rules", Short: "List, set and delete rules"}
	list := asks(c, &cobra.Command{Use: "list", Short: "List rules and where they stand"},
		func(ctx context.Context, client *adminclient.Client, _ []string) ([]alertsapi.Rule, error) {
			return client.AlertRules(ctx)
		},
		writeRules)
	set := asks(c, &cobra.Command{
		Use: "set [ID]", Short: "Make a rule, or replace the one with the ID, from JSON on standard input",
		Example: `  echo '{"name": "errors", "signal": "server_error_rate", "threshold": 5, "channels": ["ID"]}' | keywarden alerts rules set`,
	}, func(ctx context.Context, client *adminclient.Client, args []string) (out alertsapi.Rule, err error) {
		body, err := c.object()
		if err != nil {
			return out, err
		}
		return client.PutAlertRule(ctx, strings.Join(args, ""), body)
	}, func(w io.Writer, r alertsapi.Rule) { writeRules(w, []alertsapi.Rule{r}) })
	cmd.AddCommand(list, shell.WithArguments(set, 0, 1), c.removes("delete", "Delete a rule; what it fires is over", "alert-rules"))
	return cmd
}

func writeRules(w io.Writer, list []alertsapi.Rule) {
	table(w, "ID NAME SIGNAL STATE VALUE THRESHOLD EVALUATED REASON", func(line func(...string)) {
		for _, r := range list {
			state, value := r.Status.State, ""
			if !r.Enabled {
				state = "disabled"
			}
			if r.Status.Value != nil {
				value = figure(*r.Status.Value, r.Unit)
			}
			line(r.ID, r.Name, r.Signal, state, value, figure(r.Threshold, r.Unit), clock(r.Status.EvaluatedAt), r.Status.Reason)
		}
	})
}

func (c *command) alertChannels() *cobra.Command {
	cmd := &cobra.Command{Use: "channels", Short: "List, set, test and delete channels"}
	list := asks(c, &cobra.Command{Use: "list", Short: "List channels, without their URLs and secrets"},
		func(ctx context.Context, client *adminclient.Client, _ []string) ([]alertsapi.Channel, error) {
			return client.AlertChannels(ctx)
		}, writeChannels)
	set := asks(c, &cobra.Command{
		Use: "set [ID]", Short: "Make a channel, or replace the one with the ID, from JSON on standard input",
		Example: `  echo '{"name": "ops", "kind": "email", "recipients": ["ops@example.com"]}' | keywarden alerts channels set
  keywarden alerts channels set < webhook.json`,
	}, func(ctx context.Context, client *adminclient.Client, args []string) (out alertsapi.Channel, err error) {
		body, err := c.object()
		if err != nil {
			return out, err
		}
		return client.PutAlertChannel(ctx, strings.Join(args, ""), body)
	}, func(w io.Writer, ch alertsapi.Channel) { writeChannels(w, []alertsapi.Channel{ch}) })
	test := asks(c, &cobra.Command{Use: "test ID", Short: "Send a notification through a channel"},
		func(ctx context.Context, client *adminclient.Client, args []string) (alertsapi.TestResult, error) {
			return client.TestAlertChannel(ctx, args[0])
		}, func(w io.Writer, r alertsapi.TestResult) {
			_, _ = fmt.Fprintf(w, "The channel has taken delivery %s.\n", r.DeliveryID)
		})
	cmd.AddCommand(list, shell.WithArguments(set, 0, 1), shell.WithArguments(test, 1, 1),
		c.removes("delete", "Delete a channel that no rule names", "alert-channels"))
	return cmd
}

func writeChannels(w io.Writer, list []alertsapi.Channel) {
	table(w, "ID NAME KIND ENABLED TO", func(line func(...string)) {
		for _, ch := range list {
			to := ch.Host
			if len(ch.Recipients) > 0 {
				to = strings.Join(ch.Recipients, ",")
			}
			line(ch.ID, ch.Name, ch.Kind, strconv.FormatBool(ch.Enabled), to)
		}
	})
}

func (c *command) alertSilences() *cobra.Command {
	cmd := &cobra.Command{Use: "silences", Short: "List, make and end silences"}
	list := asks(c, &cobra.Command{Use: "list", Short: "List silences that have not ended"},
		func(ctx context.Context, client *adminclient.Client, _ []string) ([]alertsapi.Silence, error) {
			return client.AlertSilences(ctx)
		}, writeSilences)
	var rule, comment string
	var span time.Duration
	add := asks(c, &cobra.Command{
		Use: "add", Short: "Keep notifications back for some time",
		Example: "  keywarden alerts silences add --for 30m --comment deployment\n  keywarden alerts silences add --for 2h --rule 0198c1f4-5b2e-7c3a-8f11-2d6f0f6a7b90",
	}, func(ctx context.Context, client *adminclient.Client, _ []string) (out alertsapi.Silence, err error) {
		if span <= 0 {
			return out, shell.Usage(errors.New("--for: must be a duration such as 30m or 2h"))
		}
		ends := time.Now().Add(span).UTC().Format(time.RFC3339)
		return client.SilenceAlerts(ctx, alertsapi.SilenceRequest{RuleID: rule, Ends: ends, Comment: comment})
	}, func(w io.Writer, s alertsapi.Silence) { writeSilences(w, []alertsapi.Silence{s}) })
	add.Flags().StringVar(&rule, "rule", "", "id of the rule; without it all rules are silenced")
	add.Flags().DurationVar(&span, "for", 0, "how long, such as 30m or 2h")
	add.Flags().StringVar(&comment, "comment", "", "why")
	cmd.AddCommand(list, add, c.removes("end", "End a silence now", "alert-silences"))
	return cmd
}

func writeSilences(w io.Writer, list []alertsapi.Silence) {
	table(w, "ID RULE BEGINS ENDS COMMENT", func(line func(...string)) {
		for _, s := range list {
			rule := s.RuleID
			if rule == "" {
				rule = "(all)"
			}
			line(s.ID, rule, clock(&s.Begins), clock(&s.Ends), s.Comment)
		}
	})
}

func (c *command) alertDeliveries() *cobra.Command {
	cmd := &cobra.Command{Use: "deliveries", Short: "List notifications, and send again what was given up"}
	var state string
	list := asks(c, &cobra.Command{Use: "list", Short: "List notifications, newest first"},
		func(ctx context.Context, client *adminclient.Client, _ []string) ([]alertsapi.Delivery, error) {
			return client.AlertDeliveries(ctx, state)
		}, writeDeliveries)
	list.Flags().StringVar(&state, "state", "", "only those that are pending, delivered or dead")
	_ = list.RegisterFlagCompletionFunc("state", cobra.FixedCompletions([]string{"pending", "delivered", "dead"}, cobra.ShellCompDirectiveNoFileComp))
	retry := asks(c, &cobra.Command{Use: "retry ID", Short: "Send a dead notification again, with the same id"},
		func(ctx context.Context, client *adminclient.Client, args []string) (alertsapi.Delivery, error) {
			return client.RetryAlertDelivery(ctx, args[0])
		}, func(w io.Writer, d alertsapi.Delivery) { writeDeliveries(w, []alertsapi.Delivery{d}) })
	cmd.AddCommand(list, shell.WithArguments(retry, 1, 1))
	return cmd
}

func writeDeliveries(w io.Writer, list []alertsapi.Delivery) {
	table(w, "ID CHANNEL EVENT STATE ATTEMPTS CREATED ERROR", func(line func(...string)) {
		for _, d := range list {
			line(d.ID, d.Channel, d.Event, d.State, strconv.Itoa(d.Attempts), clock(&d.CreatedAt), d.Error)
		}
	})
}
