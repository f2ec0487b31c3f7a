package catalogapi

import (
	"net/http"
	"slices"
	"time"

	"github.com/gin-gonic/gin"

	"github.com/keywarden/keywarden/pkg/access"
	"github.com/keywarden/keywarden/pkg/catalog"
	"github.com/keywarden/keywarden/pkg/httpapi"
	"github.com/keywarden/keywarden/pkg/problem"
)

// products shows all products.
//
//	@Summary	All products
//	@Tags		products
//	@Produce	json
//	@Security	BearerAuth
//	@Security	ApiKeyAuth
//	@Param		limit	query		int		false	"items per page"	minimum(1)	maximum(200)	default(50)
//	@Param		cursor	query		string	false	"next_cursor of the page before"
//	@Success	200		{object}	httpapi.Page[Product]
//	@Failure	400		{object}	problem.Document
//	@Failure	401		{object}	problem.Document
//	@Failure	403		{object}	problem.Document	"needs catalog:read"
//	@Failure	503		{object}	problem.Document
//	@Router		/admin/v1/products [get]
func (h *Admin) products(c *gin.Context) error {
	q, err := h.Cursors.ListQuery(c, "all-products")
	if err != nil {
		return err
	}
	found, err := h.Catalog.Products(c.Request.Context(), catalog.ProductFilter{After: q.After, Limit: q.Limit + 1})
	if err != nil {
		return err
	}
	c.JSON(http.StatusOK, httpapi.NewPage(q, found, productName, h.whole()))
	return nil
}

// product shows one product with its plans.
//
//	@Summary	A product with its plans, hidden or not
//	@Tags		products
//	@Produce	json
//	@Security	BearerAuth
//	@Security	ApiKeyAuth
//	@Param		product	path		string	true	"name"
//	@Success	200		{object}	Product
//	@Header		200		{string}	ETag	"for If-Match, when the product is replaced; plans have their own"
//	@Failure	401		{object}	problem.Document
//	@Failure	403		{object}	problem.Document	"needs catalog:read"
//	@Failure	404		{object}	problem.Document
//	@Failure	503		{object}	problem.Document
//	@Router		/admin/v1/products/{product} [get]
func (h *Admin) product(c *gin.Context) error {
	ctx := c.Request.Context()
	p, err := h.Catalog.Product(ctx, c.Param("product"), false)
	if err != nil {
		return err
	}
	out, err := whole(ctx, h.Catalog, p, h.whole())
	if err != nil {
		return err
	}
	tag(c, p.UpdatedAt)
	c.JSON(http.StatusOK, out)
	return nil
}

// ProductRequest is the whole of a product, but for its plans.
type ProductRequest struct {
	Title       string   `json:"title" example:"People"` // absent: its name
	Description string   `json:"description"`
	Visible     bool     `json:"visible"`                                    // developers see it and can subscribe to it
	AppsOnly    bool     `json:"apps_only"`                                  // who shows another credential than the key of an app does not reach the routes
	Routes      []string `json:"routes" example:"people" binding:"required"` // names of routes, and of APIs: all routes "people.*"
}

