package operate

import (
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/google/uuid"
	"github.com/spf13/cobra"

	"github.com/keywarden/keywarden/pkg/cli/shell"
	"github.com/keywarden/keywarden/pkg/httpapi/keysapi"
)

func (c *command) privileges() *cobra.Command {
	var r shell.Remote
	var check bool
	cmd := c.WithOutput(shell.WithArguments(&cobra.Command{
		Use:   "privileges KEY",
		Short: "Say which scopes of an API key are used, and which it could do without",
		Long: `Say which of its scopes an API key has used within 90 days, where it was used, and
which scopes it should hold. KEY is the id of the key. Nothing is taken away.

The server is --server or KEYWARDEN_SERVER: the address that serves /api-keys, also
where the admin API has one of its own. Who calls is proven by an API key in
KEYWARDEN_API_KEY, an access token in KEYWARDEN_TOKEN, or either of them in the file
that --token-file names. It needs the scope keys:read, for a key of somebody else also
keys:admin, and usage:read or config:read to see routes.
` + shell.ExitCodes,
		Example: `  keywarden privileges 01890a5d-ac96-774b-bcce-b302099a8057
  keywarden privileges 01890a5d-ac96-774b-bcce-b302099a8057 -o json | jq .suggested_scopes
  keywarden privileges 01890a5d-ac96-774b-bcce-b302099a8057 --check`,
	}, 1, 1))
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if uuid.Validate(args[0]) != nil {
			// It is not repeated: it may be the key itself.
			return shell.Usage(errors.New("KEY must be the id of a key, such as 01890a5d-ac96-774b-bcce-b302099a8057: see GET /api-keys"))
		}
		client, err := c.Client(&r)
		if err != nil {
			return err
		}
		out, err := client.Privileges(cmd.Context(), args[0])
		if err != nil {
			return err
		}
		if err := c.Print(out, func(w io.Writer) { writePrivileges(w, out) }); err != nil {
			return err
		}
		if check && out.Narrower {
			return shell.Exit(shell.ExitFailure)
		}
		return nil
	}
	r.Flags(cmd)
	cmd.Flags().BoolVar(&check, "check", false, "end with 1 when the key could do with less")
	return cmd
}

// writePrivileges shows what is used, where, and what would do.
func writePrivileges(w io.Writer, p keysapi.KeyPrivileges) {
	var scopes [][]string
	for _, s := range p.Scopes {
		last := "never"
		if s.LastUsedAt != nil {
			last = stamp(*s.LastUsedAt)
		}
		scopes = append(scopes, []string{s.Scope, s.Verdict, last})
	}
	for _, s := range p.IneffectiveScopes {
		scopes = append(scopes, []string{s, "ineffective", "the owner does not hold it"})
	}
	writeRows(w, "SCOPE VERDICT USED", scopes)
	_, _ = fmt.Fprintln(w)
	writeRoutesOf(w, p)
	_, _ = fmt.Fprintf(w, "Uses are recorded since %s.\n", stamp(p.RecordedSince))
	switch {
	case !p.Narrower:
		_, _ = fmt.Fprintln(w, "It holds nothing that it could do without, as far as is known.")
	case len(p.SuggestedScopes) == 0:
		_, _ = fmt.Fprintf(w, "It could do without any scope: PATCH /api-keys/%s with {\"scopes\": []}, or revoke it.\n", p.KeyID)
	default:
		_, _ = fmt.Fprintf(w, "It could do with less: PATCH /api-keys/%s with {\"scopes\": [\"%s\"]}.\n", p.KeyID, shell.Printable(strings.Join(p.SuggestedScopes, `", "`)))
	}
}

func writeRoutesOf(w io.Writer, p keysapi.KeyPrivileges) {
	switch p.RoutesOmitted {
	case "scope_missing":
		_, _ = fmt.Fprintln(w, "Routes are shown to callers with usage:read, or config:read for a key of somebody else.")
		return
	case "too_much":
		_, _ = fmt.Fprintln(w, "Routes are not shown: there is too much usage to add up. See: keywarden analytics --only key_id="+p.KeyID)
		return
	}
	var routes [][]string
	for _, r := range p.Routes {
		name := r.Route
		if name == "" {
			name = "(no route)"
		}
		routes = append(routes, []string{name, strconv.FormatInt(r.Requests30, 10), strconv.FormatInt(r.Requests90, 10)})
	}
	writeRows(w, "ROUTE 30-DAYS 90-DAYS", routes)
	if p.MoreRoutes {
		_, _ = fmt.Fprintln(w, "There are more routes.")
	}
	_, _ = fmt.Fprintln(w)
}
