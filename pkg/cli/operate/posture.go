package operate

import (
	"errors"
	"fmt"
	"io"
	"net/url"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/keywarden/keywarden/pkg/cli/shell"
	"github.com/keywarden/keywarden/pkg/httpapi/postureapi"
	"github.com/keywarden/keywarden/pkg/posture"
)

func (c *command) posture() *cobra.Command {
	var r shell.Remote
	var severity, failAt string
	var suppress []string
	cmd := c.WithOutput(&cobra.Command{
		Use:   "posture",
		Short: "Say what weakens an instance: open routes, idle keys, plaintext",
		Long: `Say what weakens a running instance: routes open without a credential, keys with too
much or too long a life, services and listeners without TLS, and so on. The program
ends with 1 when something is as bad as --fail-at, or worse.
` + shell.WhoCalls + shell.ExitCodes,
		Example: `  keywarden posture
  keywarden posture --severity medium --fail-at critical
  keywarden posture --suppress route.open:catalogue -o json`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			for _, s := range []string{severity, failAt} {
				if !slices.Contains(posture.Severities(), posture.Severity(s)) {
					return shell.Usage(errors.New("--severity and --fail-at must be low, medium, high or critical"))
				}
			}
			client, err := c.Client(&r)
			if err != nil {
				return err
			}
			out, err := client.Posture(cmd.Context(), url.Values{"severity": {severity}, "suppress": suppress, "limit": {"1000"}})
			if err != nil {
				return err
			}
			if err := c.Print(out, func(w io.Writer) { writePosture(w, out) }); err != nil {
				return err
			}
			if worse(out, posture.Severity(failAt)) > 0 {
				return shell.Exit(shell.ExitFailure)
			}
			return nil
		},
	})
	r.Flags(cmd)
	f := cmd.Flags()
	f.StringVar(&severity, "severity", string(posture.Low), "show findings as bad as this, or worse: low, medium, high, critical")
	f.StringVar(&failAt, "fail-at", string(posture.High), "end with 1 for findings as bad as this, or worse")
	f.StringArrayVar(&suppress, "suppress", nil, "id of a finding to leave out (repeatable)")
	words := cobra.FixedCompletions([]string{"low", "medium", "high", "critical"}, cobra.ShellCompDirectiveNoFileComp)
	for _, name := range []string{"severity", "fail-at"} {
		_ = cmd.RegisterFlagCompletionFunc(name, words)
	}
	return cmd
}

// worse is how many findings are as bad as s, or worse, shown or not.
func worse(r postureapi.Report, s posture.Severity) (n int) {
	for _, severity := range posture.Severities() {
		if severity.AtLeast(s) {
			n += r.Counts[string(severity)]
		}
	}
	return n
}

func writePosture(w io.Writer, r postureapi.Report) {
	for _, f := range r.Findings {
		_, _ = fmt.Fprintf(w, "%-8s  %s\n          %s\n          %s\n", strings.ToUpper(f.Severity), f.ID, f.Why, f.Fix)
	}
	_, _ = fmt.Fprintf(w, "%d critical, %d high, %d medium, %d low", r.Counts["critical"], r.Counts["high"], r.Counts["medium"], r.Counts["low"])
	if r.Suppressed > 0 {
		_, _ = fmt.Fprintf(w, "; %d suppressed", r.Suppressed)
	}
	if r.Truncated {
		_, _ = fmt.Fprint(w, "; there may be more")
	}
	_, _ = fmt.Fprintln(w)
}
