package policies

import "github.com/keywarden/keywarden/pkg/spec/check"

// Concurrency bounds how many requests of somebody are worked on at once, in each
// replica. Streams and WebSockets count for as long as they last.
type Concurrency struct {
	Gate
	Limits []ConcurrencyLimit `json:"limits"`
}

// ConcurrencyLimit is one limit.
type ConcurrencyLimit struct {
	// Name tells the limit from others in the fields of the answer.
	Name string `json:"name"`

	Subject

	// Limit is how many requests there are at once at most.
	Limit int `json:"limit"`
}

// Short names the field that a bare value stands for.
func (*Concurrency) Short() string { return "limits" }

// maxConcurrent bounds the requests of one subject at once.
const maxConcurrent = 1_000_000

func (c *Concurrency) Validate(path string, v *check.Checker) {
	limits(path+".limits", c.Limits, v)
}

func (l *ConcurrencyLimit) name() string { return l.Name }

func (l *ConcurrencyLimit) Validate(path string, v *check.Checker) {
	v.Name(path, l.Name)
	l.Subject.Validate(path, v)
	v.Between(path+".limit", l.Limit, 1, maxConcurrent)
}
