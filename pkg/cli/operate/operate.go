// Package operate is the commands by which operators look at a running instance and
// change what is in its database, over its admin API.
package operate

import (
	"github.com/spf13/cobra"

	"github.com/keywarden/keywarden/pkg/cli/shell"
)

// command holds what the commands share.
type command struct{ *shell.Shell }

// Commands are the commands of this package.
func Commands(s *shell.Shell) []*cobra.Command {
	c := &command{s}
	return append([]*cobra.Command{c.usage(), c.analytics(), c.alerts(), c.posture(), c.privileges(), c.secrets()}, c.catalog()...)
}
