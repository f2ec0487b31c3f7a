package tools

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
)

// call is one call of a Groovy file, as outline.groovy prints it.
type call struct {
	Name  string
	Line  int
	On    string            // what it is called on, when that is said
	Args  []string          // constant text, or something with ${…}
	Named map[string]string // arguments that have a name
	Body  []call            // of its closure
	Inner []call            // calls among its arguments
}

// needGroovy returns the folder of the compiler of Groovy.
func needGroovy(t *testing.T) string {
	t.Helper()
	jars := os.Getenv("TOOLS_GROOVY")
	if _, err := exec.LookPath("java"); jars == "" || err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal("the compiler of Groovy is missing: run make check-shipping")
		}
		t.Skip("needs Java and the compiler of Groovy: run make check-shipping")
	}
	return jars
}

// outline reads a Groovy file by Groovy's own compiler, which is in the folder jars.
func outline(jars, file string) ([]call, error) {
	cmd := exec.Command("java", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC",
		"-cp", filepath.Join(jars, "*"), "groovy.ui.GroovyMain", "outline.groovy", file)
	var complaint strings.Builder
	cmd.Stderr = &complaint
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("%w\n%s", err, complaint.String())
	}
	var calls []call
	return calls, json.Unmarshal(out, &calls)
}

// read is the outline of the Jenkinsfile; a start of Java takes seconds.
var read = sync.OnceValues(func() ([]call, error) {
	return outline(os.Getenv("TOOLS_GROOVY"), filepath.Join(root, "Jenkinsfile"))
})

// pipeline is the Jenkinsfile's only call.
func pipeline(t *testing.T) call {
	t.Helper()
	needGroovy(t)
	calls, err := read()
	if err != nil {
		t.Fatalf("the Jenkinsfile is not Groovy: %v", err)
	}
	if len(calls) != 1 || calls[0].Name != "pipeline" {
		t.Fatalf("the Jenkinsfile has more than a declarative pipeline: %v", calls)
	}
	return calls[0]
}

// section is the only call of that name in the body of c; empty when there is none.
func (c call) section(name string) call {
	for _, b := range c.Body {
		if b.Name == name {
			return b
		}
	}
	return call{}
}

// stages lists the stages of c in order; those within others come after these.
func (c call) stages() []call {
	var all []call
	for _, s := range c.section("stages").Body {
		all = append(append(all, s), s.stages()...)
	}
	return all
}

// walk visits c and everything below it.
func (c call) walk(visit func(call)) {
	visit(c)
	for _, b := range append(slices.Clone(c.Body), c.Inner...) {
		b.walk(visit)
	}
}

// commands are the shell commands below c, in order.
func (c call) commands() []string {
	var all []string
	c.walk(func(c call) {
		if c.Name == "sh" {
			all = append(all, strings.Join(append(slices.Clone(c.Args), c.Named["script"]), ""))
		}
	})
	return all
}

func (c call) title() string { return strings.Join(c.Args, "") }

// stage finds a stage by its title.
func stage(t *testing.T, p call, title string) call {
	t.Helper()
	for _, s := range p.stages() {
		if s.title() == title {
			return s
		}
	}
	t.Fatalf("no stage %s", title)
	return call{}
}

// What a declarative pipeline may have where, of which the compiler of Groovy knows
// nothing (https://www.jenkins.io/doc/book/pipeline/syntax/), cut down to what is used.
var (
	sections      = []string{"agent", "options", "parameters", "environment", "stages", "post"}
	stageSections = []string{"options", "when", "input", "environment", "steps", "stages", "post"}
	steps         = []string{"sh", "checkout", "withCredentials", "withSonarQubeEnv", "waitForQualityGate", "junit", "archiveArtifacts", "cleanWs"}
	conditions    = []string{"always", "success", "failure", "unsuccessful", "cleanup"}
	whens         = []string{"branch", "expression", "beforeInput"}
)

