// Package cli is the command line: flags to configuration, configuration to the
// application, errors to words and exit codes. It holds no logic of its own.
package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/keywarden/keywarden/pkg/app"
	"github.com/keywarden/keywarden/pkg/cli/adminclient"
	"github.com/keywarden/keywarden/pkg/config"
	"github.com/keywarden/keywarden/pkg/problem"
)

// System is everything the program gets from outside.
type System struct {
	Args    []string
	Lookup  func(name string) (string, bool)
	Environ []string
	IsRoot  bool
	Stdin   io.Reader
	Stdout  io.Writer
	Stderr  io.Writer
	Reload  <-chan os.Signal // each value reads the gateway document again
}

// Exit codes.
const (
	exitOK          = 0
	exitFailure     = 1   // it ran and failed, or a check found something
	exitUsage       = 2   // the command line, the configuration or a document is wrong
	exitRemote      = 3   // the server cannot be reached, or does not let this caller in
	exitInterrupted = 130 // a second signal cut an orderly end short
)

// configEnvVar names the configuration file.
const configEnvVar = "KEYWARDEN_CONFIG"

// usageError is a mistake in how the program was called.
type usageError struct{ error }

func (e usageError) Unwrap() error { return e.error }

// sameSignal is how long a repeated signal counts as the first one: some
// supervisors, such as timeout(1), send it to the process and to its group.
const sameSignal = 500 * time.Millisecond

// Execute is [Main] under the signals of the process: the first interrupt or
// SIGTERM ends what runs, in order, a later one ends the process at once, and
// SIGHUP is sys.Reload.
func Execute(sys System) int {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	end, reload, done := make(chan os.Signal, 1), make(chan os.Signal, 1), make(chan struct{})
	signal.Notify(end, os.Interrupt, syscall.SIGTERM)
	defer signal.Stop(end)
	signal.Notify(reload, syscall.SIGHUP)
	defer signal.Stop(reload)
	sys.Reload = reload
	defer close(done)
	go func() {
		var first time.Time
		for {
			select {
			case <-done:
				return
			case <-end:
			}
			switch {
			case first.IsZero():
				first = time.Now()
				cancel()
			case time.Since(first) > sameSignal:
				os.Exit(exitInterrupted)
			}
		}
	}()
	return Main(ctx, sys)
}

// Main runs the command line until it is done or ctx ends, and returns the exit
// code.
func Main(ctx context.Context, sys System) int {
	c := &command{sys: sys}
	root := c.root() //nolint:contextcheck // cobra hands ctx to the commands
	root.SetArgs(sys.Args)
	root.SetIn(sys.Stdin)
	root.SetOut(sys.Stdout)
	root.SetErr(sys.Stderr)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return exitOK
	}
	if ctx.Err() != nil && errors.Is(err, context.Canceled) {
		err = errors.New("interrupted")
	}
	code, coded := exitOf(err)
	if !errors.As(err, new(exitError)) {
		_, _ = fmt.Fprintln(sys.Stderr, "keywarden: "+explain(err))
	}
	if coded {
		return code
	}
	var usage usageError
	var mistakes config.Errors
	if errors.As(err, &usage) || errors.As(err, &mistakes) {
		return exitUsage
	}
	return exitFailure
}

// explain is the text of err for a person at a terminal: a problem says what its
// public sentence says, with its fields, and why where it is not the caller's
// mistake.
func explain(err error) string {
	var p *problem.Error
	var refused *adminclient.Error
	if errors.As(err, &refused) {
		return explainRemote(refused)
	}
	if errors.Is(err, adminclient.ErrUnreachable) {
		return printable(err.Error()) + "\nIs it running? Name it with --server or " + serverVar + "."
	}
	if !errors.As(err, &p) {
		if errors.Is(err, syscall.EADDRINUSE) {
			return err.Error() + "\nAnother program listens there: stop it, or choose another address (dev: --addr, serve: --set server.addr)"
		}
		return err.Error()
	}
	var b strings.Builder
	b.WriteString(p.Detail)
	for _, f := range p.Fields {
		_, _ = fmt.Fprintf(&b, "\n  %s %s", f.Field, f.Detail)
	}
	if cause := p.Unwrap(); cause != nil && p.Kind.Status() >= http.StatusInternalServerError {
		_, _ = fmt.Fprintf(&b, "\n  cause: %v", cause)
	}
	return b.String()
}

// command holds what the subcommands share.
type command struct {
	sys        System
	configFile string
	set        []string
	output     string
}

