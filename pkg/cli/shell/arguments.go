package shell

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"
)

// TakesArguments marks commands that check their arguments themselves.
const TakesArguments = "takes-arguments"

// WithArguments lets a command take so many arguments; see [Strict].
func WithArguments(cmd *cobra.Command, least, most int) *cobra.Command {
	cmd.Annotations = map[string]string{TakesArguments: "yes"}
	cmd.Args = func(cmd *cobra.Command, args []string) error {
		switch {
		case len(args) < least:
			return Usage(fmt.Errorf("%s is missing\nSee: %s --help", strings.Fields(cmd.Use)[1+len(args)], cmd.CommandPath()))
		case len(args) > most:
			return Usage(fmt.Errorf("unexpected argument %q\nSee: %s --help", args[most], cmd.CommandPath()))
		}
		return nil
	}
	return cmd
}

// Strict makes a mistyped command or a superfluous argument a usage error, also
// where cobra would show the help or return an error of its own.
func Strict(cmd *cobra.Command) {
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
	case cmd.Annotations[TakesArguments] != "":
	default:
		cmd.Args = func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				return Usage(fmt.Errorf("unexpected argument %q\nSee: %s --help", args[0], cmd.CommandPath()))
			}
			return nil
		}
	}
	for _, sub := range cmd.Commands() {
		Strict(sub)
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
	return Usage(fmt.Errorf("unknown command %q%s\nSee: %s --help", args[0], near, cmd.CommandPath()))
}
