// Package charts_test checks the Helm chart in the folder keywarden with a real helm:
// that it renders what was agreed on for each file of testdata/values, that Kubernetes
// would take the objects and the program its configuration, and that wrong values are
// refused in words that help.
//
// The chart has no code of its own, so this package holds tests alone; they stay outside
// of the chart's folder, and so outside of its package.
//
//	go test ./charts -update           writes the golden files, the schema of config, the table of
//	                                   the README, and the copies of rules and dashboards
//	make chart-schemas                 writes testdata/schemas from Kubernetes' own modules
package charts_test

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.yaml.in/yaml/v4"
)

var update = flag.Bool("update", false, "write what is generated and the golden files")

// The release that is rendered.
const (
	release   = "kw"
	namespace = "gateways"
	chart     = "keywarden"
)

// kubeVersions are the oldest and the newest Kubernetes that the chart is checked for:
// the first is kubeVersion of Chart.yaml, and testdata/schemas has the schemas of both.
func kubeVersions() []string { return []string{"1.29", "1.36"} }

// helm finds the program: KEYWARDEN_HELM, which the Makefile sets, or the one of the
// path. Without it the test is skipped, but not in CI.
func helm(t testing.TB) string {
	t.Helper()
	if path := os.Getenv("KEYWARDEN_HELM"); path != "" {
		if _, err := os.Stat(path); err == nil {
			return path
		}
	}
	path, err := exec.LookPath("helm")
	if err == nil {
		return path
	}
	const install = "helm is not installed: make chart, or go install helm.sh/helm/v3/cmd/helm@v3.22.0"
	if os.Getenv("CI") == "true" {
		t.Fatal(install)
	}
	t.Skip(install)
	return ""
}

// run runs helm and returns what it wrote to standard output and to standard error.
func run(t testing.TB, args ...string) (stdout, stderr string, err error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	home := t.TempDir()
	cmd := exec.CommandContext(ctx, helm(t), args...)
	// Nothing of the user's own: no plugins, no cluster.
	cmd.Env = append(os.Environ(), "HELM_CONFIG_HOME="+home, "HELM_CACHE_HOME="+home, "HELM_DATA_HOME="+home, "KUBECONFIG="+filepath.Join(home, "none"))
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err = cmd.Run()
	return out.String(), errs.String(), err
}

// render is the output of helm template for one file of values and further arguments.
func render(t testing.TB, values, kubeVersion string, args ...string) (string, error) {
	t.Helper()
	all := append([]string{"template", release, chart, "--namespace", namespace, "--kube-version", kubeVersion + ".0", "--values", values}, args...)
	stdout, stderr, err := run(t, all...)
	if err != nil {
		return "", errors.New(stderr)
	}
	if stderr != "" {
		t.Errorf("helm is not content with %s: %s", values, stderr)
	}
	return stdout, nil
}

// valuesFiles are the files of the matrix by name.
func valuesFiles(t testing.TB) map[string]string {
	t.Helper()
	paths, err := filepath.Glob("testdata/values/*.yaml")
	if err != nil || len(paths) < 10 {
		t.Fatalf("values: %v, %v", paths, err)
	}
	files := map[string]string{}
	for _, path := range paths {
		files[strings.TrimSuffix(filepath.Base(path), ".yaml")] = path
	}
	return files
}

// object is one rendered object.
type object map[string]any

// rendering is what a file of values makes.
type rendering struct {
	name    string
	objects []object
}

// decode splits the documents of a rendering. A key that is there twice is an error.
func decode(t testing.TB, text string) []object {
	t.Helper()
	var objects []object
	for loader := yaml.NewDecoder(strings.NewReader(text)); ; {
		var o map[string]any // not object, or the maps within would be of that type, too
		if err := loader.Decode(&o); errors.Is(err, io.EOF) {
			return objects
		} else if err != nil {
			t.Fatalf("decode: %v", err)
		}
		if o != nil {
			objects = append(objects, o)
		}
	}
}