// putProduct makes or changes a product.
//
//	@Summary		Make or change a product
//	@Description	What the product opens holds at once, on every replica. A name that no route has opens nothing; the answer warns of it. With If-Match a change is refused that somebody else's was faster than; the tag is the ETag of the product, which is its updated_at in quotes. If-None-Match: * makes a new product only.
//	@Tags			products
//	@Accept			json
//	@Produce		json
//	@Security		BearerAuth
//	@Security		ApiKeyAuth
//	@Param			product			path		string			true	"name"
//	@Param			If-Match		header		string			false	"ETag of what is replaced"
//	@Param			If-None-Match	header		string			false	"* when there is no such product yet"
//	@Param			body			body		ProductRequest	true	"the product"
//	@Success		200				{object}	Product	"changed"
//	@Success		201				{object}	Product	"made"
//	@Header			200,201			{string}	ETag	"for If-Match"
//	@Failure		400		{object}	problem.Document
//	@Failure		401		{object}	problem.Document
//	@Failure		403		{object}	problem.Document	"needs catalog:write"
//	@Failure		409		{object}	problem.Document	"there are too many products"
//	@Failure		412		{object}	problem.Document	"it has been changed since, or deleted"
//	@Failure		413		{object}	problem.Document
//	@Failure		415		{object}	problem.Document
//	@Failure		503		{object}	problem.Document
//	@Router			/admin/v1/products/{product} [put]
func (h *Admin) putProduct(c *gin.Context) error {
	var in ProductRequest
	if err := httpapi.Bind(c, &in); err != nil {
		return err
	}
	on, err := base(c.Request.Header)
	if err != nil {
		return err
	}
	p, created, err := h.Catalog.PutProduct(c.Request.Context(), catalog.Product{
		Name: c.Param("product"), Title: in.Title, Description: in.Description, Visible: in.Visible, AppsOnly: in.AppsOnly, Routes: in.Routes,
	}, on)
	if err != nil {
		return err
	}
	tag(c, p.UpdatedAt)
	c.JSON(statusOfPut(created), h.whole()(p))
	return nil
}

func statusOfPut(created bool) int {
	if created {
		return http.StatusCreated
	}
	return http.StatusOK
}

// force reads whether a deletion is forced.
func force(c *gin.Context) (bool, error) {
	for name, values := range c.Request.URL.Query() {
		if name != "force" || len(values) != 1 || values[0] != "true" && values[0] != "false" {
			return false, problem.ErrInvalid.WithField("force", "must be true or false, and is the only parameter")
		}
	}
	return c.Query("force") == "true", nil
}

// deleteProduct removes a product.
//
//	@Summary		Delete a product with its plans
//	@Description	Forced, its subscriptions end with it.
//	@Tags			products
//	@Security		BearerAuth
//	@Security		ApiKeyAuth
//	@Param			product	path	string	true	"name"
//	@Param			force	query	bool	false	"also when it has subscriptions that have not ended"
//	@Success		204
//	@Failure		400	{object}	problem.Document
//	@Failure		401	{object}	problem.Document
//	@Failure		403	{object}	problem.Document	"needs catalog:write"
//	@Failure		404	{object}	problem.Document
//	@Failure		409	{object}	problem.Document	"it has subscriptions that have not ended"
//	@Failure		503	{object}	problem.Document
//	@Router			/admin/v1/products/{product} [delete]
func (h *Admin) deleteProduct(c *gin.Context) error {
	forced, err := force(c)
	if err != nil {
		return err
	}
	if err := h.Catalog.DeleteProduct(c.Request.Context(), c.Param("product"), forced); err != nil {
		return err
	}
	c.Status(http.StatusNoContent)
	return nil
}

// PlanRequest is the whole of a plan.
type PlanRequest struct {
	Price    string `json:"price" example:"10 EUR a month"`
	Approval string `json:"approval" enums:"automatic,operator" default:"automatic"`
	Rate     *Rate  `json:"rate"`  // absent: no rate limit
	Quota    *Quota `json:"quota"` // absent: no quota
}

// plan reads the request.
func (in PlanRequest) plan(name string) (p catalog.Plan, err error) {
	p = catalog.Plan{Name: name, Price: in.Price, Approval: catalog.Approval(in.Approval)}
	if in.Rate != nil {
		if in.Rate.Requests < 1 {
			return p, problem.ErrInvalid.WithField("rate.requests", "must be at least 1")
		}
		window, err := time.ParseDuration(in.Rate.Window)
		if err != nil {
			return p, problem.ErrInvalid.WithField("rate.window", "must be a duration such as 1s, 1m or 24h")
		}
		p.Terms.Rate = access.RateTerms{Requests: in.Rate.Requests, Window: window, Burst: in.Rate.Burst}
	}
	if in.Quota != nil {
		if in.Quota.Units < 1 {
			return p, problem.ErrInvalid.WithField("quota.units", "must be at least 1")
		}
		p.Terms.Quota = access.QuotaTerms{Units: in.Quota.Units, Period: in.Quota.Period, Zone: in.Quota.TimeZone, Rolling: in.Quota.Rolling}
	}
	return p, nil
}

