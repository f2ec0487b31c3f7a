package document

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/keywarden/keywarden/pkg/app"
	"github.com/keywarden/keywarden/pkg/cli/adminclient"
	"github.com/keywarden/keywarden/pkg/cli/shell"
	"github.com/keywarden/keywarden/pkg/httpapi/adminapi"
	"github.com/keywarden/keywarden/pkg/problem"
	"github.com/keywarden/keywarden/pkg/spec"
	"github.com/keywarden/keywarden/pkg/spec/diff"
)

// Read reads a gateway document from a file, "-" being standard input, and returns
// it with its text.
func Read(sh *shell.Shell, name string) (spec.Document, []byte, error) {
	input := sh.Sys.Stdin
	if name == "-" {
		name = "standard input"
	} else {
		file, err := os.Open(name)
		if err != nil {
			return spec.Document{}, nil, shell.Usage(fmt.Errorf("read the gateway document: %w", err))
		}
		defer func() { _ = file.Close() }() // it is only read
		input = file
	}
	text, err := io.ReadAll(io.LimitReader(input, spec.MaxBytes+1))
	if err != nil {
		return spec.Document{}, nil, shell.Usage(fmt.Errorf("read the gateway document: %w", err))
	}
	doc, err := spec.Parse(name, text)
	if err != nil {
		return doc, nil, shell.Usage(err)
	}
	return doc, text, nil
}

// inForce is the document of the server in its canonical form and its digest; both
// are empty when there is none yet.
func inForce(ctx context.Context, client *adminclient.Client) ([]byte, string, error) {
	text, digest, err := client.Document(ctx, false)
	var refused *adminclient.Error
	if errors.As(err, &refused) && refused.Code == "config.none" {
		return nil, "", nil
	}
	return text, digest, err
}

// ---- the commands

func (c *command) diff() *cobra.Command {
	var r shell.Remote
	var against string
	cmd := shell.WithArguments(c.WithOutput(&cobra.Command{
		Use:   "diff FILE",
		Short: "Say what a gateway document would change (exit 1 when something)",
		Long: `Say what would change if the document of the file, or of standard input with -,
became the one in force. Nothing is changed.
` + shell.WhoCalls + shell.ExitCodes,
		Example: `  keywarden config diff gateway.yaml
  keywarden config diff gateway.yaml --against last-week.yaml   # asks no server
  git show main:gateway.yaml | keywarden config diff - --against gateway.yaml`,
		RunE: func(cmd *cobra.Command, args []string) error {
			doc, _, err := Read(c.Shell, args[0])
			if err != nil {
				return err
			}
			before, err := c.against(cmd.Context(), &r, against)
			if err != nil {
				return err
			}
			after, err := json.Marshal(doc)
			if err != nil {
				return err
			}
			changes, err := diff.Canonical(before, after)
			if err != nil {
				return err
			}
			if err := c.printDiff(changes); err != nil || len(changes) == 0 {
				return err
			}
			return shell.Exit(shell.ExitFailure)
		},
	}), 1, 1)
	r.Flags(cmd)
	cmd.Flags().StringVar(&against, "against", "server", "what to compare with: server, or another file")
	return cmd
}

// against is the canonical form of what a document is compared with.
func (c *command) against(ctx context.Context, r *shell.Remote, against string) ([]byte, error) {
	if against == "server" {
		client, err := c.Client(r)
		if err != nil {
			return nil, err
		}
		text, _, err := inForce(ctx, client)
		return text, err
	}
	doc, _, err := Read(c.Shell, against)
	if err != nil {
		return nil, err
	}
	return json.Marshal(doc)
}

