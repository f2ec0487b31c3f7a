package strictyaml

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"unicode/utf8"

	"go.yaml.in/yaml/v4"
	"go.yaml.in/yaml/v4/plugin/loaderlimits"
)

// Bounds are limits of a document as text. They bound the memory that reading a
// hostile one takes.
//
// Items bounds the nodes of YAML: each of them but the first has a line break, a
// comma, an opening bracket or a dash of its own, or shares it with one other. JSON
// has at most twice as many nodes, keys among them. Line bounds how far the scanner
// of YAML looks ahead for the colon that would make everything before it a key; JSON
// has a reader of its own and no such bound.
type Bounds struct {
	Bytes int // a multiple of 1 MiB
	Line  int // bytes; a multiple of 1 KiB
	Items int
	Depth int
}

// maxFlow is how large a text may be that is in braces as a whole, and no JSON. The
// scanner of YAML holds all of what is in braces at once, at ten times the size of
// the text.
const maxFlow = 1 << 20

// Load reads the only document of data as the nodes of YAML, also where it is JSON.
// The violation says why it cannot, with where as far as that is known.
func Load(data []byte, b Bounds) (*yaml.Node, *Violation) {
	if len(data) > b.Bytes {
		return nil, &Violation{Detail: fmt.Sprintf("the document is larger than %d MiB", b.Bytes>>20)}
	}
	if utf8.Valid(data) && json.Valid(data) {
		return JSON(data, 2*b.Items, b.Depth)
	}
	if countItems(data) > b.Items {
		return nil, &Violation{Detail: "the document has too many items"}
	}
	if line := longLine(data, b.Line); line > 0 {
		return nil, &Violation{Place: Place{Line: line, Column: 1}, Detail: fmt.Sprintf("the line is longer than %d KiB; break it", b.Line>>10)}
	}
	if start := bytes.TrimLeft(data, " \t\r\n"); len(data) > maxFlow && len(start) > 0 && (start[0] == '{' || start[0] == '[') {
		return nil, malformed(data)
	}
	loader, err := yaml.NewLoader(bytes.NewReader(data), yaml.WithPlugin(loaderlimits.New(loaderlimits.DepthValue(b.Depth))))
	if err != nil {
		return nil, syntax(err)
	}
	return only(loader)
}

// only is the root of the only document of a stream.
func only(loader *yaml.Loader) (*yaml.Node, *Violation) {
	var doc, next yaml.Node
	switch err := loader.Load(&doc); {
	case errors.Is(err, io.EOF):
		return nil, &Violation{Detail: "the document is empty"}
	case err != nil:
		return nil, syntax(err)
	}
	switch err := loader.Load(&next); {
	case errors.Is(err, io.EOF):
	case err != nil:
		return nil, syntax(err)
	default:
		return nil, &Violation{Place: Place{Line: next.Line, Column: next.Column}, Detail: "there must be only one YAML document"}
	}
	if len(doc.Content) != 1 {
		return nil, &Violation{Detail: "the document is empty"}
	}
	return doc.Content[0], nil
}

// countItems counts what separates items, which is no less than half of them.
func countItems(data []byte) int {
	n := 0
	for _, separator := range []string{"\n", "\r", "\u0085", "\u2028", "\u2029", ",", "[", "{", "- ", "-\t", "? "} {
		n += bytes.Count(data, []byte(separator))
	}
	return n
}

// longLine is the number of the first line that is longer than most bytes, or 0.
func longLine(data []byte, most int) int {
	number := 0
	for line := range bytes.Lines(data) {
		if number++; len(line) > most {
			return number
		}
	}
	return 0
}

// syntax says where and why data is no YAML.
func syntax(err error) *Violation {
	v := &Violation{Detail: "is not valid YAML"}
	var e *yaml.LoadError
	if errors.As(err, &e) {
		v.Line, v.Column = e.Mark.Line, e.Mark.Column
		v.Detail += reason(e)
	}
	return v
}

// reason is why a text is no YAML, without the parts of it that some messages repeat: a
// password may be what is wrong.
func reason(e *yaml.LoadError) string {
	switch e.Stage {
	case yaml.ScannerStage, yaml.ParserStage:
		return ": " + strings.ReplaceAll(e.Message, "\n", " ")
	case yaml.ReaderStage:
		return ": not UTF-8, or with control characters"
	case yaml.ComposerStage:
		return ": an alias without its anchor; put a text that begins with * in quotes"
	default:
		return ""
	}
}

// malformed says where a text stops to be JSON.
func malformed(data []byte) *Violation {
	v := &Violation{Detail: "begins as JSON and is none"}
	var anything json.RawMessage
	var e *json.SyntaxError
	if errors.As(json.Unmarshal(data, &anything), &e) {
		before := data[:min(max(int(e.Offset)-1, 0), len(data))]
		v.Line, v.Column = bytes.Count(before, []byte("\n"))+1, len(before)-bytes.LastIndexByte(before, '\n')
		v.Detail += ": " + strings.ReplaceAll(e.Error(), "\n", " ")
	}
	return v
}
