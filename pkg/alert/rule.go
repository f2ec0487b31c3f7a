package alert

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/google/uuid"

	"github.com/keywarden/keywarden/pkg/nearest"
	"github.com/keywarden/keywarden/pkg/problem"
	"github.com/keywarden/keywarden/pkg/usage"
)

// Signal is a kind of figure.
type Signal string

// The signals.
const (
	ClientErrorRate   Signal = "client_error_rate"  // answers of 4xx, percent of requests
	ServerErrorRate   Signal = "server_error_rate"  // answers of 5xx, percent of requests
	Latency           Signal = "latency"            // a percentile, milliseconds
	TrafficDrop       Signal = "traffic_drop"       // requests fewer than in the window to compare with, percent of those
	RefusalRate       Signal = "refusal_rate"       // refused requests, percent of all
	RefusalRise       Signal = "refusal_rise"       // refused requests, times as many as in the window to compare with
	QuotaReached      Signal = "quota_reached"      // accounts of which all was used in the window
	CanaryUsed        Signal = "canary_used"        // uses of canary keys in the window
	TargetsDown       Signal = "targets_down"       // targets of services that are not available
	CertificateExpiry Signal = "certificate_expiry" // days until the first certificate expires
	KeyExpiry         Signal = "key_expiry"         // days until the first API key expires
)

// Signals are all of them.
func Signals() []Signal {
	return []Signal{
		ClientErrorRate, ServerErrorRate, Latency, TrafficDrop, RefusalRate, RefusalRise,
		QuotaReached, CanaryUsed, TargetsDown, CertificateExpiry, KeyExpiry,
	}
}

// Unit is what values of the signal are in.
func (s Signal) Unit() string {
	switch s {
	case ClientErrorRate, ServerErrorRate, TrafficDrop, RefusalRate:
		return "%"
	case Latency:
		return "ms"
	case RefusalRise:
		return "times"
	case CertificateExpiry, KeyExpiry:
		return "days"
	default:
		return ""
	}
}

// Never is the number of days until something that does not happen.
const Never = 36_500

// Counts reports whether the signal is about the traffic of a window, which has a
// volume and can be filtered.
func (s Signal) Counts() bool {
	switch s {
	case ClientErrorRate, ServerErrorRate, Latency, TrafficDrop, RefusalRate, RefusalRise:
		return true
	default:
		return false
	}
}

// Compares reports whether the signal compares the window with an earlier one.
func (s Signal) Compares() bool { return s == TrafficDrop || s == RefusalRise }

// Moment reports whether the signal is about a moment, and has no window.
func (s Signal) Moment() bool {
	return s == TargetsDown || s == CertificateExpiry || s == KeyExpiry
}

// Low reports whether small values are bad ones.
func (s Signal) Low() bool { return s == CertificateExpiry || s == KeyExpiry }

// Bounds of the times of a rule.
const (
	MinWindow  = time.Minute
	MaxWindow  = 6 * time.Hour // of which usage is known by the minute
	MaxCompare = 7 * 24 * time.Hour
	MaxFor     = 24 * time.Hour
)

// Spec is what an operator says of a rule.
type Spec struct {
	Name    string `json:"name"`
	Summary string `json:"summary,omitempty"` // is part of notifications
	Enabled bool   `json:"enabled"`

	Signal     Signal            `json:"signal"`
	Filter     map[string]string `json:"filter,omitempty"`     // dimensions of usage and the values to count; of signals that count
	Percentile int               `json:"percentile,omitempty"` // of Latency: 50, 95 or 99
	Window     time.Duration     `json:"window,omitempty"`     // whole minutes
	CompareTo  time.Duration     `json:"compare_to,omitempty"` // how long before the window that one begins that it is compared with

	// Threshold is the value from which on a figure is bad, and ResolveThreshold the
	// value on the good side of which it is good again. Between the two nothing changes.
	Threshold        float64 `json:"threshold"`
	ResolveThreshold float64 `json:"resolve_threshold"`

	For          time.Duration `json:"for,omitempty"`           // how long it is bad before the rule fires
	ResolveAfter time.Duration `json:"resolve_after,omitempty"` // how long it is good before that is over
	MinRequests  int64         `json:"min_requests,omitempty"`  // with fewer there is no figure

	Severity Severity `json:"severity"`
	Channels []string `json:"channels"` // ids
}

