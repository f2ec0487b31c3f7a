package operate

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"text/tabwriter"
	"time"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"github.com/keywarden/keywarden/pkg/cli/shell"
	"github.com/keywarden/keywarden/pkg/httpapi/kvmapi"
	"github.com/keywarden/keywarden/pkg/kvm"
	"github.com/keywarden/keywarden/pkg/kvm/kvmname"
	"github.com/keywarden/keywarden/pkg/seal"
)

func (c *command) secrets() *cobra.Command {
	cmd := &cobra.Command{Use: "secrets", Short: "Set, list and delete the secrets that the gateway shows to services"}
	cmd.AddCommand(c.secretsSet(), c.secretsList(), c.secretsDelete())
	return cmd
}

// secretName takes the one argument of a command about a secret, and checks it with
// the environment before anything is read or sent. It does not repeat what it was
// given: that may be the value.
func secretName(args []string, environment string) (string, error) {
	switch {
	case len(args) == 0:
		return "", shell.Usage(errors.New("the name of the secret is missing"))
	case len(args) > 1:
		return "", shell.Usage(errors.New("there is more than one name; a value comes from standard input, since arguments are shown to everybody on the machine"))
	case !kvmname.IsName(args[0]):
		return "", shell.Usage(fmt.Errorf("the name of a secret is up to %d %s", kvmname.MaxName, kvmname.Rule))
	case !kvmname.IsEnvironment(environment):
		return "", shell.Usage(fmt.Errorf("--environment: must be up to %d %s", kvmname.MaxEnvironment, kvmname.Rule))
	}
	return args[0], nil
}

func (c *command) secretsSet() *cobra.Command {
	var r shell.Remote
	var environment string
	cmd := c.WithOutput(&cobra.Command{
		Use:   "set NAME",
		Short: "Set a secret to what comes from standard input",
		Long: `Make a secret of a running instance, or give it a new value. The value is read from
standard input and never an argument. One line break at its end is not part of it.
Nothing shows the value again.
` + shell.WhoCalls + shell.ExitCodes,
		Example: `  keywarden secrets set warehouse-password < password.txt
  pass show warehouse | keywarden secrets set warehouse-password --environment staging`,
		Annotations: map[string]string{shell.TakesArguments: "yes"},
		RunE: func(cmd *cobra.Command, args []string) error {
			name, err := secretName(args, environment)
			if err != nil {
				return err
			}
			value, err := c.secretValue()
			if err != nil {
				return err
			}
			client, err := c.Client(&r)
			if err != nil {
				return err
			}
			out, err := client.PutSecret(cmd.Context(), environment, name, value)
			if err != nil {
				return err
			}
			return c.Print(out, func(w io.Writer) {
				_, _ = fmt.Fprintf(w, "%s in %s is at version %d.\n", out.Name, out.Environment, out.Version)
			})
		},
	})
	r.Flags(cmd)
	cmd.Flags().StringVar(&environment, "environment", kvmname.DefaultEnvironment, "where the secret is")
	return cmd
}

// secretValue reads a value from standard input, which must not be a terminal: there
// it would be shown while it is typed.
func (c *command) secretValue() (seal.Secret, error) {
	if f, ok := c.Sys.Stdin.(*os.File); ok {
		if info, err := f.Stat(); err == nil && info.Mode()&os.ModeCharDevice != 0 && f.Name() != os.DevNull {
			return seal.Secret{}, shell.Usage(errors.New("the value comes from standard input, such as < file; it is not typed"))
		}
	}
	const lineBreak = 2 // bytes, at most
	text, err := io.ReadAll(io.LimitReader(c.Sys.Stdin, kvm.MaxValue+lineBreak+1))
	if err != nil {
		return seal.Secret{}, fmt.Errorf("reading the value: %w", err)
	}
	value := strings.TrimSuffix(strings.TrimSuffix(string(text), "\n"), "\r")
	switch {
	case value == "":
		return seal.Secret{}, shell.Usage(errors.New("standard input is empty; the value comes from there"))
	case len(value) > kvm.MaxValue:
		return seal.Secret{}, shell.Usage(fmt.Errorf("the value has more than %d bytes", kvm.MaxValue))
	case !utf8.ValidString(value):
		return seal.Secret{}, shell.Usage(errors.New("the value is not text in UTF-8; encode it, as with base64"))
	}
	return seal.NewSecret(value), nil
}

func (c *command) secretsList() *cobra.Command {
	var r shell.Remote
	var environment string
	cmd := c.WithOutput(&cobra.Command{
		Use:   "list",
		Short: "List secrets, without their values",
		Long:  "List the secrets of a running instance: names, versions and times.\n" + shell.WhoCalls + shell.ExitCodes,
		RunE: func(cmd *cobra.Command, _ []string) error {
			client, err := c.Client(&r)
			if err != nil {
				return err
			}
			all, err := client.Secrets(cmd.Context(), environment)
			if err != nil {
				return err
			}
			if all == nil {
				all = []kvmapi.Secret{}
			}
			return c.Print(all, func(w io.Writer) { writeSecrets(w, all) })
		},
	})
	r.Flags(cmd)
	cmd.Flags().StringVar(&environment, "environment", "", "only of this environment")
	return cmd
}

func writeSecrets(w io.Writer, all []kvmapi.Secret) {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	_, _ = fmt.Fprintln(t, "ENVIRONMENT\tNAME\tVERSION\tSET\tMASTER KEY")
	for _, s := range all {
		_, _ = fmt.Fprintf(t, "%s\t%s\t%d\t%s\t%s\n", s.Environment, s.Name, s.Version, s.UpdatedAt.UTC().Format(time.RFC3339), s.KeyID)
	}
	_ = t.Flush()
}

func (c *command) secretsDelete() *cobra.Command {
	var r shell.Remote
	var environment string
	cmd := &cobra.Command{
		Use:         "delete NAME",
		Short:       "Delete a secret; routes that use it answer with 503 from then on",
		Long:        "Delete a secret of a running instance. Routes that use it answer with 503 from then on.\n" + shell.WhoCalls + shell.ExitCodes,
		Annotations: map[string]string{shell.TakesArguments: "yes"},
		RunE: func(cmd *cobra.Command, args []string) error {
			name, err := secretName(args, environment)
			if err != nil {
				return err
			}
			client, err := c.Client(&r)
			if err != nil {
				return err
			}
			return client.DeleteSecret(cmd.Context(), environment, name)
		},
	}
	r.Flags(cmd)
	cmd.Flags().StringVar(&environment, "environment", kvmname.DefaultEnvironment, "where the secret is")
	return cmd
}
