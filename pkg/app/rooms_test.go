package app_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

const module = "github.com/keywarden/keywarden/"

// rooms are the rooms of docs/decisions/0001-rooms.md, foundation first. A package
// imports from its own room and from those before it.
var rooms = []struct {
	name     string
	packages []string
}{
	{"foundation", []string{"problem", "reqctx", "seal", "config", "telemetry", "certstore", "httpserver", "heap", "canonical", "httpedge", "throttle", "verdict", "slowhash", "nearest", "bytesize", "header", "strictyaml", "ratelimit", "netguard", "splice", "faulttest", "loadtest"}},
	{"domain", []string{"access", "expression", "template", "account", "session", "apikey", "keyguard", "privilege", "audit", "changes", "quota", "catalog", "kvm", "httpcache", "decision", "revision", "acme", "usage", "analytics", "spec", "posture", "openapi", "alert"}},
	{"edges and adapters", []string{"gateway", "kubernetes", "httpapi", "store", "pglocal", "backup", "doctor", "sample"}},
	{"root", []string{"app"}},
	{"command line", []string{"demo", "cli"}},
}

// lineBudget is how many lines a package may have before it is two rooms. The one
// room that speaks SQL has twice the budget: a file for each domain's store, which
// know nothing of one another and share the transaction that writes the audit entry.
const lineBudget = 2000

func budgetOf(path string) int {
	if path == "store/postgres" {
		return 2 * lineBudget
	}
	return lineBudget
}

// goPackage is what the Go tool tells of a package.
type goPackage struct {
	ImportPath string
	Dir        string
	GoFiles    []string
	Imports    []string
}

func listPackages(t *testing.T) []goPackage {
	t.Helper()
	cmd := exec.Command("go", "list", "-json=ImportPath,Dir,GoFiles,Imports", module+"pkg/...")
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	var list []goPackage
	for dec := json.NewDecoder(bytes.NewReader(out)); ; {
		var p goPackage
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			return list
		} else if err != nil {
			t.Fatal(err)
		}
		list = append(list, p)
	}
}

// below is the path of a package of ours below pkg/, or "".
func below(path string) string {
	rest, ok := strings.CutPrefix(path, module+"pkg/")
	if !ok {
		return ""
	}
	return rest
}

// floorOf is the index of the room that holds the package, or -1.
func floorOf(path string) int {
	first, _, _ := strings.Cut(path, "/")
	for i, r := range rooms {
		for _, p := range r.packages {
			if p == first {
				return i
			}
		}
	}
	return -1
}

// testOnly packages are imported by tests alone.
func testOnly(path string) bool {
	return strings.HasSuffix(path, "test") || strings.Contains(path, "test/")
}

func TestImportsPointOneWay(t *testing.T) {
	for _, p := range listPackages(t) {
		path := below(p.ImportPath)
		floor := floorOf(path)
		if floor < 0 {
			t.Errorf("pkg/%s is in no room: add it to docs/decisions/0001-rooms.md and to this test", path)
			continue
		}
		for _, imported := range p.Imports {
			to := below(imported)
			switch {
			case to != "" && floorOf(to) > floor:
				t.Errorf("pkg/%s must not import pkg/%s: that room is above it", path, to)
			case to != "" && !testOnly(path) && testOnly(to):
				t.Errorf("pkg/%s must not import pkg/%s: that is for tests", path, to)
			case strings.HasPrefix(imported, "github.com/gin-gonic/") && !anyPrefix(path, "httpapi", "portal", "app", "gateway/benchtest/ginproxy"):
				t.Errorf("pkg/%s must not import Gin", path)
			case strings.HasPrefix(imported, "github.com/jackc/pgx") && !anyPrefix(path, "store/postgres", "pglocal", "app"):
				t.Errorf("pkg/%s must not import pgx", path)
			case strings.HasPrefix(to, "store/") && anyPrefix(path, "gateway", "httpapi"):
				t.Errorf("pkg/%s must not import pkg/%s: only the root connects adapters", path, to)
			case strings.HasPrefix(to, "gateway") && anyPrefix(path, "httpapi"), strings.HasPrefix(to, "httpapi") && anyPrefix(path, "gateway"):
				t.Errorf("pkg/%s must not import pkg/%s: the two planes do not know each other", path, to)
			}
		}
	}
}

func anyPrefix(path string, prefixes ...string) bool {
	for _, p := range prefixes {
		if path == p || strings.HasPrefix(path, p+"/") {
			return true
		}
	}
	return false
}

func TestPackagesStayWithinTheirBudget(t *testing.T) {
	for _, p := range listPackages(t) {
		lines := 0
		for _, file := range p.GoFiles {
			text, err := os.ReadFile(filepath.Join(p.Dir, file))
			if err != nil {
				t.Fatal(err)
			}
			lines += bytes.Count(text, []byte("\n"))
		}
		if budget := budgetOf(below(p.ImportPath)); lines > budget && !testOnly(below(p.ImportPath)) {
			t.Errorf("%s has %d lines, over the budget of %d: it is two rooms", p.ImportPath, lines, budget)
		}
	}
}
