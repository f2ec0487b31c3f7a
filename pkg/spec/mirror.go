package spec

import (
	"time"

	"github.com/keywarden/keywarden/pkg/spec/quantity"
)

// Mirror sends copies of requests to another service, whose answers nobody sees.
type Mirror struct {
	Service string `json:"service"`

	// Percent is the share of the requests that are copied, above 0 and up to 100.
	Percent float64 `json:"percent"`

	// MaxBody bounds the body of a request that is copied. One with more is not.
	MaxBody quantity.Size `json:"max_body"`

	// Timeout bounds the exchange with the service.
	Timeout quantity.Duration `json:"timeout"`
}

// Defaults and bounds of a mirror. A copy is in memory as a whole.
const (
	defaultMirrorBody    = quantity.Size(64 << 10)
	maxMirrorBody        = quantity.Size(1 << 20)
	defaultMirrorTimeout = quantity.Duration(5 * time.Second)
)

// SetDefaults implements the decoder's interface.
func (m *Mirror) SetDefaults() {
	m.Percent = 100
	m.MaxBody = defaultMirrorBody
	m.Timeout = defaultMirrorTimeout
}

func (m *Mirror) validate(path string, v *validator) {
	v.serviceName(path+".service", m.Service)
	if m.Percent <= 0 || m.Percent > 100 {
		v.Fail(path+".percent", "must be above 0 and at most 100")
	}
	if m.MaxBody <= 0 || m.MaxBody > maxMirrorBody {
		v.Fail(path+".max_body", "must be above 0 and at most 1MiB")
	}
	v.Timeout(path+".timeout", m.Timeout)
}
