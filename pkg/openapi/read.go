package openapi

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"strings"

	"go.yaml.in/yaml/v4"
	"go.yaml.in/yaml/v4/plugin/loaderlimits"

	"github.com/keywarden/keywarden/pkg/strictyaml"
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
		return strictyaml.JSON(data, maxNodes, maxDepth)
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
