// Package contracts compiles the operations that the routes of a document name. What
// was compiled lives on from one document to the next, as long as the description
// stays the same.
//
// What an operation means is the business of package openapi/contract.
package contracts

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/keywarden/keywarden/pkg/openapi"
	"github.com/keywarden/keywarden/pkg/openapi/contract"
	"github.com/keywarden/keywarden/pkg/spec"
)

// Kept is what a document has compiled. It is immutable once the document is.
type Kept struct {
	apis map[[sha256.Size]byte]*known
}

type known struct {
	api        *contract.API
	operations map[string]*contract.Operation
}

// Document compiles operations of one document. It is not safe for concurrent use.
type Document struct {
	apis   map[string]*spec.API
	read   map[string]*known // by the name of the API
	before *Kept
	kept   *Kept
}

// New begins a document that follows the one that before is of; nil is none.
func New(apis []spec.API, before *Kept) *Document {
	if before == nil {
		before = &Kept{}
	}
	d := &Document{
		apis: make(map[string]*spec.API, len(apis)), read: map[string]*known{},
		before: before, kept: &Kept{apis: map[[sha256.Size]byte]*known{}},
	}
	for i := range apis {
		d.apis[apis[i].Name] = &apis[i]
	}
	return d
}

// Kept is what was compiled.
func (d *Document) Kept() *Kept { return d.kept }

// Operation compiles an operation; nil for nil. The error says what is wrong with the
// description, or that its file cannot be read.
func (d *Document) Operation(of *spec.Operation) (*contract.Operation, error) {
	if of == nil {
		return nil, nil //nolint:nilnil // a route without an operation
	}
	k, err := d.api(of.API)
	if err != nil {
		return nil, fmt.Errorf("api %s: %w", of.API, err)
	}
	if op := k.operations[of.ID]; op != nil {
		return op, nil
	}
	op, err := k.api.Operation(of.ID)
	if err != nil {
		return nil, fmt.Errorf("api %s: %w", of.API, err)
	}
	k.operations[of.ID] = op
	return op, nil
}

func (d *Document) api(name string) (*known, error) {
	if k := d.read[name]; k != nil {
		return k, nil
	}
	a := d.apis[name]
	if a == nil {
		return nil, errors.New("there is none of this name")
	}
	text := []byte(a.OpenAPI)
	if a.OpenAPIFile != "" {
		var err error
		if text, err = readFile(a.OpenAPIFile); err != nil {
			return nil, err
		}
	}
	digest := sha256.Sum256(text)
	k := d.kept.apis[digest]
	if k == nil {
		k = &known{operations: map[string]*contract.Operation{}}
		if earlier := d.before.apis[digest]; earlier != nil {
			// The operations are copied: the other document is immutable.
			k.api = earlier.api
			for id, op := range earlier.operations {
				k.operations[id] = op
			}
		} else {
			var err error
			if k.api, err = contract.Load(a.OpenAPIFile, text); err != nil {
				return nil, err
			}
		}
		d.kept.apis[digest] = k
	}
	d.read[name] = k
	return k, nil
}

// readFile reads a description, and no more than one may have.
func readFile(name string) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, fmt.Errorf("reading the description: %w", err)
	}
	defer f.Close() //nolint:errcheck // read only
	text, err := io.ReadAll(io.LimitReader(f, openapi.MaxBytes+1))
	if err != nil {
		return nil, fmt.Errorf("reading the description: %w", err)
	}
	return text, nil
}
