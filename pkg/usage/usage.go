// Package usage counts who uses what: requests, bytes and latency by route, API,
// product, user, key, app, class of status and reason of refusal, minute by minute.
//
// It owns the counting in memory, what of it is handed to a [Store] and when, and
// the questions that can be asked of what is stored. It limits nothing and bills
// nothing: that is for quotas, which are exact where this is not (see [Meter]).
package usage

import (
	"context"
	"net/netip"
	"time"

	"github.com/keywarden/keywarden/pkg/problem"
)

// Errors of this package.
var (
	// ErrTooMuch says that an answer would take longer than the database is given.
	ErrTooMuch = problem.Define(problem.Unprocessable, "usage.too_much",
		"Adding this usage up takes too long: ask for a shorter time, or for one user, key or route.")

	// ErrNotFound says that a key or an app is not the caller's, or that there is none.
	ErrNotFound = problem.Define(problem.NotFound, "usage.not_found", "You have no key or app of this name.")
)

// Event is a request that has ended.
type Event struct {
	At       time.Time // when it has
	UserID   string    // empty for an anonymous caller
	KeyID    string    // empty where no API key was used
	App      string    // empty where the key belongs to none
	Route    string    // name or template, never a raw path; empty where none matched
	API      string    // that the route belongs to; empty where it belongs to none
	Product  string    // by whose subscription the request was let in; empty where there is none
	Status   int       // of the answer; 0 when there was none
	Duration time.Duration

	// Refusal is the code of the problem that was answered in place of what was asked
	// for, such as auth.missing; empty for what was let through. It must be one of a
	// set that callers cannot add to.
	Refusal string
	// Client is the caller's address. Of a refused caller without user and key its
	// network is kept, /24 or /56, and of others nothing.
	Client netip.Addr

	RequestBytes  int64 // of the body, as far as it was read
	ResponseBytes int64 // of the body, as far as it was sent
}

// Class is the first digit of a status; 0 for a request without an answer.
type Class uint8

// classOf is the class of a status.
func classOf(status int) Class {
	if status < 100 || status > 599 {
		return 0
	}
	return Class(status / 100)
}

// Folded stands for the user, key and app of requests that were counted by route
// alone, and for the network of those whose networks were not told apart, since there
// were too many different ones at the time.
const Folded = "(other)"

// Cell is what was counted so far for one combination in one minute. Counts only
// grow: a later state of a cell takes the place of an earlier one and is never
// added to it. That is why nothing counts twice, whatever is sent again.
type Cell struct {
	Number int64     // unique among the cells of a replica
	Minute time.Time // its beginning

	Route, UserID, KeyID, App string
	API, Product, Refusal     string
	Client                    string // network of refused callers that are anonymous, in CIDR notation; empty for others
	Class                     Class

	Requests, RequestBytes, ResponseBytes int64

	Latency Histogram
}

// Flush is a batch of cells. Replica and Number are its id: the numbers of a
// replica grow, and a store takes no cell of a flush over that of a later one.
type Flush struct {
	Replica string // a UUID, new for each process
	Number  int64
	Cells   []Cell
}

// Store keeps cells and adds them up.
type Store interface {
	// WriteUsage keeps each cell unless it was written by this flush or by a later one
	// already. It may fail after having written some or all of them.
	WriteUsage(ctx context.Context, f Flush) error
}

// MinutesKept is how long usage is known by the minute; of what is older a store may
// keep the hours alone.
const MinutesKept = 12 * time.Hour

// maxLate is how old the minute of a cell may be that the store is still given. It
// leaves the store in no doubt about whether a minute can change.
const maxLate = 8 * time.Hour

// Dimension is something that usage can be told apart by.
type Dimension string

// The dimensions.
const (
	ByRoute  Dimension = "route"
	ByUser   Dimension = "user"
	ByKey    Dimension = "key"
	ByApp    Dimension = "app"
	ByStatus Dimension = "status"
)

// Dimensions are all of them.
func Dimensions() []Dimension { return []Dimension{ByRoute, ByUser, ByKey, ByApp, ByStatus} }

// Step is the length of the intervals of a time series.
type Step string

// The steps. Hours and days are those of UTC.
const (
	Whole  Step = "" // one interval, from the beginning to the end
	Minute Step = "minute"
	Hour   Step = "hour"
	Day    Step = "day"
)

// Duration is the length of an interval; a minute for [Whole], whose bounds are
// whole minutes.
func (s Step) Duration() time.Duration {
	switch s {
	case Hour:
		return time.Hour
	case Day:
		return 24 * time.Hour
	default:
		return time.Minute
	}
}

// Bounds of a [Query].
const (
	MaxTop    = 200
	MaxPoints = 1500   // of a series
	MaxValues = 20_000 // of all series
)

// Query asks for usage from From until before To, which are on bounds of Step.
type Query struct {
	From, To time.Time
	Step     Step
	By       []Dimension          // none for the sum of everything
	Filter   map[Dimension]string // only what has these values; of [ByStatus] a digit
	Top      int                  // the groups with most requests, from 1 to [MaxTop]
}

// Points is how many intervals a series of q has.
func (q Query) Points() int {
	if q.Step == Whole {
		return 0
	}
	return int((q.To.Sub(q.From) + q.Step.Duration() - 1) / q.Step.Duration())
}

// Totals are counts added up.
type Totals struct {
	Requests, ClientErrors, ServerErrors int64
	RequestBytes, ResponseBytes          int64

	P50, P95, P99 time.Duration // within [RelativeError]; 0 without requests
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
	Groups []Group // most requests first
	More   bool    // there are groups beyond
	Series []Point // of the total; nil unless a step was asked for
}
