package app_test

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/keywarden/keywarden/pkg/problem"
)

// definition is one problem.Define of the source.
type definition struct {
	kind, code, detail string
	at                 string // file and line
}

// kinds are the kinds by their names in the source.
var kinds = map[string]problem.Kind{
	"Internal": problem.Internal, "Invalid": problem.Invalid, "Unauthenticated": problem.Unauthenticated,
	"Forbidden": problem.Forbidden, "NotFound": problem.NotFound, "MethodNotAllowed": problem.MethodNotAllowed,
	"NotAcceptable": problem.NotAcceptable, "Timeout": problem.Timeout, "Conflict": problem.Conflict,
	"PreconditionFailed": problem.PreconditionFailed, "PreconditionRequired": problem.PreconditionRequired,
	"TooLarge": problem.TooLarge, "URITooLong": problem.URITooLong, "UnsupportedMedia": problem.UnsupportedMedia,
	"Misdirected": problem.Misdirected, "Unprocessable": problem.Unprocessable, "TooManyRequests": problem.TooManyRequests,
	"HeadersTooLarge": problem.HeadersTooLarge, "NotImplemented": problem.NotImplemented, "BadGateway": problem.BadGateway,
	"Unavailable": problem.Unavailable, "GatewayTimeout": problem.GatewayTimeout, "LoopDetected": problem.LoopDetected,
}

// definedProblems finds every problem.Define below pkg/.
func definedProblems(t *testing.T) []definition {
	t.Helper()
	var found []definition
	files := token.NewFileSet()
	err := filepath.WalkDir(filepath.Join(root, "pkg"), func(path string, _ fs.DirEntry, err error) error {
		if err != nil || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return err
		}
		file, err := parser.ParseFile(files, path, nil, parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		ast.Inspect(file, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.CallExpr:
				if called(n.Fun, file.Name.Name, "Define") {
					found = append(found, define(t, files, n))
				}
			case *ast.CompositeLit:
				if file.Name.Name != "problem" && called(n.Type, file.Name.Name, "Error") {
					t.Errorf("%s: a problem that is not defined", files.Position(n.Pos()))
				}
			}
			return true
		})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// called reports whether e is problem.name, as a file of the package writes it.
func called(e ast.Expr, inPackage, name string) bool {
	switch e := e.(type) {
	case *ast.SelectorExpr:
		x, ok := e.X.(*ast.Ident)
		return ok && x.Name == "problem" && e.Sel.Name == name
	case *ast.Ident:
		return inPackage == "problem" && e.Name == name
	}
	return false
}

func define(t *testing.T, files *token.FileSet, c *ast.CallExpr) definition {
	t.Helper()
	d := definition{at: files.Position(c.Pos()).String()}
	if len(c.Args) != 3 {
		t.Fatalf("%s: %d arguments", d.at, len(c.Args))
	}
	switch kind := c.Args[0].(type) {
	case *ast.SelectorExpr:
		d.kind = kind.Sel.Name
	case *ast.Ident:
		d.kind = kind.Name
	}
	d.code, d.detail = literal(t, d.at, c.Args[1]), literal(t, d.at, c.Args[2])
	return d
}

// literal is the value of a text that stands in the source.
func literal(t *testing.T, at string, e ast.Expr) string {
	t.Helper()
	switch e := e.(type) {
	case *ast.BasicLit:
		text, err := strconv.Unquote(e.Value)
		if err != nil {
			t.Fatalf("%s: %v", at, err)
		}
		return text
	case *ast.BinaryExpr:
		return literal(t, at, e.X) + literal(t, at, e.Y)
	}
	t.Fatalf("%s: code and sentence must be literals, so that they can be documented", at)
	return ""
}

// problemCode is "area.reason". ErrInternal alone has no area: it says nothing.
var problemCode = regexp.MustCompile(`^(internal|[a-z]+\.[a-z]+(_[a-z]+)*)$`)

// sentence begins with a capital, ends with a full stop and holds no verb of fmt.
var sentence = regexp.MustCompile(`^[A-Z][^%]+\.$`)

func TestProblemsAreDefinedOnceAndWell(t *testing.T) {
	seen := map[string]string{}
	for _, d := range definedProblems(t) {
		if before, taken := seen[d.code]; taken {
			t.Errorf("%s: the code %s is defined at %s already", d.at, d.code, before)
		}
		seen[d.code] = d.at
		if !problemCode.MatchString(d.code) {
			t.Errorf("%s: the code %q is not of the form area.reason", d.at, d.code)
		}
		if !sentence.MatchString(d.detail) {
			t.Errorf("%s: %q is no plain sentence", d.at, d.detail)
		}
		if _, known := kinds[d.kind]; !known {
			t.Errorf("%s: unknown kind %s", d.at, d.kind)
		}
	}
	if len(seen) < 30 {
		t.Errorf("only %d definitions were found", len(seen))
	}
}

// codeRow is a row of the tables of codes in the guide.
var codeRow = regexp.MustCompile("(?m)^\\| `([^`]+)` \\| ([0-9]{3}) \\| (.+) \\|$")

func TestEveryProblemIsInTheGuide(t *testing.T) {
	text, err := os.ReadFile(filepath.Join(root, "docs/guides/errors.md"))
	if err != nil {
		t.Fatal(err)
	}
	guide := map[string]bool{}
	for _, row := range codeRow.FindAllStringSubmatch(string(text), -1) {
		name := row[1] + " " + row[2]
		if guide[name] {
			t.Errorf("%s is listed twice", row[1])
		}
		guide[name] = true
	}
	defined := map[string]bool{}
	for _, d := range definedProblems(t) {
		defined[fmt.Sprintf("%s %d", d.code, kinds[d.kind].Status())] = true
	}
	if diff := cmp.Diff(slices.Sorted(maps.Keys(defined)), slices.Sorted(maps.Keys(guide))); diff != "" {
		t.Errorf("codes with their status (-defined +docs/guides/errors.md):\n%s", diff)
	}
}
