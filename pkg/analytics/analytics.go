// Package analytics answers what has become of requests over hours, days and months:
// how many there were, how many failed or were refused and why, how long they took and
// who made them.
//
// It owns the questions, how a time is put together from sums of hours, days and
// months, and the work that makes these sums. It counts nothing itself: that is for
// package usage, from whose minutes the sums are made. Where sums are kept, and how
// they are added up, is for a store.
package analytics

import (
	"time"

	"github.com/keywarden/keywarden/pkg/problem"
	"github.com/keywarden/keywarden/pkg/usage"
)

var (
	// ErrTooMuch says that an answer would take longer than the database is given.
	ErrTooMuch = problem.Define(problem.Unprocessable, "analytics.too_much",
		"Adding this up takes too long: ask for a shorter time, for fewer dimensions, or for one user, key, app or route.")

	// ErrNotFound says that a key or an app is not the caller's, or that there is none.
	ErrNotFound = problem.Define(problem.NotFound, "analytics.not_found", "You have no key or app of this name.")
)

// Dimension is something that requests can be told apart by.
type Dimension string

// The dimensions.
const (
	ByAPI     Dimension = "api"
	ByProduct Dimension = "product"
	ByApp     Dimension = "app"
	ByUser    Dimension = "user"
	ByKey     Dimension = "key"
	ByRoute   Dimension = "route"
	ByRefusal Dimension = "refusal" // code of the problem that was answered; empty where none was
	ByClient  Dimension = "client"  // network of refused callers whom nothing else is known of; empty for others
)

// Dimensions are all of them.
func Dimensions() []Dimension {
	return []Dimension{ByAPI, ByProduct, ByApp, ByUser, ByKey, ByRoute, ByRefusal, ByClient}
}

// Folded stands for values that were too many to be told apart.
const Folded = usage.Folded

// Measure is what groups are ordered by, most first.
type Measure string

// The measures.
const (
	Requests Measure = "requests"
	Errors   Measure = "errors" // answers of 4xx and 5xx
	Bytes    Measure = "bytes"  // of bodies, in both directions
)

// Measures are all of them.
func Measures() []Measure { return []Measure{Requests, Errors, Bytes} }

// Bounds of a [Query].
const (
	MaxTop    = 200
	MaxPoints = 1500   // of a series
	MaxValues = 20_000 // of all series
)

// Query asks for figures from From until before To, which are beginnings of Step, or
// of an hour at least.
type Query struct {
	From, To time.Time
	Step     Step
	By       []Dimension          // none for the sum of everything
	Filter   map[Dimension]string // only what has these values
	Named    []Dimension          // only what has any value in these
	Top      int                  // the first groups in the order of Sort, from 1 to [MaxTop]
	Sort     Measure
}

// Points is how many intervals a series of q has.
func (q Query) Points() (n int) {
	if q.Step == Whole {
		return 0
	}
	for at := q.From; at.Before(q.To) && n <= MaxPoints; at = q.Step.Next(at) {
		n++
	}
	return n
}

// Totals are counts added up.
type Totals struct {
	usage.Totals
	Refused int64 // requests that were answered with a problem of the platform's own
}

// Point is one interval of a series. Those without requests are left out.
type Point struct {
	At time.Time // its beginning
	Totals
}

// Group is what has the same values in the dimensions that were asked for.
type Group struct {
	Values map[Dimension]string
	Totals
	Series []Point // oldest first; nil unless a step was asked for
}

// Report is the answer to a [Query].
type Report struct {
	Total  Totals  // of everything that passed the filter, in and beyond the groups
	Groups []Group // most of the measure first
	More   bool    // there are groups beyond
	Series []Point // of the total; nil unless a step was asked for
}
