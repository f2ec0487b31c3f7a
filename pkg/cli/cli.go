// Package cli is the command line: flags to configuration, configuration to the
// application, errors to words and exit codes. It holds no logic of its own.
package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/keywarden/keywarden/pkg/cli/document"
	"github.com/keywarden/keywarden/pkg/cli/operate"
	"github.com/keywarden/keywarden/pkg/cli/shell"
)

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
				os.Exit(shell.ExitInterrupted)
			}
		}
	}()
	return Main(ctx, sys)
}

// Main runs the command line until it is done or ctx ends, and returns the exit
// code.
func Main(ctx context.Context, sys System) int {
	c := &command{&shell.Shell{Sys: sys}}
	root := c.root() //nolint:contextcheck // cobra hands ctx to the commands
	root.SetArgs(sys.Args)
	root.SetIn(sys.Stdin)
	root.SetOut(sys.Stdout)
	root.SetErr(sys.Stderr)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return shell.ExitOK
	}
	if ctx.Err() != nil && errors.Is(err, context.Canceled) {
		err = errors.New("interrupted")
	}
	if text := shell.Explain(err); text != "" {
		_, _ = fmt.Fprintln(sys.Stderr, "keywarden: "+text)
	}
	return shell.ExitOf(err)
}

// System is everything the program gets from outside.
type System = shell.System

// command holds what the commands share.
type command struct{ *shell.Shell }

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
		return shell.Usage(fmt.Errorf("%w\nSee: %s --help", err, cmd.CommandPath()))
	})
	flags := root.PersistentFlags()
	flags.StringVar(&c.ConfigFile, "config", "", "configuration file (env "+shell.ConfigVar+")")
	flags.StringArrayVar(&c.Set, "set", nil, "set one option, as in --set server.addr=:9090 (repeatable)")
	root.AddCommand(
		c.serve(), c.dev(), c.migrate(), c.admin(), c.audit(), c.configuration(),
		c.keygen(), c.healthcheck(), c.doctor(), c.backup(), c.restore(), document.OpenAPI(c.Shell), c.version(),
	)
	root.AddCommand(operate.Commands(c.Shell)...)
	root.InitDefaultHelpCmd()
	root.InitDefaultCompletionCmd()
	shell.Strict(root)
	return root
}