func (c *command) apply() *cobra.Command {
	var r shell.Remote
	var message, ifMatch string
	var dryRun bool
	cmd := shell.WithArguments(c.WithOutput(&cobra.Command{
		Use:   "apply FILE",
		Short: "Make a gateway document the one in force",
		Long: `Make the document of the file, or of standard input with -, the one in force, where
the database is its source (gateway.source). It is refused as a whole when anything
in it is not valid, or when somebody else changed the document meanwhile.
` + shell.WhoCalls + shell.ExitCodes,
		Example: `  keywarden config apply gateway.yaml --message "orders: two more targets"
  keywarden config apply gateway.yaml --dry-run
  keywarden config apply gateway.yaml --if-match 5f2c…   # only on top of what was reviewed`,
		RunE: func(cmd *cobra.Command, args []string) error {
			_, text, err := Read(c.Shell, args[0])
			if err != nil {
				return err
			}
			client, err := c.Client(&r)
			if err != nil {
				return err
			}
			ch := adminclient.Change{IfMatch: strings.Trim(ifMatch, `"`), DryRun: dryRun, Message: message}
			if ch.IfMatch == "" {
				_, digest, err := inForce(cmd.Context(), client)
				if err != nil {
					return err
				}
				ch.IfMatch, ch.Create = digest, digest == ""
			}
			out, err := client.Put(cmd.Context(), text, ch)
			if err != nil {
				return located(err, args[0])
			}
			return c.printOutcome(out, args[0])
		},
	}), 1, 1)
	r.Flags(cmd)
	cmd.Flags().StringVarP(&message, "message", "m", "", "why, for those who read the history")
	cmd.Flags().StringVar(&ifMatch, "if-match", "", "digest that the document in force must have; default is the one it has now")
	cmd.Flags().BoolVar(&dryRun, "dry-run", false, "only say what would change")
	return cmd
}

func (c *command) export() *cobra.Command {
	var r shell.Remote
	var form string
	cmd := shell.WithArguments(&cobra.Command{
		Use:   "export",
		Short: "Print the gateway document in force",
		Long: `Print the document in force in its canonical form, with every default spelled out.
What it prints can be applied again.
` + shell.WhoCalls + shell.ExitCodes,
		Example: `  keywarden config export > gateway.yaml
  keywarden config export --output json | jq '.routes[].name'`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if form != "yaml" && form != "json" {
				return shell.Usage(fmt.Errorf("--output is %q, must be yaml or json", form))
			}
			client, err := c.Client(&r)
			if err != nil {
				return err
			}
			text, _, err := client.Document(cmd.Context(), form == "yaml")
			if err != nil {
				return err
			}
			_, err = fmt.Fprintln(c.Sys.Stdout, strings.TrimSuffix(string(text), "\n"))
			return err
		},
	}, 0, 0)
	r.Flags(cmd)
	cmd.Flags().StringVarP(&form, "output", "o", "yaml", "form of the output: yaml or json")
	_ = cmd.RegisterFlagCompletionFunc("output", cobra.FixedCompletions([]string{"yaml", "json"}, cobra.ShellCompDirectiveNoFileComp))
	return cmd
}

func (c *command) revisions() *cobra.Command {
	var r shell.Remote
	var limit int
	cmd := c.WithOutput(&cobra.Command{
		Use:   "revisions",
		Short: "List the newest revisions of the gateway document",
		Long: `List the newest revisions of the document, newest first.
` + shell.WhoCalls + shell.ExitCodes,
		Example: `  keywarden config revisions --limit 5`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if limit < 1 || limit > 1000 {
				return shell.Usage(errors.New("--limit must be from 1 to 1000"))
			}
			client, err := c.Client(&r)
			if err != nil {
				return err
			}
			list, err := newest(cmd.Context(), client, limit)
			if err != nil {
				return err
			}
			return c.Print(list, func(w io.Writer) {
				t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
				_, _ = fmt.Fprintln(t, "REVISION\tTIME\tDIGEST\tAUTHOR\tMESSAGE")
				for _, v := range list {
					_, _ = fmt.Fprintf(t, "%d\t%s\t%.12s\t%s\t%s\n", v.Number, v.At.UTC().Format(time.RFC3339), v.Digest, shell.Printable(v.AuthorID), shell.Printable(v.Message))
				}
				_ = t.Flush()
			})
		},
	})
	r.Flags(cmd)
	cmd.Flags().IntVar(&limit, "limit", 20, "how many")
	return cmd
}

