package main

import (
	"os"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
)

// TestMain lets this program play a role, as main does.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == roleArgument {
		fail(play(os.Args[2:]))
		return
	}
	goleak.VerifyTestMain(m)
}

// stage has the roles that need nothing else.
func stage(t *testing.T) *site {
	t.Helper()
	s := &site{dir: t.TempDir()}
	t.Cleanup(func() {
		if err := s.close(); err != nil {
			t.Error(err)
		}
	})
	var err error
	if s.backend, err = startRole(roleBackend); err != nil {
		t.Fatal(err)
	}
	if s.collector, err = startRole(roleCollector); err != nil {
		t.Fatal(err)
	}
	return s
}

// Each counterpart lets the requests of its row pass, refuses those without their
// credential where it has a policy, and tells its allocations.
func TestEveryCounterpartAnswers(t *testing.T) {
	s := stage(t)
	for _, c := range []struct {
		has   policy
		path  string
		token bool
	}{{policyNone, pathKey, false}, {policyKey, pathKey, false}, {policyToken, pathToken, true}, {policyAll, pathAll, false}} {
		p, err := s.rival(c.has)
		if err != nil {
			t.Fatal(err)
		}
		for _, what := range []string{item, large} {
			l := &load{addr: p.addr, request: get("", p, c.path+what, c.token).request}
			one := &connection{load: l}
			if err := one.exchange(t.Context(), 0); err != nil {
				t.Errorf("policy %d, %s: %v", c.has, what, err)
			}
			one.close()
		}
		stranger := &connection{load: &load{addr: p.addr, request: same(getText(nil, p.addr, c.path+item, ""))}}
		if err := stranger.exchange(t.Context(), 0); (err == nil) != (c.has == policyNone) {
			t.Errorf("policy %d without a credential: %v", c.has, err)
		}
		stranger.close()
		r := get("", p, c.path+item, c.token)
		if err := r.countAllocations(t.Context(), settings{window: 500 * time.Millisecond, connections: 2}); err != nil {
			t.Fatal(err)
		}
		if n := r.allocations[0]; n < 20 || n > 1000 {
			t.Errorf("policy %d: %v allocations per request", c.has, n)
		}
		if p.log != "" {
			if text, err := os.ReadFile(p.log); err != nil || strings.Count(string(text), `"msg":"request"`) == 0 {
				t.Errorf("the log is %.200q, %v", text, err)
			}
		}
	}
}

func TestAConnectionsMemoryIsThatOfItsOwnProcess(t *testing.T) {
	s := stage(t)
	for _, what := range []string{item, silent} {
		bytes, err := s.connectionMemory(t.Context(), func() (*process, error) { return s.rival(policyAll) }, what, 400)
		if err != nil {
			t.Fatal(err)
		}
		if bytes < 1<<10 || bytes > 1<<20 {
			t.Errorf("%s: %.0f bytes for each connection", what, bytes)
		}
	}
}

func TestRolesThatDoNotExistAreRefused(t *testing.T) {
	for _, args := range [][]string{nil, {"nobody"}, {roleProxy}, {roleProxy, "-token", "00"}, {roleProxy, "-target", "http://127.0.0.1:1", "-limit", "1"}} {
		if err := play(args); err == nil {
			t.Errorf("%v is played", args)
		}
	}
}
