package alert

import (
	"time"
)

// State is where a rule or an alert is.
type State string

// The states of rules; alerts are Firing or Resolved.
const (
	OK       State = "ok"
	Pending  State = "pending" // bad, but not for long enough
	Firing   State = "firing"
	Resolved State = "resolved"
	NoData   State = "no_data" // there is no figure, and it did not fire before
)

// Reading is the answer to a rule's question.
type Reading struct {
	Known   bool    `json:"known"`
	Value   float64 `json:"value"`
	Volume  int64   `json:"volume,omitempty"`  // requests that it is about
	Subject string  `json:"subject,omitempty"` // what the value belongs to, if not everything
	Why     string  `json:"why,omitempty"`     // there is no figure
}

// unknown is a reading without a figure.
func unknown(why string) Reading { return Reading{Why: why} }

// staleAfter is how long an alert fires without a figure before that is over: what it
// was about does not come back.
const staleAfter = 24 * time.Hour

// Transition is what an evaluation leads to.
type Transition uint8

// The transitions.
const (
	None     Transition = iota
	Fires               // an alert begins
	Resolves            // it is over
)

// Next is the state machine of a rule: the status after a reading at a time, and what
// follows from it. A figure beyond the threshold makes the rule pending, and firing
// once that has lasted for r.For. It ends when the figure has been on the good side of
// the resolve threshold for r.ResolveAfter. Without a figure nothing begins; what fires
// goes on for staleAfter.
func (s Status) Next(r Spec, m Reading, at time.Time) (Status, Transition) {
	s.EvaluatedAt, s.Reading = at, m
	switch {
	case m.Known:
		s.UnknownSince = time.Time{}
	case s.UnknownSince.IsZero():
		s.UnknownSince = at
	}
	if s.State == Firing {
		return s.whileFiring(r, m, at)
	}
	switch {
	case !m.Known:
		return s.enter(NoData, at), None
	case !r.bad(m.Value):
		return s.enter(OK, at), None
	}
	if s.State != Pending {
		s = s.enter(Pending, at)
	}
	if at.Sub(s.Since) < r.For {
		return s, None
	}
	return s.enter(Firing, at), Fires
}

func (s Status) whileFiring(r Spec, m Reading, at time.Time) (Status, Transition) {
	switch {
	case !m.Known:
		// How long it was good before says nothing of now.
		s.ClearSince = time.Time{}
		if at.Sub(s.UnknownSince) >= staleAfter {
			return s.enter(NoData, at), Resolves
		}
		return s, None
	case !r.good(m.Value):
		s.ClearSince = time.Time{}
		return s, None
	}
	if s.ClearSince.IsZero() {
		s.ClearSince = at
	}
	if at.Sub(s.ClearSince) < r.ResolveAfter {
		return s, None
	}
	return s.enter(OK, at), Resolves
}

// enter is s in another state, if it is another one.
func (s Status) enter(to State, at time.Time) Status {
	if s.State != to {
		s.State, s.Since, s.ClearSince = to, at, time.Time{}
	}
	return s
}
