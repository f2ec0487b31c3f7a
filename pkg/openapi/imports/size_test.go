package imports_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/keywarden/keywarden/pkg/openapi/compile"
	"github.com/keywarden/keywarden/pkg/openapi/imports"
	"github.com/keywarden/keywarden/pkg/spec"
)

// childVariable names what the test program does in place of its tests.
const childVariable = "KEYWARDEN_TEST_IMPORT"

func TestMain(m *testing.M) {
	if of := os.Getenv(childVariable); of != "" {
		if err := importInChild(of); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// cost is what a process has used.
type cost struct {
	Peak int64         // bytes of memory, at most
	CPU  time.Duration // of all its threads
}

// size is a description that is generated: of how many bytes, in which form, and
// whether requests are held to it.
type size struct {
	name  string
	bytes int
	yaml  bool
	hold  bool
	short bool // it is measured in the short run, too
}

// sizes are those of which the cost is bounded. A gateway document may have 8 MiB,
// and a description in it, that requests are held to, has quotes in quotes.
func sizes() []size {
	return []size{
		{"10 MB as JSON", 10_000_000, false, false, true},
		{"10 MB as YAML", 10_000_000, true, false, false},
		{"5 MB as JSON, held", 5_000_000, false, true, false},
		{"5 MB as YAML, held", 5_000_000, true, true, true},
	}
}

// form is the text of a description in pieces.
type form struct{ head, operation, between, schema, comma, end string }

func asJSON() form {
	return form{
		head: `{"openapi": "3.1.0", "info": {"title": "large", "version": "1"}, "security": [], "paths": {`,
		operation: `
"/things%[1]d/{id}/parts": {"post": {"operationId": "op%[1]d", "summary": "Adds a part to the thing of this kind.",
 "description": "What is said of this operation is as long as people write it, with some words on when to use it.",
 "parameters": [{"name": "id", "in": "path", "required": true, "schema": {"type": "integer"}},
  {"name": "limit", "in": "query", "required": %[2]t, "schema": {"type": "integer", "minimum": 1, "maximum": 100}}],
 "requestBody": {"content": {"application/json": {"schema": {"$ref": "#/components/schemas/S%[3]d"}}}},
 "responses": {"200": {"description": "the part", "content": {"application/json": {"schema": {"$ref": "#/components/schemas/S%[4]d"}}}}}}}`,
		between: `}, "components": {"schemas": {`,
		schema: `
"S%d": {"type": "object", "required": ["name"], "properties": {"name": {"type": "string", "maxLength": 40},
 "size": {"type": "integer", "minimum": 0}, "parent": {"$ref": "#/components/schemas/S%d"},
 "tags": {"type": "array", "items": {"type": "string", "enum": ["red", "green", "blue"]}}}}`,
		comma: ",", end: "}}}\n",
	}
}

func asYAML() form {
	return form{
		head: "openapi: 3.1.0\ninfo: {title: large, version: '1'}\nsecurity: []\npaths:\n",
		operation: `  /things%[1]d/{id}/parts:
    post:
      operationId: op%[1]d
      summary: Adds a part to the thing of this kind.
      description: |
        What is said of this operation is as long as people write it, with some words on when to use it.
      parameters:
        - name: id
          in: path
          required: true
          schema: {type: integer}
        - name: limit
          in: query
          required: %[2]t
          schema: {type: integer, minimum: 1, maximum: 100}
      requestBody:
        content:
          application/json:
            schema:
              $ref: '#/components/schemas/S%[3]d'
      responses:
        '200':
          description: the part
          content:
            application/json:
              schema:
                $ref: '#/components/schemas/S%[4]d'
`,
		between: "components:\n  schemas:\n",
		schema: `    S%d:
      type: object
      required: [name]
      properties:
        name: {type: string, maxLength: 40}
        size:
          type: integer
          minimum: 0
        parent:
          $ref: '#/components/schemas/S%d'
        tags:
          type: array
          items:
            type: string
            enum:
              - red
              - green
              - blue
`,
	}
}

// generated is a description of about as many bytes: thousands of operations with
// parameters, bodies and answers, and schemas that refer to others. In another version
// a tenth of the operations are stricter.
func generated(s size, version int) []byte {
	f := asJSON()
	if s.yaml {
		f = asYAML()
	}
	b := bytes.NewBuffer(make([]byte, 0, s.bytes+1<<20))
	b.WriteString(f.head)
	for i := 0; b.Len() < s.bytes*6/10; i++ {
		if i > 0 {
			b.WriteString(f.comma)
		}
		fmt.Fprintf(b, f.operation, i, version > 1 && i%10 == 0, i%5000, i%4999)
	}
	b.WriteString(f.between)
	for i := 0; b.Len() < s.bytes || i < 5000; i++ {
		if i > 0 {
			b.WriteString(f.comma)
		}
		fmt.Fprintf(b, f.schema, i, i/2)
	}
	b.WriteString(f.end)
	return b.Bytes()
}

// importInChild imports a description into an empty document, and a later version of
// it over the first, as a server does that keeps the document in force.
func importInChild(of string) error {
	i, err := strconv.Atoi(of)
	if err != nil {
		return err
	}
	s := sizes()[i]
	doc := spec.Document{Version: spec.Version}
	for version := 1; version <= 2; version++ {
		text := generated(s, version)
		d, err := imports.Read(text, imports.Options{Options: compile.Options{API: "large", Service: "http://127.0.0.1:1"}, Hold: s.hold})
		if err != nil {
			return err
		}
		plan, err := d.Into(doc)
		if err != nil {
			return err
		}
		if version == 2 && s.hold && len(plan.Operations) < 300 {
			return fmt.Errorf("only %d changes are seen", len(plan.Operations))
		}
		doc = plan.Document
	}
	used, err := usedUp()
	if err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(used)
}

// usedUp is the cost of this process until now.
func usedUp() (c cost, err error) {
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		return c, err
	}
	c.CPU = time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return c, err
	}
	found := regexp.MustCompile(`VmHWM:\s+(\d+) kB`).FindSubmatch(status)
	if found == nil {
		return c, fmt.Errorf("there is no VmHWM in /proc/self/status")
	}
	c.Peak, err = strconv.ParseInt(string(found[1]), 10, 64)
	c.Peak <<= 10
	return c, err
}