// putPlan makes or changes a plan.
//
//	@Summary		Make or change a plan of a product
//	@Description	New limits hold at once for all that are subscribed to the plan. Another rate begins with its whole burst; a quota of the same period goes on with what was used. With If-Match a change is refused that somebody else's was faster than; the tag is the updated_at of the plan in quotes. If-None-Match: * makes a new plan only.
//	@Tags			products
//	@Accept			json
//	@Produce		json
//	@Security		BearerAuth
//	@Security		ApiKeyAuth
//	@Param			product			path		string		true	"name of the product"
//	@Param			plan			path		string		true	"name of the plan"
//	@Param			If-Match		header		string		false	"tag of what is replaced"
//	@Param			If-None-Match	header		string		false	"* when there is no such plan yet"
//	@Param			body			body		PlanRequest	true	"the plan"
//	@Success		200				{object}	Plan	"changed"
//	@Success		201				{object}	Plan	"made"
//	@Header			200,201			{string}	ETag	"for If-Match"
//	@Failure		400		{object}	problem.Document
//	@Failure		401		{object}	problem.Document
//	@Failure		403		{object}	problem.Document	"needs catalog:write"
//	@Failure		404		{object}	problem.Document	"no such product"
//	@Failure		409		{object}	problem.Document	"the product has too many plans"
//	@Failure		412		{object}	problem.Document	"it has been changed since, or deleted"
//	@Failure		413		{object}	problem.Document
//	@Failure		415		{object}	problem.Document
//	@Failure		503		{object}	problem.Document
//	@Router			/admin/v1/products/{product}/plans/{plan} [put]
func (h *Admin) putPlan(c *gin.Context) error {
	var in PlanRequest
	if err := httpapi.Bind(c, &in); err != nil {
		return err
	}
	p, err := in.plan(c.Param("plan"))
	if err != nil {
		return err
	}
	on, err := base(c.Request.Header)
	if err != nil {
		return err
	}
	p, created, err := h.Catalog.PutPlan(c.Request.Context(), c.Param("product"), p, on)
	if err != nil {
		return err
	}
	tag(c, p.UpdatedAt)
	c.JSON(statusOfPut(created), showPlan(p))
	return nil
}

// deletePlan removes a plan.
//
//	@Summary		Delete a plan
//	@Description	Forced, its subscriptions are revoked.
//	@Tags			products
//	@Security		BearerAuth
//	@Security		ApiKeyAuth
//	@Param			product	path	string	true	"name of the product"
//	@Param			plan	path	string	true	"name of the plan"
//	@Param			force	query	bool	false	"also when it has subscriptions that have not ended"
//	@Success		204
//	@Failure		400	{object}	problem.Document
//	@Failure		401	{object}	problem.Document
//	@Failure		403	{object}	problem.Document	"needs catalog:write"
//	@Failure		404	{object}	problem.Document
//	@Failure		409	{object}	problem.Document	"it has subscriptions that have not ended"
//	@Failure		503	{object}	problem.Document
//	@Router			/admin/v1/products/{product}/plans/{plan} [delete]
func (h *Admin) deletePlan(c *gin.Context) error {
	forced, err := force(c)
	if err != nil {
		return err
	}
	if err := h.Catalog.DeletePlan(c.Request.Context(), c.Param("product"), c.Param("plan"), forced); err != nil {
		return err
	}
	c.Status(http.StatusNoContent)
	return nil
}