func TestJenkinsfileIsADeclarativePipeline(t *testing.T) {
	p := pipeline(t)
	only := func(where call, allowed []string) {
		for _, b := range where.Body {
			if !slices.Contains(allowed, b.Name) {
				t.Errorf("line %d: %q has no place in %s", b.Line, b.Name, where.Name)
			}
		}
	}
	post := func(c call) {
		only(c, conditions)
		for _, b := range c.Body {
			only(b, steps)
		}
	}
	only(p, sections)
	post(p.section("post"))
	for _, s := range p.stages() {
		if s.Name != "stage" || s.title() == "" {
			t.Errorf("line %d: %s where a stage with a title is meant", s.Line, s.Name)
		}
		only(s, stageSections)
		only(s.section("when"), whens)
		post(s.section("post"))
		if (len(s.section("steps").Body) > 0) == (len(s.section("stages").Body) > 0) {
			t.Errorf("stage %s has neither steps nor stages, or both", s.title())
		}
		s.section("steps").walk(func(c call) {
			if c.Name == "withCredentials" || c.Name == "withSonarQubeEnv" || c.Name == "steps" {
				only(c, steps)
			}
		})
	}
}

func TestGroovyCompilerRefusesWhatIsNotGroovy(t *testing.T) {
	jars, file := needGroovy(t), filepath.Join(t.TempDir(), "Jenkinsfile")
	if err := os.WriteFile(file, []byte("pipeline {\n  stages {\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if calls, err := outline(jars, file); err == nil || !strings.Contains(err.Error(), "line") {
		t.Errorf("it reads %v, %v", calls, err)
	}
}

func TestJenkinsfileHasItsStagesInOrder(t *testing.T) {
	var got []string
	for _, s := range pipeline(t).stages() {
		got = append(got, s.title())
	}
	want := []string{
		"Checkout", "Build", "Unit tests", "Race tests", "Lint", "Verify", "SonarQube", "Quality gate",
		"Image", "Scan", "SBOM", "Push",
		"Dev", "Deploy to dev", "Smoke test of dev",
		"Staging", "Deploy to staging", "Smoke test of staging",
		"Production", "Deploy to production", "Smoke test of production",
	}
	if !slices.Equal(got, want) {
		t.Errorf("the stages are\n  %v, want\n  %v", got, want)
	}
}

// targets lists the targets of the Makefile.
func targets(t *testing.T) []string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(root, "Makefile"))
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, m := range regexp.MustCompile(`(?m)^([a-z][a-z0-9-]*):(?:[^=]|$)`).FindAllStringSubmatch(string(text), -1) {
		names = append(names, m[1])
	}
	return names
}

// A command that is a target of the Makefile can be run by hand, and has nothing of
// the pipeline's put into it that a shell could take for something else.
func TestJenkinsfileRunsTargetsOfTheMakefile(t *testing.T) {
	known, want := targets(t), map[string][]string{
		"Build": {"make build"}, "Unit tests": {"make coverage"}, "Race tests": {"make test"},
		"Lint": {"make fmt-check", "make vet", "make lint"}, "Verify": {"make verify"}, "SonarQube": {"make sonar"},
		"Image": {"make image"}, "Scan": {"make repo-scan", "make image-scan"}, "SBOM": {"make sbom"}, "Push": {"make image-push"},
	}
	p := pipeline(t)
	for _, command := range p.commands() {
		target, ok := strings.CutPrefix(command, "make ")
		if !ok || !slices.Contains(known, target) {
			t.Errorf("sh %q is no target of the Makefile", command)
		}
	}
	for title, commands := range want {
		if got := stage(t, p, title).commands(); !slices.Equal(got, commands) {
			t.Errorf("stage %s runs %q, want %q", title, got, commands)
		}
	}
}

