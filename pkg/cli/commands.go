package cli

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"encoding/base32"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"
	"go.yaml.in/yaml/v4"

	"github.com/keywarden/keywarden/pkg/access"
	"github.com/keywarden/keywarden/pkg/account"
	"github.com/keywarden/keywarden/pkg/app"
	"github.com/keywarden/keywarden/pkg/app/platform"
	"github.com/keywarden/keywarden/pkg/cli/document"
	"github.com/keywarden/keywarden/pkg/cli/shell"
	"github.com/keywarden/keywarden/pkg/config"
	"github.com/keywarden/keywarden/pkg/seal"
	"github.com/keywarden/keywarden/pkg/store/postgres"
	"github.com/keywarden/keywarden/pkg/telemetry"
)

func (c *command) serve() *cobra.Command {
	return &cobra.Command{
		Use:   "serve",
		Short: "Run the platform and the gateway",
		Example: `  KEYWARDEN_MASTER_KEY=$(keywarden keygen) DATABASE_URL=postgres://… \
    keywarden serve --config configs/keywarden.yaml`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := c.Load(true, nil)
			if err != nil {
				return err
			}
			lines := telemetry.NewLines(c.Sys.Stderr)
			defer lines.Close()
			logger := telemetry.NewLogger(lines, logLevel(cfg), cfg.Log.Format)
			lines.ReportTo(logger)
			return app.Run(cmd.Context(), app.Options{Config: cfg, Env: c.Env(), Reload: c.Sys.Reload, Logger: logger, LostLines: lines.Lost})
		},
	}
}

// logLevel is the level of a configuration that was checked.
func logLevel(cfg *config.Config) slog.Level {
	var level slog.Level
	_ = level.UnmarshalText([]byte(cfg.Log.Level))
	return level
}

// quiet is the logger of short commands: only what went wrong.
func (c *command) quiet() *slog.Logger {
	return telemetry.NewLogger(c.Sys.Stderr, slog.LevelWarn, "text")
}

// openDatabase finds the database for a short command; close ends a private one
// that was started for it.
func (c *command) openDatabase(ctx context.Context) (*config.Config, *app.Database, func(), error) {
	cfg, err := c.Load(false, nil)
	if err != nil {
		return nil, nil, nil, err
	}
	db, err := app.JoinDatabase(ctx, cfg, c.Env(), c.quiet())
	if err != nil {
		return nil, nil, nil, err
	}
	return cfg, db, func() { _ = db.Close(context.WithoutCancel(ctx)) }, nil
}

func (c *command) migrate() *cobra.Command {
	cmd := &cobra.Command{Use: "migrate", Short: "Bring the database schema up to date, or look at it"}
	status := func(use, short string, finish func(postgres.SchemaStatus) error, text func(io.Writer, postgres.SchemaStatus)) *cobra.Command {
		return c.WithOutput(&cobra.Command{Use: use, Short: short, RunE: func(cmd *cobra.Command, _ []string) error {
			_, db, done, err := c.openDatabase(cmd.Context())
			if err != nil {
				return err
			}
			defer done()
			s, err := postgres.ReadSchemaStatus(cmd.Context(), db.URL)
			if err != nil {
				return err
			}
			return errors.Join(c.Print(s, func(w io.Writer) { text(w, s) }), finish(s))
		}})
	}
	up := c.WithOutput(&cobra.Command{Use: "up", Short: "Apply the migrations that are missing", RunE: func(cmd *cobra.Command, _ []string) error {
		_, db, done, err := c.openDatabase(cmd.Context())
		if err != nil {
			return err
		}
		defer done()
		s, err := postgres.Migrate(cmd.Context(), db.URL, c.quiet())
		if err != nil {
			return err
		}
		return c.Print(s, func(w io.Writer) { _, _ = fmt.Fprintf(w, "The schema is at version %d.\n", s.Version) })
	}})
	cmd.AddCommand(up,
		status("status", "Say whether the schema is current (exit 1 when it is not)", func(s postgres.SchemaStatus) error {
			if !s.Current() {
				return errors.New("the schema is not current; run: keywarden migrate up")
			}
			return nil
		}, func(w io.Writer, s postgres.SchemaStatus) {
			_, _ = fmt.Fprintf(w, "version %d, latest %d, dirty %t\n", s.Version, s.Latest, s.Dirty)
		}),
		status("version", "Print the version of the schema", func(postgres.SchemaStatus) error { return nil },
			func(w io.Writer, s postgres.SchemaStatus) { _, _ = fmt.Fprintln(w, s.Version) }),
	)
	return cmd
}

