package app_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/keywarden/keywarden/pkg/app/apptest"
)

// suites are the groups of tests of http-cache-tests for which there is a bar.
var suites = []string{
	"cc-freshness", "cc-parse", "age-parse", "expires", "expires-parse", "cc-response", "stale", "heuristic", "method", "status",
	"cc-request", "pragma", "vary", "conditional-lm", "other",
}

// The bar: as many of the required tests as the best published cache passes, of all
// that are run.
const (
	barPassed = 141
	barOf     = 160
)

// never are tests of which none may fail, by the begin of their names.
var never = []string{"other-authorization", "query-args-different", "vary-"}

const suiteDocument = `
version: 1
services: [{name: origin, url: "%s"}]
routes: [{name: suite, match: {path: {prefix: /}}, service: origin, auth: {mode: none}, cache: {}}]
`

// TestOutsideSuite runs the tests for HTTP caches of cache-tests.fyi, which "make
// test-cache" gets from npm, against the whole program in front of the suite's origin.
func TestOutsideSuite(t *testing.T) {
	folder := os.Getenv("KEYWARDEN_CACHE_TESTS")
	if folder == "" {
		t.Skip("SKIPPED: run make test-cache, which needs Node.js and npm")
	}
	origin := startOrigin(t, folder)
	gateway := apptest.Start(t, apptest.Options{Gateway: fmt.Sprintf(suiteDocument, origin)})

	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	results := map[string]json.RawMessage{}
	run(ctx, t, folder, []string{"npm_config_base=" + gateway.URL, "npm_package_config_id="}, &results, "--no-warnings", "cli.mjs")
	var known []struct {
		Suite, Test, Kind string
	}
	run(ctx, t, folder, nil, &known, "--input-type=module", "-e", `
		import suites from './tests/index.mjs'
		console.log(JSON.stringify(suites.flatMap(s => s.tests.filter(t => !t.browser_only).map(t => ({Suite: s.id, Test: t.id, Kind: t.kind ?? 'required'})))))`)

	type count struct{ passed, all int }
	counts := map[string]*count{"required": {}, "optimal": {}, "check": {}}
	others := &count{} // for information
	musts := 0
	var failed []string
	for _, k := range known {
		passed := string(results[k.Test]) == "true"
		must := k.Kind == "required" && slices.ContainsFunc(never, func(name string) bool { return strings.HasPrefix(k.Test, name) })
		if must {
			musts++
		}
		if must && !passed {
			t.Errorf("%s: %s", k.Test, results[k.Test])
		}
		c := counts[k.Kind]
		if !slices.Contains(suites, k.Suite) {
			c = others
		}
		c.all++
		if passed {
			c.passed++
		} else {
			failed = append(failed, fmt.Sprintf("%-9s %-14s %s: %s", k.Kind, k.Suite, k.Test, bytes.Join(bytes.Fields(results[k.Test]), []byte(" "))))
		}
	}
	slices.Sort(failed)
	t.Logf("not passed:\n%s", strings.Join(failed, "\n"))
	t.Logf("all tests of the other groups: %d of %d", others.passed, others.all)
	for kind, c := range counts {
		t.Logf("%s: %d of %d", kind, c.passed, c.all)
	}
	if musts < 15 {
		t.Errorf("only %d of the tests that must not fail are there", musts)
	}
	if c := counts["required"]; c.all < 80 || c.passed*barOf < barPassed*c.all {
		t.Errorf("%d of %d required tests are passed, the bar is %d of %d", c.passed, c.all, barPassed, barOf)
	}
}

// run runs Node.js in the folder of the suite and decodes what it prints.
func run(ctx context.Context, t *testing.T, folder string, env []string, into any, args ...string) {
	t.Helper()
	cmd := exec.CommandContext(ctx, "node", args...)
	cmd.Dir, cmd.Env = folder, append(os.Environ(), env...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err == nil {
		err = json.Unmarshal(out, into)
	}
	if err != nil {
		t.Fatalf("node: %v\n%s\n%.2000s", err, &stderr, out)
	}
}

// startOrigin starts the server of the suite.
func startOrigin(t *testing.T, folder string) *url.URL {
	t.Helper()
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := free.Addr().(*net.TCPAddr)
	free.Close()
	cmd := exec.Command("node", "server/server.mjs")
	cmd.Dir = folder
	cmd.Env = append(os.Environ(), "npm_config_protocol=http", fmt.Sprint("npm_config_port=", addr.Port), "npm_config_pidfile="+filepath.Join(t.TempDir(), "pid"))
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	origin := &url.URL{Scheme: "http", Host: addr.String()}
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		conn, err := net.Dial("tcp", origin.Host)
		if err == nil {
			conn.Close()
			return origin
		}
		if time.Now().After(deadline) {
			t.Fatal("the origin does not start: ", err)
		}
	}
}
