package charts_test

import (
	"bytes"
	"fmt"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/keywarden/keywarden/pkg/cli"
)

// inNotes finds the commands that the notes tell a person to run.
var inNotes = regexp.MustCompile(`/usr/local/bin/keywarden ([a-z]+ [a-z]+ --[a-z]+)`)

// TestCommandsAreOnesOfTheProgram asks the program for the help of each command that the
// containers and the notes run, flags included.
func TestCommandsAreOnesOfTheProgram(t *testing.T) {
	out, err := render(t, valuesFiles(t)["minimal"], kubeVersions()[0])
	if err != nil {
		t.Fatal(err)
	}
	commands := map[string]bool{}
	for _, p := range (rendering{"minimal", decode(t, out)}).pods() {
		args, _ := dig(p.own(), "args").([]any)
		commands[strings.Trim(fmt.Sprint(args), "[]")] = true
	}
	said, err := os.ReadFile("keywarden/templates/NOTES.txt")
	if err != nil {
		t.Fatal(err)
	}
	for _, found := range inNotes.FindAllStringSubmatch(string(said), -1) {
		commands[found[1]+" you@example.com"] = true
	}
	if len(commands) != 4 {
		t.Errorf("there are %d commands: %v", len(commands), commands)
	}
	for line := range commands {
		words := strings.Fields(line)
		var stdout, stderr bytes.Buffer
		code := cli.Main(t.Context(), cli.System{
			Args: append(words, "--help"), Stdin: strings.NewReader(""), Stdout: &stdout, Stderr: &stderr,
			Lookup: func(string) (string, bool) { return "", false },
		})
		name, _, _ := strings.Cut(line, " --")
		if code != 0 || !strings.Contains(stdout.String(), "  keywarden "+name) {
			t.Errorf("keywarden %s --help: exit code %d\n%s%s", line, code, stdout.String(), stderr.String())
		}
	}
}