// Rule is a Spec that is kept.
type Rule struct {
	ID      string
	Version int64 // 1, and one more with every change
	Spec
	CreatedAt, UpdatedAt time.Time
	Status               Status
}

// bad reports whether v is beyond the threshold.
func (r Spec) bad(v float64) bool {
	if r.Signal.Low() {
		return v <= r.Threshold
	}
	return v >= r.Threshold
}

// good reports whether v ends what is bad.
func (r Spec) good(v float64) bool {
	if r.Signal.Low() {
		return v > r.ResolveThreshold
	}
	return v < r.ResolveThreshold
}

// Defaults of a rule.
const (
	defaultWindow     = 5 * time.Minute
	defaultPercentile = 95
	defaultMinimum    = 20
)

// Complete returns s with its defaults. Threshold and ResolveThreshold have none that
// could be told from 0: the caller sets the second to the first where it is not given.
func (s Spec) Complete() Spec {
	if s.Severity == "" {
		s.Severity = Warning
	}
	if s.Window == 0 && !s.Signal.Moment() {
		s.Window = defaultWindow
	}
	if s.Percentile == 0 && s.Signal == Latency {
		s.Percentile = defaultPercentile
	}
	if s.CompareTo == 0 && s.Signal.Compares() {
		s.CompareTo = s.Window
	}
	if s.MinRequests == 0 && s.Signal.Counts() {
		s.MinRequests = defaultMinimum
	}
	if s.Channels == nil {
		s.Channels = []string{}
	}
	return s
}

// mistakes collects what is wrong with input.
type mistakes []problem.Field

func (m *mistakes) add(wrong bool, field, format string, args ...any) {
	if wrong {
		*m = append(*m, problem.Field{Field: field, Detail: fmt.Sprintf(format, args...)})
	}
}

func (m mistakes) err() error {
	if len(m) == 0 {
		return nil
	}
	return problem.ErrInvalid.WithFields(m)
}

// Validate returns a problem that names every field that is wrong in a completed s.
func (s Spec) Validate() error {
	var m mistakes
	m.text("name", s.Name, 1, MaxName)
	m.text("summary", s.Summary, 0, MaxText)
	if !slices.Contains(Signals(), s.Signal) {
		m.add(true, "signal", "is not a signal%s; must be one of %s", question(s.Signal, Signals()), joined(Signals()))
		return m.err() // what else is right depends on it
	}
	m.add(!slices.Contains(Severities(), s.Severity), "severity", "must be one of %s", joined(Severities()))
	s.validateFilter(&m)
	m.add(s.Signal == Latency && s.Percentile != 50 && s.Percentile != 95 && s.Percentile != 99, "percentile", "must be 50, 95 or 99")
	m.add(s.Signal != Latency && s.Percentile != 0, "percentile", "belongs to the signal latency")
	m.add(s.MinRequests < 0 || s.MinRequests > 1<<40, "min_requests", "must not be negative")
	m.add(s.MinRequests != 0 && !s.Signal.Counts(), "min_requests", "belongs to signals about requests")
	s.validateTimes(&m)
	s.validateThresholds(&m)
	m.add(len(s.Channels) > MaxPerRule, "channels", "must not be more than %d", MaxPerRule)
	for i, id := range s.Channels {
		m.add(!isID(id), fmt.Sprintf("channels[%d]", i), "must be the id of a channel")
		m.add(slices.Contains(s.Channels[:i], id), fmt.Sprintf("channels[%d]", i), "is given twice")
	}
	return m.err()
}

