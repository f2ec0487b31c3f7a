// Package usageapi serves /usage and /admin/v1/usage: who uses what. It reads and
// bounds the questions; what is counted, and how it is added up, is not its business.
package usageapi

import (
	"context"
	"net/http"
	"time"

	"github.com/gin-gonic/gin"

	"github.com/keywarden/keywarden/pkg/access"
	"github.com/keywarden/keywarden/pkg/httpapi"
	"github.com/keywarden/keywarden/pkg/httpapi/figures"
	"github.com/keywarden/keywarden/pkg/usage"
)

// Reader adds usage up; the database is one.
type Reader interface {
	ReadUsage(ctx context.Context, q usage.Query) (usage.Report, error)
}

// Handler serves /usage: everybody's own. All fields are required.
type Handler struct {
	Usage Reader
	Owns  figures.Owns // is asked about keys and apps without requests
	Guard *httpapi.Guard
	Now   func() time.Time

	gate figures.Gate
}

// Admin serves /admin/v1/usage: that of everybody. All fields are required.
type Admin struct {
	Usage Reader
	Guard *httpapi.Guard
	Now   func() time.Time

	gate figures.Gate
}

// maxReads bounds how many questions are worked on at the same time on each of the
// two paths: one may keep the database busy for seconds. Others wait.
const maxReads = 2

// Mount adds the route.
func (h *Handler) Mount(r gin.IRouter) {
	h.gate = figures.NewGate(maxReads)
	r.GET("/usage", h.Guard.Authenticated(), httpapi.Handle(h.own))
}

// Mount adds the route.
func (h *Admin) Mount(r gin.IRouter) {
	h.gate = figures.NewGate(maxReads)
	r.GET("/admin/v1/usage", h.Guard.Require(access.ScopeConfigRead), httpapi.Handle(h.all))
}

// Totals are counts added up.
type Totals struct {
	Requests      int64 `json:"requests" example:"1200"`
	ClientErrors  int64 `json:"client_errors" example:"3"` // answered with 4xx
	ServerErrors  int64 `json:"server_errors" example:"0"` // answered with 5xx
	RequestBytes  int64 `json:"request_bytes"`             // of bodies, as far as they were read
	ResponseBytes int64 `json:"response_bytes"`            // of bodies, as far as they were sent

	// Half, 95 and 99 of 100 requests took at most this long, to within 3.2 %.
	P50 float64 `json:"p50_ms" example:"12.5"`
	P95 float64 `json:"p95_ms" example:"48"`
	P99 float64 `json:"p99_ms" example:"97"`
}

// Point is one interval of a series; those without requests are left out.
type Point struct {
	At time.Time `json:"at"` // its beginning
	Totals
}

// Group is what has the same values in the dimensions of by, which are those that
// are present. An empty user or key stands for callers that have none, "(other)" for
// those that were too many to be told apart, and an empty route for requests that no
// route matched.
type Group struct {
	Route  *string `json:"route,omitempty" example:"orders-api"`
	UserID *string `json:"user_id,omitempty"`
	KeyID  *string `json:"key_id,omitempty"`
	App    *string `json:"app,omitempty"`
	Status *string `json:"status,omitempty" enums:"2xx,3xx,4xx,5xx,1xx,none"`
	Totals
	Series []Point `json:"series,omitempty"` // with step, oldest first
}

// Usage is what was used from from until before to. Total is that of everything that
// was asked for, groups that are not shown included.
type Usage struct {
	From   time.Time `json:"from"`
	To     time.Time `json:"to"`
	Step   string    `json:"step,omitempty" enums:"minute,hour,day"`
	Total  Totals    `json:"total"`
	Series []Point   `json:"series,omitempty"` // of the total, with step
	Items  []Group   `json:"items"`            // most requests first
	More   bool      `json:"more"`             // there are groups that are not shown
}

