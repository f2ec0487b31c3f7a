package strictyaml

import (
	"bytes"
	"encoding/json"
	"sort"
	"strings"

	"go.yaml.in/yaml/v4"
)

// jsonReader makes nodes of JSON: YAML could read it, too, but its scanner needs
// lines of a bounded length, which generated documents do not have.
type jsonReader struct {
	*json.Decoder
	data               []byte
	lines              []int // offsets at which lines begin
	nodes              int
	maxNodes, maxDepth int
}

// JSON reads data, which must be valid JSON, as the nodes that YAML would have. It
// has at most this many nodes, keys among them, and levels.
func JSON(data []byte, maxNodes, maxDepth int) (*yaml.Node, *Violation) {
	r := &jsonReader{Decoder: json.NewDecoder(bytes.NewReader(data)), data: data, lines: []int{0}, maxNodes: maxNodes, maxDepth: maxDepth}
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
	case r.nodes > r.maxNodes:
		return nil, &Violation{Detail: "the document has too many items"}
	case depth > r.maxDepth:
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
