package spec

import (
	"strconv"
	"strings"
	"time"

	"github.com/keywarden/keywarden/pkg/expression"
	"github.com/keywarden/keywarden/pkg/ratelimit"
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

	// By says whom a request counts for: address, user, key, route, service, header or
	// expression. One that has no user, key, header or text counts for nobody.
	By         string `json:"by" enum:"address,user,key,route,service,header,expression"`
	Header     string `json:"header,omitempty"`     // for by header
	Expression string `json:"expression,omitempty"` // for by expression: CEL with a text as its result

	Rate Rate `json:"rate"`

	// Burst is how many units can be had at once; absent, as many as the rate has in
	// its window. One that is smoothed has none.
	Burst int `json:"burst,omitempty"`

	Algorithm string `json:"algorithm" enum:"gcra,sliding_window"`

	// Cost is how many units a request takes; or CostHeader names the field of the
	// request that says so, or CostExpression is CEL with a whole number as its result.
	Cost           int    `json:"cost,omitempty"`
	CostHeader     string `json:"cost_header,omitempty"`
	CostExpression string `json:"cost_expression,omitempty"`
}

// What a limit can go by, and how it counts.
const (
	ByAddress    = "address"
	ByUser       = "user"
	ByKey        = "key"
	ByRoute      = "route"
	ByService    = "service"
	ByHeader     = "header"
	ByExpression = "expression"

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
	const bad = errText("must be a rate such as 100/1m (units and window), or smoothed as 30pm, 10ps or 1000ph")
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

// maxLimits bounds the limits of a route.
const maxLimits = 8

func (l *RateLimits) validate(path string, v *validator) {
	path += ".limits"
	if len(l.Limits) == 0 {
		v.fail(path, "must name at least one limit")
	}
	if len(l.Limits) > maxLimits {
		v.fail(path, "must not name more than %d limits", maxLimits)
		return
	}
	names := make(firsts, len(l.Limits))
	for i := range l.Limits {
		l.Limits[i].validate(index(path, i), v)
		names.unique(v, index(path, i)+".name", l.Limits[i].Name)
	}
}

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

func (l *RateLimit) validate(path string, v *validator) {
	v.name(path, l.Name)
	if v.oneOf(path+".by", l.By, ByAddress, ByUser, ByKey, ByRoute, ByService, ByHeader, ByExpression) {
		l.validateBy(path, v)
	}
	v.oneOf(path+".algorithm", l.Algorithm, AlgorithmGCRA, AlgorithmSlidingWindow)
	switch {
	case l.Rate == Rate{}:
		v.required(path + ".rate")
	case l.Burst < 0:
		v.fail(path+".burst", "must be above 0")
	case l.Burst > 0 && (l.Rate.Smoothed || l.Algorithm == AlgorithmSlidingWindow):
		v.fail(path+".burst", "means nothing for a smoothed rate or a sliding window; remove it")
	default:
		if err := l.Arithmetic().Validate(); err != nil {
			v.fail(path+".rate", "%s", err.Error())
		}
	}
	costs := 0
	for _, given := range []bool{l.Cost != 0, l.CostHeader != "", l.CostExpression != ""} {
		if given {
			costs++
		}
	}
	switch {
	case costs > 1:
		v.fail(path, "must have one of cost, cost_header and cost_expression")
	case l.Cost < 0:
		v.fail(path+".cost", "must be above 0")
	case l.CostHeader != "" && !isToken(l.CostHeader):
		v.fail(path+".cost_header", "must be the name of a header field")
	case l.CostExpression != "":
		v.compiles(path+".cost_expression", l.CostExpression, expression.Int)
	}
}

func (l *RateLimit) validateBy(path string, v *validator) {
	switch {
	case l.By == ByHeader && l.Header == "":
		v.required(path + ".header")
	case l.By != ByHeader && l.Header != "":
		v.fail(path+".header", "belongs to by: header")
	case l.By == ByHeader && !isToken(l.Header):
		v.fail(path+".header", "must be the name of a header field")
	}
	switch {
	case l.By == ByExpression && l.Expression == "":
		v.required(path + ".expression")
	case l.By != ByExpression && l.Expression != "":
		v.fail(path+".expression", "belongs to by: expression")
	case l.By == ByExpression:
		v.compiles(path+".expression", l.Expression, expression.String)
	}
}

// compiles checks an expression with another result than a condition's.
func (v *validator) compiles(path, text string, want expression.Type) {
	if _, err := expression.Compile(text, want); err != nil {
		v.fail(path, "is not an expression for a %s: %s", want, err.Error())
	}
}
