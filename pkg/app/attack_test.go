package app_test

import (
	"maps"
	"path/filepath"
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
// default configuration. No case is excused: those of the cache hold as well while
// there is no such feature.
func TestAttackCases(t *testing.T) {
	cases := runnable(t, map[string]int{
		"CTRL": 16, "PATH": 24, "HOST": 6, "HDR": 20, "FWD": 8, "FRM": 22, "ACC": 10, "KEY": 4, "DOS": 2,
		"RTY": 2, "CCH": 6, "CORS": 4, "WS": 2,
	})
	p, up := startAttacked(t, apptest.Options{})
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
