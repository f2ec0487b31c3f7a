package operate

import (
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/keywarden/keywarden/pkg/catalog"
	"github.com/keywarden/keywarden/pkg/cli/adminclient"
	"github.com/keywarden/keywarden/pkg/cli/shell"
	"github.com/keywarden/keywarden/pkg/httpapi/catalogapi"
	"github.com/keywarden/keywarden/pkg/spec/policies"
)

// catalog are the commands about products and who is subscribed to them.
func (c *command) catalog() []*cobra.Command {
	products := &cobra.Command{Use: "products", Short: "Make, list and delete products: bundles of routes that apps subscribe to"}
	products.AddCommand(c.productsList(), c.productsShow(), c.productsPut(), c.productsDelete())
	plans := &cobra.Command{Use: "plans", Short: "Make, list and delete the plans of products: limits, and who approves"}
	plans.AddCommand(c.plansList(), c.plansPut(), c.plansDelete())
	apps := &cobra.Command{Use: "apps", Short: "List, suspend and resume the apps of developers"}
	apps.AddCommand(c.appsList(), c.appsShow(), c.appsChange("suspend", "Let the keys of an app reach nothing, until it is resumed"),
		c.appsChange("resume", "Resume an app that was suspended"))
	subscriptions := &cobra.Command{Use: "subscriptions", Short: "List subscriptions, and decide about them"}
	subscriptions.AddCommand(c.subscriptionsList(), c.subscriptionsAdd())
	for verb, short := range map[catalog.Verb]string{
		catalog.Approve: "Let a pending subscription begin", catalog.Reject: "Refuse a pending subscription",
		catalog.Suspend: "Let nothing be reached by a subscription, until it is resumed", catalog.Resume: "Resume a suspended subscription",
		catalog.Revoke: "End a subscription, at once on every replica",
	} {
		subscriptions.AddCommand(c.subscriptionsDecide(string(verb), short))
	}
	return []*cobra.Command{products, plans, apps, subscriptions}
}

// asking is a command that asks a running instance and prints the answer.
func asking[T any](c *command, cmd *cobra.Command, arguments int, ask func(cmd *cobra.Command, client *adminclient.Client, args []string) (T, error), text func(io.Writer, T)) *cobra.Command {
	var r shell.Remote
	cmd.Long = cmd.Short + ".\n" + shell.WhoCalls + shell.ExitCodes
	cmd = c.WithOutput(shell.WithArguments(cmd, arguments, arguments))
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		client, err := c.Client(&r)
		if err != nil {
			return err
		}
		out, err := ask(cmd, client, args)
		if err != nil {
			return err
		}
		return c.Print(out, func(w io.Writer) { text(w, out) })
	}
	r.Flags(cmd)
	return cmd
}

// silent is a command that changes something and prints nothing.
func silent(c *command, cmd *cobra.Command, arguments int, act func(cmd *cobra.Command, client *adminclient.Client, args []string) error) *cobra.Command {
	var r shell.Remote
	cmd.Long = cmd.Short + ".\n" + shell.WhoCalls + shell.ExitCodes
	cmd = shell.WithArguments(cmd, arguments, arguments)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		client, err := c.Client(&r)
		if err != nil {
			return err
		}
		return act(cmd, client, args)
	}
	r.Flags(cmd)
	return cmd
}

// writeRows writes a table of rows below heads.
func writeRows(w io.Writer, heads string, rows [][]string) {
	table(w, heads, func(line func(cells ...string)) {
		for _, row := range rows {
			line(row...)
		}
	})
}

func stamp(at time.Time) string { return at.UTC().Format(time.RFC3339) }

func (c *command) productsList() *cobra.Command {
	return asking(c, &cobra.Command{Use: "list", Short: "List products"}, 0,
		func(cmd *cobra.Command, client *adminclient.Client, _ []string) ([]catalogapi.Product, error) {
			return client.Products(cmd.Context())
		}, writeProducts)
}

func writeProducts(w io.Writer, all []catalogapi.Product) {
	var rows [][]string
	for _, p := range all {
		visible := "hidden"
		if p.Visible != nil && *p.Visible {
			visible = "visible"
		}
		reach := "anybody"
		if p.AppsOnly {
			reach = "apps"
		}
		rows = append(rows, []string{p.Name, p.Title, visible, reach, strings.Join(p.Routes, " ")})
	}
	writeRows(w, "NAME TITLE VISIBLE FOR ROUTES", rows)
	for _, p := range all {
		for _, v := range p.Warnings {
			_, _ = fmt.Fprintf(w, "Warning: %s: %s: %s\n", p.Name, routeOf(p, v.Field), shell.Printable(v.Detail))
		}
	}
}

