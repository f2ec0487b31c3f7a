package catalogapi

import (
	"net/http"

	"github.com/gin-gonic/gin"

	"github.com/keywarden/keywarden/pkg/catalog"
	"github.com/keywarden/keywarden/pkg/httpapi"
)

// products shows what can be subscribed to.
//
//	@Summary		Products
//	@Description	Those that can be subscribed to, by name.
//	@Tags			products
//	@Produce		json
//	@Security		BearerAuth
//	@Security		ApiKeyAuth
//	@Param			limit	query		int		false	"items per page"	minimum(1)	maximum(200)	default(50)
//	@Param			cursor	query		string	false	"next_cursor of the page before"
//	@Success		200		{object}	httpapi.Page[Product]
//	@Failure		400		{object}	problem.Document
//	@Failure		401		{object}	problem.Document
//	@Failure		403		{object}	problem.Document	"needs apps:read"
//	@Failure		503		{object}	problem.Document
//	@Router			/catalog/products [get]
func (h *Handler) products(c *gin.Context) error {
	q, err := h.Cursors.ListQuery(c, "products")
	if err != nil {
		return err
	}
	found, err := h.Catalog.Products(c.Request.Context(), catalog.ProductFilter{VisibleOnly: true, After: q.After, Limit: q.Limit + 1})
	if err != nil {
		return err
	}
	c.JSON(http.StatusOK, httpapi.NewPage(q, found, productName, showProduct))
	return nil
}

// product shows one product with its plans.
//
//	@Summary	A product with its plans
//	@Tags		products
//	@Produce	json
//	@Security	BearerAuth
//	@Security	ApiKeyAuth
//	@Param		product	path		string	true	"name"
//	@Success	200		{object}	Product
//	@Failure	401		{object}	problem.Document
//	@Failure	403		{object}	problem.Document	"needs apps:read"
//	@Failure	404		{object}	problem.Document	"unknown, or hidden"
//	@Failure	503		{object}	problem.Document
//	@Router		/catalog/products/{product} [get]
func (h *Handler) product(c *gin.Context) error {
	ctx := c.Request.Context()
	p, err := h.Catalog.Product(ctx, c.Param("product"), true)
	if err != nil {
		return err
	}
	out, err := whole(ctx, h.Catalog, p, showProduct)
	if err != nil {
		return err
	}
	c.JSON(http.StatusOK, out)
	return nil
}

// AppRequest is the body of POST /apps.
type AppRequest struct {
	Name        string `json:"name" example:"address book" binding:"required"`
	Description string `json:"description"`
}

// createApp makes an app.
//
//	@Summary		Create an app
//	@Description	An app is subscribed to plans of products, and has keys: POST /api-keys with its id. They reach what it is subscribed to, and nothing else.
//	@Tags			apps
//	@Accept			json
//	@Produce		json
//	@Security		BearerAuth
//	@Security		ApiKeyAuth
//	@Param			body	body		AppRequest	true	"what app"
//	@Success		201		{object}	App
//	@Failure		400		{object}	problem.Document
//	@Failure		401		{object}	problem.Document
//	@Failure		403		{object}	problem.Document	"needs apps:write"
//	@Failure		409		{object}	problem.Document	"the user has too many apps"
//	@Failure		413		{object}	problem.Document
//	@Failure		415		{object}	problem.Document
//	@Failure		429		{object}	problem.Document
//	@Failure		503		{object}	problem.Document
//	@Router			/catalog/apps [post]
func (h *Handler) createApp(c *gin.Context) error {
	var in AppRequest
	if err := httpapi.Bind(c, &in); err != nil {
		return err
	}
	a, err := h.Catalog.CreateApp(c.Request.Context(), httpapi.Principal(c).UserID, in.Name, in.Description)
	if err != nil {
		return err
	}
	c.Header("Location", "/catalog/apps/"+a.ID)
	c.JSON(http.StatusCreated, showApp(a))
	return nil
}

// apps shows the caller's apps.
//
//	@Summary	The caller's apps
//	@Tags		apps
//	@Produce	json
//	@Security	BearerAuth
//	@Security	ApiKeyAuth
//	@Param		limit	query		int		false	"items per page"	minimum(1)	maximum(200)	default(50)
//	@Param		cursor	query		string	false	"next_cursor of the page before"
//	@Success	200		{object}	httpapi.Page[App]
//	@Failure	400		{object}	problem.Document
//	@Failure	401		{object}	problem.Document
//	@Failure	403		{object}	problem.Document	"needs apps:read"
//	@Failure	503		{object}	problem.Document
//	@Router		/catalog/apps [get]
func (h *Handler) apps(c *gin.Context) error {
	owner := httpapi.Principal(c).UserID
	q, err := h.Cursors.ListQuery(c, "apps "+owner)
	if err != nil {
		return err
	}
	found, err := h.Catalog.Apps(c.Request.Context(), catalog.AppFilter{UserID: owner, Before: q.After, Limit: q.Limit + 1})
	if err != nil {
		return err
	}
	c.JSON(http.StatusOK, httpapi.NewPage(q, found, appID, showApp))
	return nil
}

