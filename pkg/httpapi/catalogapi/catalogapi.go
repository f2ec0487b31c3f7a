// Package catalogapi serves products, plans, apps and subscriptions: to developers
// /products and /apps, and to operators what is below /admin/v1.
package catalogapi

import (
	"context"
	"time"

	"github.com/gin-gonic/gin"

	"github.com/keywarden/keywarden/pkg/access"
	"github.com/keywarden/keywarden/pkg/catalog"
	"github.com/keywarden/keywarden/pkg/httpapi"
	"github.com/keywarden/keywarden/pkg/problem"
	"github.com/keywarden/keywarden/pkg/throttle"
)

// Products are what everybody may see of the catalog; catalog.Service is one, as of
// the other interfaces here.
type Products interface {
	Products(ctx context.Context, f catalog.ProductFilter) ([]catalog.Product, error)
	Product(ctx context.Context, name string, visibleOnly bool) (catalog.Product, error)
	Plans(ctx context.Context, product string) ([]catalog.Plan, error)
}

// Apps are what developers do.
type Apps interface {
	Products
	CreateApp(ctx context.Context, owner, name, description string) (catalog.App, error)
	App(ctx context.Context, owner, id string) (catalog.App, error)
	Apps(ctx context.Context, f catalog.AppFilter) ([]catalog.App, error)
	UpdateApp(ctx context.Context, owner, id string, p catalog.AppPatch) (catalog.App, error)
	DeleteApp(ctx context.Context, owner, id string) error
	Subscribe(ctx context.Context, owner, app, product, plan string) (catalog.Subscription, error)
	Subscription(ctx context.Context, app, id string) (catalog.Subscription, error)
	Subscriptions(ctx context.Context, f catalog.SubscriptionFilter) ([]catalog.Subscription, error)
	CancelSubscription(ctx context.Context, owner, app, id string) (catalog.Subscription, error)
}

// Offers is what operators do about products and their plans.
type Offers interface {
	PutProduct(ctx context.Context, p catalog.Product, base catalog.Base) (catalog.Product, bool, error)
	DeleteProduct(ctx context.Context, name string, force bool) error
	PutPlan(ctx context.Context, product string, p catalog.Plan, base catalog.Base) (catalog.Plan, bool, error)
	DeletePlan(ctx context.Context, product, name string, force bool) error
}

// Catalog is what operators do.
type Catalog interface {
	Products
	Offers
	App(ctx context.Context, owner, id string) (catalog.App, error)
	Apps(ctx context.Context, f catalog.AppFilter) ([]catalog.App, error)
	SuspendApp(ctx context.Context, id string) (catalog.App, error)
	ResumeApp(ctx context.Context, id string) (catalog.App, error)
	Assign(ctx context.Context, app, product, plan string) (catalog.Subscription, error)
	Subscription(ctx context.Context, app, id string) (catalog.Subscription, error)
	Subscriptions(ctx context.Context, f catalog.SubscriptionFilter) ([]catalog.Subscription, error)
	Decide(ctx context.Context, id string, v catalog.Verb) (catalog.Subscription, error)
}

// Handler serves developers. All fields are required.
type Handler struct {
	Catalog Apps
	Guard   *httpapi.Guard
	Cursors httpapi.Cursors

	// Changes bounds how fast one user changes apps and subscriptions: every replica
	// looks through the keys that it knows at each of these.
	Changes *throttle.Limiter
}

// Admin serves operators. All fields are required.
type Admin struct {
	Catalog Catalog
	Guard   *httpapi.Guard
	Cursors httpapi.Cursors
	Routes  func() (names []string, known bool) // of the gateway document in force; not known before there is one
}

// ErrChanges is the refusal of a user who changes too much.
var ErrChanges = problem.Define(problem.TooManyRequests, "catalog.too_many_changes",
	"Too many changes of apps and subscriptions; try again after the time in Retry-After.")

