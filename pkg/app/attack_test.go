package app_test

import (
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/keywarden/keywarden/pkg/app/apptest"
	"github.com/keywarden/keywarden/pkg/gateway/attacktest"
)

// attackDir holds the attack cases and the gateway document they are written
// against. The document names its backend's port, so tests that use it take
// turns.
const attackDir = "../gateway/testdata/attack"

// startAttacked starts the program with the fixture document as it is, and the
// document's recording backend.
func startAttacked(t *testing.T, o apptest.Options) (*apptest.Program, *attacktest.Upstream) {
	t.Helper()
	up := attacktest.Start(t, "")
	set := map[string]string{"gateway.file": filepath.Join(attackDir, "gateway.yaml")}
	maps.Copy(set, o.Set)
	o.Set = set
	return apptest.Start(t, o), up
}

// TestAttackCases runs every runnable case against the whole program on its
// default configuration. No case is excused.
func TestAttackCases(t *testing.T) {
	cases := runnable(t, map[string]int{
		"CTRL": 16, "PATH": 24, "HOST": 6, "HDR": 20, "FWD": 8, "FRM": 22, "ACC": 10, "KEY": 4, "DOS": 2,
		"RTY": 2, "CCH": 6, "CORS": 4, "WS": 2,
	})
	for _, front := range []string{"true", "false"} {
		t.Run("front="+front, func(t *testing.T) { attack(t, front, cases) })
	}
}

// attack carries the cases out, with or without the own HTTP/1.1 front.
func attack(t *testing.T, front string, cases []attacktest.Case) {
	p, up := startAttacked(t, apptest.Options{Set: map[string]string{"server.front": front}})
	attacktest.Run(t, attacktest.Env{
		GatewayAddr: p.Addr,
		Vars: map[string]string{
			"KEY_A": p.Key(t, p.User(t), nil).Secret,
			"KEY_B": p.Key(t, p.User(t), nil).Secret,
		},
		Paths: map[string]string{"token_path": "access_token", "key_id_path": "id", "key_secret_path": "key"},
	}, up, cases)
	for _, line := range p.Log.Lines(t) { // fails where a line is not JSON
		if line["msg"] == "handler panicked" {
			t.Errorf("a handler panicked: %v", line)
		}
	}
}

// laterAreas are the areas of which no described case can be a test yet, and why.
var laterAreas = map[string]string{
	"AI":   "there is no routing to models",
	"OIDC": "nobody can sign in with an identity provider",
	"WEB":  "there are no pages: the API is called without cookies",
}

// laterCases are further cases that cannot be tests yet.
var laterCases = map[string]string{
	"ADM-08": "there is one tenant",
	"JWT-06": "tokens of other issuers are not accepted: no key set is fetched",
	"KEY-20": "keys are made here and cannot be imported",
	"SBX-05": "there are no plugins in WebAssembly",
}

// caseIDs are the ids of cases in a comment or a table of a test.
var caseIDs = regexp.MustCompile(`\b[A-Z][A-Z0-9]+-\d\d\b`)

// TestEveryAttackCaseIsATestOrSaysWhyNot holds for the cases that the runner cannot
// carry out because they are only described: a test names each.
func TestEveryAttackCaseIsATestOrSaysWhyNot(t *testing.T) {
	named := map[string]bool{}
	err := filepath.WalkDir(filepath.Join(root, "pkg"), func(path string, d fs.DirEntry, err error) error {
		// The runner's own tests name cases without carrying them out, as this file does.
		if err != nil || !strings.HasSuffix(path, "_test.go") || strings.HasSuffix(path, "attack_test.go") || strings.Contains(path, "attacktest") {
			return err
		}
		text, err := os.ReadFile(path)
		for _, id := range caseIDs.FindAllString(string(text), -1) {
			named[id] = true
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	unknown := maps.Clone(laterCases)
	for _, c := range attacktest.Load(t, filepath.Join(attackDir, "cases.jsonl")) {
		later := laterAreas[c.Area] != "" || laterCases[c.ID] != ""
		switch {
		case c.Runnable():
		case !named[c.ID] && !later:
			t.Errorf("%s is in no test: %s", c.ID, c.Title)
		case named[c.ID] && later:
			t.Errorf("%s is in a test, and said to be for later", c.ID)
		}
		delete(unknown, c.ID)
	}
	if len(unknown) > 0 {
		t.Errorf("there are no such cases: %v", unknown)
	}
}

// runnable are the cases that the runner carries out. want is their number by
// area: a case that gets lost must not look like one that passes.
func runnable(t *testing.T, want map[string]int) []attacktest.Case {
	t.Helper()
	var cases []attacktest.Case
	got := map[string]int{}
	for _, c := range attacktest.Load(t, filepath.Join(attackDir, "cases.jsonl")) {
		if c.Runnable() {
			cases = append(cases, c)
			got[c.Area]++
		}
	}
	if !maps.Equal(got, want) {
		t.Fatalf("runnable cases by area: %v, want %v", got, want)
	}
	return cases
}
