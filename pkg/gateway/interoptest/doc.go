// Package interoptest holds the tests that outside suites bring along: gRPC's
// interoperability cases and vectors of other gateways. It owns no code that is
// shipped; only its test files import those suites.
package interoptest
