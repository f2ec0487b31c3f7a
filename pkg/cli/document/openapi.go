package document

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/keywarden/keywarden/pkg/cli/shell"
	"github.com/keywarden/keywarden/pkg/openapi"
	"github.com/keywarden/keywarden/pkg/openapi/compile"
	"github.com/keywarden/keywarden/pkg/openapi/imports"
	"github.com/keywarden/keywarden/pkg/spec"
	"github.com/keywarden/keywarden/pkg/spec/diff"
)

// importing is what the flags of openapi import ask for.
type importing struct {
	options compile.Options
	base    string
	into    string
	write   bool
	output  string

	validate bool
}

func (c *command) openapi() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "openapi",
		Short: "Make routes of OpenAPI documents, compare and check them",
		Long: `Make routes of the gateway of an OpenAPI document (2.0, 3.0 or 3.1, YAML or JSON):
one for each operation, and nothing else of the API is open. References to other
documents are refused and never fetched.`,
	}
	cmd.AddCommand(c.openapiImport(), c.openapiDiff(), c.openapiCheck())
	return cmd
}

func (c *command) openapiImport() *cobra.Command {
	var in importing
	cmd := shell.WithArguments(&cobra.Command{
		Use:   "import FILE",
		Short: "Make routes of an OpenAPI document",
		Long: `Make routes and services of the OpenAPI document of the file, or of standard input
with -, and print them as a gateway document. With --into they are put into one that
exists, in the place of the routes that the API has there (those whose names begin
with its name and a dot); everything else stays. What changes, and what of the
document is lost, is said on standard error.

Exit codes: 0 done; 2 the file or the command line is wrong, or the document cannot be
imported.`,
		Example: `  keywarden openapi import petstore.yaml --name petstore --service http://127.0.0.1:8081
  keywarden openapi import petstore.yaml --name petstore --into gateway.yaml --write
  keywarden openapi import petstore.yaml --name petstore --service pets --into gateway.yaml | keywarden config diff -`,
		PreRunE: func(_ *cobra.Command, args []string) error { return in.check(args[0]) },
		RunE: func(_ *cobra.Command, args []string) error {
			return c.runImport(in, args[0])
		},
	}, 1, 1)
	f := cmd.Flags()
	f.StringVar(&in.options.API, "name", "", "name of the API, with which the names of its routes begin (required)")
	f.StringVar(&in.options.Service, "service", "", "URL of the service, or the name of one of --into; default is what the document says")
	f.StringSliceVar(&in.options.Hosts, "host", nil, "host of the gateway at which the API is (repeatable); default is every host")
	f.StringVar(&in.base, "base-path", string(compile.BaseAuto), "base path of the document: keep or strip it before the service, or auto: the path of --service takes its place, if it has one")
	f.BoolVar(&in.validate, "validate", false, "hold requests to the document, which is put into the output, and watch answers")
	f.StringVar(&in.into, "into", "", "gateway document to put the routes into")
	f.BoolVar(&in.write, "write", false, "write the file of --into, and do not print it")
	f.StringVarP(&in.output, "output", "o", "yaml", "form of the output: yaml or json")
	for name, words := range map[string][]string{"base-path": {"auto", "keep", "strip"}, "output": {"yaml", "json"}} {
		_ = cmd.RegisterFlagCompletionFunc(name, cobra.FixedCompletions(words, cobra.ShellCompDirectiveNoFileComp))
	}
	return cmd
}

func (in *importing) check(file string) error {
	in.options.Base = compile.BasePath(in.base)
	switch {
	case in.options.API == "":
		return shell.Usage(errors.New("--name is missing: the name of the API, with which the names of its routes begin"))
	case in.base != "auto" && in.base != "keep" && in.base != "strip":
		return shell.Usage(fmt.Errorf("--base-path is %q, must be auto, keep or strip", in.base))
	case in.output != "yaml" && in.output != "json":
		return shell.Usage(fmt.Errorf("--output is %q, must be yaml or json", in.output))
	case in.write && in.into == "":
		return shell.Usage(errors.New("--write belongs to --into"))
	case in.into == "-" && (file == "-" || in.write):
		return shell.Usage(errors.New("--into is standard input, which cannot be written, nor hold both documents"))
	case in.write && in.output == "json":
		return shell.Usage(errors.New("--write keeps the document as YAML; leave out --output json"))
	}
	return nil
}