// dryRun is what make would run for a target.
func dryRun(t *testing.T, target string, variables ...string) string {
	t.Helper()
	args := append([]string{"--no-print-directory", "-C", root, "-n", target}, variables...)
	out, err := exec.CommandContext(t.Context(), "make", args...).CombinedOutput()
	if err != nil {
		t.Fatalf("make -n %s: %v\n%s", target, err, out)
	}
	return strings.ReplaceAll(string(out), "\\\n", " ")
}

func TestTargetsOfThePipelineAreStrict(t *testing.T) {
	for target, words := range map[string][]string{
		"image-scan": {"trivy image ", "--exit-code 1", "--severity HIGH,CRITICAL", "example/keywarden:v1"},
		"repo-scan":  {"trivy fs ", "secret", "misconfig", "--exit-code 1", "--severity HIGH,CRITICAL"},
		"image":      {"docker buildx build", "--build-arg VERSION=v1", "--build-arg REVISION=", "--build-arg CREATED=", "BUILDX_METADATA_PROVENANCE=max"},
		"sbom":       {"--format cyclonedx", "--format spdx-json"},
		"deploy":     {"helm upgrade ", "--install", "--atomic", "--wait", "--timeout", "--namespace keywarden-staging", "image.digest=", `--values "v.yaml"`},
		"rollback":   {"helm rollback ", "--wait", "--timeout", "--namespace keywarden-staging"},
		"sonar":      {"sonar-scanner"},
		"smoke":      {"configs/tools/smoke.sh"},
		"coverage":   {"-coverprofile=coverage.out", "--junitfile dist/junit.xml"},
	} {
		commands := dryRun(t, target, "IMAGE=example/keywarden", "VERSION=v1", "ENVIRONMENT=staging", "HELM_VALUES=v.yaml")
		for _, word := range words {
			if !strings.Contains(commands, word) {
				t.Errorf("make %s does not have %q in\n%s", target, word, commands)
			}
		}
	}
}

func TestJenkinsfileScansBeforeItPushesAndAsksTheQualityGate(t *testing.T) {
	p := pipeline(t)
	gate := stage(t, p, "Quality gate").section("steps").Body
	if len(gate) != 1 || gate[0].Name != "waitForQualityGate" || gate[0].Named["abortPipeline"] != "true" {
		t.Errorf("the quality gate does not abort: %v", gate)
	}
	scan := stage(t, p, "SonarQube").section("steps").Body
	if len(scan) != 1 || scan[0].Name != "withSonarQubeEnv" {
		t.Errorf("SonarQube's server is not the one of Jenkins: %v", scan)
	}
	// What is pushed and deployed comes from main alone.
	for _, title := range []string{"Push", "Dev", "Staging", "Production"} {
		if when := stage(t, p, title).section("when"); when.section("branch").title() != "main" {
			t.Errorf("stage %s runs for other branches than main", title)
		}
	}
}

func TestJenkinsfileDeploysTriesAndTakesBack(t *testing.T) {
	p := pipeline(t)
	for title, env := range map[string]string{"Dev": "dev", "Staging": "staging", "Production": "production"} {
		s := stage(t, p, title)
		set := map[string]string{}
		for _, b := range s.section("environment").Body {
			if b.Name == "=" {
				set[b.Args[0]] = b.Args[1]
			}
		}
		if set["ENVIRONMENT"] != env || !strings.Contains(set["BASE_URL"], strings.ToUpper(env)+"_URL") {
			t.Errorf("stage %s deploys to %v", title, set)
		}
		smoke := stage(t, p, "Smoke test of "+env)
		if got := stage(t, p, "Deploy to "+env).commands(); !slices.Equal(got, []string{"make deploy"}) {
			t.Errorf("stage %s deploys by %q", title, got)
		}
		if got := smoke.section("steps").commands(); !slices.Equal(got, []string{"make smoke"}) {
			t.Errorf("stage %s is tried by %q", title, got)
		}
		if got := smoke.section("post").section("unsuccessful").commands(); !slices.Equal(got, []string{"make rollback"}) {
			t.Errorf("stage %s takes back by %q", title, got)
		}
		// The cluster is the one of the environment, everywhere.
		s.walk(func(c call) {
			if id := c.Named["credentialsId"]; id != "" && !strings.HasSuffix(id, "-"+env) {
				t.Errorf("stage %s uses the credentials %s", title, id)
			}
		})
		input := s.section("input")
		asks := input.section("submitter").title() != "" && s.section("when").section("beforeInput").title() == "true"
		if asks != (title == "Production") {
			t.Errorf("stage %s asks somebody: %t", title, asks)
		}
	}
}