// openPlatform is for commands that work on the domains.
func (c *command) openPlatform(ctx context.Context) (*platform.Platform, func(), error) {
	cfg, db, done, err := c.openDatabase(ctx)
	if err != nil {
		return nil, nil, err
	}
	ring, err := app.Keyring(cfg, c.Env(), db.Private)
	if err != nil {
		done()
		return nil, nil, err
	}
	if _, err := postgres.Migrate(ctx, db.URL, c.quiet()); err != nil {
		done()
		return nil, nil, err
	}
	p, err := platform.Open(ctx, platform.Options{Config: cfg, URL: db.URL, Ring: ring, Logger: c.quiet()})
	if err != nil {
		done()
		return nil, nil, err
	}
	return p, func() { p.Close(); done() }, nil
}

func (c *command) admin() *cobra.Command {
	var email, name, role string
	var fromStdin bool
	create := c.WithOutput(&cobra.Command{
		Use:   "create",
		Short: "Make an account for an admin, an operator or a viewer",
		Long: `Make an account for somebody who runs the platform: an admin may do everything, an
operator changes the gateway, a viewer looks at it. Without --password-stdin a
password is generated and printed, once.`,
		Example: `  keywarden admin create --email ops@example.com
  keywarden admin create --email gateway@example.com --role operator`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if email == "" {
				return shell.Usage(errors.New("--email is required"))
			}
			if !slices.Contains([]access.Role{access.RoleAdmin, access.RoleOperator, access.RoleViewer}, access.Role(role)) {
				return shell.Usage(fmt.Errorf("--role is %q, must be admin, operator or viewer", role))
			}
			password, err := c.password(fromStdin)
			if err != nil {
				return err
			}
			p, done, err := c.openPlatform(cmd.Context())
			if err != nil {
				return err
			}
			defer done()
			u, err := p.Accounts.Register(cmd.Context(), account.Registration{Email: email, Password: password.Reveal(), Name: name}, access.Role(role))
			if err != nil {
				return err
			}
			return c.printAdmin(u, password, fromStdin)
		},
	})
	create.Flags().StringVar(&email, "email", "", "e-mail address of the account")
	create.Flags().StringVar(&name, "name", "Administrator", "name of the account")
	create.Flags().StringVar(&role, "role", string(access.RoleAdmin), "what the account may do: admin, operator or viewer")
	create.Flags().BoolVar(&fromStdin, "password-stdin", false, "read the password from standard input")
	cmd := &cobra.Command{Use: "admin", Short: "Manage the accounts of those who run the platform"}
	cmd.AddCommand(create)
	return cmd
}

func (c *command) password(fromStdin bool) (seal.Secret, error) {
	if !fromStdin {
		return GeneratePassword(), nil
	}
	line, err := bufio.NewReader(io.LimitReader(c.Sys.Stdin, 2*account.MaxPasswordBytes)).ReadString('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		return seal.Secret{}, fmt.Errorf("read the password: %w", err)
	}
	return seal.NewSecret(strings.TrimRight(line, "\r\n")), nil
}

// GeneratePassword makes a password of 120 random bits, easy to type.
func GeneratePassword() seal.Secret {
	var b [15]byte
	_, _ = rand.Read(b[:]) // never fails (crypto/rand, Go 1.24)
	text := strings.ToLower(base32.StdEncoding.EncodeToString(b[:]))
	return seal.NewSecret(text[:6] + "-" + text[6:12] + "-" + text[12:18] + "-" + text[18:])
}

func (c *command) printAdmin(u account.User, password seal.Secret, given bool) error {
	answer := map[string]string{"id": u.ID, "email": u.Email, "role": string(u.Role)}
	if !given {
		answer["password"] = password.Reveal()
	}
	return c.Print(answer, func(w io.Writer) {
		_, _ = fmt.Fprintf(w, "Made the %s %s (%s).\n", u.Role, u.Email, u.ID)
		if !given {
			_, _ = fmt.Fprintf(w, "Its password is %s\nIt is not shown again; change it with POST /auth/password.\n", password.Reveal())
		}
	})
}