// newest reads pages until there are enough revisions.
func newest(ctx context.Context, client *adminclient.Client, limit int) ([]adminapi.Revision, error) {
	const most = 200 // of a page
	list, cursor := []adminapi.Revision{}, ""
	for len(list) < limit {
		page, err := client.Revisions(ctx, min(limit-len(list), most), cursor)
		if err != nil {
			return nil, err
		}
		list = append(list, page.Items...)
		if cursor = page.NextCursor; cursor == "" || len(page.Items) == 0 {
			break
		}
	}
	return list, nil
}

func (c *command) rollback() *cobra.Command {
	var r shell.Remote
	var message string
	var dryRun bool
	cmd := shell.WithArguments(c.WithOutput(&cobra.Command{
		Use:   "rollback REVISION",
		Short: "Make the gateway document of an earlier revision the one in force again",
		Long: `Make the content of an earlier revision the document in force again, as a new
revision. The history stays.
` + shell.WhoCalls + shell.ExitCodes,
		Example: `  keywarden config revisions
  keywarden config rollback 41 --dry-run
  keywarden config rollback 41 --message "42 broke the checkout"`,
		RunE: func(cmd *cobra.Command, args []string) error {
			number, err := strconv.ParseInt(args[0], 10, 64)
			if err != nil || number < 1 {
				return shell.Usage(fmt.Errorf("%q is not the number of a revision; list them with keywarden config revisions", args[0]))
			}
			client, err := c.Client(&r)
			if err != nil {
				return err
			}
			_, digest, err := client.Document(cmd.Context(), false)
			if err != nil {
				return err
			}
			out, err := client.Rollback(cmd.Context(), number, adminclient.Change{IfMatch: digest, DryRun: dryRun, Message: message})
			if err != nil {
				return err
			}
			return c.printOutcome(out, "revision "+args[0])
		},
	}), 1, 1)
	r.Flags(cmd)
	cmd.Flags().StringVarP(&message, "message", "m", "", "why, for those who read the history")
	cmd.Flags().BoolVar(&dryRun, "dry-run", false, "only say what would change")
	return cmd
}

func (c *command) explainRequest() *cobra.Command {
	var r shell.Remote
	var file, as, client string
	var headers []string
	cmd := shell.WithArguments(c.WithOutput(&cobra.Command{
		Use:   "explain METHOD URL",
		Short: "Say what would become of a request (exit 1 when it would be refused)",
		Long: `Say which route a request would match, and what each policy says of it and why. No
backend is called. With --file a document that nobody serves is asked, and no server.

Who calls is --as: anonymous, user:ROLE, or key:SCOPE,SCOPE with the scopes that the
key has in effect.
` + shell.WhoCalls + shell.ExitCodes,
		Example: `  keywarden config shell.Explain GET https://api.example.com/orders/7 --as key:orders:read
  keywarden config shell.Explain POST /orders --file gateway.yaml --header 'X-Canary: yes' --as user:operator`,
		RunE: func(cmd *cobra.Command, args []string) error {
			in, err := described(args[0], args[1], as, client, headers)
			if err != nil {
				return shell.Usage(err)
			}
			explainer, done, err := c.explainer(&r, file)
			if err != nil {
				return err
			}
			defer done()
			out, err := explainer.Explain(cmd.Context(), in)
			if errors.Is(err, problem.ErrInvalid) {
				return shell.Usage(err)
			}
			if err != nil {
				return err
			}
			if err := c.Print(out, func(w io.Writer) { writeExplanation(w, out) }); err != nil || out.Allowed {
				return err
			}
			return shell.Exit(shell.ExitFailure)
		},
	}), 2, 2)
	r.Flags(cmd)
	cmd.Flags().StringVar(&file, "file", "", "explain by this gateway document, without a server")
	cmd.Flags().StringVar(&as, "as", "anonymous", "who calls: anonymous, user:ROLE or key:SCOPE,SCOPE")
	cmd.Flags().StringVar(&client, "client", "", "address of the caller; default is your own, or 127.0.0.1 with --file")
	cmd.Flags().StringArrayVarP(&headers, "header", "H", nil, "field of the request, as in 'X-Version: 2' (repeatable)")
	return cmd
}

