package policies

import (
	"strconv"
	"strings"
	"time"

	"github.com/keywarden/keywarden/pkg/ratelimit"
	"github.com/keywarden/keywarden/pkg/spec/check"
)

// RateLimits bound how many requests somebody may make in a short time. A request
// has to keep all of them; one that is refused counts for none.
type RateLimits struct {
	Gate
	Limits []RateLimit `json:"limits"`
}

// RateLimit is one limit.
type RateLimit struct {
	// Name tells the limit from others in the fields of the answer.
	Name string `json:"name"`

	Subject

	Rate Rate `json:"rate"`

	// Burst is how many units can be had at once; absent, as many as the rate has in
	// its window. One that is smoothed has none.
	Burst int `json:"burst,omitempty"`

	Algorithm string `json:"algorithm" enum:"gcra,sliding_window"`

	// Shared is one counter for all routes that have this limit, with the same name and
	// rate; without it each route has its own.
	Shared bool `json:"shared,omitempty"`

	Cost
}

// How a limit counts.
const (
	AlgorithmGCRA          = "gcra"
	AlgorithmSlidingWindow = "sliding_window"
)

// Rate is so many units in a window, written 100/1m; or smoothed, as 30pm is one
// unit each two seconds.
type Rate struct {
	Quota    int64
	Window   time.Duration
	Smoothed bool
}

// UnmarshalText reads both forms.
func (r *Rate) UnmarshalText(text []byte) error {
	const bad = check.ErrText("must be a rate such as 100/1m (units and window), or smoothed as 30pm, 10ps or 1000ph")
	number, window, ok := strings.Cut(string(text), "/")
	if !ok {
		l, err := ratelimit.ParseSpike(string(text))
		if err != nil {
			return bad
		}
		*r = Rate{Quota: l.Quota, Window: l.Window, Smoothed: true}
		return nil
	}
	quota, err1 := strconv.ParseInt(number, 10, 64)
	span, err2 := time.ParseDuration(window)
	if err1 != nil || err2 != nil || quota < 1 || strings.HasPrefix(number, "+") {
		return bad
	}
	*r = Rate{Quota: quota, Window: span}
	return nil
}

// MarshalText is a form that UnmarshalText reads.
func (r Rate) MarshalText() ([]byte, error) {
	if r.Smoothed {
		unit := map[time.Duration]string{time.Second: "ps", time.Minute: "pm", time.Hour: "ph"}[r.Window]
		return []byte(strconv.FormatInt(r.Quota, 10) + unit), nil
	}
	return []byte(strconv.FormatInt(r.Quota, 10) + "/" + r.Window.String()), nil
}

// Short names the field that a bare value stands for.
func (*RateLimits) Short() string { return "limits" }

// SetDefaults fills in what a document need not say.
func (l *RateLimit) SetDefaults() { l.Algorithm = AlgorithmGCRA }

func (l *RateLimits) Validate(path string, v *check.Checker) {
	limits(path+".limits", l.Limits, v)
}

func (l *RateLimit) name() string { return l.Name }

// Arithmetic is the limit as it is counted.
func (l *RateLimit) Arithmetic() ratelimit.Limit {
	a := ratelimit.Limit{Quota: l.Rate.Quota, Window: l.Rate.Window, Burst: l.Rate.Quota}
	switch {
	case l.Algorithm == AlgorithmSlidingWindow:
		a.Algorithm, a.Burst = ratelimit.SlidingWindow, 0
	case l.Rate.Smoothed:
		a.Burst = 1
	case l.Burst > 0:
		a.Burst = int64(l.Burst)
	}
	return a
}

func (l *RateLimit) Validate(path string, v *check.Checker) {
	v.Name(path, l.Name)
	l.Subject.Validate(path, v)
	v.OneOf(path+".algorithm", l.Algorithm, AlgorithmGCRA, AlgorithmSlidingWindow)
	switch {
	case l.Rate == Rate{}:
		v.Required(path + ".rate")
	case l.Burst < 0:
		v.Fail(path+".burst", "must be above 0")
	case l.Burst > 0 && (l.Rate.Smoothed || l.Algorithm == AlgorithmSlidingWindow):
		v.Fail(path+".burst", "means nothing for a smoothed rate or a sliding window; remove it")
	default:
		if err := l.Arithmetic().Validate(); err != nil {
			v.Fail(path+".rate", "%s", err.Error())
		}
	}
	l.Cost.Validate(path, v)
}
