// Command keywarden is the API key and user management platform with its
// gateway. Run "keywarden dev" to try it, "keywarden --help" for the rest.
package main

import (
	"os"

	"github.com/keywarden/keywarden/pkg/cli"
)

func main() {
	os.Exit(cli.Execute(cli.System{
		Args: os.Args[1:], Lookup: os.LookupEnv, Environ: os.Environ(), IsRoot: os.Geteuid() == 0,
		Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr,
	}))
}
