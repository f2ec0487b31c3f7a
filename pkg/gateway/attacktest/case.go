package attacktest

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"slices"
	"testing"
	"time"
)

// Kind says how a case is carried out.
type Kind string

// The kinds of the case file. The runner carries out raw and http. An h2 case
// needs a TLS listener and is skipped; the others describe what a dedicated
// test does and hold no steps.
const (
	KindRaw    Kind = "raw"
	KindHTTP   Kind = "http"
	KindH2     Kind = "h2"
	KindFlow   Kind = "flow"
	KindRace   Kind = "race"
	KindTiming Kind = "timing"
	KindManual Kind = "manual"
	KindSuite  Kind = "suite"
)

// Case is one attack and what must come of it.
type Case struct {
	ID       string // unique in its file, "PATH-01"
	Area     string // "PATH"
	Title    string
	Severity string
	Kind     Kind
	Needs    string   // what the gateway must offer for the case to mean anything
	Source   []string // advisories, issues or standards behind it
	Expected string   // the right outcome, in words

	raw  []rawStep
	http []httpStep
}

// Runnable reports whether [Run] carries out c rather than skipping it.
func (c Case) Runnable() bool { return c.Kind == KindRaw || c.Kind == KindHTTP }

// InAreas returns the cases of the named areas, in file order.
func InAreas(cases []Case, areas ...string) []Case {
	var out []Case
	for _, c := range cases {
		if slices.Contains(areas, c.Area) {
			out = append(out, c)
		}
	}
	return out
}

// rawStep is bytes on one fresh connection.
type rawStep struct {
	Raw     string          `json:"raw"`
	Want    *int            `json:"want"`    // final responses to wait for, default 1
	Timeout float64         `json:"timeout"` // seconds to wait for them, default Env.Timeout
	Pace    *pace           `json:"pace"`    // default: all at once
	Expect  json.RawMessage `json:"expect"`

	payload string // Raw unescaped, variables still in it
}

// want is the number of final responses to wait for.
func (s rawStep) want() int {
	if s.Want == nil {
		return 1
	}
	return *s.Want
}

// pace is written [bytes, seconds]: how much to send at a time, and the pause
// after each piece.
type pace struct {
	size  int
	pause time.Duration
}

// UnmarshalJSON reads the two-element array.
func (p *pace) UnmarshalJSON(data []byte) error {
	var pair []float64
	if err := json.Unmarshal(data, &pair); err != nil {
		return fmt.Errorf("pace: %w", err)
	}
	if len(pair) != 2 || pair[0] < 1 || pair[1] < 0 {
		return fmt.Errorf("pace: want [bytes, seconds], got %s", data)
	}
	p.size, p.pause = int(pair[0]), seconds(pair[1])
	return nil
}

// httpStep is one call to the management API.
type httpStep struct {
	Method  string            `json:"method"`
	Path    string            `json:"path"`
	Headers map[string]string `json:"headers"`
	Body    json.RawMessage   `json:"body"`    // a string is sent as it is, anything else as JSON
	Capture map[string]string `json:"capture"` // variable -> JSON path, or the name of one in Env.Paths
	Expect  json.RawMessage   `json:"expect"`
}

// h2Step is a list of header fields for one HTTP/2 stream. It is read so that a
// mistake in the file is found today, and dropped.
type h2Step struct {
	Headers [][2]string     `json:"headers"`
	Body    *string         `json:"body"`
	Expect  json.RawMessage `json:"expect"`
}

// caseLine is a line of the file.
type caseLine struct {
	ID       string            `json:"id"`
	Area     string            `json:"area"`
	Title    string            `json:"title"`
	Source   []string          `json:"source"`
	Severity string            `json:"severity"`
	Kind     Kind              `json:"kind"`
	Needs    string            `json:"needs"`
	Steps    []json.RawMessage `json:"steps"`
	Expected string            `json:"expected"`
}

// Load reads the cases of the file at path. Anything it does not know ends the
// test: a kind, a member, an expectation, an escape. A check that is skipped
// because its name was not understood would look like a check that passed.
func Load(tb testing.TB, path string) []Case {
	tb.Helper()
	f, err := os.Open(path)
	if err != nil {
		tb.Fatalf("open attack cases: %v", err)
	}
	defer func() { _ = f.Close() }()
	cases, err := parseCases(f)
	if err != nil {
		tb.Fatalf("read attack cases of %s: %v", path, err)
	}
	return cases
}

// parseCases reads one case per line; empty lines are allowed.
func parseCases(r io.Reader) ([]Case, error) {
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, 1<<20)
	seen := map[string]bool{}
	var cases []Case
	for n := 1; lines.Scan(); n++ {
		line := bytes.TrimSpace(lines.Bytes())
		if len(line) == 0 {
			continue
		}
		c, err := parseCase(line)
		if err != nil {
			return nil, fmt.Errorf("line %d: case %q: %w", n, c.ID, err)
		}
		if c.ID == "" || seen[c.ID] {
			return nil, fmt.Errorf("line %d: case id %q is missing or taken", n, c.ID)
		}
		seen[c.ID] = true
		cases = append(cases, c)
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("read: %w", err)
	}
	return cases, nil
}

// parseCase reads one line and everything inside it.
func parseCase(data []byte) (Case, error) {
	var line caseLine
	if err := decodeStrict(data, &line); err != nil {
		return Case{ID: line.ID}, err
	}
	c := Case{
		ID: line.ID, Area: line.Area, Title: line.Title, Severity: line.Severity,
		Kind: line.Kind, Needs: line.Needs, Source: line.Source, Expected: line.Expected,
	}
	if described(c.Kind) {
		if len(line.Steps) != 0 {
			return c, fmt.Errorf("kind %s has no steps", c.Kind)
		}
		return c, nil
	}
	if len(line.Steps) == 0 {
		return c, fmt.Errorf("no steps")
	}
	for i, step := range line.Steps {
		if err := c.addStep(step); err != nil {
			return c, fmt.Errorf("step %d: %w", i, err)
		}
	}
	return c, nil
}

// described reports whether cases of kind k are prose for a dedicated test.
func described(k Kind) bool {
	return slices.Contains([]Kind{KindFlow, KindRace, KindTiming, KindManual, KindSuite}, k)
}

// addStep reads a step as c's kind demands.
func (c *Case) addStep(data []byte) error {
	switch c.Kind {
	case KindRaw:
		var s rawStep
		if err := decodeStrict(data, &s); err != nil {
			return err
		}
		payload, err := unescape(s.Raw)
		if err != nil {
			return fmt.Errorf("raw: %w", err)
		}
		s.payload = payload
		c.raw = append(c.raw, s)
		return checkExpectation(s.Expect)
	case KindHTTP:
		var s httpStep
		if err := decodeStrict(data, &s); err != nil {
			return err
		}
		if s.Method == "" || s.Path == "" {
			return fmt.Errorf("an http step needs a method and a path")
		}
		c.http = append(c.http, s)
		return checkExpectation(s.Expect)
	case KindH2:
		var s h2Step
		if err := decodeStrict(data, &s); err != nil {
			return err
		}
		return checkExpectation(s.Expect)
	default:
		return fmt.Errorf("unknown kind %q", c.Kind)
	}
}

// decodeStrict decodes data, refusing unknown members and a second value.
func decodeStrict(data []byte, into any) error {
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	if err := d.Decode(into); err != nil {
		return err
	}
	if _, err := d.Token(); err != io.EOF {
		return fmt.Errorf("more than one JSON value")
	}
	return nil
}

// seconds converts the file's unit.
func seconds(s float64) time.Duration { return time.Duration(s * float64(time.Second)) }