// Mount adds the routes.
func (h *Handler) Mount(r gin.IRouter) {
	read, write := h.Guard.Require(access.ScopeAppsRead), h.Guard.Require(access.ScopeAppsWrite)
	slowly := httpapi.Handle(h.slowly)
	r.GET("/catalog/products", read, httpapi.Handle(h.products))
	r.GET("/catalog/products/:product", read, httpapi.Handle(h.product))
	r.POST("/catalog/apps", write, slowly, httpapi.Handle(h.createApp))
	r.GET("/catalog/apps", read, httpapi.Handle(h.apps))
	r.GET("/catalog/apps/:app", read, httpapi.Handle(h.app))
	r.PATCH("/catalog/apps/:app", write, slowly, httpapi.Handle(h.updateApp))
	r.DELETE("/catalog/apps/:app", write, slowly, httpapi.Handle(h.deleteApp))
	r.POST("/catalog/apps/:app/subscriptions", write, slowly, httpapi.Handle(h.subscribe))
	r.GET("/catalog/apps/:app/subscriptions", read, httpapi.Handle(h.subscriptions))
	r.GET("/catalog/apps/:app/subscriptions/:subscription", read, httpapi.Handle(h.subscription))
	r.DELETE("/catalog/apps/:app/subscriptions/:subscription", write, slowly, httpapi.Handle(h.cancel))
}

// Mount adds the routes.
func (h *Admin) Mount(r gin.IRouter) {
	read, write := h.Guard.Require(access.ScopeCatalogRead), h.Guard.Require(access.ScopeCatalogWrite)
	r = r.Group("/admin/v1")
	r.GET("/products", read, httpapi.Handle(h.products))
	r.GET("/products/:product", read, httpapi.Handle(h.product))
	r.PUT("/products/:product", write, httpapi.Handle(h.putProduct))
	r.DELETE("/products/:product", write, httpapi.Handle(h.deleteProduct))
	r.PUT("/products/:product/plans/:plan", write, httpapi.Handle(h.putPlan))
	r.DELETE("/products/:product/plans/:plan", write, httpapi.Handle(h.deletePlan))
	r.GET("/apps", read, httpapi.Handle(h.apps))
	r.GET("/apps/:app", read, httpapi.Handle(h.app))
	r.POST("/apps/:app/suspend", write, httpapi.Handle(h.suspendApp))
	r.POST("/apps/:app/resume", write, httpapi.Handle(h.resumeApp))
	r.GET("/subscriptions", read, httpapi.Handle(h.subscriptions))
	r.POST("/subscriptions", write, httpapi.Handle(h.assign))
	r.GET("/subscriptions/:subscription", read, httpapi.Handle(h.subscription))
	r.POST("/subscriptions/:subscription/approve", write, httpapi.Handle(h.approve))
	r.POST("/subscriptions/:subscription/reject", write, httpapi.Handle(h.reject))
	r.POST("/subscriptions/:subscription/suspend", write, httpapi.Handle(h.suspend))
	r.POST("/subscriptions/:subscription/resume", write, httpapi.Handle(h.resume))
	r.POST("/subscriptions/:subscription/revoke", write, httpapi.Handle(h.revoke))
}

// slowly keeps a user from changing too much.
func (h *Handler) slowly(c *gin.Context) error {
	if wait := h.Changes.Take(httpapi.Principal(c).UserID); wait > 0 {
		return ErrChanges.WithRetryAfter(wait)
	}
	return nil
}

// Rate is so many requests in each window.
type Rate struct {
	Requests int64  `json:"requests" example:"100" minimum:"1"`
	Window   string `json:"window" example:"1m"`           // a duration, at most 24h
	Burst    int64  `json:"burst,omitempty" example:"100"` // requests at once; absent: all of a window
}

// Quota is so many units in each period.
type Quota struct {
	Units    int64  `json:"units" example:"10000" minimum:"1"`
	Period   string `json:"period" enums:"minute,hour,day,week,month"`
	TimeZone string `json:"time_zone,omitempty" example:"Europe/Berlin" default:"UTC"` // where days, weeks and months begin
	Rolling  bool   `json:"rolling,omitempty"`                                         // the period begins with the first request, and not with the calendar
}

// Plan is how much of a product can be used.
type Plan struct {
	Name      string    `json:"name" example:"free"`
	Price     string    `json:"price" example:"10 EUR a month"` // a note for people
	Approval  string    `json:"approval" enums:"automatic,operator"`
	Rate      *Rate     `json:"rate,omitempty"`  // absent: no rate limit
	Quota     *Quota    `json:"quota,omitempty"` // absent: no quota
	CreatedAt time.Time `json:"created_at"`
	UpdatedAt time.Time `json:"updated_at"`
}

