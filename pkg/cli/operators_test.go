package cli_test

import (
	"testing"

	"github.com/keywarden/keywarden/pkg/pglocal/pgtest"
	"github.com/keywarden/keywarden/pkg/seal"
)

// With a listener for operators, a command that asks the main one is told that it
// is the wrong address, and not that something is missing from the document.
func TestCommandsTellTheWrongListenerFromAMissingObject(t *testing.T) {
	operators := freeAddress(t)
	in := serving(pgtest.New(t), seal.NewMasterKey(), "gateway.source=database", "server.metrics_addr="+operators)
	s := serve(t, in)
	token := "KEYWARDEN_TOKEN=" + makeAdmin(t, in, s).Token
	export := func(server string) result {
		return run(t, invocation{args: []string{"config", "export", "--server", server}, env: []string{token}})
	}
	export(s.URL).want(3, "set --server")
	export("http://"+operators).want(1, "no gateway document yet")
}
