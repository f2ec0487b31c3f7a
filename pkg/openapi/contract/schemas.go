package contract

import (
	"errors"
	"fmt"

	"github.com/santhosh-tekuri/jsonschema/v6"

	"github.com/keywarden/keywarden/pkg/openapi"
	"github.com/keywarden/keywarden/pkg/openapi/contract/tree"
	"github.com/keywarden/keywarden/pkg/openapi/dialect"
)

// schemas is the description in one direction with its compiler.
//
// The compiler works as long on a schema as the document around it is large, so that
// each schema that is asked for or referred to is a document of its own for it, with
// an address of package tree. That cannot be where schemas have names or bases
// that others may use; then the whole description is the one document.
type schemas struct {
	*tree.Tree
	compiler *jsonschema.Compiler
}

// location is the address of the whole description within the compiler.
const location = "keywarden:///openapi.json"

func newSchemas(in openapi.Dialect, t *tree.Tree) (*schemas, error) {
	s := &schemas{t, jsonschema.NewCompiler()}
	s.compiler.DefaultDraft(jsonschema.Draft2020)
	s.compiler.UseLoader(s)
	s.compiler.UseRegexpEngine(dialect.CompilePattern)
	if in != openapi.Dialect31 { // there a format is a rule; in 3.1 it is a remark
		s.compiler.AssertFormat()
		dialect.RegisterFormats(s.compiler)
	}
	if err := s.compiler.AddResource(location, t.Root()); err != nil {
		return nil, fmt.Errorf("reading the description: %w", err)
	}
	return s, nil
}

// Errors of references.
var (
	errElsewhere = errors.New("another document is needed, and none is ever fetched")
	errNowhere   = errors.New("refers to nothing")
)

// Load implements [jsonschema.URLLoader] with the schemas of the description, and no
// others.
func (s *schemas) Load(address string) (any, error) {
	pointer, ours := tree.PointerOf(address)
	if !ours || s.Named() {
		return nil, errElsewhere
	}
	p := s.Walk(pointer)
	if !p.There() {
		return nil, errNowhere
	}
	s.Detach(p)
	return p.Value, nil
}

// schema compiles the schema at a place; nil where there is none.
func (s *schemas) schema(p tree.Place) (*jsonschema.Schema, error) {
	if !p.There() {
		return nil, nil //nolint:nilnil // no schema is a schema that takes everything
	}
	address := tree.Address(p.Pointer)
	if s.Named() {
		address = location + "#" + p.Fragment()
	}
	compiled, err := s.compiler.Compile(address)
	switch {
	case errors.Is(err, errElsewhere):
		return nil, fmt.Errorf("schema %s: %w", p.Pointer, errElsewhere)
	case err != nil:
		return nil, fmt.Errorf("schema %s: %w", p.Pointer, err)
	}
	return compiled, nil
}
