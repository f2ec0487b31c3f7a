// Package catalog keeps what can be subscribed to, and who is: products, which bundle
// routes of the gateway, their plans with limits, the apps of developers, and the
// subscriptions of apps to plans. [Service] is what developers and operators do, and
// [Directory] what the data plane knows of products.
//
// It does not verify keys, nor count requests: what an app may reach is resolved with
// the record of its key (access.Grant), and counted by the policy "plan".
package catalog

import (
	"context"
	"time"

	"github.com/google/uuid"

	"github.com/keywarden/keywarden/pkg/access"
	"github.com/keywarden/keywarden/pkg/changes"
	"github.com/keywarden/keywarden/pkg/problem"
)

// Bounds.
const (
	MaxProducts      = 1000
	MaxPlans         = 20  // of a product
	MaxRoutes        = 200 // names in a product
	MaxSubscriptions = 50  // of an app that have not ended

	maxName        = 64   // bytes
	maxTitle       = 100  // characters
	maxDescription = 4000 // characters
	maxPrice       = 200  // characters
)

// Errors of this package.
var (
	ErrProduct      = problem.Define(problem.NotFound, "catalog.product_not_found", "There is no product of this name.")
	ErrPlan         = problem.Define(problem.NotFound, "catalog.plan_not_found", "The product has no plan of this name.")
	ErrApp          = problem.Define(problem.NotFound, "catalog.app_not_found", "No app has this identifier.")
	ErrSubscription = problem.Define(problem.NotFound, "catalog.subscription_not_found", "No subscription has this identifier.")
	ErrFull         = problem.Define(problem.Conflict, "catalog.too_many",
		"There are as many as there may be: products, plans of a product, apps of a user, or subscriptions of an app.")
	ErrInUse = problem.Define(problem.Conflict, "catalog.in_use",
		"There are subscriptions that have not ended. They end with it when the deletion is forced.")
	ErrSubscribed = problem.Define(problem.Conflict, "catalog.already_subscribed",
		"The app has a subscription to this product already; cancel it first.")
	ErrState = problem.Define(problem.Conflict, "catalog.wrong_state", "This cannot be done to a subscription in its state.")

	// ErrChanged is the refusal of a change whose [Base] is not what there is.
	ErrChanged = problem.Define(problem.PreconditionFailed, "catalog.changed",
		"It is not what your change is based on any more. Read it again.")
)

// Product is a bundle of routes.
type Product struct {
	ID          string // UUID
	Name        string // for good
	Title       string
	Description string
	Visible     bool // developers see it and can subscribe to it
	AppsOnly    bool // who shows another credential than the key of an app does not reach the routes

	// Routes are the names of routes, and of APIs: an API "people" is all routes
	// "people.*". They are sorted. A name that no route has opens nothing.
	Routes    []string
	CreatedAt time.Time
	UpdatedAt time.Time
}

// Approval says who lets a subscription begin.
type Approval string

// The approvals.
const (
	Automatic Approval = "automatic"
	Operator  Approval = "operator"
)

// Plan is how much of a product can be used.
type Plan struct {
	ID        string // UUID
	Name      string // in its product, for good
	Price     string // a note for people
	Approval  Approval
	Terms     access.Terms
	CreatedAt time.Time
	UpdatedAt time.Time
}

// Base is what a change of a product or a plan is based on. The zero Base is whatever
// there is, also nothing.
type Base struct {
	Tag string // of the one that is replaced, or [AnyTag]; empty for no matter which
	New bool   // none is replaced
}

// AnyTag stands for the tag of whatever there is.
const AnyTag = "*"

// Tag tells the states of a product or a plan apart, by when it was changed: each change
// is later than the one before.
func Tag(changed time.Time) string { return changed.UTC().Format(time.RFC3339Nano) }

// Check returns [ErrChanged] unless the change may be made of what there is, if it
// exists, that was changed last at a time.
func (b Base) Check(exists bool, changed time.Time) error {
	switch {
	case b.New && exists:
		return ErrChanged.WithDetail("There is one of this name already.")
	case b.Tag == "" || b.Tag == AnyTag && exists || exists && b.Tag == Tag(changed):
		return nil
	case !exists:
		return ErrChanged.WithDetail("There is none of this name, or not any more.")
	}
	return ErrChanged
}

// App is a program of a developer.
type App struct {
	ID          string // UUID
	UserID      string
	Name        string
	Description string
	SuspendedAt *time.Time // by an operator; its keys reach nothing
	CreatedAt   time.Time
	UpdatedAt   time.Time
}

// ProductFilter selects products, by name.
type ProductFilter struct {
	VisibleOnly bool
	After       string // only products with a greater name
	Limit       int
}

