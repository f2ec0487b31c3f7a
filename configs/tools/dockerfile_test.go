package tools

import (
	"bytes"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/linter"
	"github.com/moby/buildkit/frontend/dockerfile/parser"
	"github.com/moby/buildkit/frontend/dockerfile/shell"
	"github.com/moby/patternmatcher"
	"github.com/moby/patternmatcher/ignorefile"
)

// parsed is the Dockerfile with what BuildKit's linter says about it.
type parsed struct {
	stages   []instructions.Stage
	args     map[string]string // of the head of the file, with their defaults
	warnings []string
}

func parseDockerfile(text []byte) (*parsed, error) {
	p := &parsed{args: map[string]string{}}
	lint := linter.New(&linter.Config{Warn: func(rule, _, _, message string, at []parser.Range) {
		p.warnings = append(p.warnings, fmt.Sprintf("%s: %s at %v", rule, message, at))
	}})
	result, err := parser.Parse(bytes.NewReader(text))
	if err != nil {
		return nil, err
	}
	for _, w := range result.Warnings {
		p.warnings = append(p.warnings, w.Short)
	}
	stages, head, err := instructions.Parse(result.AST, lint)
	if err != nil {
		return nil, err
	}
	p.stages = stages
	for _, arg := range head {
		for _, a := range arg.Args {
			p.args[a.Key] = a.ValueString()
		}
	}
	return p, nil
}

func readDockerfile(t *testing.T) *parsed {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(root, "Dockerfile"))
	if err != nil {
		t.Fatal(err)
	}
	p, err := parseDockerfile(text)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// base is the image that a stage starts from, with the arguments of the head put in.
func (p *parsed) base(t *testing.T, s instructions.Stage) string {
	t.Helper()
	env := make([]string, 0, len(p.args))
	for k, v := range p.args {
		env = append(env, k+"="+v)
	}
	name, _, err := shell.NewLex('\\').ProcessWord(s.BaseName, shell.EnvsFromSlice(env))
	if err != nil {
		t.Fatal(err)
	}
	return name
}

func TestDockerfileHasNoWarnings(t *testing.T) {
	for _, w := range readDockerfile(t).warnings {
		t.Error(w)
	}
	bad, err := parseDockerfile([]byte("from scratch as X\nMAINTAINER me\nCMD a b\n"))
	if err != nil || len(bad.warnings) < 2 {
		t.Errorf("the linter finds %v in a bad file, %v", bad.warnings, err)
	}
	if _, err := parseDockerfile([]byte("FROM scratch\nUSR me\n")); err == nil {
		t.Error("an unknown instruction is accepted")
	}
}

func TestDockerfileStartsFromPinnedImages(t *testing.T) {
	p := readDockerfile(t)
	goMod, err := os.ReadFile(filepath.Join(root, "go.mod"))
	if err != nil {
		t.Fatal(err)
	}
	minor := regexp.MustCompile(`(?m)^go (\d+\.\d+)`).FindSubmatch(goMod)
	if want := "golang:" + string(minor[1]) + "."; !strings.HasPrefix(p.args["GO_IMAGE"], want) {
		t.Errorf("the compiler's image is %s, and go.mod wants %s", p.args["GO_IMAGE"], want)
	}
	var names []string
	for _, s := range p.stages {
		base := p.base(t, s)
		_, tag, tagged := strings.Cut(base, ":")
		switch {
		case !slices.Contains([]string{"$GO_IMAGE", "${GO_IMAGE}", "$BASE_IMAGE", "${BASE_IMAGE}"}, s.BaseName):
			t.Errorf("stage %s starts from %s, which no argument can pin by digest", s.Name, s.BaseName)
		case !tagged, strings.HasPrefix(tag, "latest"):
			t.Errorf("stage %s starts from %s, which has no version", s.Name, base)
		}
		names = append(names, s.Name)
	}
	// What docker build makes without --target is the last one.
	if want := []string{"build", "samples", "keywarden"}; !slices.Equal(names, want) {
		t.Errorf("the stages are %v, want %v", names, want)
	}
}

func TestDockerfileImagesRunConfined(t *testing.T) {
	p := readDockerfile(t)
	for _, s := range p.stages[1:] {
		user, entry, probe := "", -1, false
		for i, command := range s.Commands {
			switch c := command.(type) {
			case *instructions.UserCommand:
				user = c.User
				if entry >= 0 {
					t.Errorf("stage %s: USER comes after ENTRYPOINT", s.Name)
				}
			case *instructions.EntrypointCommand:
				entry = i
				if c.PrependShell {
					t.Errorf("stage %s: ENTRYPOINT needs a shell, of which there is none", s.Name)
				}
			case *instructions.CmdCommand:
				if c.PrependShell {
					t.Errorf("stage %s: CMD needs a shell", s.Name)
				}
			case *instructions.HealthCheckCommand:
				probe = true
				if want := []string{"CMD", "/usr/local/bin/keywarden", "healthcheck"}; !slices.Equal(c.Health.Test, want) {
					t.Errorf("stage %s is checked by %q, want %q", s.Name, c.Health.Test, want)
				}
			case *instructions.RunCommand, *instructions.AddCommand:
				t.Errorf("stage %s has %s: everything is made in the stage build", s.Name, command.Name())
			}
		}
		// A number, since Kubernetes cannot tell whether a name is root.
		if user != "65532:65532" {
			t.Errorf("stage %s runs as %q", s.Name, user)
		}
		if entry < 0 {
			t.Errorf("stage %s has no ENTRYPOINT", s.Name)
		}
		if s.Name == "keywarden" && !probe {
			t.Error("the image has no HEALTHCHECK")
		}
	}
}

