// Package analyticsapi serves /analytics and /admin/v1/analytics: what has become of
// requests, as JSON and as CSV. It reads and bounds the questions; how figures are made
// and added up is not its business.
package analyticsapi

import (
	"context"
	"net/http"
	"slices"
	"time"

	"github.com/gin-gonic/gin"

	"github.com/keywarden/keywarden/pkg/access"
	"github.com/keywarden/keywarden/pkg/analytics"
	"github.com/keywarden/keywarden/pkg/httpapi"
	"github.com/keywarden/keywarden/pkg/httpapi/figures"
)

// Reader adds figures up; the database is one.
type Reader interface {
	ReadAnalytics(ctx context.Context, q analytics.Query) (analytics.Report, error)
}

// Handler serves /analytics: everybody's own. All fields are required.
type Handler struct {
	Analytics Reader
	Owns      figures.Owns // is asked about keys and apps without requests
	Retention analytics.Retention
	Guard     *httpapi.Guard
	Now       func() time.Time

	gate figures.Gate
}

// Admin serves /admin/v1/analytics and what is below: that of everybody. All fields are
// required.
type Admin struct {
	Analytics Reader
	Retention analytics.Retention
	Guard     *httpapi.Guard
	Now       func() time.Time

	gate figures.Gate
}

// maxReads bounds how many questions are worked on at the same time on each of the
// two paths. Others wait.
const maxReads = 4

// Mount adds the route.
func (h *Handler) Mount(r gin.IRouter) {
	h.gate = figures.NewGate(maxReads)
	r.GET("/analytics", h.Guard.Authenticated(), httpapi.Handle(h.own))
}

// Mount adds the routes.
func (h *Admin) Mount(r gin.IRouter) {
	h.gate = figures.NewGate(maxReads)
	may := h.Guard.Require(access.ScopeConfigRead)
	r.GET("/admin/v1/analytics", may, httpapi.Handle(h.all))
	r.GET("/admin/v1/analytics/refusals", may, httpapi.Handle(h.refusals))
}

