package posture

import (
	"slices"
	"time"
)

// Query selects findings for a report.
type Query struct {
	Severity Severity // only as bad as this or worse; empty for all
	Suppress []string // ids of findings that are known and left out
	Limit    int      // findings in the report; they are counted beyond it
}

// Report is what was found.
type Report struct {
	At         time.Time
	Findings   []Finding        // worst first
	Counts     map[Severity]int // of every severity, without what is suppressed
	Suppressed int
	Truncated  bool // there are more findings than these, or more keys than were looked at
}

// Make finds and selects.
func Make(f Facts, q Query, now time.Time) Report {
	r := Report{At: now.UTC(), Findings: []Finding{}, Counts: map[Severity]int{}, Truncated: f.Partial}
	for _, s := range Severities() {
		r.Counts[s] = 0
	}
	for _, found := range Find(f, now) {
		if slices.Contains(q.Suppress, found.ID) {
			r.Suppressed++
			continue
		}
		r.Counts[found.Severity]++
		switch {
		case q.Severity != "" && !found.Severity.AtLeast(q.Severity):
		case len(r.Findings) >= q.Limit:
			r.Truncated = true
		default:
			r.Findings = append(r.Findings, found)
		}
	}
	return r
}