// app shows one app.
//
//	@Summary	An app
//	@Tags		apps
//	@Produce	json
//	@Security	BearerAuth
//	@Security	ApiKeyAuth
//	@Param		app	path		string	true	"id of the app"
//	@Success	200	{object}	App
//	@Failure	401	{object}	problem.Document
//	@Failure	403	{object}	problem.Document	"needs apps:read"
//	@Failure	404	{object}	problem.Document	"unknown, or another user's"
//	@Failure	503	{object}	problem.Document
//	@Router		/catalog/apps/{app} [get]
func (h *Handler) app(c *gin.Context) error {
	a, err := h.own(c)
	if err != nil {
		return err
	}
	c.JSON(http.StatusOK, showApp(a))
	return nil
}

// own is the app of the path, if it is the caller's.
func (h *Handler) own(c *gin.Context) (catalog.App, error) {
	return h.Catalog.App(c.Request.Context(), httpapi.Principal(c).UserID, c.Param("app"))
}

// AppUpdate is the body of PATCH /apps/{app}; absent members stay.
type AppUpdate struct {
	Name        *string `json:"name" example:"address book"`
	Description *string `json:"description"`
}

// updateApp changes an app.
//
//	@Summary	Change an app
//	@Tags		apps
//	@Accept		json
//	@Produce	json
//	@Security	BearerAuth
//	@Security	ApiKeyAuth
//	@Param		app		path		string		true	"id of the app"
//	@Param		body	body		AppUpdate	true	"what to change"
//	@Success	200		{object}	App
//	@Failure	400		{object}	problem.Document
//	@Failure	401		{object}	problem.Document
//	@Failure	403		{object}	problem.Document	"needs apps:write"
//	@Failure	404		{object}	problem.Document	"unknown, or another user's"
//	@Failure	413		{object}	problem.Document
//	@Failure	415		{object}	problem.Document
//	@Failure	429		{object}	problem.Document
//	@Failure	503		{object}	problem.Document
//	@Router		/catalog/apps/{app} [patch]
func (h *Handler) updateApp(c *gin.Context) error {
	var in AppUpdate
	if err := httpapi.Bind(c, &in); err != nil {
		return err
	}
	a, err := h.Catalog.UpdateApp(c.Request.Context(), httpapi.Principal(c).UserID, c.Param("app"), catalog.AppPatch(in))
	if err != nil {
		return err
	}
	c.JSON(http.StatusOK, showApp(a))
	return nil
}

// deleteApp ends an app.
//
//	@Summary		Delete an app
//	@Description	Its keys are revoked and its subscriptions cancelled, at once and for good.
//	@Tags			apps
//	@Security		BearerAuth
//	@Security		ApiKeyAuth
//	@Param			app	path	string	true	"id of the app"
//	@Success		204
//	@Failure		401	{object}	problem.Document
//	@Failure		403	{object}	problem.Document	"needs apps:write"
//	@Failure		404	{object}	problem.Document	"unknown, or another user's"
//	@Failure		429	{object}	problem.Document
//	@Failure		503	{object}	problem.Document
//	@Router			/catalog/apps/{app} [delete]
func (h *Handler) deleteApp(c *gin.Context) error {
	if err := h.Catalog.DeleteApp(c.Request.Context(), httpapi.Principal(c).UserID, c.Param("app")); err != nil {
		return err
	}
	c.Status(http.StatusNoContent)
	return nil
}

// SubscribeRequest says what to.
type SubscribeRequest struct {
	Product string `json:"product" example:"people" binding:"required"`
	Plan    string `json:"plan" example:"free" binding:"required"`
}

