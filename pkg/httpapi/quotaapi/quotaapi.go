// Package quotaapi serves /quotas and /admin/v1/quotas: what is left of quotas, and
// what operators may do about it.
package quotaapi

import (
	"context"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/gin-gonic/gin"

	"github.com/keywarden/keywarden/pkg/access"
	"github.com/keywarden/keywarden/pkg/catalog"
	"github.com/keywarden/keywarden/pkg/httpapi"
	"github.com/keywarden/keywarden/pkg/nearest"
	"github.com/keywarden/keywarden/pkg/problem"
	"github.com/keywarden/keywarden/pkg/quota"
	"github.com/keywarden/keywarden/pkg/spec/policies"
)

// Accounts are those of all quotas; quota.Service is one.
type Accounts interface {
	List(ctx context.Context, f quota.Filter) ([]quota.Account, error)
	Get(ctx context.Context, id string) (quota.Account, error)
	TopUp(ctx context.Context, id string, units int64) (quota.Account, error)
	Reset(ctx context.Context, id string) (quota.Account, error)
	Events(ctx context.Context, before int64, limit int) ([]quota.Event, error)
}

// Handler serves /quotas: what the caller has left. All fields are required.
type Handler struct {
	Accounts Accounts
	Guard    *httpapi.Guard
	Cursors  httpapi.Cursors
}

// Admin serves /admin/v1/quotas and /admin/v1/quota-events. All fields are required.
type Admin struct {
	Accounts Accounts
	Guard    *httpapi.Guard
	Cursors  httpapi.Cursors
}

// Mount adds the route.
func (h *Handler) Mount(r gin.IRouter) {
	r.GET("/quotas", h.Guard.Authenticated(), httpapi.Handle(h.own))
}

// Mount adds the routes.
func (h *Admin) Mount(r gin.IRouter) {
	read, write := h.Guard.Require(access.ScopeConfigRead), h.Guard.Require(access.ScopeConfigWrite)
	r = r.Group("/admin/v1")
	r.GET("/quotas", read, httpapi.Handle(h.list))
	r.GET("/quotas/:id", read, httpapi.Handle(h.get))
	r.POST("/quotas/:id/top-up", write, httpapi.Handle(h.topUp))
	r.POST("/quotas/:id/reset", write, httpapi.Handle(h.reset))
	r.GET("/quota-events", read, httpapi.Handle(h.events))
}

// Account is what one subject has of one quota in a period.
type Account struct {
	ID      string `json:"id" example:"5f0c3a52-7c1e-8b1d-9a55-0d3f8e6b2c41"`
	Quota   string `json:"quota" example:"monthly"`
	Route   string `json:"route,omitempty" example:"orders-api"` // absent where routes share the account
	By      string `json:"by" enums:"key,user,route,service,header,address,expression,subscription"`
	Subject string `json:"subject" example:"0198c1f4-5b2e-7c3a-8f11-2d6f0f6a7b90"` // id of the key, user or subscription, and so on
	Period  string `json:"period" example:"month Europe/Berlin"`

	Begins time.Time `json:"begins"`
	Ends   time.Time `json:"ends"`

	Limit     int64 `json:"limit" example:"10000"`
	TopUp     int64 `json:"top_up" example:"0"`       // units of this period beside the limit
	Used      int64 `json:"used" example:"1200"`      // what replicas hold for requests to come is in it
	Remaining int64 `json:"remaining" example:"8800"` // never below 0
}

func show(a quota.Account) Account {
	return Account{
		ID: a.ID, Quota: a.Quota, Route: a.Scope, By: a.Kind, Subject: a.Subject, Period: a.Period, Begins: a.Begins, Ends: a.Ends,
		Limit: a.Limit, TopUp: a.TopUp, Used: a.Used, Remaining: a.Remaining(),
	}
}

// own shows what the caller has left.
//
//	@Summary		What is left of the caller's quotas
//	@Description	The quotas that count by user, key or subscription (those of plans) of which the caller has used something in the current period: a person sees those of the own user, of all own keys and of all subscriptions of own apps. So does an API key with usage:read; without, it sees those of the user and its own.
//	@Tags			quotas
//	@Produce		json
//	@Security		BearerAuth
//	@Security		ApiKeyAuth
//	@Param			limit	query		int		false	"items per page"	minimum(1)	maximum(200)	default(50)
//	@Param			cursor	query		string	false	"next_cursor of the page before"
//	@Success		200		{object}	httpapi.Page[Account]
//	@Failure		400		{object}	problem.Document
//	@Failure		401		{object}	problem.Document
//	@Failure		403		{object}	problem.Document	"called with the key of an app"
//	@Failure		503		{object}	problem.Document
//	@Router			/quotas [get]
func (h *Handler) own(c *gin.Context) error {
	caller := httpapi.Principal(c)
	q, err := h.Cursors.ListQuery(c, "own-quotas "+caller.UserID)
	if err != nil {
		return err
	}
	f := quota.Filter{Owner: caller.UserID, After: q.After, Limit: q.Limit + 1}
	if caller.Kind != access.KindUser && !h.Guard.Holds(caller, access.ScopeUsageRead) {
		f.OwnerKey = caller.KeyID
	}
	return page(c, h.Accounts, q, f)
}