// routeOf is the name that a warning about a field such as routes[2] is about.
func routeOf(p catalogapi.Product, field string) string {
	for i, r := range p.Routes {
		if field == fmt.Sprintf("routes[%d]", i) {
			return shell.Printable(r)
		}
	}
	return shell.Printable(field)
}

func writeProduct(w io.Writer, p catalogapi.Product) {
	writeProducts(w, []catalogapi.Product{p})
	_, _ = fmt.Fprintln(w, "Changed", exact(p.UpdatedAt))
	if len(p.Plans) > 0 {
		_, _ = fmt.Fprintln(w)
		writePlans(w, p.Plans)
	}
}

// exact is a time as --if-match takes it.
func exact(at time.Time) string { return catalog.Tag(at) }

// basis is the flags that say what a change is based on.
type basis struct {
	at  string
	new bool
}

func (b *basis) flags(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVar(&b.at, "if-match", "", "time at which the one to replace was changed last, as it is shown; refuse when somebody has changed it since")
	f.BoolVar(&b.new, "if-new", false, "refuse when there is one of this name")
}

// change is the base in the words of the admin API.
func (b *basis) change() (adminclient.Change, error) {
	if b.at == "" {
		return adminclient.Change{Create: b.new}, nil
	}
	at, err := time.Parse(time.RFC3339Nano, b.at)
	switch {
	case err != nil:
		return adminclient.Change{}, shell.Usage(errors.New("--if-match: must be a time as it is shown, such as 2030-01-01T12:00:00.123456Z"))
	case b.new:
		return adminclient.Change{}, shell.Usage(errors.New("--if-match and --if-new contradict each other"))
	}
	return adminclient.Change{IfMatch: catalog.Tag(at)}, nil
}

func (c *command) productsShow() *cobra.Command {
	return asking(c, &cobra.Command{Use: "show NAME", Short: "Show a product with its plans"}, 1,
		func(cmd *cobra.Command, client *adminclient.Client, args []string) (catalogapi.Product, error) {
			return client.Product(cmd.Context(), args[0])
		}, writeProduct)
}

func (c *command) productsPut() *cobra.Command {
	var in catalogapi.ProductRequest
	var on basis
	cmd := asking(c, &cobra.Command{
		Use: "put NAME", Short: "Make a product, or replace all of it but its plans",
		Example: `  keywarden products put people --visible --route people,birds.list
  keywarden plans put people free --rate 100/1m --quota 10000/month`,
	}, 1, func(cmd *cobra.Command, client *adminclient.Client, args []string) (catalogapi.Product, error) {
		if len(in.Routes) == 0 {
			return catalogapi.Product{}, shell.Usage(errors.New("--route is missing: names of routes, or of APIs"))
		}
		ch, err := on.change()
		if err != nil {
			return catalogapi.Product{}, err
		}
		return client.PutProduct(cmd.Context(), args[0], in, ch)
	}, writeProduct)
	on.flags(cmd)
	f := cmd.Flags()
	f.StringVar(&in.Title, "title", "", "for people; default is the name")
	f.StringVar(&in.Description, "description", "", "for people")
	f.BoolVar(&in.Visible, "visible", false, "let developers see it and subscribe to it")
	f.BoolVar(&in.AppsOnly, "apps-only", false, "refuse who shows another credential than the key of an app")
	f.StringSliceVar(&in.Routes, "route", nil, "what it opens: the name of a route, or of an API for all its routes (repeatable)")
	return cmd
}

func (c *command) productsDelete() *cobra.Command {
	var force bool
	cmd := silent(c, &cobra.Command{Use: "delete NAME", Short: "Delete a product with its plans"}, 1,
		func(cmd *cobra.Command, client *adminclient.Client, args []string) error {
			return client.DeleteProduct(cmd.Context(), args[0], force)
		})
	cmd.Flags().BoolVar(&force, "force", false, "also when it has subscriptions, which end with it")
	return cmd
}

func writePlans(w io.Writer, all []catalogapi.Plan) {
	var rows [][]string
	for _, p := range all {
		rate, quota := "unlimited", "unlimited"
		if p.Rate != nil {
			rate = fmt.Sprintf("%d/%s, burst %d", p.Rate.Requests, p.Rate.Window, p.Rate.Burst)
		}
		if p.Quota != nil {
			quota = fmt.Sprintf("%d/%s %s", p.Quota.Units, p.Quota.Period, p.Quota.TimeZone)
			if p.Quota.Rolling {
				quota = "rolling " + quota
			}
		}
		rows = append(rows, []string{p.Name, p.Approval, rate, quota, p.Price, exact(p.UpdatedAt)})
	}
	writeRows(w, "NAME APPROVAL RATE QUOTA PRICE CHANGED", rows)
}

