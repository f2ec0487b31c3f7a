// Package spec is the gateway document: the desired state of the data plane,
// written by people and tools. It owns the types with their defaults, the strict
// reading of YAML (of which JSON is a part), the rules a document keeps, and the
// digest that tells two documents apart.
//
// It does not know how a document is served: package gateway compiles it. It
// holds desired state only; what a replica counts, measures or keeps open is
// running state and has no place here.
package spec

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"

	"github.com/keywarden/keywarden/pkg/spec/policies"
	"github.com/keywarden/keywarden/pkg/spec/services"
)

// Version is the one version of the document there is.
const Version = 1

// Document is desired state as a whole. [Parse] makes it, with every default
// filled in and every value in its normal form; nothing changes it afterwards.
type Document struct {
	Version int `json:"version"`

	// Defaults are the policies of every route that says nothing else.
	Defaults *policies.Policies `json:"defaults,omitempty"`

	// PolicySets are policies with a name, for routes to use.
	PolicySets []PolicySet `json:"policy_sets,omitempty"`

	// APIs are descriptions that the operations of routes are found in.
	APIs []API `json:"apis,omitempty"`

	Services []services.Service `json:"services"`
	Routes   []Route            `json:"routes"`
}

// Digest identifies the content of a document.
type Digest [sha256.Size]byte

// String is the digest in hexadecimal; the zero digest is the empty string.
func (d Digest) String() string {
	if d == (Digest{}) {
		return ""
	}
	return hex.EncodeToString(d[:])
}

// Digest is the SHA-256 of the document's canonical JSON form: normal values,
// fields in the order of the types. Documents that differ in comments, layout or
// spelled-out defaults alone have the same digest; the order of services and
// routes counts.
func (d Document) Digest() (Digest, error) {
	canonical, err := json.Marshal(d)
	if err != nil {
		return Digest{}, fmt.Errorf("encoding the gateway document: %w", err)
	}
	return sha256.Sum256(canonical), nil
}