// page answers with a page of accounts.
func page(c *gin.Context, accounts Accounts, q *httpapi.Query, f quota.Filter) error {
	found, err := accounts.List(c.Request.Context(), f)
	if err != nil {
		return err
	}
	c.JSON(http.StatusOK, httpapi.NewPage(q, found, func(a quota.Account) string { return a.ID }, show))
	return nil
}

// maxFilter bounds a filter, in bytes; subjects that are longer are stored as their hash.
const maxFilter = 128

// kinds are what quotas go by: those of routes as their policies say, and those of plans
// by subscription.
func kinds() []string {
	return []string{
		policies.ByKey, policies.ByUser, policies.ByRoute, policies.ByService, policies.ByHeader, policies.ByAddress, policies.ByExpression,
		catalog.QuotaKind,
	}
}

// list shows accounts.
//
//	@Summary		Quota accounts
//	@Description	What is used of all quotas in the current period, in no particular order. A subject is there once it has used something.
//	@Tags			quotas
//	@Produce		json
//	@Security		BearerAuth
//	@Security		ApiKeyAuth
//	@Param			quota	query		string	false	"only this quota"
//	@Param			by		query		string	false	"only subjects of this kind"	Enums(key,user,route,service,header,address,expression,subscription)
//	@Param			subject	query		string	false	"only this subject, such as the id of a key"
//	@Param			limit	query		int		false	"items per page"	minimum(1)	maximum(200)	default(50)
//	@Param			cursor	query		string	false	"next_cursor of the page before"
//	@Success		200		{object}	httpapi.Page[Account]
//	@Failure		400		{object}	problem.Document
//	@Failure		401		{object}	problem.Document
//	@Failure		403		{object}	problem.Document	"needs config:read"
//	@Failure		503		{object}	problem.Document
//	@Router			/admin/v1/quotas [get]
func (h *Admin) list(c *gin.Context) error {
	filters := []string{"quota", "by", "subject"}
	q, err := h.Cursors.ListQuery(c, "quotas", filters...)
	if err != nil {
		return err
	}
	for _, name := range filters {
		if len(q.Get(name)) > maxFilter {
			return problem.ErrInvalid.WithField(name, "must have at most %d bytes", maxFilter)
		}
	}
	if by := q.Get("by"); by != "" && !slices.Contains(kinds(), by) {
		return problem.ErrInvalid.WithField("by", "must be one of %s%s", strings.Join(kinds(), ", "), nearest.Question(by, kinds()))
	}
	return page(c, h.Accounts, q, quota.Filter{
		Quota: q.Get("quota"), Kind: q.Get("by"), Subject: q.Get("subject"), After: q.After, Limit: q.Limit + 1,
	})
}

// get shows one account.
//
//	@Summary	A quota account
//	@Tags		quotas
//	@Produce	json
//	@Security	BearerAuth
//	@Security	ApiKeyAuth
//	@Param		id	path		string	true	"id of the account"
//	@Success	200	{object}	Account
//	@Failure	401	{object}	problem.Document
//	@Failure	403	{object}	problem.Document	"needs config:read"
//	@Failure	404	{object}	problem.Document
//	@Failure	503	{object}	problem.Document
//	@Router		/admin/v1/quotas/{id} [get]
func (h *Admin) get(c *gin.Context) error {
	return answer(c)(h.Accounts.Get(c.Request.Context(), c.Param("id")))
}

// answer answers with an account, or returns the error.
func answer(c *gin.Context) func(quota.Account, error) error {
	return func(a quota.Account, err error) error {
		if err == nil {
			c.JSON(http.StatusOK, show(a))
		}
		return err
	}
}

// TopUpRequest says by how much.
type TopUpRequest struct {
	Units int64 `json:"units" example:"1000" minimum:"1"`
}