func TestJenkinsfileIsBounded(t *testing.T) {
	p := pipeline(t)
	options := p.section("options")
	for _, name := range []string{"timeout", "disableConcurrentBuilds", "buildDiscarder", "skipDefaultCheckout"} {
		if options.section(name).Name == "" {
			t.Errorf("the pipeline has no option %s", name)
		}
	}
	for _, s := range p.stages() {
		if limit := s.section("options").section("timeout"); len(s.section("steps").Body) > 0 && limit.Named["time"] == "" {
			t.Errorf("stage %s has no time-out", s.title())
		}
	}
	post := p.section("post")
	always := post.section("always")
	if always.section("junit").Name == "" || always.section("archiveArtifacts").Name == "" {
		t.Error("results are not always kept")
	}
	if post.section("cleanup").section("cleanWs").Name == "" {
		t.Error("the workspace is not cleaned")
	}
}

// Credentials are in Jenkins, by the ids that the guide lists.
func TestJenkinsfileUsesDocumentedCredentials(t *testing.T) {
	guide, err := os.ReadFile(filepath.Join(root, "docs/guides/jenkins.md"))
	if err != nil {
		t.Fatal(err)
	}
	var used []string
	pipeline(t).walk(func(c call) {
		if id := c.Named["credentialsId"]; id != "" {
			used = append(used, id)
		}
	})
	slices.Sort(used)
	used = slices.Compact(used)
	var documented []string
	for _, m := range regexp.MustCompile("(?m)^\\| `(keywarden-[a-z-]+)` \\|").FindAllStringSubmatch(string(guide), -1) {
		documented = append(documented, m[1])
	}
	slices.Sort(documented)
	if !slices.Equal(used, documented) {
		t.Errorf("credentials used\n  %v, documented\n  %v", used, documented)
	}
}

// sonar reads sonar-project.properties.
func sonar(t *testing.T) map[string]string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(root, "sonar-project.properties"))
	if err != nil {
		t.Fatal(err)
	}
	properties := map[string]string{}
	for line := range strings.Lines(string(text)) {
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		key, value, ok := strings.Cut(line, "=")
		if _, twice := properties[key]; !ok || twice {
			t.Errorf("sonar-project.properties: line %q", line)
		}
		properties[key] = value
	}
	return properties
}

func TestSonarNamesWhatIsThere(t *testing.T) {
	properties := sonar(t)
	if got := properties["sonar.go.coverage.reportPaths"]; got != "coverage.out" {
		t.Errorf("coverage is read from %q", got)
	}
	for key, value := range properties {
		lower := strings.ToLower(key)
		if strings.Contains(lower, "token") || strings.Contains(lower, "password") || strings.Contains(lower, "login") {
			t.Errorf("%s has no place in a file", key)
		}
		if key != "sonar.sources" && key != "sonar.tests" && !strings.HasSuffix(key, "clusions") {
			continue
		}
		for path := range strings.SplitSeq(value, ",") {
			if strings.HasPrefix(path, "**/") {
				continue // a kind of file, wherever it is
			}
			// Up to the first pattern there has to be something.
			plain, _, _ := strings.Cut(path, "/**")
			found, err := filepath.Glob(filepath.Join(root, plain))
			if err != nil || len(found) == 0 {
				t.Errorf("%s names %s, which is not there", key, path)
			}
		}
	}
}