func (s Spec) validateFilter(m *mistakes) {
	m.add(len(s.Filter) > 0 && !s.Signal.Counts(), "filter", "belongs to signals about requests")
	var known []string
	for _, d := range usage.Dimensions() {
		if d != usage.ByStatus { // the signals are about that
			known = append(known, string(d))
		}
	}
	for name, value := range s.Filter {
		m.add(!slices.Contains(known, name), "filter."+clip(name), "is not one of %s%s", strings.Join(known, ", "), nearest.Question(name, known))
		m.text("filter."+clip(name), value, 0, 256)
	}
}

func (s Spec) validateTimes(m *mistakes) {
	minutes := func(d time.Duration) bool { return d%time.Minute == 0 }
	if s.Signal.Moment() {
		m.add(s.Window != 0, "window", "does not belong to the signal %s, which is about the present", s.Signal)
	} else {
		m.add(s.Window < MinWindow || s.Window > MaxWindow || !minutes(s.Window), "window", "must be whole minutes, from 1m to %v", short(MaxWindow))
	}
	if s.Signal.Compares() {
		m.add(s.CompareTo < s.Window || s.CompareTo > MaxCompare || !minutes(s.CompareTo), "compare_to",
			"must be whole minutes, from the window to %v", short(MaxCompare))
	} else {
		m.add(s.CompareTo != 0, "compare_to", "belongs to the signals %s and %s", TrafficDrop, RefusalRise)
	}
	m.add(s.For < 0 || s.For > MaxFor, "for", "must be from 0s to %v", short(MaxFor))
	m.add(s.ResolveAfter < 0 || s.ResolveAfter > MaxFor, "resolve_after", "must be from 0s to %v", short(MaxFor))
}

func (s Spec) validateThresholds(m *mistakes) {
	most := 1e9
	if s.Signal.Unit() == "%" {
		most = 100
	}
	outside := func(v float64) bool { return math.IsNaN(v) || v <= 0 || v > most }
	m.add(outside(s.Threshold), "threshold", "must be more than 0 and at most %v, in %s", most, unitWord(s.Signal))
	m.add(outside(s.ResolveThreshold), "resolve_threshold", "must be more than 0 and at most %v", most)
	if s.Signal.Low() {
		m.add(s.ResolveThreshold < s.Threshold, "resolve_threshold", "must not be less than the threshold: small values of %s are bad", s.Signal)
	} else {
		m.add(s.ResolveThreshold > s.Threshold, "resolve_threshold", "must not be more than the threshold")
	}
}

func unitWord(s Signal) string {
	if u := s.Unit(); u != "" {
		return u
	}
	return "numbers"
}

// short is a duration without the units that are 0.
func short(d time.Duration) string {
	text := d.String()
	text = strings.TrimSuffix(text, "0s")
	if h, ok := strings.CutSuffix(text, "h0m"); ok {
		return h + "h"
	}
	return text
}

// text notes what is not plain text of so many characters on one line.
func (m *mistakes) text(field, value string, least, most int) {
	n := utf8.RuneCountInString(value)
	m.add(n < least || n > most, field, "must have from %d to %d characters", least, most)
	m.add(!utf8.ValidString(value) || strings.ContainsFunc(value, unprintable), field, "must be one line of text without control characters")
}

// unprintable reports whether a character can make a line look like something else:
// control characters, line breaks, and what changes the direction of text.
func unprintable(r rune) bool { return !unicode.IsPrint(r) }

func clip(name string) string {
	const longest = 64
	if len(name) > longest {
		return strings.ToValidUTF8(name[:longest], "") + "…"
	}
	return name
}

func isID(id string) bool {
	u, err := uuid.Parse(id)
	return err == nil && u.String() == id
}

func joined[S ~string](words []S) string {
	list := make([]string, len(words))
	for i, w := range words {
		list[i] = string(w)
	}
	return strings.Join(list, ", ")
}

func question[S ~string](word S, known []S) string {
	list := make([]string, len(known))
	for i, k := range known {
		list[i] = string(k)
	}
	return nearest.Question(clip(string(word)), list)
}
