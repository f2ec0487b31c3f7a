package policies

import (
	"github.com/keywarden/keywarden/pkg/spec/check"
	"github.com/keywarden/keywarden/pkg/spec/quantity"
)

// Compress compresses answers that the client can read compressed and that the
// service has not compressed itself.
type Compress struct {
	Gate

	// Types are the media types that are worth it.
	Types []string `json:"types"`

	// MinSize is the least size of an answer that is worth it; one of unknown size is.
	MinSize quantity.Size `json:"min_size"`
}

// defaultMinSize is what fits into one packet anyway, in bytes.
const defaultMinSize = quantity.Size(1 << 10)

// SetDefaults fills in what a document need not say.
func (c *Compress) SetDefaults() {
	c.MinSize = defaultMinSize
	c.Types = []string{
		"application/json", "application/problem+json", "application/javascript", "application/xml", "image/svg+xml",
		"text/css", "text/csv", "text/html", "text/javascript", "text/plain", "text/xml",
	}
}

func (c *Compress) Normalise() {
	for i := range c.Types {
		c.Types[i] = check.Lower(c.Types[i])
	}
}

func (c *Compress) Validate(path string, v *check.Checker) {
	v.Distinct(path+".types", c.Types, maxMediaTypes, "a media type such as application/json or text/*, without parameters", isMediaRange)
	if c.MinSize <= 0 {
		v.Fail(path+".min_size", "must be above 0")
	}
}