func (c *command) audit() *cobra.Command {
	verify := c.WithOutput(&cobra.Command{
		Use:   "verify",
		Short: "Check the hash chain of the audit trail (exit 1 when it is broken)",
		Long: `Check that no record of the audit trail was changed, removed or added behind the
platform's back. Keep the printed head somewhere else: a later check that prints
fewer records than a head you kept says that the trail was cut.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			p, done, err := c.openPlatform(cmd.Context())
			if err != nil {
				return err
			}
			defer done()
			v, err := p.Chain.Verify(cmd.Context(), p.Store)
			if err != nil {
				return err
			}
			return c.Print(v, func(w io.Writer) {
				_, _ = fmt.Fprintf(w, "The audit chain holds: %d records, head %s.\n", v.Records, v.Head)
			})
		},
	})
	cmd := &cobra.Command{Use: "audit", Short: "Work with the audit trail"}
	cmd.AddCommand(verify)
	return cmd
}

func (c *command) configuration() *cobra.Command {
	var defaults bool
	show := c.WithOutput(&cobra.Command{
		Use:   "print",
		Short: "Print the configuration in force, without secrets",
		RunE: func(*cobra.Command, []string) error {
			cfg := config.Default()
			if !defaults {
				var err error
				if cfg, err = c.Load(false, nil); err != nil {
					return err
				}
			}
			if c.Output == "json" {
				return c.printOptions(cfg)
			}
			return config.WriteYAML(c.Sys.Stdout, cfg, true)
		},
	})
	show.Flags().BoolVar(&defaults, "defaults", false, "print the defaults instead: the reference of all options")
	check := shell.WithArguments(&cobra.Command{
		Use:   "check [FILE]",
		Short: "Check the configuration and the gateway document; start nothing",
		Long: `Check the configuration and the gateway document that it names, or the document of
a file alone, or of standard input with -. Nothing is started, and no server asked.
` + shell.ExitCodes,
		Example: `  keywarden config check --config configs/keywarden.yaml
  keywarden config check gateway.yaml`,
		RunE: func(_ *cobra.Command, args []string) error {
			if len(args) > 0 {
				_, _, err := document.Read(c.Shell, args[0])
				if err == nil {
					_, _ = fmt.Fprintln(c.Sys.Stdout, "The gateway document is valid.")
				}
				return err
			}
			cfg, err := c.Load(true, nil)
			if err != nil {
				return err
			}
			if cfg.Gateway.File != "" {
				if _, _, err := document.Read(c.Shell, cfg.Gateway.File); err != nil {
					return err
				}
			}
			_, _ = fmt.Fprintln(c.Sys.Stdout, "The configuration is valid.")
			return nil
		},
	}, 0, 1)
	env := &cobra.Command{
		Use:   "env",
		Short: "List the environment variable of each option",
		RunE: func(*cobra.Command, []string) error {
			w := tabwriter.NewWriter(c.Sys.Stdout, 0, 0, 2, ' ', 0)
			_, _ = fmt.Fprintln(w, "VARIABLE\tDEFAULT\tOPTION")
			for _, row := range config.Describe() {
				_, _ = fmt.Fprintf(w, "%s\t%s\t%s\n", row.Env, row.Default, row.Path)
			}
			return w.Flush()
		},
	}
	cmd := &cobra.Command{Use: "config", Short: "Work with the configuration and the gateway document"}
	cmd.AddCommand(show, check, env)
	cmd.AddCommand(document.Config(c.Shell)...)
	return cmd
}

// printOptions writes the options as an object like the file.
func (c *command) printOptions(cfg *config.Config) error {
	var text bytes.Buffer
	if err := config.WriteYAML(&text, cfg, false); err != nil {
		return err
	}
	var options map[string]any
	if err := yaml.Load(text.Bytes(), &options); err != nil {
		return fmt.Errorf("read the configuration back: %w", err)
	}
	return c.Print(options, nil)
}

func (c *command) keygen() *cobra.Command {
	return &cobra.Command{
		Use:   "keygen",
		Short: "Make a master key",
		Long: `Make a master key for KEYWARDEN_MASTER_KEY: 32 random bytes in base64. Keep it as
you keep the database's backups, and not beside them.`,
		RunE: func(*cobra.Command, []string) error {
			_, err := fmt.Fprintln(c.Sys.Stdout, seal.NewMasterKey().Reveal())
			return err
		},
	}
}

func (c *command) healthcheck() *cobra.Command {
	var url string
	cmd := &cobra.Command{
		Use:   "healthcheck",
		Short: "Ask a running instance whether it lives (for containers; exit 1 when not)",
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, cancel := context.WithTimeout(cmd.Context(), healthTimeout)
			defer cancel()
			if url != "" {
				return askHealth(ctx, url)
			}
			cfg, err := c.Load(false, nil)
			if err != nil {
				return err
			}
			return askOwnHealth(ctx, cfg)
		},
	}
	cmd.Flags().StringVar(&url, "url", "", "what to ask; default is the configured listener on this machine")
	return cmd
}

func (c *command) version() *cobra.Command {
	return c.WithOutput(&cobra.Command{
		Use:   "version",
		Short: "Print the version",
		RunE: func(*cobra.Command, []string) error {
			v := app.Version()
			return c.Print(v, func(w io.Writer) {
				_, _ = fmt.Fprintf(w, "keywarden %s (%s, %s)\n", v.Version, v.Commit, v.Go)
			})
		},
	})
}