// explainer is the server, or a document that nobody serves.
func (c *command) explainer(r *shell.Remote, file string) (adminapi.Explainer, func(), error) {
	if file == "" {
		client, err := c.Client(r)
		return client, func() {}, err
	}
	doc, _, err := Read(c.Shell, file)
	if err != nil {
		return nil, nil, err
	}
	explainer, done, err := app.Offline(doc)
	if err != nil {
		return nil, nil, shell.Usage(fmt.Errorf("%s: %w", file, err))
	}
	return explainer, done, nil
}

// described makes the description of a request from the command line.
func described(method, target, as, client string, headers []string) (adminapi.ExplainRequest, error) {
	in := adminapi.ExplainRequest{Method: strings.ToUpper(method), URL: target, Client: client, Headers: map[string][]string{}}
	for _, h := range headers {
		name, value, ok := strings.Cut(h, ":")
		if name = strings.TrimSpace(name); !ok || name == "" {
			return in, fmt.Errorf("--header %q: expected 'Name: value'", h)
		}
		in.Headers[name] = append(in.Headers[name], strings.TrimSpace(value))
	}
	kind, of, _ := strings.Cut(as, ":")
	switch kind {
	case "anonymous":
		if of != "" {
			return in, fmt.Errorf("--as %q: anonymous callers have nothing else", as)
		}
	case "user":
		in.Principal = &adminapi.ExplainPrincipal{Kind: kind, Role: of}
	case "key":
		in.Principal = &adminapi.ExplainPrincipal{Kind: kind, Scopes: []string{}}
		if of != "" {
			in.Principal.Scopes = strings.Split(of, ",")
		}
	default:
		return in, fmt.Errorf("--as %q: must be anonymous, user:ROLE or key:SCOPE,SCOPE", as)
	}
	return in, nil
}

// ---- what is printed

// difference is the JSON form of a comparison.
type difference struct {
	Changed bool          `json:"changed"`
	Diff    []diff.Change `json:"diff"`
}

func (c *command) printDiff(changes []diff.Change) error {
	return c.Print(difference{Changed: len(changes) > 0, Diff: append([]diff.Change{}, changes...)}, func(w io.Writer) {
		if len(changes) == 0 {
			_, _ = fmt.Fprintln(w, "There is no difference.")
			return
		}
		c.writeDiff(w, changes, 0)
	})
}

// printOutcome says what became of a change, or would. A dry run that finds
// violations is an error.
func (c *command) printOutcome(out adminapi.Outcome, source string) error {
	err := c.Print(out, func(w io.Writer) {
		if !out.Valid {
			return // the error says it
		}
		c.writeDiff(w, out.Diff, out.More)
		switch {
		case !out.Changed:
			_, _ = fmt.Fprintln(w, "Nothing changes: the document in force is the same.")
		case out.DryRun:
			_, _ = fmt.Fprintln(w, "Nothing was changed: this was a dry run.")
		default:
			_, _ = fmt.Fprintf(w, "Applied as revision %d (digest %.12s).\n", out.Revision, out.Digest)
		}
	})
	if err == nil && !out.Valid {
		refused := &adminclient.Error{}
		refused.Status, refused.Code, refused.Errors = http.StatusUnprocessableEntity, "config.invalid", out.Violations
		return located(refused, source)
	}
	return err
}