func showPlan(p catalog.Plan) Plan {
	out := Plan{Name: p.Name, Price: p.Price, Approval: string(p.Approval), CreatedAt: p.CreatedAt, UpdatedAt: p.UpdatedAt}
	if r := p.Terms.Rate; r.Requests > 0 {
		out.Rate = &Rate{Requests: r.Requests, Window: r.Window.String(), Burst: r.Burst}
	}
	if q := p.Terms.Quota; q.Units > 0 {
		out.Quota = &Quota{Units: q.Units, Period: q.Period, TimeZone: q.Zone, Rolling: q.Rolling}
	}
	return out
}

// Product is a bundle of routes. Developers see neither hidden ones, nor of others
// what is only for operators.
type Product struct {
	ID          string    `json:"id,omitempty" example:"01890a5d-ac96-774b-bcce-b302099a8057"` // for operators
	Name        string    `json:"name" example:"people"`
	Title       string    `json:"title" example:"People"`
	Description string    `json:"description"`
	Visible     *bool     `json:"visible,omitempty"`                  // for operators
	AppsOnly    bool      `json:"apps_only"`                          // who shows another credential than the key of an app does not reach the routes
	Routes      []string  `json:"routes" example:"people,birds.list"` // names of routes, and of APIs: all routes "people.*"
	Plans       []Plan    `json:"plans,omitempty"`                    // of one product, not of a list
	Warnings    []Warning `json:"warnings,omitempty"`                 // for operators: what is accepted, and may be a mistake
	CreatedAt   time.Time `json:"created_at"`
	UpdatedAt   time.Time `json:"updated_at"`
}

func showProduct(p catalog.Product) Product {
	return Product{
		Name: p.Name, Title: p.Title, Description: p.Description, AppsOnly: p.AppsOnly, Routes: p.Routes,
		CreatedAt: p.CreatedAt, UpdatedAt: p.UpdatedAt,
	}
}

// App is a program of a developer.
type App struct {
	ID          string     `json:"id" example:"01890a5d-ac96-774b-bcce-b302099a8057"`
	UserID      string     `json:"user_id"`
	Name        string     `json:"name" example:"address book"`
	Description string     `json:"description"`
	SuspendedAt *time.Time `json:"suspended_at,omitempty"` // its keys reach nothing
	CreatedAt   time.Time  `json:"created_at"`
	UpdatedAt   time.Time  `json:"updated_at"`
}

func showApp(a catalog.App) App { return App(a) }

// Subscription is what an app has of a product.
type Subscription struct {
	ID        string    `json:"id" example:"01890a5d-ac96-774b-bcce-b302099a8057"`
	App       string    `json:"app" example:"01890a5d-ac96-774b-bcce-b302099a8057"`
	UserID    string    `json:"user_id"`
	Product   string    `json:"product" example:"people"`
	Plan      string    `json:"plan" example:"free"` // empty when it has ended and the plan is gone
	State     string    `json:"state" enums:"pending,active,suspended,rejected,cancelled,revoked"`
	CreatedAt time.Time `json:"created_at"`
	UpdatedAt time.Time `json:"updated_at"`
}

func showSubscription(s catalog.Subscription) Subscription {
	return Subscription{
		ID: s.ID, App: s.App, UserID: s.UserID, Product: s.Product, Plan: s.Plan, State: string(s.State),
		CreatedAt: s.CreatedAt, UpdatedAt: s.UpdatedAt,
	}
}

// whole is a product with its plans.
func whole(ctx context.Context, from Products, p catalog.Product, show func(catalog.Product) Product) (Product, error) {
	out := show(p)
	plans, err := from.Plans(ctx, p.Name)
	for _, plan := range plans {
		out.Plans = append(out.Plans, showPlan(plan))
	}
	return out, err
}

func appID(a catalog.App) string                   { return a.ID }
func productName(p catalog.Product) string         { return p.Name }
func subscriptionID(s catalog.Subscription) string { return s.ID }