func (c *command) plansList() *cobra.Command {
	return asking(c, &cobra.Command{Use: "list PRODUCT", Short: "List the plans of a product"}, 1,
		func(cmd *cobra.Command, client *adminclient.Client, args []string) ([]catalogapi.Plan, error) {
			p, err := client.Product(cmd.Context(), args[0])
			return append([]catalogapi.Plan{}, p.Plans...), err
		}, writePlans)
}

func (c *command) plansPut() *cobra.Command {
	var in catalogapi.PlanRequest
	var rate, quota, zone string
	var burst int64
	var rolling bool
	var on basis
	cmd := asking(c, &cobra.Command{
		Use: "put PRODUCT PLAN", Short: "Make a plan, or replace it; new limits hold at once",
		Example: `  keywarden plans put people free --rate 100/1m --quota 10000/month
  keywarden plans put people gold --approval operator --price "10 EUR a month" --rate 50/1s --burst 200`,
	}, 2, func(cmd *cobra.Command, client *adminclient.Client, args []string) (out catalogapi.Plan, err error) {
		if in.Rate, err = planRate(rate, burst); err == nil {
			in.Quota, err = planQuota(quota, zone, rolling)
		}
		if err != nil {
			return out, shell.Usage(err)
		}
		ch, err := on.change()
		if err != nil {
			return out, err
		}
		return client.PutPlan(cmd.Context(), args[0], args[1], in, ch)
	}, func(w io.Writer, p catalogapi.Plan) { writePlans(w, []catalogapi.Plan{p}) })
	on.flags(cmd)
	f := cmd.Flags()
	f.StringVar(&in.Price, "price", "", "a note for people")
	f.StringVar(&in.Approval, "approval", string(catalog.Automatic), "who lets a subscription begin: automatic or operator")
	f.StringVar(&rate, "rate", "", "requests in each window, such as 100/1m, or smoothed, such as 30pm; default is no limit")
	f.Int64Var(&burst, "burst", 0, "requests at once; default is all of a window")
	f.StringVar(&quota, "quota", "", "units in each minute, hour, day, week or month, such as 10000/month; default is no quota")
	f.StringVar(&zone, "time-zone", "", "where days, weeks and months begin; default is UTC")
	f.BoolVar(&rolling, "rolling", false, "let the period of the quota begin with the first request, and not with the calendar")
	_ = cmd.RegisterFlagCompletionFunc("approval", cobra.FixedCompletions([]string{string(catalog.Automatic), string(catalog.Operator)}, cobra.ShellCompDirectiveNoFileComp))
	return cmd
}

// planRate reads the flags for the rate limit of a plan; nil is none.
func planRate(text string, burst int64) (*catalogapi.Rate, error) {
	if text == "" {
		if burst != 0 {
			return nil, errors.New("--burst means nothing without --rate")
		}
		return nil, nil //nolint:nilnil // no rate limit
	}
	var rate policies.Rate
	if err := rate.UnmarshalText([]byte(text)); err != nil {
		return nil, fmt.Errorf("--rate: %w", err)
	}
	if rate.Smoothed {
		if burst > 1 {
			return nil, errors.New("--burst means nothing for a smoothed rate")
		}
		burst = 1
	}
	return &catalogapi.Rate{Requests: rate.Quota, Window: rate.Window.String(), Burst: burst}, nil
}

// planQuota reads the flags for the quota of a plan; nil is none.
func planQuota(text, zone string, rolling bool) (*catalogapi.Quota, error) {
	if text == "" {
		if zone != "" || rolling {
			return nil, errors.New("--time-zone and --rolling mean nothing without --quota")
		}
		return nil, nil //nolint:nilnil // no quota
	}
	number, period, ok := strings.Cut(text, "/")
	units, err := strconv.ParseInt(number, 10, 64)
	if !ok || err != nil {
		return nil, errors.New("--quota: must be a number of units and a period, such as 10000/month")
	}
	return &catalogapi.Quota{Units: units, Period: period, TimeZone: zone, Rolling: rolling}, nil
}