func (c *command) root() *cobra.Command {
	root := &cobra.Command{
		Use:   "keywarden",
		Short: "API keys, users and a gateway behind one door",
		Long: `Keywarden manages users and API keys, and guards your backends with them:
one program on PostgreSQL.

  keywarden dev                                  try it: everything on this machine
  keywarden serve --config configs/keywarden.yaml   run it
  keywarden config print --defaults              every option with its default`,
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return usageError{fmt.Errorf("%w\nSee: %s --help", err, cmd.CommandPath())}
	})
	flags := root.PersistentFlags()
	flags.StringVar(&c.configFile, "config", "", "configuration file (env "+configEnvVar+")")
	flags.StringArrayVar(&c.set, "set", nil, "set one option, as in --set server.addr=:9090 (repeatable)")
	root.AddCommand(
		c.serve(), c.dev(), c.migrate(), c.admin(), c.audit(), c.configuration(),
		c.keygen(), c.healthcheck(), c.usage(), c.version(),
	)
	root.InitDefaultHelpCmd()
	root.InitDefaultCompletionCmd()
	strict(root)
	return root
}

// takesArguments marks commands that check their arguments themselves.
const takesArguments = "takes-arguments"

// strict makes a mistyped command or a superfluous argument a usage error, also
// where cobra would show the help or return an error of its own.
func strict(cmd *cobra.Command) {
	switch {
	case cmd.Name() == "help":
		cmd.Args = func(cmd *cobra.Command, args []string) error {
			if topic, rest, err := cmd.Root().Find(args); err != nil || len(rest) > 0 {
				return unknownCommand(topic, rest)
			}
			return nil
		}
	case cmd.HasSubCommands():
		cmd.Args = func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				return unknownCommand(cmd, args)
			}
			return nil
		}
		if cmd.RunE == nil {
			cmd.RunE = func(cmd *cobra.Command, _ []string) error { return cmd.Help() }
		}
	case cmd.Annotations[takesArguments] != "":
	default:
		cmd.Args = func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				return usageError{fmt.Errorf("unexpected argument %q\nSee: %s --help", args[0], cmd.CommandPath())}
			}
			return nil
		}
	}
	for _, sub := range cmd.Commands() {
		strict(sub)
	}
}

// unknownCommand names what is near to the first argument.
func unknownCommand(cmd *cobra.Command, args []string) error {
	const typos = 2
	cmd.SuggestionsMinimumDistance = typos
	near := ""
	if names := cmd.SuggestionsFor(args[0]); len(names) > 0 {
		near = ", did you mean " + strings.Join(names, " or ") + "?"
	}
	return usageError{fmt.Errorf("unknown command %q%s\nSee: %s --help", args[0], near, cmd.CommandPath())}
}

// load reads the configuration; extra options win over --set.
func (c *command) load(serving bool, extra map[string]string) (*config.Config, error) {
	flags := map[string]string{}
	for _, s := range c.set {
		name, value, ok := strings.Cut(s, "=")
		if !ok {
			return nil, usageError{fmt.Errorf("--set %s: expected option=value", s)}
		}
		flags[name] = value
	}
	for name, value := range extra {
		flags[name] = value
	}
	file := c.configFile
	if file == "" {
		file, _ = c.sys.Lookup(configEnvVar)
	}
	return config.Load(config.Source{
		File: file, Lookup: c.sys.Lookup, Environ: c.sys.Environ, Reserved: []string{configEnvVar, serverVar, tokenVar, apiKeyVar},
		Flags: flags, Serving: serving,
	})
}

func (c *command) env() app.Env { return app.Env{Lookup: c.sys.Lookup, IsRoot: c.sys.IsRoot} }

// withOutput adds --output to a command.
func (c *command) withOutput(cmd *cobra.Command) *cobra.Command {
	cmd.Flags().StringVarP(&c.output, "output", "o", "text", "form of the output: text or json")
	_ = cmd.RegisterFlagCompletionFunc("output", cobra.FixedCompletions([]string{"text", "json"}, cobra.ShellCompDirectiveNoFileComp))
	check := cmd.PreRunE
	cmd.PreRunE = func(cmd *cobra.Command, args []string) error {
		if c.output != "text" && c.output != "json" {
			return usageError{fmt.Errorf("--output is %q, must be text or json", c.output)}
		}
		if check != nil {
			return check(cmd, args)
		}
		return nil
	}
	return cmd
}

// print writes v as one line of JSON, or what text writes.
func (c *command) print(v any, text func(w io.Writer)) error {
	if c.output != "json" {
		text(c.sys.Stdout)
		return nil
	}
	return json.NewEncoder(c.sys.Stdout).Encode(v)
}
