package openapi

import (
	"bytes"

	"go.yaml.in/yaml/v4"

	"github.com/keywarden/keywarden/pkg/strictyaml"
)

// MaxBytes bounds a description as text.
const MaxBytes = 16 << 20

// bounds are those of descriptions. Ones that are in use have some 45,000 items for
// each megabyte; a node takes some two hundred bytes.
func bounds() strictyaml.Bounds {
	return strictyaml.Bounds{Bytes: MaxBytes, Line: 64 << 10, Items: 1_000_000, Depth: 100}
}

// tree reads the only document of data as nodes, in the form of YAML also where it
// is JSON. The detail is why it cannot, with where as far as that is known.
func tree(data []byte) (*yaml.Node, *Violation) {
	return strictyaml.Load(bytes.TrimPrefix(data, []byte("\xEF\xBB\xBF")), bounds())
}