// apps shows the apps of all users.
//
//	@Summary	Apps of all users, newest first
//	@Tags		apps
//	@Produce	json
//	@Security	BearerAuth
//	@Security	ApiKeyAuth
//	@Param		user_id	query		string	false	"only of this user"
//	@Param		limit	query		int		false	"items per page"	minimum(1)	maximum(200)	default(50)
//	@Param		cursor	query		string	false	"next_cursor of the page before"
//	@Success	200		{object}	httpapi.Page[App]
//	@Failure	400		{object}	problem.Document
//	@Failure	401		{object}	problem.Document
//	@Failure	403		{object}	problem.Document	"needs catalog:read"
//	@Failure	503		{object}	problem.Document
//	@Router		/admin/v1/apps [get]
func (h *Admin) apps(c *gin.Context) error {
	q, err := h.Cursors.ListQuery(c, "all-apps", "user_id")
	if err != nil {
		return err
	}
	found, err := h.Catalog.Apps(c.Request.Context(), catalog.AppFilter{UserID: q.Get("user_id"), Before: q.After, Limit: q.Limit + 1})
	if err != nil {
		return err
	}
	c.JSON(http.StatusOK, httpapi.NewPage(q, found, appID, showApp))
	return nil
}

// app shows one app.
//
//	@Summary	An app of any user
//	@Tags		apps
//	@Produce	json
//	@Security	BearerAuth
//	@Security	ApiKeyAuth
//	@Param		app	path		string	true	"id of the app"
//	@Success	200	{object}	App
//	@Failure	401	{object}	problem.Document
//	@Failure	403	{object}	problem.Document	"needs catalog:read"
//	@Failure	404	{object}	problem.Document
//	@Failure	503	{object}	problem.Document
//	@Router		/admin/v1/apps/{app} [get]
func (h *Admin) app(c *gin.Context) error {
	return answerApp(c)(h.Catalog.App(c.Request.Context(), "", c.Param("app")))
}

// answerApp answers with an app, or returns the error.
func answerApp(c *gin.Context) func(catalog.App, error) error {
	return func(a catalog.App, err error) error {
		if err == nil {
			c.JSON(http.StatusOK, showApp(a))
		}
		return err
	}
}

// suspendApp lets an app reach nothing.
//
//	@Summary	Suspend an app: its keys reach nothing, at once, until it is resumed
//	@Tags		apps
//	@Produce	json
//	@Security	BearerAuth
//	@Security	ApiKeyAuth
//	@Param		app	path		string	true	"id of the app"
//	@Success	200	{object}	App
//	@Failure	401	{object}	problem.Document
//	@Failure	403	{object}	problem.Document	"needs catalog:write"
//	@Failure	404	{object}	problem.Document
//	@Failure	503	{object}	problem.Document
//	@Router		/admin/v1/apps/{app}/suspend [post]
func (h *Admin) suspendApp(c *gin.Context) error {
	return answerApp(c)(h.Catalog.SuspendApp(c.Request.Context(), c.Param("app")))
}

// resumeApp ends a suspension.
//
//	@Summary	Resume an app
//	@Tags		apps
//	@Produce	json
//	@Security	BearerAuth
//	@Security	ApiKeyAuth
//	@Param		app	path		string	true	"id of the app"
//	@Success	200	{object}	App
//	@Failure	401	{object}	problem.Document
//	@Failure	403	{object}	problem.Document	"needs catalog:write"
//	@Failure	404	{object}	problem.Document
//	@Failure	503	{object}	problem.Document
//	@Router		/admin/v1/apps/{app}/resume [post]
func (h *Admin) resumeApp(c *gin.Context) error {
	return answerApp(c)(h.Catalog.ResumeApp(c.Request.Context(), c.Param("app")))
}

