package shell

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/keywarden/keywarden/pkg/cli/adminclient"
	"github.com/keywarden/keywarden/pkg/seal"
)

// Variables of the commands that speak to a running instance. A secret is never a
// flag: flags are shown to everybody on the machine.
const (
	ServerVar = "KEYWARDEN_SERVER"
	TokenVar  = "KEYWARDEN_TOKEN"
	APIKeyVar = "KEYWARDEN_API_KEY"

	defaultServer = "http://127.0.0.1:8080"
)

// remoteTimeout bounds one question to a running instance.
const remoteTimeout = time.Minute

// ExitCodes are the words about exit codes in the help of these commands.
const ExitCodes = `
Exit codes: 0 ok, or no difference; 1 different, or refused; 2 the file or the
command line is wrong; 3 the server cannot be reached, or lets this caller not in.`

// WhoCalls are the words about who calls in the help of these commands.
const WhoCalls = `
The server is --server or KEYWARDEN_SERVER. Who calls is proven by an API key in
KEYWARDEN_API_KEY, an access token in KEYWARDEN_TOKEN, or either of them in the file
that --token-file names; it needs the scope config:read, and config:write to change
something.
`

// Remote is the way to a running instance.
type Remote struct {
	server, tokenFile, caFile string
}

// Flags adds the flags that say which instance it is.
func (r *Remote) Flags(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVar(&r.server, "server", "", "URL of the running instance (env "+ServerVar+", default "+defaultServer+")")
	f.StringVar(&r.tokenFile, "token-file", "", "file with an API key or access token (or env "+APIKeyVar+" or "+TokenVar+")")
	f.StringVar(&r.caFile, "ca-file", "", "PEM file with the authority of the server's certificate")
}

// Client makes the client that the flags and the environment ask for.
func (s *Shell) Client(r *Remote) (*adminclient.Client, error) {
	server := r.server
	if server == "" {
		server, _ = s.Sys.Lookup(ServerVar)
	}
	if server == "" {
		server = defaultServer
	}
	credential, err := s.credential(r.tokenFile)
	if err != nil {
		return nil, err
	}
	client, err := adminclient.New(adminclient.Options{Server: server, Credential: credential, CAFile: r.caFile, Timeout: remoteTimeout})
	if err != nil {
		return nil, Usage(err)
	}
	if client.Plain() {
		_, _ = fmt.Fprintln(s.Sys.Stderr, "keywarden: warning: the credential goes over the network unencrypted; use https")
	}
	return client, nil
}

// credential finds the one credential.
func (s *Shell) credential(file string) (seal.Secret, error) {
	var found []string
	for _, name := range []string{APIKeyVar, TokenVar} {
		if v, _ := s.Sys.Lookup(name); v != "" {
			found = append(found, v)
		}
	}
	if file != "" {
		text, err := os.ReadFile(file)
		if err != nil {
			return seal.Secret{}, Usage(fmt.Errorf("read --token-file: %w", err))
		}
		found = []string{strings.TrimSpace(string(text))} // a flag wins over the environment
	}
	switch {
	case len(found) > 1:
		return seal.Secret{}, Usage(fmt.Errorf("both %s and %s are set; unset one of them", APIKeyVar, TokenVar))
	case len(found) == 0:
		return seal.Secret{}, Usage(fmt.Errorf("no credential: set %s to an API key with the scope config:read (config:write for changes), or name a file with --token-file", APIKeyVar))
	case strings.ContainsFunc(found[0], func(r rune) bool { return r <= ' ' || r > '~' }) || found[0] == "":
		return seal.Secret{}, Usage(errors.New("the credential is empty, or holds characters that no key or token has"))
	}
	return seal.NewSecret(found[0]), nil
}