// TestRenderings holds what each file of values makes to the golden file, to the schemas
// of Kubernetes, and to the rules of this package.
func TestRenderings(t *testing.T) {
	if *updateSchemas {
		writeSchemas(t)
	}
	oldest := compileSchemas(t, kubeVersions()[0])
	checks := map[string]func(t *testing.T, r rendering){
		"objects are ones of Kubernetes":      func(t *testing.T, r rendering) { validateAll(t, oldest, r) },
		"pods are restricted":                 podsAreRestricted,
		"tokens are where they are needed":    tokensAreWhereTheyAreNeeded,
		"rights are those of the guide":       rightsAreThoseOfTheGuide,
		"classes choose this gateway":         classesChooseThisGateway,
		"references resolve":                  referencesResolve,
		"selectors match":                     selectorsMatch,
		"ports that others name exist":        portsOfOthersExist,
		"probes ask real paths":               probesAskRealPaths,
		"pods end in time":                    podsEndInTime,
		"the program takes its configuration": programTakesTheConfiguration,
		"names are allowed":                   namesAreAllowed,
	}
	for name, path := range valuesFiles(t) {
		t.Run(name, func(t *testing.T) {
			rendered, err := render(t, path, kubeVersions()[0])
			if err != nil {
				t.Fatal(err)
			}
			t.Run("it is as agreed", func(t *testing.T) {
				compareFile(t, filepath.Join("testdata", "golden", name+".yaml"), []byte(rendered))
			})
			for what, check := range checks {
				t.Run(what, func(t *testing.T) { check(t, rendering{name, decode(t, rendered)}) })
			}
		})
	}
}

func TestLintIsContent(t *testing.T) {
	for name, path := range valuesFiles(t) {
		t.Run(name, func(t *testing.T) {
			stdout, stderr, err := run(t, "lint", "--strict", chart, "--namespace", namespace, "--kube-version", kubeVersions()[1]+".0", "--values", path)
			if err != nil || strings.Contains(stdout, "[WARNING]") || strings.Contains(stdout, "[ERROR]") {
				t.Errorf("%v\n%s%s", err, stdout, stderr)
			}
		})
	}
}

// TestEveryGoldenFileHasItsValues finds golden files of values that are gone.
func TestEveryGoldenFileHasItsValues(t *testing.T) {
	files := valuesFiles(t)
	golden, err := filepath.Glob("testdata/golden/*")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range golden {
		if files[strings.TrimSuffix(filepath.Base(path), ".yaml")] == "" {
			t.Errorf("%s is of no file of values", path)
		}
	}
}

// compareFile compares a file with what it should hold, or writes it with -update.
func compareFile(t *testing.T, path string, want []byte) {
	t.Helper()
	if *update {
		if err := os.WriteFile(path, want, 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	have, err := os.ReadFile(path)
	if err != nil {
		t.Fatalf("%v; run: go test ./charts -update", err)
	}
	if diff := cmp.Diff(string(have), string(want)); diff != "" {
		t.Errorf("%s is not current; look at the difference, then run go test ./charts -update (-have +want):\n%s", path, diff)
	}
}

// TestNoReleaseIsRenderedTwiceDifferently makes sure that nothing is random: a tool that
// compares renderings would see a change where there is none.
func TestNoReleaseIsRenderedTwiceDifferently(t *testing.T) {
	path := valuesFiles(t)["full"]
	first, err := render(t, path, kubeVersions()[1])
	if err != nil {
		t.Fatal(err)
	}
	second, err := render(t, path, kubeVersions()[1])
	if diff := cmp.Diff(first, second); err != nil || diff != "" {
		t.Errorf("%v\n%s", err, diff)
	}
}

// TestPackageHoldsTheChartAlone looks into what helm package writes.
func TestPackageHoldsTheChartAlone(t *testing.T) {
	folder := t.TempDir()
	if stdout, stderr, err := run(t, "package", chart, "--destination", folder); err != nil {
		t.Fatalf("%v\n%s%s", err, stdout, stderr)
	}
	archives, err := filepath.Glob(filepath.Join(folder, "*.tgz"))
	if err != nil || len(archives) != 1 {
		t.Fatalf("%v, %v", archives, err)
	}
	packed, stderr, err := run(t, "template", release, archives[0], "--kube-version", kubeVersions()[1]+".0", "--values", valuesFiles(t)["full"])
	if err != nil {
		t.Fatalf("the package cannot be rendered: %s", stderr)
	}
	folderText, _, err := run(t, "template", release, chart, "--kube-version", kubeVersions()[1]+".0", "--values", valuesFiles(t)["full"])
	if diff := cmp.Diff(folderText, packed); err != nil || diff != "" {
		t.Errorf("the package renders something else than the folder: %v\n%s", err, diff)
	}
	for _, name := range archiveNames(t, archives[0]) {
		top := strings.Split(strings.TrimPrefix(name, chart+"/"), "/")[0]
		switch top {
		case "Chart.yaml", "README.md", "values.yaml", "values.schema.json", "templates", "files", ".helmignore":
		default:
			t.Errorf("%s is in the package", name)
		}
	}
}
