// Package document is the commands about the gateway document: what it changes and
// does, how it gets into a running instance and out of it, and how descriptions of
// APIs become a part of it.
package document

import (
	"github.com/spf13/cobra"

	"github.com/keywarden/keywarden/pkg/cli/shell"
)

// command holds what the commands share.
type command struct{ *shell.Shell }

// Config are the commands that go below "config".
func Config(s *shell.Shell) []*cobra.Command {
	c := &command{s}
	return []*cobra.Command{c.diff(), c.apply(), c.export(), c.revisions(), c.rollback(), c.explainRequest()}
}

// OpenAPI is the command about descriptions of APIs.
func OpenAPI(s *shell.Shell) *cobra.Command { return (&command{s}).openapi() }
