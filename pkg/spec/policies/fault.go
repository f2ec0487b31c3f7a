package policies

import (
	"math"

	"github.com/keywarden/keywarden/pkg/spec/check"
	"github.com/keywarden/keywarden/pkg/spec/quantity"
)

// Fault makes requests fail on purpose, for drills.
type Fault struct {
	Gate

	// Percent of the requests are hit.
	Percent float64 `json:"percent"`

	// Delay is added before the request is forwarded.
	Delay quantity.Duration `json:"delay,omitempty"`

	// Abort answers with this status instead of forwarding.
	Abort int `json:"abort,omitempty"`
}

// maxFaultDelay bounds the delay of a drill.
const maxFaultDelay = quantity.Duration(60e9)

func (f *Fault) Validate(path string, v *check.Checker) {
	if math.IsNaN(f.Percent) || f.Percent <= 0 || f.Percent > 100 {
		v.Fail(path+".percent", "must be above 0 and at most 100")
	}
	if f.Delay == 0 && f.Abort == 0 {
		v.Fail(path, "must have delay, or abort, or both")
	}
	if f.Delay < 0 || f.Delay > maxFaultDelay {
		v.Fail(path+".delay", "must be from 0s to 1m")
	}
	if f.Abort != 0 {
		v.Between(path+".abort", f.Abort, 400, 599)
	}
}
