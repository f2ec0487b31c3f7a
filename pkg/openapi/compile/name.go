package compile

import (
	"crypto/sha256"
	"encoding/hex"
	"strings"

	"github.com/keywarden/keywarden/pkg/openapi"
	"github.com/keywarden/keywarden/pkg/spec/check"
)

// name is the name of an operation's route. It depends on nothing but the
// operation, so that it stays the same over imports: the operationId, or the method
// and path. What does not fit into a name is told apart by a part of its hash.
func (c *compiler) name(op *openapi.Operation) string {
	if name := c.options.API + "." + op.ID; op.ID != "" && slug(op.ID) == op.ID && len(name) <= check.MaxName {
		return name
	}
	if op.ID != "" {
		return fit(c.options.API+"."+slug(op.ID), op.ID)
	}
	shape := op.Method + " " + op.Path.Shape()
	return fit(c.options.API+"."+slug(strings.ToLower(op.Method)+op.Path.String()), shape)
}

// fit appends a part of the hash of what a name stands for, and shortens the name
// so that both fit.
func fit(name, of string) string {
	const digits = 6
	sum := sha256.Sum256([]byte(of))
	name = strings.TrimRight(name[:min(len(name), check.MaxName-digits-1)], "-._")
	return name + "-" + hex.EncodeToString(sum[:digits/2])
}

// slug is text with a hyphen in the place of what a name cannot have.
func slug(text string) string {
	var b strings.Builder
	for _, c := range text {
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == '_', c == '.':
			b.WriteRune(c)
		case !strings.HasSuffix(b.String(), "-"):
			b.WriteByte('-')
		case c == '-':
			b.WriteByte('-')
		}
	}
	return strings.Trim(b.String(), "-")
}

// ValidName reports whether an API can have the name.
func ValidName(api string) bool { return apiName.MatchString(api) }

// Owns reports whether a route of this name is of the API.
func Owns(api, route string) bool { return strings.HasPrefix(route, api+".") }