func TestDockerfileLabelsTheImage(t *testing.T) {
	p := readDockerfile(t)
	last := p.stages[len(p.stages)-1]
	labels := map[string]string{}
	for _, command := range last.Commands {
		if c, ok := command.(*instructions.LabelCommand); ok {
			for _, l := range c.Labels {
				labels[l.Key] = strings.Trim(l.Value, `"`)
			}
		}
	}
	for key, want := range map[string]string{"version": "$VERSION", "revision": "$REVISION", "created": "$CREATED", "source": "$SOURCE"} {
		if got := labels["org.opencontainers.image."+key]; got != want {
			t.Errorf("label %s is %q, want %q", key, got, want)
		}
	}
}

// sending is what .dockerignore lets through.
func sending(t *testing.T) func(name string) bool {
	t.Helper()
	file, err := os.Open(filepath.Join(root, ".dockerignore"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = file.Close() }()
	patterns, err := ignorefile.ReadAll(file)
	if err != nil {
		t.Fatal(err)
	}
	matcher, err := patternmatcher.New(patterns)
	if err != nil {
		t.Fatal(err)
	}
	return func(name string) bool {
		ignored, err := matcher.MatchesOrParentMatches(name)
		if err != nil {
			t.Fatal(err)
		}
		return !ignored
	}
}

func TestDockerfileCopiesWhatIsThere(t *testing.T) {
	p, sent := readDockerfile(t), sending(t)
	for i, s := range p.stages {
		for _, command := range s.Commands {
			c, ok := command.(*instructions.CopyCommand)
			if !ok {
				continue
			}
			if c.From != "" {
				if !slices.ContainsFunc(p.stages[:i], func(e instructions.Stage) bool { return e.Name == c.From }) {
					t.Errorf("stage %s copies from %s, which is no stage before it", s.Name, c.From)
				}
				continue
			}
			for _, source := range c.SourcePaths {
				if source == "." {
					t.Errorf("stage %s copies everything", s.Name)
				}
				if _, err := os.Stat(filepath.Join(root, source)); err != nil {
					t.Errorf("stage %s copies %s: %v", s.Name, source, err)
				}
				if !sent(source) {
					t.Errorf("stage %s copies %s, which .dockerignore leaves out", s.Name, source)
				}
			}
		}
	}
}

// What is sent to the builder is what the program is made of: no history, no
// secrets, no tests, nothing that changes the image without changing the program.
func TestDockerignoreSendsOnlyWhatIsBuilt(t *testing.T) {
	sent := sending(t)
	for _, name := range []string{
		".git/HEAD", ".env", ".secrets/master_key", ".cache/x", "Dockerfile", "README.md", "configs/keywarden.yaml",
		"docs/guides/docker.md", "pkg/app/app_test.go", "pkg/openapi/testdata/x.yaml", "charts/keywarden/values.yaml",
	} {
		if sent(name) {
			t.Errorf("%s is sent to the builder", name)
		}
	}
	err := filepath.WalkDir(filepath.Join(root, "pkg"), func(file string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		name, _ := filepath.Rel(root, file)
		wanted := !strings.HasSuffix(name, "_test.go") && !strings.Contains(name, "/testdata/")
		if sent(filepath.ToSlash(name)) != wanted {
			t.Errorf("%s: sent %t, want %t", name, !wanted, wanted)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// The image is tried, measured and run as make dist builds it, so both have to
// build alike.
func TestDockerfileBuildsAsTheMakefileDoes(t *testing.T) {
	text, err := os.ReadFile(filepath.Join(root, "Makefile"))
	if err != nil {
		t.Fatal(err)
	}
	var command string
	for _, c := range readDockerfile(t).stages[0].Commands {
		if run, ok := c.(*instructions.RunCommand); ok && strings.Contains(strings.Join(run.CmdLine, " "), "go build") {
			command = strings.Join(strings.Fields(strings.ReplaceAll(strings.Join(run.CmdLine, " "), "\\\n", " ")), " ")
		}
	}
	flags := regexp.MustCompile(`(?m)^DIST_FLAGS := (.*)$`).FindSubmatch(text)
	if flags == nil {
		t.Fatal("the Makefile has no DIST_FLAGS")
	}
	tags := regexp.MustCompile(`(?m)^SHIPPED_TAGS := (.*)$`).FindSubmatch(text)
	if tags == nil {
		t.Fatal("the Makefile has no SHIPPED_TAGS")
	}
	want := strings.NewReplacer("$(VERSION)", "$VERSION", "$(REVISION)", "$REVISION", "$(SHIPPED_TAGS)", string(tags[1])).Replace(string(flags[1]))
	if !strings.HasPrefix(command, "CGO_ENABLED=0 ") || !strings.Contains(command, "go build "+want+" -o ") {
		t.Errorf("the Dockerfile runs\n  %s\nand make dist has the flags\n  %s", command, want)
	}
}
