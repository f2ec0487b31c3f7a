package services

import (
	"time"

	"github.com/keywarden/keywarden/pkg/spec/check"
	"github.com/keywarden/keywarden/pkg/spec/quantity"
)

// Health says how a service finds out which of its targets are well.
type Health struct {
	Active  *ActiveHealth  `json:"active,omitempty"`
	Passive *PassiveHealth `json:"passive,omitempty"`
}

// ActiveHealth asks each target at an interval.
type ActiveHealth struct {
	Type           string                 `json:"type" enum:"http,tcp,grpc"`
	Path           string                 `json:"path,omitempty"`    // of http
	Service        string                 `json:"service,omitempty"` // of grpc: whose health; without it, the server's
	Interval       quantity.Duration      `json:"interval"`
	Timeout        quantity.Duration      `json:"timeout"`
	HealthyAfter   int                    `json:"healthy_after"`    // successes in a row
	UnhealthyAfter int                    `json:"unhealthy_after"`  // failures in a row
	Status         []quantity.StatusRange `json:"status,omitempty"` // of http; 200-299 without it
}

// PassiveHealth watches the answers to ordinary requests.
type PassiveHealth struct {
	Failures    int               `json:"failures,omitempty"`   // in a row
	ErrorRate   float64           `json:"error_rate,omitempty"` // of the requests of a window
	MinRequests int               `json:"min_requests"`         // a window must have for error_rate
	Window      quantity.Duration `json:"window"`
	EjectFor    quantity.Duration `json:"eject_for"` // the first time; the n-th time in a row n times as long
}

// The types of active check.
const (
	CheckHTTP = "http"
	CheckTCP  = "tcp"
	CheckGRPC = "grpc" // grpc.health.v1
)

// SetDefaults fills in what a document need not say.
func (a *ActiveHealth) SetDefaults() {
	a.Type = CheckHTTP
	a.Interval, a.Timeout = quantity.Duration(10*time.Second), quantity.Duration(2*time.Second)
	a.HealthyAfter, a.UnhealthyAfter = 2, 3
}

// SetDefaults fills in what a document need not say.
func (p *PassiveHealth) SetDefaults() {
	p.Failures, p.MinRequests = 5, 20
	p.Window, p.EjectFor = quantity.Duration(30*time.Second), quantity.Duration(30*time.Second)
}

// maxThreshold bounds the numbers of results in a row.
const maxThreshold = 1000

func (h *Health) Validate(path string, v *check.Checker) {
	if h.Active == nil && h.Passive == nil {
		v.Fail(path, "must have active or passive")
	}
	if h.Active != nil {
		h.Active.Validate(path+".active", v)
	}
	if h.Passive != nil {
		h.Passive.Validate(path+".passive", v)
	}
}

func (a *ActiveHealth) Validate(path string, v *check.Checker) {
	v.OneOf(path+".type", a.Type, CheckHTTP, CheckTCP, CheckGRPC)
	switch {
	case a.Type != CheckHTTP && a.Path != "":
		v.Fail(path+".path", "belongs to the type http")
	case a.Type == CheckHTTP && a.Path == "":
		v.Required(path + ".path")
	case a.Path != "":
		v.Path(path+".path", a.Path, false)
	}
	if a.Type != CheckHTTP && a.Status != nil {
		v.Fail(path+".status", "belongs to the type http")
	}
	if a.Type != CheckGRPC && a.Service != "" {
		v.Fail(path+".service", "belongs to the type grpc")
	}
	v.Word(path+".service", a.Service, false)
	v.Timeout(path+".interval", a.Interval)
	v.Timeout(path+".timeout", a.Timeout)
	if a.Timeout > a.Interval {
		v.Fail(path+".timeout", "must not be longer than the interval, %s", time.Duration(a.Interval))
	}
	v.Between(path+".healthy_after", a.HealthyAfter, 1, maxThreshold)
	v.Between(path+".unhealthy_after", a.UnhealthyAfter, 1, maxThreshold)
}

func (p *PassiveHealth) Validate(path string, v *check.Checker) {
	v.Between(path+".failures", p.Failures, 0, maxThreshold)
	v.Share(path+".error_rate", p.ErrorRate, true)
	if p.Failures == 0 && p.ErrorRate == 0 {
		v.Fail(path, "must have failures or error_rate above 0")
	}
	v.Between(path+".min_requests", p.MinRequests, 1, 1_000_000)
	v.Timeout(path+".window", p.Window)
	v.Timeout(path+".eject_for", p.EjectFor)
}

// DefaultPassiveHealth watches the targets of a service that has several and says
// nothing of health.
func DefaultPassiveHealth() *PassiveHealth {
	p := &PassiveHealth{}
	p.SetDefaults()
	return p
}