// program is this test program without the race detector, which costs several times
// of what is measured.
func program(t *testing.T) string {
	t.Helper()
	if !raceEnabled {
		return os.Args[0]
	}
	file := filepath.Join(t.TempDir(), "imports.test")
	if out, err := exec.CommandContext(t.Context(), "go", "test", "-c", "-o", file, ".").CombinedOutput(); err != nil {
		t.Fatalf("building the child: %v\n%s", err, out)
	}
	return file
}

// measured is the cost of an import in a process of its own.
func measured(t *testing.T, program string, i int) cost {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), program)
	cmd.Env, cmd.Stderr = append(os.Environ(), childVariable+"="+strconv.Itoa(i)), os.Stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	var used cost
	if err := json.Unmarshal(out, &used); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return used
}

// A description of 10 MB is imported, and imported again in another version, with
// less than 1 GiB and less than 10 seconds of CPU for each of the two.
func TestSoakImportsStayWithinTheirBounds(t *testing.T) {
	if _, err := os.Stat("/proc/self/status"); err != nil || testing.Short() {
		t.Skip("SKIPPED: it measures for some seconds, by /proc")
	}
	const mostMemory, mostTime = 1 << 30, 2 * 10 * time.Second
	child := program(t)
	for i, s := range sizes() {
		if !s.short && os.Getenv("KEYWARDEN_TEST_LONG") == "" {
			continue
		}
		used := measured(t, child, i)
		t.Logf("%s, twice: %d MB at most, %.1f s of CPU", s.name, used.Peak/1e6, used.CPU.Seconds())
		if used.Peak > mostMemory || used.CPU > mostTime {
			t.Errorf("%s costs %+v", s.name, used)
		}
	}
}
