// Package shell is what the commands of the command line share: what the program
// gets from outside, the form of its output, its exit codes, mistakes in how it was
// called, and the way to a running instance. It knows no command.
package shell

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/keywarden/keywarden/pkg/app"
	"github.com/keywarden/keywarden/pkg/config"
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
	ExitOK          = 0
	ExitFailure     = 1   // it ran and failed, or a check found something
	ExitUsage       = 2   // the command line, the configuration or a document is wrong
	ExitRemote      = 3   // the server cannot be reached, or does not let this caller in
	ExitInterrupted = 130 // a second signal cut an orderly end short
)

// ConfigVar names the configuration file.
const ConfigVar = "KEYWARDEN_CONFIG"

// Shell holds what the commands share. It is for one run of the program.
type Shell struct {
	Sys        System
	ConfigFile string
	Set        []string // options that win over the configuration file
	Output     string   // text or json
}

// Load reads the configuration; extra options win over --set.
func (s *Shell) Load(serving bool, extra map[string]string) (*config.Config, error) {
	flags := map[string]string{}
	for _, option := range s.Set {
		name, value, ok := strings.Cut(option, "=")
		if !ok {
			return nil, Usage(fmt.Errorf("--set %s: expected option=value", option))
		}
		flags[name] = value
	}
	for name, value := range extra {
		flags[name] = value
	}
	file := s.ConfigFile
	if file == "" {
		file, _ = s.Sys.Lookup(ConfigVar)
	}
	return config.Load(config.Source{
		File: file, Lookup: s.Sys.Lookup, Environ: s.Sys.Environ, Reserved: []string{ConfigVar, ServerVar, TokenVar, APIKeyVar},
		Flags: flags, Serving: serving,
	})
}

// Env is what the application gets from outside.
func (s *Shell) Env() app.Env { return app.Env{Lookup: s.Sys.Lookup, IsRoot: s.Sys.IsRoot} }

// WithOutput adds --output to a command.
func (s *Shell) WithOutput(cmd *cobra.Command) *cobra.Command {
	cmd.Flags().StringVarP(&s.Output, "output", "o", "text", "form of the output: text or json")
	_ = cmd.RegisterFlagCompletionFunc("output", cobra.FixedCompletions([]string{"text", "json"}, cobra.ShellCompDirectiveNoFileComp))
	check := cmd.PreRunE
	cmd.PreRunE = func(cmd *cobra.Command, args []string) error {
		if s.Output != "text" && s.Output != "json" {
			return Usage(fmt.Errorf("--output is %q, must be text or json", s.Output))
		}
		if check != nil {
			return check(cmd, args)
		}
		return nil
	}
	return cmd
}

// Print writes v as one line of JSON, or what text writes.
func (s *Shell) Print(v any, text func(w io.Writer)) error {
	if s.Output != "json" {
		text(s.Sys.Stdout)
		return nil
	}
	return json.NewEncoder(s.Sys.Stdout).Encode(v)
}
