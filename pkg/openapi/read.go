package openapi

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"sort"
	"strings"

	"go.yaml.in/yaml/v4"
	"go.yaml.in/yaml/v4/plugin/loaderlimits"
)

// Limits of a description as text. They bound the memory that reading a hostile
// one takes: a node is some two hundred bytes, and none is shorter than two bytes
// with what separates it from the next.
const (
	MaxBytes = 16 << 20
	maxNodes = 2_000_000
	maxDepth = 100

	// maxLine bounds how far the YAML scanner looks ahead for the colon that would
	// make everything before it a key. JSON has a reader of its own and no such bound.
	maxLine = 64 << 10
)

// tree reads the only document of data as nodes, in the form of YAML also where it
// is JSON. The detail is why it cannot, with where as far as that is known.
func tree(data []byte) (root *yaml.Node, wrong *Violation) {
	data = bytes.TrimPrefix(data, []byte("\xEF\xBB\xBF"))
	switch {
	case len(data) > MaxBytes:
		return nil, &Violation{Detail: "the document is larger than 16 MiB"}
	case len(bytes.TrimSpace(data)) == 0:
		return nil, &Violation{Detail: "the document is empty"}
	case json.Valid(data):
		return jsonTree(data)
	}
	return yamlTree(data)
}

func yamlTree(data []byte) (*yaml.Node, *Violation) {
	number, separators := 0, 0
	for line := range bytes.Lines(data) {
		if number++; len(line) > maxLine {
			return nil, &Violation{Place: Place{Line: number, Column: 1}, Detail: "the line is longer than 64 KiB; break it, or write the document as JSON"}
		}
		for _, c := range line {
			switch c {
			case '\n', '\r', ',', '[', '{', ':', '-', '?':
				separators++
			}
		}
	}
	if separators > 2*maxNodes {
		return nil, &Violation{Detail: "the document has too many items"}
	}
	loader, err := yaml.NewLoader(bytes.NewReader(data), yaml.WithPlugin(loaderlimits.New(loaderlimits.DepthValue(maxDepth))))
	if err != nil {
		return nil, syntax(err)
	}
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

// syntax says where and why the text is no YAML.
func syntax(err error) *Violation {
	v := &Violation{Detail: "is neither JSON nor valid YAML"}
	var e *yaml.LoadError
	if errors.As(err, &e) {
		v.Line, v.Column = e.Mark.Line, e.Mark.Column
		v.Detail += ": " + strings.ReplaceAll(e.Message, "\n", " ")
	}
	return v
}

// jsonReader makes nodes of JSON: YAML could read it, too, but its scanner needs
// lines of a bounded length, which generated documents do not have.
type jsonReader struct {
	*json.Decoder
	data  []byte
	lines []int // offsets at which lines begin
	nodes int
}

func jsonTree(data []byte) (*yaml.Node, *Violation) {
	r := &jsonReader{Decoder: json.NewDecoder(bytes.NewReader(data)), data: data, lines: []int{0}}
	r.UseNumber()
	for i, c := range data {
		if c == '\n' {
			r.lines = append(r.lines, i+1)
		}
	}
	return r.value(0)
}

// place is the line and column of the next token.
func (r *jsonReader) place() (line, column int) {
	at := int(r.InputOffset())
	for at < len(r.data) && strings.IndexByte(" \t\r\n,:", r.data[at]) >= 0 {
		at++
	}
	line = sort.SearchInts(r.lines, at+1)
	return line, at - r.lines[line-1] + 1
}

func (r *jsonReader) value(depth int) (*yaml.Node, *Violation) {
	line, column := r.place()
	node := &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Line: line, Column: column}
	r.nodes++
	token, err := r.Token()
	switch {
	case err != nil:
		return nil, &Violation{Place: Place{Line: line, Column: column}, Detail: "is not valid JSON"}
	case r.nodes > maxNodes:
		return nil, &Violation{Detail: "the document has too many items"}
	case depth > maxDepth:
		return nil, &Violation{Place: Place{Line: line, Column: column}, Detail: "is nested too deeply"}
	}
	switch v := token.(type) {
	case json.Delim:
		node.Kind, node.Tag = yaml.MappingNode, "!!map"
		if v == '[' {
			node.Kind, node.Tag = yaml.SequenceNode, "!!seq"
		}
		for r.More() {
			child, wrong := r.value(depth + 1)
			if wrong != nil {
				return nil, wrong
			}
			node.Content = append(node.Content, child)
		}
		if _, err := r.Token(); err != nil {
			return nil, &Violation{Place: Place{Line: line, Column: column}, Detail: "is not valid JSON"}
		}
	case string:
		node.Value, node.Style = v, yaml.DoubleQuotedStyle
	case json.Number:
		node.Value, node.Tag = v.String(), "!!int"
		if strings.ContainsAny(node.Value, ".eE") {
			node.Tag = "!!float"
		}
	case bool:
		node.Value, node.Tag = "false", "!!bool"
		if v {
			node.Value = "true"
		}
	case nil:
		node.Value, node.Tag = "null", "!!null"
	}
	return node, nil
}
