package app_test

import (
	"flag"
	"fmt"
	"os"
	"testing"
)

// TestMain runs the tests and then, when all of them ran, asks whether they
// received every answer that docs/swagger.json promises.
func TestMain(m *testing.M) {
	code := m.Run()
	if code == 0 && wholeSuite() {
		missing, err := received.missing()
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
		for _, answer := range missing {
			fmt.Fprintf(os.Stderr, "no test received %s, which docs/swagger.json documents\n", answer)
			code = 1
		}
	}
	os.Exit(code)
}

// wholeSuite reports whether no test was left out.
func wholeSuite() bool {
	for _, name := range []string{"test.run", "test.skip", "test.list"} {
		if flag.Lookup(name).Value.String() != "" {
			return false
		}
	}
	return !testing.Short()
}