// subscribe subscribes an app to a plan.
//
//	@Summary		Subscribe an app to a plan of a product
//	@Description	The subscription is active at once, or pending until an operator approves it, as the plan says. An app has one subscription to a product: one that has ended begins anew under its id, and what was used of the plan's limits stays used. What an operator has revoked or rejected begins again only when one approves.
//	@Tags			apps
//	@Accept			json
//	@Produce		json
//	@Security		BearerAuth
//	@Security		ApiKeyAuth
//	@Param			app		path		string				true	"id of the app"
//	@Param			body	body		SubscribeRequest	true	"what to"
//	@Success		201		{object}	Subscription
//	@Failure		400		{object}	problem.Document
//	@Failure		401		{object}	problem.Document
//	@Failure		403		{object}	problem.Document	"needs apps:write"
//	@Failure		404		{object}	problem.Document	"no such app of the caller, visible product, or plan"
//	@Failure		409		{object}	problem.Document	"the app is subscribed to the product, has too many subscriptions, or is suspended"
//	@Failure		413		{object}	problem.Document
//	@Failure		415		{object}	problem.Document
//	@Failure		429		{object}	problem.Document
//	@Failure		503		{object}	problem.Document
//	@Router			/catalog/apps/{app}/subscriptions [post]
func (h *Handler) subscribe(c *gin.Context) error {
	var in SubscribeRequest
	if err := httpapi.Bind(c, &in); err != nil {
		return err
	}
	sub, err := h.Catalog.Subscribe(c.Request.Context(), httpapi.Principal(c).UserID, c.Param("app"), in.Product, in.Plan)
	if err != nil {
		return err
	}
	c.Header("Location", "/catalog/apps/"+sub.App+"/subscriptions/"+sub.ID)
	c.JSON(http.StatusCreated, showSubscription(sub))
	return nil
}

// subscriptions shows those of an app.
//
//	@Summary	The subscriptions of an app
//	@Tags		apps
//	@Produce	json
//	@Security	BearerAuth
//	@Security	ApiKeyAuth
//	@Param		app		path		string	true	"id of the app"
//	@Param		limit	query		int		false	"items per page"	minimum(1)	maximum(200)	default(50)
//	@Param		cursor	query		string	false	"next_cursor of the page before"
//	@Success	200		{object}	httpapi.Page[Subscription]
//	@Failure	400		{object}	problem.Document
//	@Failure	401		{object}	problem.Document
//	@Failure	403		{object}	problem.Document	"needs apps:read"
//	@Failure	404		{object}	problem.Document	"unknown, or another user's"
//	@Failure	503		{object}	problem.Document
//	@Router		/catalog/apps/{app}/subscriptions [get]
func (h *Handler) subscriptions(c *gin.Context) error {
	a, err := h.own(c)
	if err != nil {
		return err
	}
	q, err := h.Cursors.ListQuery(c, "subscriptions of "+a.ID)
	if err != nil {
		return err
	}
	found, err := h.Catalog.Subscriptions(c.Request.Context(), catalog.SubscriptionFilter{App: a.ID, Before: q.After, Limit: q.Limit + 1})
	if err != nil {
		return err
	}
	c.JSON(http.StatusOK, httpapi.NewPage(q, found, subscriptionID, showSubscription))
	return nil
}

// subscription shows one subscription.
//
//	@Summary	A subscription of an app
//	@Tags		apps
//	@Produce	json
//	@Security	BearerAuth
//	@Security	ApiKeyAuth
//	@Param		app				path		string	true	"id of the app"
//	@Param		subscription	path		string	true	"id of the subscription"
//	@Success	200				{object}	Subscription
//	@Failure	401				{object}	problem.Document
//	@Failure	403				{object}	problem.Document	"needs apps:read"
//	@Failure	404				{object}	problem.Document	"unknown, or another user's"
//	@Failure	503				{object}	problem.Document
//	@Router		/catalog/apps/{app}/subscriptions/{subscription} [get]
func (h *Handler) subscription(c *gin.Context) error {
	a, err := h.own(c)
	if err != nil {
		return err
	}
	sub, err := h.Catalog.Subscription(c.Request.Context(), a.ID, c.Param("subscription"))
	if err != nil {
		return err
	}
	c.JSON(http.StatusOK, showSubscription(sub))
	return nil
}

// cancel ends a subscription.
//
//	@Summary		Cancel a subscription
//	@Description	The keys of the app no longer reach the product, at once.
//	@Tags			apps
//	@Produce		json
//	@Security		BearerAuth
//	@Security		ApiKeyAuth
//	@Param			app				path		string	true	"id of the app"
//	@Param			subscription	path		string	true	"id of the subscription"
//	@Success		200				{object}	Subscription
//	@Failure		401				{object}	problem.Document
//	@Failure		403				{object}	problem.Document	"needs apps:write"
//	@Failure		404				{object}	problem.Document	"unknown, or another user's"
//	@Failure		409				{object}	problem.Document	"it has ended already"
//	@Failure		429				{object}	problem.Document
//	@Failure		503				{object}	problem.Document
//	@Router			/catalog/apps/{app}/subscriptions/{subscription} [delete]
func (h *Handler) cancel(c *gin.Context) error {
	sub, err := h.Catalog.CancelSubscription(c.Request.Context(), httpapi.Principal(c).UserID, c.Param("app"), c.Param("subscription"))
	if err != nil {
		return err
	}
	c.JSON(http.StatusOK, showSubscription(sub))
	return nil
}