// AppFilter selects apps that are not deleted, newest first.
type AppFilter struct {
	UserID string // empty for those of all users
	Before string // only apps with a smaller id
	Limit  int
}

// SubscriptionFilter selects subscriptions, newest first; zero values select all.
type SubscriptionFilter struct {
	App     string
	Product string // name
	State   State
	Before  string // only subscriptions with a smaller id
	Limit   int
}

// ProductStore keeps products and plans. Every change is committed with its audit
// entry and event, or not at all; a prepare function makes these for the id of the
// product, and may be called more than once.
type ProductStore interface {
	// PutProduct stores p, new or in place of the product of its name, which keeps its
	// id and time of creation: ErrChanged when that is not base. A new one beyond
	// MaxProducts is ErrFull.
	PutProduct(ctx context.Context, p Product, base Base, prepare func(id string) changes.Change) (after Product, created bool, err error)
	// Product returns ErrProduct for one that does not exist.
	Product(ctx context.Context, name string) (Product, error)
	ListProducts(ctx context.Context, f ProductFilter) ([]Product, error)
	// DeleteProduct removes a product with its plans and subscriptions: ErrProduct, and
	// ErrInUse when it has some that have not ended, unless forced.
	DeleteProduct(ctx context.Context, name string, force bool, prepare func(id string) changes.Change) error

	// PutPlan stores p, new or in place of the plan of its name: ErrProduct, ErrChanged
	// when that is not base, ErrFull.
	PutPlan(ctx context.Context, product string, p Plan, base Base, prepare func(productID string) changes.Change) (after Plan, created bool, err error)
	// ListPlans returns the plans of a product, by name; ErrProduct.
	ListPlans(ctx context.Context, product string) ([]Plan, error)
	// DeletePlan removes a plan: ErrProduct, ErrPlan, and ErrInUse when it has
	// subscriptions that have not ended, unless forced; then they are revoked.
	DeletePlan(ctx context.Context, product, name string, force bool, prepare func(productID string) changes.Change) error
}

// AppStore keeps apps. Every change is committed with its audit entry and event.
type AppStore interface {
	// InsertApp returns ErrFull when the user has max apps.
	InsertApp(ctx context.Context, a App, max int, c changes.Change) error
	// App returns ErrApp for one that does not exist, or does not any more.
	App(ctx context.Context, id string) (App, error)
	ListApps(ctx context.Context, f AppFilter) ([]App, error)
	// ChangeApp stores what edit makes of an app, while nobody else can change it. edit
	// may be called more than once.
	ChangeApp(ctx context.Context, id string, edit func(App) (App, changes.Change, error)) (App, error)
	// DeleteApp revokes the keys of an app, and cancels its subscriptions.
	DeleteApp(ctx context.Context, id string, now time.Time, c changes.Change) error
}

// SubscriptionStore keeps subscriptions. Every change is committed with its audit
// entry and event.
type SubscriptionStore interface {
	// Subscribe subscribes an app to a plan: ErrApp, ErrProduct, ErrPlan, ErrSubscribed,
	// ErrFull. The subscription that the app had to the product before begins anew,
	// under its id; so does one that a deleted app of the same user has left, for the
	// new app. decide says in which state, and makes audit entry and event; it may be
	// called more than once.
	Subscribe(ctx context.Context, a Application, decide func(Standing) (State, changes.Change, error)) (Subscription, error)
	// Subscription returns ErrSubscription for one that does not exist.
	Subscription(ctx context.Context, id string) (Subscription, error)
	ListSubscriptions(ctx context.Context, f SubscriptionFilter) ([]Subscription, error)
	// ChangeSubscription stores the state that decide returns, while nobody else can
	// change the subscription. decide may be called more than once.
	ChangeSubscription(ctx context.Context, id string, now time.Time, decide func(Subscription) (State, changes.Change, error)) (Subscription, error)
}

// Store keeps the catalog. Implementations are safe for concurrent use.
type Store interface {
	ProductStore
	AppStore
	SubscriptionStore
}

// Options configure a [Service]. All fields are required.
type Options struct {
	Store       Store
	Notify      func(changes.Event) // is told of a change after its commit
	AppsPerUser int
	Now         func() time.Time
}

// Service is what developers and operators do. It is safe for concurrent use.
type Service struct{ Options }

// NewService makes a service.
func NewService(o Options) *Service { return &Service{o} }

func (s *Service) now() time.Time { return s.Now().UTC().Truncate(time.Microsecond) }

// fresh is an identifier for something that may be new, and the time.
func (s *Service) fresh() (id string, now time.Time, err error) {
	made, err := uuid.NewV7()
	return made.String(), s.now(), err
}

// Kinds of what audit entries of this package are about.
const (
	kindProduct      = "product"
	kindPlan         = "plan"
	kindApp          = "app"
	kindSubscription = "subscription"
)
