package services

import (
	"time"

	"github.com/keywarden/keywarden/pkg/spec/check"
	"github.com/keywarden/keywarden/pkg/spec/quantity"
)

// Retry says when a request is sent once more, to another target where there is
// one. Without it a request is sent again only when no connection could be made
// and there is another target.
type Retry struct {
	// Attempts is how often a request is sent in all.
	Attempts int `json:"attempts"`

	// On names the failures after which it is sent again. All but connect are for
	// idempotent methods only (RFC 9110 section 9.2.2), and for requests of whose
	// body nothing has been sent.
	On []string `json:"on,omitempty"`

	// Backoff is the longest pause before the first retry; it doubles each time, up
	// to MaxBackoff, and a random part of it is waited.
	Backoff    quantity.Duration `json:"backoff"`
	MaxBackoff quantity.Duration `json:"max_backoff"`

	// Budget bounds retries to a share of the service's requests.
	Budget float64 `json:"budget"`
}

// What a request can be retried on.
const (
	RetryConnect = "connect" // no connection could be made: any method
	RetryReset   = "reset"   // the connection ended before an answer
	RetryTimeout = "timeout" // no answer in response_timeout
	Retry502     = "502"
	Retry503     = "503"
	Retry504     = "504"
)

// RetryReasons are the reasons that are there when a retry block names none.
func RetryReasons() []string {
	return []string{RetryConnect, RetryReset, Retry502, Retry503, Retry504}
}

// SetDefaults fills in what a document need not say.
func (r *Retry) SetDefaults() {
	r.Attempts = 3
	r.Backoff, r.MaxBackoff = quantity.Duration(25*time.Millisecond), quantity.Duration(time.Second)
	r.Budget = 0.2
}

func (r *Retry) Normalise() {
	if r.On == nil {
		r.On = RetryReasons()
	}
}

// maxAttempts bounds what a document can ask for; the budget bounds the rest.
const maxAttempts = 10

func (r *Retry) Validate(path string, v *check.Checker) {
	v.Between(path+".attempts", r.Attempts, 1, maxAttempts)
	if len(r.On) == 0 {
		v.Fail(path+".on", "must name at least one reason")
	}
	for i, reason := range r.On {
		v.OneOf(check.Index(path+".on", i), reason, append(RetryReasons(), RetryTimeout)...)
	}
	v.Timeout(path+".backoff", r.Backoff)
	v.Timeout(path+".max_backoff", r.MaxBackoff)
	v.Share(path+".budget", r.Budget, false)
}

// Breaker says when a service is not asked for a while.
type Breaker struct {
	ErrorRate   float64           `json:"error_rate"`
	MinRequests int               `json:"min_requests"`
	Window      quantity.Duration `json:"window"`
	OpenFor     quantity.Duration `json:"open_for"`
	Probes      int               `json:"probes"` // successes in a row that close it
}

// SetDefaults fills in what a document need not say.
func (b *Breaker) SetDefaults() {
	b.ErrorRate, b.MinRequests, b.Probes = 0.5, 20, 3
	b.Window, b.OpenFor = quantity.Duration(10*time.Second), quantity.Duration(5*time.Second)
}

func (b *Breaker) Validate(path string, v *check.Checker) {
	v.Share(path+".error_rate", b.ErrorRate, false)
	v.Between(path+".min_requests", b.MinRequests, 1, 1_000_000)
	v.Between(path+".probes", b.Probes, 1, maxThreshold)
	v.Timeout(path+".window", b.Window)
	v.Timeout(path+".open_for", b.OpenFor)
}

// Bulkhead bounds what waits for a service.
type Bulkhead struct {
	MaxInFlight int               `json:"max_in_flight"`
	MaxQueue    int               `json:"max_queue,omitempty"`
	QueueFor    quantity.Duration `json:"queue_for"`
}

// SetDefaults fills in what a document need not say.
func (b *Bulkhead) SetDefaults() { b.QueueFor = quantity.Duration(time.Second) }

func (b *Bulkhead) Validate(path string, v *check.Checker) {
	v.Between(path+".max_in_flight", b.MaxInFlight, 1, 1_000_000)
	v.Between(path+".max_queue", b.MaxQueue, 0, 1_000_000)
	v.Timeout(path+".queue_for", b.QueueFor)
}