// own shows what the caller uses.
//
//	@Summary		Own usage
//	@Description	What the caller has used of the gateway and of the platform's own API. An API key sees what it was used for itself, and with the scope usage:read everything of its user. Without from and to it is the last 24 hours.
//	@Tags			usage
//	@Produce		json
//	@Security		BearerAuth
//	@Security		ApiKeyAuth
//	@Param			from	query		string	false	"beginning, RFC 3339; rounded down to the step, or to the minute"
//	@Param			to		query		string	false	"end, RFC 3339; rounded up"
//	@Param			step	query		string	false	"also as a time series, by UTC"	Enums(minute, hour, day)
//	@Param			by		query		string	false	"comma-separated: route, key, app, status"
//	@Param			top		query		int		false	"groups that are shown"	minimum(1)	maximum(200)	default(20)
//	@Param			route	query		string	false	"only this route"
//	@Param			key_id	query		string	false	"only with this key; empty for calls without one"
//	@Param			app		query		string	false	"only of this app"
//	@Param			status	query		string	false	"only answers of this class"	Enums(1xx, 2xx, 3xx, 4xx, 5xx, none)
//	@Success		200		{object}	Usage
//	@Failure		400		{object}	problem.Document
//	@Failure		401		{object}	problem.Document
//	@Failure		403		{object}	problem.Document	"another key, without usage:read"
//	@Failure		404		{object}	problem.Document	"not a key or an app of the caller's"
//	@Failure		422		{object}	problem.Document	"too much to add up"
//	@Failure		503		{object}	problem.Document
//	@Router			/usage [get]
func (h *Handler) own(c *gin.Context) error {
	q, err := parse(c.Request.URL.RawQuery, h.Now(), usage.ByRoute, usage.ByKey, usage.ByApp, usage.ByStatus)
	if err != nil {
		return err
	}
	caller := httpapi.Principal(c)
	q.Filter[usage.ByUser] = caller.UserID
	if !h.Guard.Holds(caller, access.ScopeUsageRead) {
		if other, given := q.Filter[usage.ByKey]; caller.KeyID == "" || given && other != caller.KeyID {
			return access.Require(caller, access.ScopeUsageRead)
		}
		q.Filter[usage.ByKey] = caller.KeyID
	}
	report, err := figures.Read(c.Request.Context(), h.gate, h.Usage.ReadUsage, q)
	if err != nil {
		return err
	}
	if report.Total.Requests == 0 {
		if err := figures.Owned(c.Request.Context(), h.Owns, caller, q.Filter, usage.ErrNotFound); err != nil {
			return err
		}
	}
	c.JSON(http.StatusOK, show(q, report))
	return nil
}

// all shows who uses what.
//
//	@Summary		Usage of everybody
//	@Description	Who has used what of the gateway and of the platform's own API, whichever way they are known: with an API key or as a signed-in user. Without from and to it is the last 24 hours.
//	@Tags			admin
//	@Produce		json
//	@Security		BearerAuth
//	@Security		ApiKeyAuth
//	@Param			from	query		string	false	"beginning, RFC 3339; rounded down to the step, or to the minute"
//	@Param			to		query		string	false	"end, RFC 3339; rounded up"
//	@Param			step	query		string	false	"also as a time series, by UTC"	Enums(minute, hour, day)
//	@Param			by		query		string	false	"comma-separated: route, user, key, app, status"
//	@Param			top		query		int		false	"groups that are shown"	minimum(1)	maximum(200)	default(20)
//	@Param			route	query		string	false	"only this route"
//	@Param			user_id	query		string	false	"only of this user; empty for anonymous callers"
//	@Param			key_id	query		string	false	"only with this key; empty for calls without one"
//	@Param			app		query		string	false	"only of this app"
//	@Param			status	query		string	false	"only answers of this class"	Enums(1xx, 2xx, 3xx, 4xx, 5xx, none)
//	@Success		200		{object}	Usage
//	@Failure		400		{object}	problem.Document
//	@Failure		401		{object}	problem.Document
//	@Failure		403		{object}	problem.Document	"needs config:read"
//	@Failure		422		{object}	problem.Document	"too much to add up"
//	@Failure		503		{object}	problem.Document
//	@Router			/admin/v1/usage [get]
func (h *Admin) all(c *gin.Context) error {
	q, err := parse(c.Request.URL.RawQuery, h.Now(), usage.Dimensions()...)
	if err != nil {
		return err
	}
	report, err := figures.Read(c.Request.Context(), h.gate, h.Usage.ReadUsage, q)
	if err != nil {
		return err
	}
	c.JSON(http.StatusOK, show(q, report))
	return nil
}

func show(q usage.Query, r usage.Report) Usage {
	u := Usage{
		From: q.From, To: q.To, Step: string(q.Step), Total: showTotals(r.Total), Series: showSeries(r.Series),
		Items: make([]Group, 0, len(r.Groups)), More: r.More,
	}
	for _, g := range r.Groups {
		shown := Group{Totals: showTotals(g.Totals), Series: showSeries(g.Series)}
		for d, value := range g.Values {
			switch d {
			case usage.ByRoute:
				shown.Route = &value
			case usage.ByUser:
				shown.UserID = &value
			case usage.ByKey:
				shown.KeyID = &value
			case usage.ByApp:
				shown.App = &value
			case usage.ByStatus:
				name := className(value)
				shown.Status = &name
			}
		}
		u.Items = append(u.Items, shown)
	}
	return u
}

func showTotals(t usage.Totals) Totals {
	ms := func(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
	return Totals{
		Requests: t.Requests, ClientErrors: t.ClientErrors, ServerErrors: t.ServerErrors,
		RequestBytes: t.RequestBytes, ResponseBytes: t.ResponseBytes, P50: ms(t.P50), P95: ms(t.P95), P99: ms(t.P99),
	}
}

func showSeries(points []usage.Point) []Point {
	var shown []Point
	for _, p := range points {
		shown = append(shown, Point{At: p.At, Totals: showTotals(p.Totals)})
	}
	return shown
}