func (c *command) plansDelete() *cobra.Command {
	var force bool
	cmd := silent(c, &cobra.Command{Use: "delete PRODUCT PLAN", Short: "Delete a plan"}, 2,
		func(cmd *cobra.Command, client *adminclient.Client, args []string) error {
			return client.DeletePlan(cmd.Context(), args[0], args[1], force)
		})
	cmd.Flags().BoolVar(&force, "force", false, "also when it has subscriptions, which are revoked")
	return cmd
}

func writeApps(w io.Writer, all []catalogapi.App) {
	var rows [][]string
	for _, a := range all {
		suspended := ""
		if a.SuspendedAt != nil {
			suspended = stamp(*a.SuspendedAt)
		}
		rows = append(rows, []string{a.ID, a.Name, a.UserID, stamp(a.CreatedAt), suspended})
	}
	writeRows(w, "ID NAME USER CREATED SUSPENDED", rows)
}

func writeApp(w io.Writer, a catalogapi.App) { writeApps(w, []catalogapi.App{a}) }

func (c *command) appsList() *cobra.Command {
	var user string
	cmd := asking(c, &cobra.Command{Use: "list", Short: "List apps, newest first"}, 0,
		func(cmd *cobra.Command, client *adminclient.Client, _ []string) ([]catalogapi.App, error) {
			return client.Apps(cmd.Context(), user)
		}, writeApps)
	cmd.Flags().StringVar(&user, "user", "", "only of the user with this id")
	return cmd
}

func (c *command) appsShow() *cobra.Command {
	return asking(c, &cobra.Command{Use: "show ID", Short: "Show an app"}, 1,
		func(cmd *cobra.Command, client *adminclient.Client, args []string) (catalogapi.App, error) {
			return client.App(cmd.Context(), args[0])
		}, writeApp)
}

func (c *command) appsChange(verb, short string) *cobra.Command {
	return asking(c, &cobra.Command{Use: verb + " ID", Short: short}, 1,
		func(cmd *cobra.Command, client *adminclient.Client, args []string) (catalogapi.App, error) {
			return client.ChangeApp(cmd.Context(), args[0], verb)
		}, writeApp)
}

func writeSubscriptions(w io.Writer, all []catalogapi.Subscription) {
	var rows [][]string
	for _, s := range all {
		rows = append(rows, []string{s.ID, s.State, s.Product, s.Plan, s.App, s.UserID, stamp(s.UpdatedAt)})
	}
	writeRows(w, "ID STATE PRODUCT PLAN APP USER CHANGED", rows)
}

func writeSubscription(w io.Writer, s catalogapi.Subscription) {
	writeSubscriptions(w, []catalogapi.Subscription{s})
}

func (c *command) subscriptionsList() *cobra.Command {
	var only adminclient.SubscriptionFilter
	cmd := asking(c, &cobra.Command{
		Use: "list", Short: "List subscriptions, newest first", Example: `  keywarden subscriptions list --state pending`,
	}, 0, func(cmd *cobra.Command, client *adminclient.Client, _ []string) ([]catalogapi.Subscription, error) {
		return client.Subscriptions(cmd.Context(), only)
	}, writeSubscriptions)
	f := cmd.Flags()
	f.StringVar(&only.App, "app", "", "only of the app with this id")
	f.StringVar(&only.Product, "product", "", "only to the product of this name")
	f.StringVar(&only.State, "state", "", "only those that are pending, active, suspended, rejected, cancelled or revoked")
	var states []string
	for _, s := range catalog.States() {
		states = append(states, string(s))
	}
	_ = cmd.RegisterFlagCompletionFunc("state", cobra.FixedCompletions(states, cobra.ShellCompDirectiveNoFileComp))
	return cmd
}

func (c *command) subscriptionsAdd() *cobra.Command {
	return asking(c, &cobra.Command{Use: "add APP PRODUCT PLAN", Short: "Subscribe an app, also to a hidden product; nobody has to approve it"}, 3,
		func(cmd *cobra.Command, client *adminclient.Client, args []string) (catalogapi.Subscription, error) {
			return client.AddSubscription(cmd.Context(), catalogapi.AssignRequest{App: args[0], Product: args[1], Plan: args[2]})
		}, writeSubscription)
}

func (c *command) subscriptionsDecide(verb, short string) *cobra.Command {
	return asking(c, &cobra.Command{Use: verb + " ID", Short: short}, 1,
		func(cmd *cobra.Command, client *adminclient.Client, args []string) (catalogapi.Subscription, error) {
			return client.DecideSubscription(cmd.Context(), args[0], verb)
		}, writeSubscription)
}
