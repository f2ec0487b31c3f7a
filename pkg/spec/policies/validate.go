package policies

import (
	"github.com/keywarden/keywarden/pkg/spec/check"
	"github.com/keywarden/keywarden/pkg/spec/quantity"
)

// Validation holds requests against the description of the route's operation.
type Validation struct {
	Gate

	// MaxBody bounds the bodies that are read to be checked. A larger request is
	// refused, a larger answer is not checked.
	MaxBody quantity.Size `json:"max_body"`

	// Answers are watched, too: what is not as described is counted and logged, and
	// sent as it is.
	Answers bool `json:"answers,omitempty"`
}

// Mock answers in place of the service, from the description of the route's
// operation.
type Mock struct {
	Gate
}

// Bounds of bodies that are read.
const (
	defaultValidated = quantity.Size(1 << 20)
	largestValidated = quantity.Size(16 << 20)
)

// SetDefaults fills in what a document need not say.
func (p *Validation) SetDefaults() { p.MaxBody = defaultValidated }

func (p *Validation) Validate(path string, v *check.Checker) {
	if p.MaxBody <= 0 || p.MaxBody > largestValidated {
		v.Fail(path+".max_body", "must be above 0 and at most 16MiB")
	}
}

func (p *Mock) Validate(string, *check.Checker) {}