// runImport does it all; nothing is written before all of it is good.
func (c *command) runImport(in importing, file string) error {
	doc, source, text, err := c.descriptionText(file)
	if err != nil {
		return err
	}
	in.options.Source = source
	if in.validate {
		in.options.Validate = imports.Readable(text)
	}
	fragment, err := compile.Compile(doc, in.options)
	if err != nil {
		return shell.Usage(err)
	}
	text, err = c.merged(in, fragment)
	if err != nil {
		return err
	}
	for _, line := range noteLines(source, fragment.Notes) {
		_, _ = fmt.Fprintln(c.Sys.Stderr, "note: "+line)
	}
	switch {
	case in.write:
		if err := writeWhole(in.into, text); err != nil {
			return fmt.Errorf("write the gateway document: %w", err)
		}
		_, _ = fmt.Fprintf(c.Sys.Stderr, "%s: %d routes of %s\n", in.into, len(fragment.Routes), fragment.API)
		return nil
	case in.output == "json":
		return c.printJSON(in, fragment, text)
	}
	_, err = c.Sys.Stdout.Write(text)
	return err
}

// merged is the text of the gateway document, of the API alone or of all of --into.
func (c *command) merged(in importing, fragment *compile.Fragment) ([]byte, error) {
	if in.into == "" {
		if len(fragment.Needs) > 0 {
			_, _ = fmt.Fprintf(c.Sys.Stderr, "note: the routes need the service %s, which is not in the output\n", strings.Join(fragment.Needs, ", "))
		}
		return fragment.YAML()
	}
	before, text, err := Read(c.Shell, in.into)
	if err != nil {
		return nil, err
	}
	merged, after, err := fragment.Merge(text)
	if err != nil {
		return nil, shell.Usage(fmt.Errorf("%s: %w", in.into, err))
	}
	changes, err := diff.Documents(before, after)
	if err != nil {
		return nil, err
	}
	if len(changes) == 0 {
		_, _ = fmt.Fprintln(c.Sys.Stderr, "There is no difference.")
		return text, nil // as it was written
	}
	c.writeDiff(c.Sys.Stderr, changes, 0)
	return merged, nil
}

// printJSON prints the document as JSON: whole in its canonical form, or the routes
// and services of the API.
func (c *command) printJSON(in importing, fragment *compile.Fragment, text []byte) error {
	var v any = struct {
		Version  int               `json:"version"`
		APIs     []spec.API        `json:"apis,omitempty"`
		Services []compile.Service `json:"services"`
		Routes   []spec.Route      `json:"routes"`
	}{spec.Version, fragment.APIs, append([]compile.Service{}, fragment.Services...), append([]spec.Route{}, fragment.Routes...)}
	if in.into != "" {
		doc, err := spec.Parse(in.into, text)
		if err != nil {
			return err
		}
		v = doc
	}
	encoder := json.NewEncoder(c.Sys.Stdout)
	encoder.SetIndent("", "  ")
	return encoder.Encode(v)
}

func (c *command) openapiDiff() *cobra.Command {
	breaking := false
	cmd := shell.WithArguments(c.WithOutput(&cobra.Command{
		Use:   "diff OLD NEW",
		Short: "Say what is different between two OpenAPI documents, and what of it breaks clients",
		Long: `Say which operations are added, removed and changed in the second document, and what
of it breaks clients: removed operations, parameters that are new and required,
stricter security, removed media types and responses. One of the files can be -, for
standard input. Schemas of bodies are not compared.

Exit codes: 0 no difference; 1 there is one (with --breaking, one that breaks); 2 a
file or the command line is wrong.`,
		Example: `  keywarden openapi diff petstore-v1.yaml petstore-v2.yaml
  git show main:petstore.yaml | keywarden openapi diff - petstore.yaml --breaking`,
		RunE: func(_ *cobra.Command, args []string) error {
			if args[0] == "-" && args[1] == "-" {
				return shell.Usage(errors.New("standard input can be one of the two documents, not both"))
			}
			before, _, err := c.description(args[0])
			if err != nil {
				return err
			}
			after, _, err := c.description(args[1])
			if err != nil {
				return err
			}
			return c.printChanges(openapi.Compare(before, after), breaking)
		},
	}), 2, 2)
	cmd.Flags().BoolVar(&breaking, "breaking", false, "only what breaks clients")
	return cmd
}

// apiDifference is the JSON form of a comparison.
type apiDifference struct {
	Changed  bool             `json:"changed"`
	Breaking bool             `json:"breaking"`
	Changes  []openapi.Change `json:"changes"`
}

func (c *command) printChanges(list []openapi.Change, breaking bool) error {
	out := apiDifference{Changed: len(list) > 0, Breaking: openapi.Breaking(list), Changes: []openapi.Change{}}
	for _, change := range list {
		if change.Breaking || !breaking {
			out.Changes = append(out.Changes, change)
		}
	}
	err := c.Print(out, func(w io.Writer) {
		if len(out.Changes) == 0 {
			_, _ = fmt.Fprintln(w, "There is no difference.")
		}
		for _, change := range out.Changes {
			_, _ = fmt.Fprintln(w, shell.Printable(changeLine(change)))
		}
	})
	if err == nil && len(out.Changes) > 0 {
		err = shell.Exit(shell.ExitFailure)
	}
	return err
}