// subscriptions shows those of all apps.
//
//	@Summary	Subscriptions of all apps, newest first
//	@Tags		subscriptions
//	@Produce	json
//	@Security	BearerAuth
//	@Security	ApiKeyAuth
//	@Param		app		query		string	false	"only of this app"
//	@Param		product	query		string	false	"only to the product of this name"
//	@Param		state	query		string	false	"only in this state"	Enums(pending, active, suspended, rejected, cancelled, revoked)
//	@Param		limit	query		int		false	"items per page"		minimum(1)	maximum(200)	default(50)
//	@Param		cursor	query		string	false	"next_cursor of the page before"
//	@Success	200		{object}	httpapi.Page[Subscription]
//	@Failure	400		{object}	problem.Document
//	@Failure	401		{object}	problem.Document
//	@Failure	403		{object}	problem.Document	"needs catalog:read"
//	@Failure	503		{object}	problem.Document
//	@Router		/admin/v1/subscriptions [get]
func (h *Admin) subscriptions(c *gin.Context) error {
	q, err := h.Cursors.ListQuery(c, "all-subscriptions", "app", "product", "state")
	if err != nil {
		return err
	}
	state := catalog.State(q.Get("state"))
	if state != "" && !slices.Contains(catalog.States(), state) {
		return problem.ErrInvalid.WithField("state", "must be one of %v", catalog.States())
	}
	found, err := h.Catalog.Subscriptions(c.Request.Context(), catalog.SubscriptionFilter{
		App: q.Get("app"), Product: q.Get("product"), State: state, Before: q.After, Limit: q.Limit + 1,
	})
	if err != nil {
		return err
	}
	c.JSON(http.StatusOK, httpapi.NewPage(q, found, subscriptionID, showSubscription))
	return nil
}

// AssignRequest says who is subscribed to what.
type AssignRequest struct {
	App     string `json:"app" example:"01890a5d-ac96-774b-bcce-b302099a8057" binding:"required"`
	Product string `json:"product" example:"people" binding:"required"`
	Plan    string `json:"plan" example:"gold" binding:"required"`
}

// assign subscribes any app.
//
//	@Summary		Subscribe an app of any user, also to a hidden product
//	@Description	The subscription is active at once.
//	@Tags			subscriptions
//	@Accept			json
//	@Produce		json
//	@Security		BearerAuth
//	@Security		ApiKeyAuth
//	@Param			body	body		AssignRequest	true	"who, and what to"
//	@Success		201		{object}	Subscription
//	@Failure		400		{object}	problem.Document
//	@Failure		401		{object}	problem.Document
//	@Failure		403		{object}	problem.Document	"needs catalog:write"
//	@Failure		404		{object}	problem.Document	"no such app, product or plan"
//	@Failure		409		{object}	problem.Document	"the app is subscribed to the product, or has too many subscriptions"
//	@Failure		413		{object}	problem.Document
//	@Failure		415		{object}	problem.Document
//	@Failure		503		{object}	problem.Document
//	@Router			/admin/v1/subscriptions [post]
func (h *Admin) assign(c *gin.Context) error {
	var in AssignRequest
	if err := httpapi.Bind(c, &in); err != nil {
		return err
	}
	sub, err := h.Catalog.Assign(c.Request.Context(), in.App, in.Product, in.Plan)
	if err != nil {
		return err
	}
	c.Header("Location", "/admin/v1/subscriptions/"+sub.ID)
	c.JSON(http.StatusCreated, showSubscription(sub))
	return nil
}

// subscription shows one subscription.
//
//	@Summary	A subscription of any app
//	@Tags		subscriptions
//	@Produce	json
//	@Security	BearerAuth
//	@Security	ApiKeyAuth
//	@Param		subscription	path		string	true	"id of the subscription"
//	@Success	200				{object}	Subscription
//	@Failure	401				{object}	problem.Document
//	@Failure	403				{object}	problem.Document	"needs catalog:read"
//	@Failure	404				{object}	problem.Document
//	@Failure	503				{object}	problem.Document
//	@Router		/admin/v1/subscriptions/{subscription} [get]
func (h *Admin) subscription(c *gin.Context) error {
	return answerSubscription(c)(h.Catalog.Subscription(c.Request.Context(), "", c.Param("subscription")))
}

// answerSubscription answers with a subscription, or returns the error.
func answerSubscription(c *gin.Context) func(catalog.Subscription, error) error {
	return func(sub catalog.Subscription, err error) error {
		if err == nil {
			c.JSON(http.StatusOK, showSubscription(sub))
		}
		return err
	}
}

func (h *Admin) decide(c *gin.Context, v catalog.Verb) error {
	return answerSubscription(c)(h.Catalog.Decide(c.Request.Context(), c.Param("subscription"), v))
}

