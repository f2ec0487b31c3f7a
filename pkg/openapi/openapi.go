// Package openapi reads descriptions of APIs in the form of OpenAPI 2.0 (Swagger),
// 3.0 and 3.1, and keeps of them what a gateway needs: the operations with their
// paths, methods, parameters and security, where the API is served, and the
// extensions that steer the gateway. It tells two descriptions apart, and which
// differences break clients.
//
// It does not know the gateway document; package compile makes that. It fetches
// nothing: a reference to another document is refused. What a hostile description
// can cost is bounded in size, depth and number of operations. Of schemas it knows
// the type of a parameter alone; package contract checks requests against them.
package openapi

import (
	"go.yaml.in/yaml/v4"

	"github.com/keywarden/keywarden/pkg/strictyaml"
)

// What is wrong with a description, or lost by the import.
type (
	Violation  = strictyaml.Violation
	Violations = strictyaml.Violations
	Place      = strictyaml.Place
)

// Dialect is the version of OpenAPI in which a description is written.
type Dialect string

// The dialects.
const (
	Dialect20 Dialect = "2.0"
	Dialect30 Dialect = "3.0"
	Dialect31 Dialect = "3.1"
)

// Document is what is known of an API. [Parse] makes it; nothing changes it
// afterwards.
type Document struct {
	Dialect Dialect
	Title   string
	Version string // of the API

	// Server is where the API is served, the first that is named.
	Server Server

	// Security is what operations need that do not say so themselves; nil when the
	// description is silent.
	Security *Security

	Schemes    map[string]Scheme
	Operations []Operation // in the order of the document

	Service *Extension // x-keywarden-service
	Backend *Backend   // x-google-backend

	// Policies are extensions that hold for every operation without its own.
	Policies []Extension

	// Limits are those of x-google-management.
	Limits []MetricLimit

	// Notes are what the import loses or takes otherwise than it is meant.
	Notes []Violation

	root *yaml.Node
}

// Root is the description as it stands, without duplicate names, merge keys or
// references to other documents. It must not be changed. It is nil for what
// [Document.WithoutRoot] has made.
func (d *Document) Root() *yaml.Node { return d.root }

// WithoutRoot is the same with all but its root, which takes most of the memory.
func (d *Document) WithoutRoot() *Document {
	light := *d
	light.root = nil
	return &light
}

// Server is an address of an API.
type Server struct {
	Place

	// Origin is scheme, host and port, "https://api.example.com"; empty where the
	// description names none.
	Origin string

	// Base is the path before all paths, in its canonical escaped form, without a
	// slash at its end; empty for "/".
	Base string
}

// Operation is one method of one path.
type Operation struct {
	Place
	Method     string // in capital letters
	Path       Template
	ID         string // operationId; may be empty
	Deprecated bool

	// Server is that of the operation or its path, where they have one.
	Server *Server

	// Security is nil when the operation says nothing, and the document's counts.
	Security *Security

	Parameters []Parameter
	Body       *Body
	Responses  []Response

	Service  *Extension // x-keywarden-service
	Backend  *Backend   // x-google-backend
	Policies []Extension

	// MetricCosts are those of x-google-quota: units by name of the metric.
	MetricCosts map[string]int
}

// Parameter is a parameter of an operation.
type Parameter struct {
	Place
	Name     string
	In       string // path, query, header, cookie; formData in 2.0
	Required bool
	Type     string // of the schema, such as integer; empty when it says none
}

// Body is the body that an operation takes.
type Body struct {
	Required   bool
	MediaTypes []string
}

// Response is an answer that is documented.
type Response struct {
	Status     string // 200, 2XX or default
	MediaTypes []string
}

// Security is the alternatives of which a caller has to satisfy one. An empty list
// needs nothing.
type Security struct {
	Place
	Any []Requirement
}

// Requirement is the schemes that are needed together; empty for none.
type Requirement struct {
	Place
	All []Need
}

// Need is one scheme with the scopes (or roles, in 3.1) that it must grant.
type Need struct {
	Place
	Scheme string
	Scopes []string
}

// Scheme is a way to authenticate.
type Scheme struct {
	Place
	Name string
	Type string // apiKey, basic (2.0), http, oauth2, openIdConnect, mutualTLS

	// In and Key are where an apiKey is: header, query or cookie, and its name there.
	In, Key string

	// HTTP is the authentication scheme of http in lower case, such as bearer.
	HTTP string
}

// Backend is x-google-backend.
type Backend struct {
	Place
	Address  string
	Deadline float64 // seconds; 0 when it says none
	Protocol string

	// Constant is for CONSTANT_ADDRESS: the path of the address is that of every
	// request. Otherwise the path of the request is appended to it.
	Constant bool
}

// MetricLimit is a quota limit of x-google-management.
type MetricLimit struct {
	Place
	Name, Metric string
	PerMinute    int64
}

// Extension is a vendor extension of ours with its value as it stands.
type Extension struct {
	Place
	Name string // such as x-keywarden-timeout
	node *yaml.Node
}

// YAML is the extension as a document of its own: its name and value.
func (e Extension) YAML() ([]byte, error) {
	key := &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: e.Name}
	return yaml.Dump(&yaml.Node{Kind: yaml.MappingNode, Tag: "!!map", Content: []*yaml.Node{key, e.node}})
}

// Text is the value of an extension that is a text, otherwise "".
func (e Extension) Text() string {
	if e.node.Kind != yaml.ScalarNode || e.node.Tag != "!!str" {
		return ""
	}
	return e.node.Value
}

// Parse reads a description from YAML or JSON. The error is a *[Violations] with
// everything that is wrong; source, which may be empty, is the name of the file in
// it.
func Parse(source string, data []byte) (*Document, error) {
	r := &reader{index: index{}, dead: map[*yaml.Node]bool{}}
	root, wrong := tree(data)
	if wrong != nil {
		r.wrong.Add(*wrong)
		return nil, r.wrong.Report(source)
	}
	r.root = root
	doc := r.document()
	if err := r.wrong.Report(source); err != nil {
		return nil, err
	}
	doc.root = r.root
	return doc, nil
}