// located adds the name of the file to violations that the server found.
func located(err error, file string) error {
	var refused *adminclient.Error
	if !errors.As(err, &refused) || refused.Status != http.StatusUnprocessableEntity {
		return err
	}
	list := &spec.Violations{Source: file}
	for _, f := range refused.Errors {
		list.List = append(list.List, spec.Violation{
			Place: spec.Place{Path: f.Field, Line: f.Line, Column: f.Column}, Detail: shell.Printable(f.Detail),
		})
	}
	if len(list.List) == 0 {
		return err
	}
	return shell.Usage(list)
}

// Colours of changes on a terminal (ECMA-48).
const (
	green, red, yellow, plain = "\x1b[32m", "\x1b[31m", "\x1b[33m", "\x1b[0m"
)

func (c *command) writeDiff(w io.Writer, changes []diff.Change, more int) {
	colour := func(code, text string) string { return text }
	if c.onTerminal() {
		colour = func(code, text string) string { return code + text + plain }
	}
	for _, ch := range changes {
		mark, code := "~", yellow
		switch ch.Kind {
		case diff.Added:
			mark, code = "+", green
		case diff.Removed:
			mark, code = "-", red
		case diff.Changed:
		}
		title := strings.TrimSpace(strings.ReplaceAll(string(ch.Object), "_", " ") + " " + shell.Printable(ch.Name))
		if ch.Object == diff.Order {
			title = "order of " + shell.Printable(ch.Name)
		}
		_, _ = fmt.Fprintln(w, colour(code, mark+" "+title))
		t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
		for _, f := range ch.Fields {
			text := shell.Printable(f.Before) + " -> " + shell.Printable(f.After)
			switch {
			case f.Before == "":
				text = shell.Printable(f.After)
			case f.After == "" && ch.Kind == diff.Changed:
				text = shell.Printable(f.Before) + " -> (gone)"
			case f.After == "":
				text = shell.Printable(f.Before)
			}
			_, _ = fmt.Fprintf(t, "    %s\t%s\n", shell.Printable(f.Path), text)
		}
		_ = t.Flush()
		if ch.More > 0 {
			_, _ = fmt.Fprintf(w, "    and %d more fields\n", ch.More)
		}
	}
	if more > 0 {
		_, _ = fmt.Fprintf(w, "and %d more changes\n", more)
	}
}

// onTerminal reports whether colours are welcome (https://no-color.org).
func (c *command) onTerminal() bool {
	if v, _ := c.Sys.Lookup("NO_COLOR"); v != "" {
		return false
	}
	if v, _ := c.Sys.Lookup("TERM"); v == "dumb" {
		return false
	}
	file, ok := c.Sys.Stdout.(*os.File)
	if !ok {
		return false
	}
	info, err := file.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}

func writeExplanation(w io.Writer, out adminapi.ExplainResult) {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	line := func(name, value string) {
		if value != "" {
			_, _ = fmt.Fprintf(t, "%s\t%s\n", name, shell.Printable(value))
		}
	}
	line("route", out.Route)
	line("service", out.Service)
	line("why", out.Why)
	if out.Refusal == nil {
		line("verdict", "passes")
	} else {
		line("verdict", "refused: "+refusal(out.Refusal))
	}
	_ = t.Flush()
	if len(out.Policies) == 0 {
		return
	}
	_, _ = fmt.Fprintln(t, "\nPOLICY\tMODE\tVERDICT\tWHY")
	for _, v := range out.Policies {
		why := refusal(v.Refusal)
		if v.When != "" {
			why = strings.TrimSpace("when " + v.When + " " + why)
		}
		_, _ = fmt.Fprintf(t, "%s\t%s\t%s\t%s\n", shell.Printable(v.Policy), shell.Printable(v.Mode), shell.Printable(v.Verdict), shell.Printable(why))
	}
	_ = t.Flush()
}

func refusal(r *adminapi.ExplainRefusal) string {
	if r == nil {
		return ""
	}
	return fmt.Sprintf("%d %s: %s", r.Status, r.Code, r.Detail)
}

// ---- how it ends