// Totals are counts added up.
type Totals struct {
	Requests      int64 `json:"requests" example:"1200"`
	Refused       int64 `json:"refused" example:"2"`       // answered with a problem of the platform's own
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
// are present. An empty value stands for requests that have none, and "(other)" for
// those that were too many to be told apart.
type Group struct {
	API     *string `json:"api,omitempty"`
	Product *string `json:"product,omitempty"`
	App     *string `json:"app,omitempty"`
	UserID  *string `json:"user_id,omitempty"`
	KeyID   *string `json:"key_id,omitempty"`
	Route   *string `json:"route,omitempty" example:"orders-api"`
	Refusal *string `json:"refusal,omitempty" example:"auth.missing_credential"` // code of the problem that was answered
	Client  *string `json:"client,omitempty" example:"192.0.2.0/24"`             // network of refused anonymous callers
	Totals
	Series []Point `json:"series,omitempty"` // with step, oldest first
}

// Analytics are the figures from from until before to. Total is that of everything that
// was asked for, groups that are not shown included.
type Analytics struct {
	From   time.Time `json:"from"`
	To     time.Time `json:"to"`
	Step   string    `json:"step,omitempty" enums:"hour,day,month"`
	Total  Totals    `json:"total"`
	Series []Point   `json:"series,omitempty"` // of the total, with step
	Items  []Group   `json:"items"`            // most of sort first
	More   bool      `json:"more"`             // there are groups that are not shown
}

// own shows what became of the caller's requests.
//
//	@Summary		Own analytics
//	@Description	What has become of the caller's requests to the gateway and to the platform's own API. An API key sees what it was used for itself, and with the scope usage:read everything of its user. Without from and to it is the last 24 hours. CSV has a line for each group, or for each interval of each group.
//	@Tags			usage
//	@Produce		json,text/csv
//	@Security		BearerAuth
//	@Security		ApiKeyAuth
//	@Param			from	query		string	false	"beginning, RFC 3339; rounded down to the step, or to the hour"
//	@Param			to		query		string	false	"end, RFC 3339; rounded up"
//	@Param			step	query		string	false	"also as a time series, by UTC"	Enums(hour, day, month)
//	@Param			by		query		string	false	"comma-separated: api, product, app, key, route, refusal"
//	@Param			top		query		int		false	"groups that are shown"	minimum(1)	maximum(200)	default(20)
//	@Param			sort	query		string	false	"what groups are shown first"	Enums(requests, errors, bytes)	default(requests)
//	@Param			api		query		string	false	"only of this API"
//	@Param			product	query		string	false	"only of this product"
//	@Param			app		query		string	false	"only of this app"
//	@Param			key_id	query		string	false	"only with this key; empty for calls without one"
//	@Param			route	query		string	false	"only this route"
//	@Param			refusal	query		string	false	"only refused with this code; empty for what was let through"
//	@Param			format	query		string	false	"form of the answer, before Accept"	Enums(json, csv)
//	@Success		200		{object}	Analytics
//	@Failure		400		{object}	problem.Document
//	@Failure		401		{object}	problem.Document
//	@Failure		403		{object}	problem.Document	"another key, without usage:read"
//	@Failure		404		{object}	problem.Document	"not a key or an app of the caller's"
//	@Failure		422		{object}	problem.Document	"too much to add up"
//	@Failure		503		{object}	problem.Document
//	@Router			/analytics [get]
func (h *Handler) own(c *gin.Context) error {
	q, err := (parser{now: h.Now(), keep: h.Retention}).query(c, analytics.ByAPI, analytics.ByProduct, analytics.ByApp, analytics.ByKey, analytics.ByRoute, analytics.ByRefusal)
	if err != nil {
		return err
	}
	caller := httpapi.Principal(c)
	if !h.Guard.Holds(caller, access.ScopeUsageRead) {
		if other, given := q.Filter[analytics.ByKey]; caller.KeyID == "" || given && other != caller.KeyID {
			return access.Require(caller, access.ScopeUsageRead)
		}
		q.Filter[analytics.ByKey] = caller.KeyID
	}
	q.Filter[analytics.ByUser] = caller.UserID
	report, err := figures.Read(c.Request.Context(), h.gate, h.Analytics.ReadAnalytics, q.Query)
	if err != nil {
		return err
	}
	if report.Total.Requests == 0 {
		if err := figures.Owned(c.Request.Context(), h.Owns, caller, q.Filter, analytics.ErrNotFound); err != nil {
			return err
		}
	}
	return q.answer(c, report)
}

// all shows what became of all requests.
//
//	@Summary		Analytics of everybody
//	@Description	What has become of requests to the gateway and to the platform's own API. Without from and to it is the last 24 hours. CSV has a line for each group, or for each interval of each group.
//	@Tags			admin
//	@Produce		json,text/csv
//	@Security		BearerAuth
//	@Security		ApiKeyAuth
//	@Param			from	query		string	false	"beginning, RFC 3339; rounded down to the step, or to the hour"
//	@Param			to		query		string	false	"end, RFC 3339; rounded up"
//	@Param			step	query		string	false	"also as a time series, by UTC"	Enums(hour, day, month)
//	@Param			by		query		string	false	"comma-separated: api, product, app, user, key, route, refusal, client"
//	@Param			top		query		int		false	"groups that are shown"	minimum(1)	maximum(200)	default(20)
//	@Param			sort	query		string	false	"what groups are shown first"	Enums(requests, errors, bytes)	default(requests)
//	@Param			api		query		string	false	"only of this API"
//	@Param			product	query		string	false	"only of this product"
//	@Param			app		query		string	false	"only of this app"
//	@Param			user_id	query		string	false	"only of this user; empty for anonymous callers"
//	@Param			key_id	query		string	false	"only with this key; empty for calls without one"
//	@Param			route	query		string	false	"only this route"
//	@Param			refusal	query		string	false	"only refused with this code; empty for what was let through"
//	@Param			client	query		string	false	"only refused anonymous callers from this network"
//	@Param			format	query		string	false	"form of the answer, before Accept"	Enums(json, csv)
//	@Success		200		{object}	Analytics
//	@Failure		400		{object}	problem.Document
//	@Failure		401		{object}	problem.Document
//	@Failure		403		{object}	problem.Document	"needs config:read"
//	@Failure		422		{object}	problem.Document	"too much to add up"
//	@Failure		503		{object}	problem.Document
//	@Router			/admin/v1/analytics [get]
func (h *Admin) all(c *gin.Context) error { return h.show(c, false) }

// refusals shows what was refused.
//
//	@Summary		Refusals by reason
//	@Description	Requests that were answered with a problem of the platform's own, by its code; by=client tells who knocked without a credential that is known, by network. It counts as /admin/v1/analytics does, and leaves out what was let through.
//	@Tags			admin
//	@Produce		json,text/csv
//	@Security		BearerAuth
//	@Security		ApiKeyAuth
//	@Param			from	query		string	false	"beginning, RFC 3339; rounded down to the step, or to the hour"
//	@Param			to		query		string	false	"end, RFC 3339; rounded up"
//	@Param			step	query		string	false	"also as a time series, by UTC"	Enums(hour, day, month)
//	@Param			by		query		string	false	"comma-separated: api, product, app, user, key, route, refusal, client"	default(refusal)
//	@Param			top		query		int		false	"groups that are shown"	minimum(1)	maximum(200)	default(20)
//	@Param			sort	query		string	false	"what groups are shown first"	Enums(requests, errors, bytes)	default(requests)
//	@Param			api		query		string	false	"only of this API"
//	@Param			product	query		string	false	"only of this product"
//	@Param			app		query		string	false	"only of this app"
//	@Param			user_id	query		string	false	"only of this user; empty for anonymous callers"
//	@Param			key_id	query		string	false	"only with this key; empty for calls without one"
//	@Param			route	query		string	false	"only this route"
//	@Param			refusal	query		string	false	"only with this code"
//	@Param			client	query		string	false	"only from this network"
//	@Param			format	query		string	false	"form of the answer, before Accept"	Enums(json, csv)
//	@Success		200		{object}	Analytics
//	@Failure		400		{object}	problem.Document
//	@Failure		401		{object}	problem.Document
//	@Failure		403		{object}	problem.Document	"needs config:read"
//	@Failure		422		{object}	problem.Document	"too much to add up"
//	@Failure		503		{object}	problem.Document
//	@Router			/admin/v1/analytics/refusals [get]
func (h *Admin) refusals(c *gin.Context) error { return h.show(c, true) }

func (h *Admin) show(c *gin.Context, refusals bool) error {
	q, err := (parser{now: h.Now(), keep: h.Retention}).query(c, analytics.Dimensions()...)
	if err != nil {
		return err
	}
	if refusals {
		q.onlyRefusals()
	}
	report, err := figures.Read(c.Request.Context(), h.gate, h.Analytics.ReadAnalytics, q.Query)
	if err != nil {
		return err
	}
	return q.answer(c, report)
}

// onlyRefusals leaves out what was let through. Only what was refused has a network, so
// that question is asked of networks alone.
func (q *question) onlyRefusals() {
	if q.By == nil {
		q.By = []analytics.Dimension{analytics.ByRefusal}
	}
	if slices.Contains(q.By, analytics.ByClient) || q.Filter[analytics.ByClient] != "" {
		q.Named = append(q.Named, analytics.ByClient)
	} else {
		q.Named = append(q.Named, analytics.ByRefusal)
	}
}

func (q *question) answer(c *gin.Context, r analytics.Report) error {
	c.Header("Vary", "Accept")
	if q.form == formCSV {
		return q.writeCSV(c, r)
	}
	c.JSON(http.StatusOK, show(q.Query, r))
	return nil
}

func show(q analytics.Query, r analytics.Report) Analytics {
	a := Analytics{
		From: q.From, To: q.To, Step: string(q.Step), Total: showTotals(r.Total), Series: showSeries(r.Series),
		Items: make([]Group, 0, len(r.Groups)), More: r.More,
	}
	for _, g := range r.Groups {
		shown := Group{Totals: showTotals(g.Totals), Series: showSeries(g.Series)}
		for d, value := range g.Values {
			*shown.field(d) = &value
		}
		a.Items = append(a.Items, shown)
	}
	return a
}

// field is where the value of a dimension is.
func (g *Group) field(d analytics.Dimension) **string {
	switch d {
	case analytics.ByAPI:
		return &g.API
	case analytics.ByProduct:
		return &g.Product
	case analytics.ByApp:
		return &g.App
	case analytics.ByUser:
		return &g.UserID
	case analytics.ByKey:
		return &g.KeyID
	case analytics.ByRoute:
		return &g.Route
	case analytics.ByRefusal:
		return &g.Refusal
	case analytics.ByClient:
		return &g.Client
	}
	return new(*string)
}

func showTotals(t analytics.Totals) Totals {
	ms := func(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
	return Totals{
		Requests: t.Requests, Refused: t.Refused, ClientErrors: t.ClientErrors, ServerErrors: t.ServerErrors,
		RequestBytes: t.RequestBytes, ResponseBytes: t.ResponseBytes, P50: ms(t.P50), P95: ms(t.P95), P99: ms(t.P99),
	}
}

func showSeries(points []analytics.Point) []Point {
	var shown []Point
	for _, p := range points {
		shown = append(shown, Point{At: p.At, Totals: showTotals(p.Totals)})
	}
	return shown
}