// approve is one of the decisions about a subscription.
//
//	@Summary	Approve a pending subscription
//	@Tags		subscriptions
//	@Produce	json
//	@Security	BearerAuth
//	@Security	ApiKeyAuth
//	@Param		subscription	path		string	true	"id of the subscription"
//	@Success	200				{object}	Subscription
//	@Failure	401				{object}	problem.Document
//	@Failure	403				{object}	problem.Document	"needs catalog:write"
//	@Failure	404				{object}	problem.Document
//	@Failure	409				{object}	problem.Document	"it is not pending"
//	@Failure	503				{object}	problem.Document
//	@Router		/admin/v1/subscriptions/{subscription}/approve [post]
func (h *Admin) approve(c *gin.Context) error { return h.decide(c, catalog.Approve) }

// reject is one of the decisions about a subscription.
//
//	@Summary	Reject a pending subscription; the user needs an operator's approval for the product from then on
//	@Tags		subscriptions
//	@Produce	json
//	@Security	BearerAuth
//	@Security	ApiKeyAuth
//	@Param		subscription	path		string	true	"id of the subscription"
//	@Success	200				{object}	Subscription
//	@Failure	401				{object}	problem.Document
//	@Failure	403				{object}	problem.Document	"needs catalog:write"
//	@Failure	404				{object}	problem.Document
//	@Failure	409				{object}	problem.Document	"it is not pending"
//	@Failure	503				{object}	problem.Document
//	@Router		/admin/v1/subscriptions/{subscription}/reject [post]
func (h *Admin) reject(c *gin.Context) error { return h.decide(c, catalog.Reject) }

// suspend is one of the decisions about a subscription.
//
//	@Summary	Suspend an active subscription: nothing is reached by it until it is resumed
//	@Tags		subscriptions
//	@Produce	json
//	@Security	BearerAuth
//	@Security	ApiKeyAuth
//	@Param		subscription	path		string	true	"id of the subscription"
//	@Success	200				{object}	Subscription
//	@Failure	401				{object}	problem.Document
//	@Failure	403				{object}	problem.Document	"needs catalog:write"
//	@Failure	404				{object}	problem.Document
//	@Failure	409				{object}	problem.Document	"it is not active"
//	@Failure	503				{object}	problem.Document
//	@Router		/admin/v1/subscriptions/{subscription}/suspend [post]
func (h *Admin) suspend(c *gin.Context) error { return h.decide(c, catalog.Suspend) }

// resume is one of the decisions about a subscription.
//
//	@Summary	Resume a suspended subscription
//	@Tags		subscriptions
//	@Produce	json
//	@Security	BearerAuth
//	@Security	ApiKeyAuth
//	@Param		subscription	path		string	true	"id of the subscription"
//	@Success	200				{object}	Subscription
//	@Failure	401				{object}	problem.Document
//	@Failure	403				{object}	problem.Document	"needs catalog:write"
//	@Failure	404				{object}	problem.Document
//	@Failure	409				{object}	problem.Document	"it is not suspended"
//	@Failure	503				{object}	problem.Document
//	@Router		/admin/v1/subscriptions/{subscription}/resume [post]
func (h *Admin) resume(c *gin.Context) error { return h.decide(c, catalog.Resume) }

// revoke is one of the decisions about a subscription.
//
//	@Summary	Revoke a subscription for good; the user needs an operator's approval for the product from then on
//	@Tags		subscriptions
//	@Produce	json
//	@Security	BearerAuth
//	@Security	ApiKeyAuth
//	@Param		subscription	path		string	true	"id of the subscription"
//	@Success	200				{object}	Subscription
//	@Failure	401				{object}	problem.Document
//	@Failure	403				{object}	problem.Document	"needs catalog:write"
//	@Failure	404				{object}	problem.Document
//	@Failure	409				{object}	problem.Document	"it is neither active nor suspended"
//	@Failure	503				{object}	problem.Document
//	@Router		/admin/v1/subscriptions/{subscription}/revoke [post]
func (h *Admin) revoke(c *gin.Context) error { return h.decide(c, catalog.Revoke) }