// topUp adds units to an account.
//
//	@Summary		Add units for the current period
//	@Description	The units count at once, on every replica within about a second, and are gone when the period ends. Doing it twice adds twice. Audited as quota.topped_up.
//	@Tags			quotas
//	@Accept			json
//	@Produce		json
//	@Security		BearerAuth
//	@Security		ApiKeyAuth
//	@Param			id		path		string			true	"id of the account"
//	@Param			body	body		TopUpRequest	true	"how many"
//	@Success		200		{object}	Account
//	@Failure		400		{object}	problem.Document
//	@Failure		401		{object}	problem.Document
//	@Failure		403		{object}	problem.Document	"needs config:write"
//	@Failure		404		{object}	problem.Document
//	@Failure		415		{object}	problem.Document
//	@Failure		503		{object}	problem.Document
//	@Router			/admin/v1/quotas/{id}/top-up [post]
func (h *Admin) topUp(c *gin.Context) error {
	var in TopUpRequest
	if err := httpapi.Bind(c, &in); err != nil {
		return err
	}
	return answer(c)(h.Accounts.TopUp(c.Request.Context(), c.Param("id"), in.Units))
}

// reset empties an account.
//
//	@Summary		Forget what was used in the current period
//	@Description	The whole limit, and what was topped up, can be used again. Units that replicas hold are void as soon as they hear of it, which takes about a second. Audited as quota.reset.
//	@Tags			quotas
//	@Produce		json
//	@Security		BearerAuth
//	@Security		ApiKeyAuth
//	@Param			id	path		string	true	"id of the account"
//	@Success		200	{object}	Account
//	@Failure		401	{object}	problem.Document
//	@Failure		403	{object}	problem.Document	"needs config:write"
//	@Failure		404	{object}	problem.Document
//	@Failure		503	{object}	problem.Document
//	@Router			/admin/v1/quotas/{id}/reset [post]
func (h *Admin) reset(c *gin.Context) error {
	return answer(c)(h.Accounts.Reset(c.Request.Context(), c.Param("id")))
}

// Event tells that most of an account, or all of it, is used.
type Event struct {
	Number   int64     `json:"number" example:"12"`
	At       time.Time `json:"at"`
	Account  string    `json:"account" example:"5f0c3a52-7c1e-8b1d-9a55-0d3f8e6b2c41"`
	Quota    string    `json:"quota" example:"monthly"`
	Route    string    `json:"route,omitempty" example:"orders-api"`
	By       string    `json:"by" enums:"key,user,route,service,header,address,expression,subscription"`
	Subject  string    `json:"subject" example:"0198c1f4-5b2e-7c3a-8f11-2d6f0f6a7b90"`
	Percent  int       `json:"percent" enums:"80,100"`
	Used     int64     `json:"used" example:"8000"`
	Capacity int64     `json:"capacity" example:"10000"` // limit and top-up
	Begins   time.Time `json:"begins"`
	Ends     time.Time `json:"ends"`
}

func showEvent(e quota.Event) Event {
	return Event{
		Number: e.Number, At: e.At, Account: e.ID, Quota: e.Quota, Route: e.Scope, By: e.Kind, Subject: e.Subject, Percent: e.Level,
		Used: e.Used, Capacity: e.Capacity, Begins: e.Begins, Ends: e.Ends,
	}
}

// events shows who has used most of a quota, or all of it.
//
//	@Summary		Quotas that are nearly or wholly used
//	@Description	One event for each account when 80 %, and one when 100 % of it are used for the first time in a period; newest first. They are kept for 90 days.
//	@Tags			quotas
//	@Produce		json
//	@Security		BearerAuth
//	@Security		ApiKeyAuth
//	@Param			limit	query		int		false	"items per page"	minimum(1)	maximum(200)	default(50)
//	@Param			cursor	query		string	false	"next_cursor of the page before"
//	@Success		200		{object}	httpapi.Page[Event]
//	@Failure		400		{object}	problem.Document
//	@Failure		401		{object}	problem.Document
//	@Failure		403		{object}	problem.Document	"needs config:read"
//	@Failure		503		{object}	problem.Document
//	@Router			/admin/v1/quota-events [get]
func (h *Admin) events(c *gin.Context) error {
	q, err := h.Cursors.ListQuery(c, "quota-events")
	if err != nil {
		return err
	}
	var before int64
	if q.After != "" {
		if before, err = strconv.ParseInt(q.After, 10, 64); err != nil {
			return err // a cursor of ours holds a number
		}
	}
	found, err := h.Accounts.Events(c.Request.Context(), before, q.Limit+1)
	if err != nil {
		return err
	}
	c.JSON(http.StatusOK, httpapi.NewPage(q, found, func(e quota.Event) string { return strconv.FormatInt(e.Number, 10) }, showEvent))
	return nil
}
