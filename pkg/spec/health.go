package spec

import "time"

// Health says how a service finds out which of its targets are well.
type Health struct {
	Active  *ActiveHealth  `json:"active,omitempty"`
	Passive *PassiveHealth `json:"passive,omitempty"`
}

// ActiveHealth asks each target at an interval.
type ActiveHealth struct {
	Type           string        `json:"type" enum:"http,tcp,grpc"`
	Path           string        `json:"path,omitempty"`    // of http
	Service        string        `json:"service,omitempty"` // of grpc: whose health; without it, the server's
	Interval       Duration      `json:"interval"`
	Timeout        Duration      `json:"timeout"`
	HealthyAfter   int           `json:"healthy_after"`    // successes in a row
	UnhealthyAfter int           `json:"unhealthy_after"`  // failures in a row
	Status         []StatusRange `json:"status,omitempty"` // of http; 200-299 without it
}

// PassiveHealth watches the answers to ordinary requests.
type PassiveHealth struct {
	Failures    int      `json:"failures,omitempty"`   // in a row
	ErrorRate   float64  `json:"error_rate,omitempty"` // of the requests of a window
	MinRequests int      `json:"min_requests"`         // a window must have for error_rate
	Window      Duration `json:"window"`
	EjectFor    Duration `json:"eject_for"` // the first time; the n-th time in a row n times as long
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
	a.Interval, a.Timeout = Duration(10*time.Second), Duration(2*time.Second)
	a.HealthyAfter, a.UnhealthyAfter = 2, 3
}

// SetDefaults fills in what a document need not say.
func (p *PassiveHealth) SetDefaults() {
	p.Failures, p.MinRequests = 5, 20
	p.Window, p.EjectFor = Duration(30*time.Second), Duration(30*time.Second)
}

// maxThreshold bounds the numbers of results in a row.
const maxThreshold = 1000

func (h *Health) validate(path string, v *validator) {
	if h.Active == nil && h.Passive == nil {
		v.fail(path, "must have active or passive")
	}
	if h.Active != nil {
		h.Active.validate(path+".active", v)
	}
	if h.Passive != nil {
		h.Passive.validate(path+".passive", v)
	}
}

func (a *ActiveHealth) validate(path string, v *validator) {
	v.oneOf(path+".type", a.Type, CheckHTTP, CheckTCP, CheckGRPC)
	switch {
	case a.Type != CheckHTTP && a.Path != "":
		v.fail(path+".path", "belongs to the type http")
	case a.Type == CheckHTTP && a.Path == "":
		v.required(path + ".path")
	case a.Path != "":
		v.path(path+".path", a.Path, false)
	}
	if a.Type != CheckHTTP && a.Status != nil {
		v.fail(path+".status", "belongs to the type http")
	}
	if a.Type != CheckGRPC && a.Service != "" {
		v.fail(path+".service", "belongs to the type grpc")
	}
	v.word(path+".service", a.Service, false)
	v.timeout(path+".interval", a.Interval)
	v.timeout(path+".timeout", a.Timeout)
	if a.Timeout > a.Interval {
		v.fail(path+".timeout", "must not be longer than the interval, %s", time.Duration(a.Interval))
	}
	v.between(path+".healthy_after", a.HealthyAfter, 1, maxThreshold)
	v.between(path+".unhealthy_after", a.UnhealthyAfter, 1, maxThreshold)
}

func (p *PassiveHealth) validate(path string, v *validator) {
	v.between(path+".failures", p.Failures, 0, maxThreshold)
	v.share(path+".error_rate", p.ErrorRate, true)
	if p.Failures == 0 && p.ErrorRate == 0 {
		v.fail(path, "must have failures or error_rate above 0")
	}
	v.between(path+".min_requests", p.MinRequests, 1, 1_000_000)
	v.timeout(path+".window", p.Window)
	v.timeout(path+".eject_for", p.EjectFor)
}

// share checks a part of the whole; zero is for "not at all".
func (v *validator) share(path string, x float64, zero bool) {
	if x > 0 && x <= 1 || x == 0 && zero {
		return
	}
	if zero {
		v.fail(path, "must be from 0 to 1")
		return
	}
	v.fail(path, "must be above 0 and at most 1")
}

// DefaultPassiveHealth watches the targets of a service that has several and says
// nothing of health.
func DefaultPassiveHealth() *PassiveHealth {
	p := &PassiveHealth{}
	p.SetDefaults()
	return p
}
