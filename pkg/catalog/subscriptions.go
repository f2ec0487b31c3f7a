package catalog

import (
	"context"
	"time"

	"github.com/keywarden/keywarden/pkg/audit"
	"github.com/keywarden/keywarden/pkg/changes"
)

// State is how far a subscription has come.
type State string

// The states. The last three have ended; the app can ask for the product anew.
const (
	Pending   State = "pending"   // an operator has to approve it
	Active    State = "active"    // the only one in which anything can be reached
	Suspended State = "suspended" // by an operator, who can resume it
	Rejected  State = "rejected"  // by an operator
	Cancelled State = "cancelled" // by the developer
	Revoked   State = "revoked"   // by an operator
)

// States are all of them.
func States() []State { return []State{Pending, Active, Suspended, Rejected, Cancelled, Revoked} }

// Ended reports whether nothing comes after the state but a new request.
func (s State) Ended() bool { return s == Rejected || s == Cancelled || s == Revoked }

// Verb is what can be done to a subscription.
type Verb string

// The verbs. All but Cancel are for operators.
const (
	Approve Verb = "approve"
	Reject  Verb = "reject"
	Suspend Verb = "suspend"
	Resume  Verb = "resume"
	Revoke  Verb = "revoke"
	Cancel  Verb = "cancel"
)

// step is a verb: from which states it leads to which.
type step struct {
	from   []State
	to     State
	action audit.Action
}

func steps() map[Verb]step {
	return map[Verb]step{
		Approve: {[]State{Pending}, Active, audit.SubscriptionApproved},
		Reject:  {[]State{Pending}, Rejected, audit.SubscriptionRejected},
		Suspend: {[]State{Active}, Suspended, audit.SubscriptionSuspended},
		Resume:  {[]State{Suspended}, Active, audit.SubscriptionResumed},
		Revoke:  {[]State{Active, Suspended}, Revoked, audit.SubscriptionRevoked},
		Cancel:  {[]State{Pending, Active, Suspended}, Cancelled, audit.SubscriptionCancelled},
	}
}

// After is the state that the verb leads to from s; ok is false where it cannot be
// done.
func (s State) After(v Verb) (next State, ok bool) {
	of := steps()[v]
	for _, from := range of.from {
		if from == s {
			return of.to, true
		}
	}
	return s, false
}

// Subscription is what an app has of a product. An app has at most one of each: one
// that has ended and is asked for anew keeps its id, and with it what was used of the
// plan's limits.
type Subscription struct {
	ID        string // UUID
	App       string // UUID
	UserID    string // owner of the app
	ProductID string // UUID
	Product   string // name
	Plan      string // name; empty when the subscription has ended and the plan is gone
	State     State
	CreatedAt time.Time
	UpdatedAt time.Time
}

// Application asks for a subscription.
type Application struct {
	ID      string // UUID of the subscription, if there was none before
	App     string // UUID
	Owner   string // whose app it has to be; empty for anybody's
	Product string
	Plan    string
	Now     time.Time
}

// Standing is what decides about an application, as it is in the transaction.
type Standing struct {
	ID        string // of the subscription
	UserID    string // owner of the app
	Visible   bool   // the product is
	Suspended bool   // the app is
	Approval  Approval
	Barred    bool // an operator has revoked or rejected a subscription of this user to the product, and let none begin since
}

// Subscribe subscribes an app of the owner to a plan of a visible product. The plan
// says whether an operator has to approve it. One does in any case when a
// subscription of the user to the product was revoked or rejected: that is not undone
// by asking again, in whatever app.
func (s *Service) Subscribe(ctx context.Context, owner, app, product, plan string) (Subscription, error) {
	return s.subscribe(ctx, Application{App: app, Owner: owner, Product: product, Plan: plan}, func(of Standing) (State, error) {
		switch {
		case !of.Visible:
			return "", ErrProduct
		case of.Suspended:
			return "", ErrState.WithDetail("The app is suspended.")
		case of.Approval == Automatic && !of.Barred:
			return Active, nil
		}
		return Pending, nil
	})
}

// Assign subscribes any app to a plan of any product, as an operator does: nobody has
// to approve it.
func (s *Service) Assign(ctx context.Context, app, product, plan string) (Subscription, error) {
	return s.subscribe(ctx, Application{App: app, Product: product, Plan: plan}, func(Standing) (State, error) { return Active, nil })
}

func (s *Service) subscribe(ctx context.Context, a Application, decide func(Standing) (State, error)) (Subscription, error) {
	var err error
	if a.ID, a.Now, err = s.fresh(); err != nil {
		return Subscription{}, err
	}
	event := appEvent(a.App)
	sub, err := s.Store.Subscribe(ctx, a, func(of Standing) (State, changes.Change, error) {
		state, err := decide(of)
		if err != nil {
			return state, changes.Change{}, err
		}
		entry := audit.New(ctx, audit.SubscriptionRequested, kindSubscription, of.ID).With("app", a.App).With("owner", of.UserID).
			With("product", a.Product).With("plan", a.Plan).With("state", string(state))
		return state, changes.Change{Audit: entry, Event: event}, nil
	})
	if err != nil {
		return Subscription{}, err
	}
	s.Notify(event)
	return sub, nil
}

// Subscription returns a subscription of the app, or [ErrSubscription]; an empty app
// is any. Whether the caller may see the app is the caller's to find out.
func (s *Service) Subscription(ctx context.Context, app, id string) (Subscription, error) {
	sub, err := s.Store.Subscription(ctx, id)
	if err == nil && app != "" && sub.App != app {
		return Subscription{}, ErrSubscription
	}
	return sub, err
}

// Subscriptions returns subscriptions, newest first.
func (s *Service) Subscriptions(ctx context.Context, f SubscriptionFilter) ([]Subscription, error) {
	return s.Store.ListSubscriptions(ctx, f)
}

// CancelSubscription ends a subscription of an app of the owner. A subscription of
// another app, or of another's, does not exist.
func (s *Service) CancelSubscription(ctx context.Context, owner, app, id string) (Subscription, error) {
	return s.decide(ctx, id, Cancel, func(sub Subscription) error {
		if sub.App != app || sub.UserID != owner {
			return ErrSubscription
		}
		return nil
	})
}

// Decide does what operators do to a subscription. It holds at once, on every replica.
func (s *Service) Decide(ctx context.Context, id string, v Verb) (Subscription, error) {
	return s.decide(ctx, id, v, func(Subscription) error { return nil })
}

func (s *Service) decide(ctx context.Context, id string, v Verb, may func(Subscription) error) (Subscription, error) {
	var event changes.Event
	sub, err := s.Store.ChangeSubscription(ctx, id, s.now(), func(sub Subscription) (State, changes.Change, error) {
		if err := may(sub); err != nil {
			return "", changes.Change{}, err
		}
		next, ok := sub.State.After(v)
		if !ok {
			return "", changes.Change{}, ErrState.WithDetail("The subscription is %s, to which this cannot be done: %s.", sub.State, v)
		}
		event = appEvent(sub.App)
		entry := audit.New(ctx, steps()[v].action, kindSubscription, id).With("app", sub.App).With("owner", sub.UserID).
			With("product", sub.Product).With("plan", sub.Plan).With("before", string(sub.State))
		return next, changes.Change{Audit: entry, Event: event}, nil
	})
	if err != nil {
		return Subscription{}, err
	}
	s.Notify(event)
	return sub, nil
}