// changeLine is a change in one line.
func changeLine(change openapi.Change) string {
	line := map[openapi.Kind]string{openapi.Added: "+ ", openapi.Removed: "- ", openapi.Changed: "~ "}[change.Kind] + change.Operation
	if change.Detail != "" {
		line += ": " + change.Detail
	}
	if change.Breaking {
		line += " (breaking)"
	}
	return line
}

func (c *command) openapiCheck() *cobra.Command {
	options := compile.Options{}
	cmd := shell.WithArguments(c.WithOutput(&cobra.Command{
		Use:   "check FILE",
		Short: "Say what an import of an OpenAPI document would refuse or lose",
		Long: `Say what an import of the OpenAPI document of the file, or of standard input with -,
would refuse or lose, with line and column. Nothing is changed.

Exit codes: 0 nothing; 1 it can be imported, and something is lost or taken otherwise
than it is meant; 2 it is refused, or the command line is wrong.`,
		Example: `  keywarden openapi check petstore.yaml
  keywarden openapi check petstore.yaml -o json`,
		RunE: func(_ *cobra.Command, args []string) error {
			doc, source, err := c.description(args[0])
			if err != nil {
				return err
			}
			options.Source = source
			fragment, err := compile.Compile(doc, options)
			if err != nil {
				return shell.Usage(err)
			}
			return c.printNotes(source, len(fragment.Routes), fragment.Notes)
		},
	}), 1, 1)
	cmd.Flags().StringVar(&options.API, "name", "api", "name of the API")
	cmd.Flags().StringVar(&options.Service, "service", "", "URL or name of the service; default is what the document says")
	return cmd
}

// apiNote is the JSON form of what is lost.
type apiNote struct {
	Field  string `json:"field"`
	Line   int    `json:"line,omitempty"`
	Column int    `json:"column,omitempty"`
	Detail string `json:"detail"`
}

func (c *command) printNotes(source string, routes int, notes []openapi.Violation) error {
	out := struct {
		Routes int       `json:"routes"`
		Notes  []apiNote `json:"notes"`
	}{routes, []apiNote{}}
	for _, n := range notes {
		out.Notes = append(out.Notes, apiNote{n.Path, n.Line, n.Column, n.Detail})
	}
	err := c.Print(out, func(w io.Writer) {
		for _, line := range noteLines(source, notes) {
			_, _ = fmt.Fprintln(w, line)
		}
		_, _ = fmt.Fprintf(w, "%d routes, %d notes\n", routes, len(notes))
	})
	if err == nil && len(notes) > 0 {
		err = shell.Exit(shell.ExitFailure)
	}
	return err
}

// noteLines are the notes in the form of errors, fit for a terminal.
func noteLines(source string, notes []openapi.Violation) []string {
	lines := (&openapi.Violations{Source: source, List: notes}).Lines()
	for i := range lines {
		lines[i] = shell.Printable(lines[i])
	}
	return lines
}

// description reads an OpenAPI document from a file, "-" being standard input.
func (c *command) description(name string) (*openapi.Document, string, error) {
	doc, source, _, err := c.descriptionText(name)
	return doc, source, err
}

// descriptionText is description with the text that was read.
func (c *command) descriptionText(name string) (*openapi.Document, string, []byte, error) {
	input := c.Sys.Stdin
	if name == "-" {
		name = "standard input"
	} else {
		file, err := os.Open(name)
		if err != nil {
			return nil, name, nil, shell.Usage(fmt.Errorf("read the OpenAPI document: %w", err))
		}
		defer func() { _ = file.Close() }() // it is only read
		input = file
	}
	text, err := io.ReadAll(io.LimitReader(input, openapi.MaxBytes+1))
	if err != nil {
		return nil, name, nil, shell.Usage(fmt.Errorf("read the OpenAPI document: %w", err))
	}
	doc, err := openapi.Parse(name, text)
	if err != nil {
		return nil, name, nil, shell.Usage(err)
	}
	return doc, name, text, nil
}

// writeWhole puts a new file in the place of an old one, so that a reader sees the
// one or the other. A link is followed, and what is behind it replaced.
func writeWhole(name string, text []byte) error {
	name, err := filepath.EvalSymlinks(name)
	if err != nil {
		return err
	}
	info, err := os.Stat(name)
	if err != nil {
		return err
	}
	file, err := os.CreateTemp(filepath.Dir(name), ".keywarden-*")
	if err != nil {
		return err
	}
	defer func() { _ = os.Remove(file.Name()) }() // nothing is there once it was renamed
	_, err = io.Copy(file, bytes.NewReader(text))
	err = errors.Join(err, file.Chmod(info.Mode().Perm()), file.Sync(), file.Close())
	if err != nil {
		return err
	}
	return os.Rename(file.Name(), name)
}
