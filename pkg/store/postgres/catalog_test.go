package postgres

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/keywarden/keywarden/pkg/access"
	"github.com/keywarden/keywarden/pkg/account"
	"github.com/keywarden/keywarden/pkg/apikey"
	"github.com/keywarden/keywarden/pkg/catalog"
	"github.com/keywarden/keywarden/pkg/changes"
	"github.com/keywarden/keywarden/pkg/slowhash"
	"github.com/keywarden/keywarden/pkg/throttle"
)

const appsPerUser = 5

func (w *world) catalog(notify ...func(changes.Event)) *catalog.Service {
	return catalog.NewService(catalog.Options{Store: w.Store, AppsPerUser: appsPerUser, Now: time.Now, Notify: func(e changes.Event) {
		for _, tell := range notify {
			tell(e)
		}
	}})
}

// sold makes a visible product with the plans "free" (automatic) and "gold" (by an
// operator).
func (w *world) sold(s *catalog.Service, name string, routes ...string) catalog.Product {
	w.t.Helper()
	ctx := w.t.Context()
	p, _, err := s.PutProduct(ctx, catalog.Product{Name: name, Visible: true, Routes: routes}, catalog.Base{})
	w.must(err)
	_, _, err = s.PutPlan(ctx, name, catalog.Plan{Name: "free", Terms: access.Terms{
		Rate: access.RateTerms{Requests: 10, Window: time.Minute}, Quota: access.QuotaTerms{Units: 100, Period: "day"},
	}}, catalog.Base{})
	w.must(err)
	_, _, err = s.PutPlan(ctx, name, catalog.Plan{Name: "gold", Approval: catalog.Operator}, catalog.Base{})
	w.must(err)
	return p
}

func (w *world) app(s *catalog.Service, u account.User) catalog.App {
	w.t.Helper()
	a, err := s.CreateApp(w.t.Context(), u.ID, "app", "")
	w.must(err)
	return a
}

// mint makes a key of the app.
func (w *world) mint(u account.User, app string) apikey.Minted {
	w.t.Helper()
	m, err := w.keyService(noLimit).Create(w.t.Context(), u.ID, u.Role, apikey.Request{Name: "ci", App: app}, "")
	w.must(err)
	return m
}

// verifier is one replica's.
func (w *world) verifier() *apikey.Verifier {
	w.t.Helper()
	pool, err := slowhash.New(lowestCost, 4)
	w.must(err)
	peppers, err := apikey.NewPeppers(w.ring)
	w.must(err)
	roles, err := access.NewRoles(nil)
	w.must(err)
	misses, err := throttle.New(1000, time.Millisecond, time.Now)
	w.must(err)
	v, err := apikey.NewVerifier(apikey.VerifierOptions{
		Store: w.Store, Hasher: pool, Peppers: peppers, Roles: roles, Prefix: "kw", Fresh: func(time.Time) bool { return true },
		Misses: misses, Entries: 1000, Timeout: patience, Now: time.Now, Logger: slog.New(slog.DiscardHandler),
	})
	w.must(err)
	return v
}

var caller = netip.MustParseAddr("203.0.113.7")

// opens is the subscription by which the key reaches a route; empty: it does not.
func (w *world) opens(v *apikey.Verifier, m apikey.Minted, route string) string {
	w.t.Helper()
	p, err := v.VerifyKey(w.t.Context(), m.Secret.Reveal(), caller)
	w.must(err)
	if e := p.Grant.For(route); e != nil {
		return e.Subscription
	}
	return ""
}

func TestKeyOfAnAppOpensWhatTheAppIsSubscribedTo(t *testing.T) {
	w := newWorld(t)
	ctx := t.Context()
	v := w.verifier()
	s := w.catalog(v.Apply)
	u := w.user(access.RoleUser)
	product := w.sold(s, "people", "people", "birds.list")
	app := w.app(s, u)
	m, plain := w.mint(u, app.ID), w.mint(u, "")
	if p, err := v.VerifyKey(ctx, plain.Secret.Reveal(), caller); err != nil || p.App != "" || p.Grant != nil {
		t.Fatalf("a key without an app: %+v, %v", p, err)
	}
	if got := w.opens(v, m, "people"); got != "" {
		t.Errorf("opened by %q before there is a subscription", got)
	}
	sub, err := s.Subscribe(ctx, u.ID, app.ID, "people", "free")
	w.must(err)
	if sub.State != catalog.Active {
		t.Fatalf("%+v", sub)
	}
	for route, want := range map[string]string{
		"people": sub.ID, "people.list": sub.ID, "people.admin.list": sub.ID, "birds.list": sub.ID, "birds": "", "birds.get": "",
		"peoples": "", "people-list": "", "": "",
	} {
		if got := w.opens(v, m, route); got != want {
			t.Errorf("route %q is opened by %q, want %q", route, got, want)
		}
	}
	p, err := v.VerifyKey(ctx, m.Secret.Reveal(), caller)
	w.must(err)
	want := &access.Entitlement{
		Subscription: sub.ID, ProductID: product.ID, Product: "people", Plan: "free", Routes: []string{"birds.list", "people"},
		Terms: access.Terms{
			Rate:  access.RateTerms{Requests: 10, Window: time.Minute, Burst: 10},
			Quota: access.QuotaTerms{Units: 100, Period: "day", Zone: "UTC"},
		},
	}
	if diff := cmp.Diff(want, p.Grant.For("people.x")); diff != "" || p.App != app.ID {
		t.Errorf("app %s: %s", p.App, diff)
	}
	rotated, err := w.keyService(noLimit).Rotate(ctx, u.ID, m.Key.ID, 0, "")
	w.must(err)
	v.Apply(changes.Event{Kind: changes.KeyChanged, Subject: m.Key.PublicID})
	if rotated.Key.App != app.ID || w.opens(v, rotated, "people") != sub.ID {
		t.Errorf("rotation lost the app: %+v", rotated.Key)
	}

	// What an operator changes holds for the next request.
	_, _, err = s.PutPlan(ctx, "people", catalog.Plan{Name: "free", Terms: access.Terms{Rate: access.RateTerms{Requests: 3, Window: time.Second}}}, catalog.Base{})
	w.must(err)
	p, err = v.VerifyKey(ctx, rotated.Secret.Reveal(), caller)
	w.must(err)
	if terms := p.Grant.For("people").Terms; terms != (access.Terms{Rate: access.RateTerms{Requests: 3, Window: time.Second, Burst: 3}}) {
		t.Errorf("the terms are still %+v", terms)
	}
	_, _, err = s.PutProduct(ctx, catalog.Product{Name: "people", Routes: []string{"birds"}}, catalog.Base{})
	w.must(err)
	if w.opens(v, rotated, "people") != "" || w.opens(v, rotated, "birds.get") != sub.ID {
		t.Error("the product's change did not arrive")
	}
	_, err = s.SuspendApp(ctx, app.ID)
	w.must(err)
	if w.opens(v, rotated, "birds") != "" {
		t.Error("a suspended app reaches something")
	}
	_, err = s.ResumeApp(ctx, app.ID)
	w.must(err)
	if w.opens(v, rotated, "birds") != sub.ID {
		t.Error("a resumed app does not")
	}
	w.must(s.DeleteApp(ctx, u.ID, app.ID))
	if _, err := v.VerifyKey(ctx, rotated.Secret.Reveal(), caller); !errors.Is(err, access.ErrKey) {
		t.Errorf("the key of a deleted app: %v", err)
	}
	if k, err := w.Key(ctx, m.Key.ID); err != nil || k.RevokedAt == nil || k.App != app.ID {
		t.Errorf("it is %+v, %v", k, err)
	}
}

// The states are driven at random through the service, against a model of them.
func TestSubscriptionsFollowTheirStates(t *testing.T) {
	w := newWorld(t)
	s := w.catalog()
	v := w.verifier()
	s.Notify = v.Apply
	u := w.user(access.RoleUser)
	w.sold(s, "people", "people")
	verbs := []catalog.Verb{catalog.Approve, catalog.Reject, catalog.Suspend, catalog.Resume, catalog.Revoke, catalog.Cancel}
	allowed := map[catalog.Verb]map[catalog.State]catalog.State{
		catalog.Approve: {catalog.Pending: catalog.Active},
		catalog.Reject:  {catalog.Pending: catalog.Rejected},
		catalog.Suspend: {catalog.Active: catalog.Suspended},
		catalog.Resume:  {catalog.Suspended: catalog.Active},
		catalog.Revoke:  {catalog.Active: catalog.Revoked, catalog.Suspended: catalog.Revoked},
		catalog.Cancel:  {catalog.Pending: catalog.Cancelled, catalog.Active: catalog.Cancelled, catalog.Suspended: catalog.Cancelled},
	}
	rapid.Check(t, func(rt *rapid.T) {
		ctx := context.Background()
		// Each run has an app and a user of its own.
		owner := w.user(access.RoleUser)
		app := w.app(s, owner)
		key := w.mint(owner, app.ID)
		var state catalog.State
		var id string
		barred := false
		rt.Repeat(map[string]func(*rapid.T){
			"": func(rt *rapid.T) {
				if id == "" {
					return
				}
				sub, err := s.Subscription(ctx, app.ID, id)
				if err != nil || sub.State != state {
					rt.Fatalf("stored is %+v, %v; want %s", sub, err, state)
				}
				if reached := w.opens(v, key, "people") == id; reached != (state == catalog.Active) {
					rt.Fatalf("%s, and the key reaches the route: %v", state, reached)
				}
			},
			"subscribe": func(rt *rapid.T) {
				plan := rapid.SampledFrom([]string{"free", "gold"}).Draw(rt, "plan")
				sub, err := s.Subscribe(ctx, owner.ID, app.ID, "people", plan)
				switch {
				case state != "" && !state.Ended():
					if !errors.Is(err, catalog.ErrSubscribed) {
						rt.Fatalf("a second one: %v", err)
					}
				case err != nil:
					rt.Fatal(err)
				default:
					want := catalog.Pending
					if plan == "free" && !barred {
						want = catalog.Active
					}
					if sub.State != want || id != "" && sub.ID != id || sub.Plan != plan {
						rt.Fatalf("%+v after %s %s, want %s", sub, id, state, want)
					}
					id, state = sub.ID, sub.State
				}
			},
			"decide": func(rt *rapid.T) {
				if id == "" {
					return
				}
				verb := rapid.SampledFrom(verbs).Draw(rt, "verb")
				decide := func() (catalog.Subscription, error) { return s.Decide(ctx, id, verb) }
				if verb == catalog.Cancel {
					decide = func() (catalog.Subscription, error) { return s.CancelSubscription(ctx, owner.ID, app.ID, id) }
					if _, err := s.CancelSubscription(ctx, u.ID, app.ID, id); !errors.Is(err, catalog.ErrSubscription) {
						rt.Fatalf("somebody else cancels it: %v", err)
					}
				}
				sub, err := decide()
				next, ok := allowed[verb][state]
				if !ok {
					if !errors.Is(err, catalog.ErrState) {
						rt.Fatalf("%s of what is %s: %+v, %v", verb, state, sub, err)
					}
					return
				}
				if err != nil || sub.State != next {
					rt.Fatalf("%s of what is %s: %+v, %v", verb, state, sub, err)
				}
				state = next
				switch verb {
				case catalog.Revoke, catalog.Reject:
					barred = true
				case catalog.Approve, catalog.Resume:
					barred = false
				case catalog.Suspend, catalog.Cancel:
				}
			},
		})
	})
	if _, err := w.chain.Verify(t.Context(), w.Store); err != nil {
		t.Error(err)
	}
}

func TestApproveAndCancelExcludeEachOther(t *testing.T) {
	w := newWorld(t)
	ctx := t.Context()
	s := w.catalog()
	u := w.user(access.RoleUser)
	w.sold(s, "people", "people")
	for range 20 {
		app := w.app(s, u)
		sub, err := s.Subscribe(ctx, u.ID, app.ID, "people", "gold")
		w.must(err)
		before := w.number(`SELECT count(*) FROM audit_log`)
		errs := together(
			func() error { _, err := s.Decide(ctx, sub.ID, catalog.Approve); return err },
			func() error { _, err := s.CancelSubscription(ctx, u.ID, app.ID, sub.ID); return err },
			func() error { _, err := s.Decide(ctx, sub.ID, catalog.Reject); return err },
		)
		after, err := s.Subscription(ctx, app.ID, sub.ID)
		w.must(err)
		done := count(errs, nil)
		// Approved first and cancelled then is the one way for two to succeed.
		if done == 0 || done == 3 || done == 2 && (after.State != catalog.Cancelled || errs[0] != nil || errs[1] != nil) {
			t.Errorf("%v, and it is %s", errs, after.State)
		}
		if done+count(errs, catalog.ErrState) != 3 || w.number(`SELECT count(*) FROM audit_log`)-before != int64(done) {
			t.Errorf("%v", errs)
		}
		w.must(s.DeleteApp(ctx, u.ID, app.ID))
	}
}

func TestRevocationWinsAgainstVerificationsInFlight(t *testing.T) {
	w := newWorld(t)
	ctx := t.Context()
	v := w.verifier()
	s := w.catalog(v.Apply)
	u := w.user(access.RoleUser)
	w.sold(s, "people", "people")
	app := w.app(s, u)
	m := w.mint(u, app.ID)
	sub, err := s.Subscribe(ctx, u.ID, app.ID, "people", "free")
	w.must(err)
	for range 20 {
		v.Reset()
		reading := times(8, func(int) error { _, err := v.VerifyKey(ctx, m.Secret.Reveal(), caller); return err })
		errs := together(append(reading, func() error { _, err := s.Decide(ctx, sub.ID, catalog.Suspend); return err })...)
		if count(errs, nil) != len(errs) {
			t.Fatal(errs)
		}
		if got := w.opens(v, m, "people"); got != "" {
			t.Fatal("a key reaches what was suspended before")
		}
		_, err := s.Decide(ctx, sub.ID, catalog.Resume)
		w.must(err)
		if w.opens(v, m, "people") != sub.ID {
			t.Fatal("a key does not reach what was resumed before")
		}
	}
}

func TestAppsAndSubscriptionsBelongToTheirDeveloper(t *testing.T) {
	w := newWorld(t)
	ctx := t.Context()
	s := w.catalog()
	u, other := w.user(access.RoleUser), w.user(access.RoleUser)
	w.sold(s, "people", "people")
	app, theirs := w.app(s, u), w.app(s, other)
	sub, err := s.Subscribe(ctx, u.ID, app.ID, "people", "free")
	w.must(err)
	name := "mine now"
	for what, call := range map[string]func() error{
		"see":       func() error { _, err := s.App(ctx, other.ID, app.ID); return err },
		"change":    func() error { _, err := s.UpdateApp(ctx, other.ID, app.ID, catalog.AppPatch{Name: &name}); return err },
		"delete":    func() error { return s.DeleteApp(ctx, other.ID, app.ID) },
		"subscribe": func() error { _, err := s.Subscribe(ctx, other.ID, app.ID, "people", "free"); return err },
	} {
		if err := call(); !errors.Is(err, catalog.ErrApp) {
			t.Errorf("%s another's app: %v", what, err)
		}
	}
	for what, call := range map[string]func() error{
		"see by the own app":    func() error { _, err := s.Subscription(ctx, theirs.ID, sub.ID); return err },
		"cancel by the own app": func() error { _, err := s.CancelSubscription(ctx, other.ID, theirs.ID, sub.ID); return err },
		"cancel":                func() error { _, err := s.CancelSubscription(ctx, other.ID, app.ID, sub.ID); return err },
	} {
		if err := call(); !errors.Is(err, catalog.ErrSubscription) {
			t.Errorf("%s another's subscription: %v", what, err)
		}
	}
	keys := w.keyService(noLimit)
	for _, id := range []string{app.ID, newID(), "x", "x\x00"} {
		if _, err := keys.Create(ctx, other.ID, other.Role, apikey.Request{Name: "ci", App: id}, ""); !errors.Is(err, apikey.ErrApp) {
			t.Errorf("a key for %q: %v", id, err)
		}
	}
	// Not even a mistake of the program makes such a key.
	k, secret := newKey(other)
	w.must(func() error {
		_, err := w.InsertKey(ctx, k, secret, noLimit, apikey.Idempotent{}, noted("test", ""))
		return err
	}())
	if _, err := w.pool.Exec(ctx, `UPDATE api_keys SET app_id = $2 WHERE id = $1`, k.ID, app.ID); err == nil {
		t.Error("the database lets a key be of another's app")
	}
	w.mint(u, app.ID)
	w.mint(u, "")
	if list, err := keys.List(ctx, apikey.Filter{UserID: u.ID, App: app.ID, Limit: 10}); err != nil || len(list) != 1 {
		t.Errorf("%d keys of the app, %v", len(list), err)
	}
	w.must(w.DeleteUser(ctx, u.ID, noted("test", u.ID)))
	if n := w.number(`SELECT (SELECT count(*) FROM apps) + (SELECT count(*) FROM subscriptions) + (SELECT count(*) FROM api_keys)`); n != 2 {
		t.Errorf("%d rows of apps, subscriptions and keys are left when a user is gone", n)
	}
}

func TestWhatIsNotVisibleCannotBeSubscribedTo(t *testing.T) {
	w := newWorld(t)
	ctx := t.Context()
	s := w.catalog()
	u := w.user(access.RoleUser)
	app := w.app(s, u)
	w.sold(s, "people", "people")
	_, _, err := s.PutProduct(ctx, catalog.Product{Name: "people", Routes: []string{"people"}}, catalog.Base{})
	w.must(err)
	for _, plan := range []string{"free", "none", ""} {
		if _, err := s.Subscribe(ctx, u.ID, app.ID, "people", plan); !errors.Is(err, catalog.ErrProduct) {
			t.Errorf("plan %q of a hidden product: %v", plan, err)
		}
	}
	if sub, err := s.Assign(ctx, app.ID, "people", "gold"); err != nil || sub.State != catalog.Active {
		t.Errorf("%+v, %v", sub, err)
	}
	if _, err := s.Product(ctx, "people", true); !errors.Is(err, catalog.ErrProduct) {
		t.Errorf("it is shown: %v", err)
	}
	if list, err := s.Products(ctx, catalog.ProductFilter{VisibleOnly: true, Limit: 10}); err != nil || len(list) != 0 {
		t.Errorf("it is listed: %v, %v", list, err)
	}
}

func TestEndedSubscriptionsAreNotForgotten(t *testing.T) {
	w := newWorld(t)
	ctx := t.Context()
	s := w.catalog()
	u := w.user(access.RoleUser)
	w.sold(s, "people", "people")
	app := w.app(s, u)
	first, err := s.Subscribe(ctx, u.ID, app.ID, "people", "free")
	w.must(err)
	w.must(s.DeleteApp(ctx, u.ID, app.ID))
	if _, err := s.Subscribe(ctx, u.ID, app.ID, "people", "free"); !errors.Is(err, catalog.ErrApp) {
		t.Errorf("a deleted app: %v", err)
	}
	// What is left of the plan's quota is that of the same subscription.
	second := w.app(s, u)
	sub, err := s.Subscribe(ctx, u.ID, second.ID, "people", "free")
	w.must(err)
	if sub.ID != first.ID || sub.App != second.ID || sub.State != catalog.Active {
		t.Errorf("%+v, after %+v", sub, first)
	}
	// What an operator has ended does not begin again by itself, in any app.
	_, err = s.Decide(ctx, sub.ID, catalog.Revoke)
	w.must(err)
	third := w.app(s, u)
	if sub, err = s.Subscribe(ctx, u.ID, third.ID, "people", "free"); err != nil || sub.State != catalog.Pending {
		t.Errorf("%+v, %v", sub, err)
	}
}

func TestCatalogIsBounded(t *testing.T) {
	w := newWorld(t)
	ctx := t.Context()
	s := w.catalog()
	u := w.user(access.RoleUser)
	errs := together(times(appsPerUser+5, func(int) error { _, err := s.CreateApp(ctx, u.ID, "app", ""); return err })...)
	if count(errs, nil) != appsPerUser || count(errs, catalog.ErrFull) != 5 {
		t.Errorf("%v", errs)
	}
	apps, err := s.Apps(ctx, catalog.AppFilter{UserID: u.ID, Limit: 100})
	w.must(err)
	for i := range catalog.MaxSubscriptions + 1 {
		name := fmt.Sprintf("p-%d", i)
		_, _, err := s.PutProduct(ctx, catalog.Product{Name: name, Visible: true, Routes: []string{"r"}}, catalog.Base{})
		w.must(err)
		_, _, err = s.PutPlan(ctx, name, catalog.Plan{Name: "free"}, catalog.Base{})
		w.must(err)
		_, err = s.Subscribe(ctx, u.ID, apps[0].ID, name, "free")
		if full := i == catalog.MaxSubscriptions; full != errors.Is(err, catalog.ErrFull) || !full && err != nil {
			t.Errorf("subscription %d: %v", i, err)
		}
	}
	for i := range catalog.MaxPlans {
		_, _, err := s.PutPlan(ctx, "p-0", catalog.Plan{Name: fmt.Sprintf("plan-%d", i)}, catalog.Base{})
		if full := i == catalog.MaxPlans-1; full != errors.Is(err, catalog.ErrFull) || !full && err != nil {
			t.Errorf("plan %d: %v", i, err)
		}
	}
	if _, created, err := s.PutPlan(ctx, "p-0", catalog.Plan{Name: "free", Price: "nothing"}, catalog.Base{}); err != nil || created {
		t.Errorf("a plan of a full product is changed: %v, %v", created, err)
	}
	w.exec(`INSERT INTO products SELECT gen_random_uuid(), 'filler-' || i, '', '', false, false, '{}', now(), now() FROM generate_series(1, $1::int) i`,
		catalog.MaxProducts-catalog.MaxSubscriptions-1)
	if _, _, err := s.PutProduct(ctx, catalog.Product{Name: "one-more", Routes: []string{"r"}}, catalog.Base{}); !errors.Is(err, catalog.ErrFull) {
		t.Errorf("a product too many: %v", err)
	}
}

func TestDeletionOfWhatIsInUseMustBeForced(t *testing.T) {
	w := newWorld(t)
	ctx := t.Context()
	v := w.verifier()
	s := w.catalog(v.Apply)
	u := w.user(access.RoleUser)
	app := w.app(s, u)
	m := w.mint(u, app.ID)
	w.sold(s, "people", "people")
	sub, err := s.Subscribe(ctx, u.ID, app.ID, "people", "free")
	w.must(err)
	if err := s.DeletePlan(ctx, "people", "free", false); !errors.Is(err, catalog.ErrInUse) {
		t.Errorf("error %v", err)
	}
	if err := s.DeleteProduct(ctx, "people", false); !errors.Is(err, catalog.ErrInUse) || w.opens(v, m, "people") != sub.ID {
		t.Errorf("error %v", err)
	}
	w.must(s.DeletePlan(ctx, "people", "free", true))
	if after, err := s.Subscription(ctx, app.ID, sub.ID); err != nil || after.State != catalog.Revoked || after.Plan != "" || w.opens(v, m, "people") != "" {
		t.Errorf("%+v, %v", after, err)
	}
	if _, err = s.Assign(ctx, app.ID, "people", "gold"); err != nil || w.opens(v, m, "people") != sub.ID {
		t.Error(err)
	}
	w.must(s.DeleteProduct(ctx, "people", true))
	if _, err := s.Subscription(ctx, app.ID, sub.ID); !errors.Is(err, catalog.ErrSubscription) || w.opens(v, m, "people") != "" {
		t.Errorf("error %v", err)
	}
	for what, call := range map[string]func() error{
		"delete the product": func() error { return s.DeleteProduct(ctx, "people", true) },
		"delete a plan":      func() error { return s.DeletePlan(ctx, "people", "gold", true) },
		"put a plan": func() error {
			_, _, err := s.PutPlan(ctx, "people", catalog.Plan{Name: "gold"}, catalog.Base{})
			return err
		},
		"list plans":         func() error { _, err := s.Plans(ctx, "people"); return err },
		"subscribe":          func() error { _, err := s.Subscribe(ctx, u.ID, app.ID, "people", "gold"); return err },
		"see a strange name": func() error { _, err := s.Product(ctx, "x\x00", false); return err },
	} {
		if err := call(); !errors.Is(err, catalog.ErrProduct) {
			t.Errorf("%s: %v", what, err)
		}
	}
}

func TestSubscriptionsDoNotOutliveADeletionAtTheSameMoment(t *testing.T) {
	w := newWorld(t)
	ctx := t.Context()
	s := w.catalog()
	u := w.user(access.RoleUser)
	app := w.app(s, u)
	for range 10 {
		w.sold(s, "people", "people")
		errs := together(
			func() error { return s.DeleteProduct(ctx, "people", false) },
			func() error { _, err := s.Subscribe(ctx, u.ID, app.ID, "people", "free"); return err },
		)
		deleted, subscribed := errs[0] == nil, errs[1] == nil
		if deleted == subscribed || !deleted && !errors.Is(errs[0], catalog.ErrInUse) || !subscribed && !errors.Is(errs[1], catalog.ErrProduct) {
			t.Errorf("%v", errs)
		}
		if subscribed {
			w.must(s.DeleteProduct(ctx, "people", true))
		}
	}
	for range 10 {
		a := w.app(s, u)
		_ = together(
			func() error { return s.DeleteApp(ctx, u.ID, a.ID) },
			func() error {
				_, err := w.keyService(noLimit).Create(ctx, u.ID, u.Role, apikey.Request{Name: "ci", App: a.ID}, "")
				return err
			},
		)
		if n := w.number(`SELECT count(*) FROM api_keys WHERE app_id = $1 AND revoked_at IS NULL`, a.ID); n != 0 {
			t.Errorf("%d keys of a deleted app live", n)
		}
	}
}

func TestCatalogListsArePaged(t *testing.T) {
	w := newWorld(t)
	ctx := t.Context()
	s := w.catalog()
	u := w.user(access.RoleUser)
	var names []string
	for _, name := range []string{"b", "a-b", "a", "a1", "c"} {
		w.sold(s, name, "r")
		names = append(names, name)
	}
	slices.Sort(names)
	var seen []string
	for after := ""; ; {
		page, err := s.Products(ctx, catalog.ProductFilter{After: after, Limit: 2})
		w.must(err)
		if len(page) == 0 {
			break
		}
		for _, p := range page {
			seen = append(seen, p.Name)
		}
		after = seen[len(seen)-1]
	}
	if !slices.Equal(seen, names) {
		t.Errorf("%q, want %q", seen, names)
	}
	app := w.app(s, u)
	for _, name := range names {
		_, err := s.Subscribe(ctx, u.ID, app.ID, name, "gold")
		w.must(err)
	}
	for _, c := range []struct {
		filter catalog.SubscriptionFilter
		want   int
	}{
		{catalog.SubscriptionFilter{}, 5},
		{catalog.SubscriptionFilter{App: app.ID}, 5},
		{catalog.SubscriptionFilter{App: newID()}, 0},
		{catalog.SubscriptionFilter{App: "x"}, 0},
		{catalog.SubscriptionFilter{Product: "a"}, 1},
		{catalog.SubscriptionFilter{Product: "x\x00"}, 0},
		{catalog.SubscriptionFilter{State: catalog.Pending}, 5},
		{catalog.SubscriptionFilter{State: catalog.Active}, 0},
	} {
		var got int
		for {
			c.filter.Limit = 2
			page, err := s.Subscriptions(ctx, c.filter)
			w.must(err)
			if len(page) == 0 {
				break
			}
			got += len(page)
			c.filter.Before = page[len(page)-1].ID
		}
		if got != c.want {
			t.Errorf("%+v: %d, want %d", c.filter, got, c.want)
		}
	}
}

func TestDirectoryKnowsProducts(t *testing.T) {
	w := newWorld(t)
	ctx := t.Context()
	s := w.catalog()
	d := catalog.NewDirectory(w.Store, patience, slog.New(slog.DiscardHandler))
	if only, known := d.AppsOnly("people.list"); only || known || d.Opening("people.list") != nil {
		t.Error("it knows products that were never read")
	}
	w.must(d.Load(ctx))
	if only, known := d.AppsOnly("people.list"); only || !known {
		t.Error("it does not know that there are none")
	}
	running, cancel := context.WithCancel(ctx)
	ended := make(chan struct{})
	go func() { defer close(ended); d.Run(running) }()
	s.Notify = d.Apply
	w.sold(s, "people", "people")
	w.sold(s, "all", "people.list", "birds")
	_, _, err := s.PutProduct(ctx, catalog.Product{Name: "inner", AppsOnly: true, Routes: []string{"people.admin"}}, catalog.Base{})
	w.must(err)
	deadline := time.Now().Add(patience)
	for only := false; !only; only, _ = d.AppsOnly("people.admin.delete") {
		if time.Now().After(deadline) {
			t.Fatal("a change does not arrive")
		}
		time.Sleep(time.Millisecond)
	}
	if only, known := d.AppsOnly("people.list"); only || !known {
		t.Error("another route is kept to apps, too")
	}
	for route, want := range map[string][]string{
		"people.list": {"all", "people"}, "people.get": {"people"}, "people.admin.delete": {"people"}, "birds.x": {"all"}, "else": nil,
	} {
		if got := d.Opening(route); !slices.Equal(got, want) {
			t.Errorf("%s is opened by %q, want %q", route, got, want)
		}
	}
	cancel()
	<-ended
}

// Of those who change the same product or plan on the same base, one is first, and the
// others are told, whatever the clocks of their replicas say.
func TestNobodyOverwritesAChangeUnseen(t *testing.T) {
	w := newWorld(t)
	ctx := t.Context()
	s := w.catalog()
	slow := catalog.NewService(catalog.Options{
		Store: w.Store, AppsPerUser: appsPerUser, Notify: func(changes.Event) {}, Now: func() time.Time { return time.Now().Add(-time.Hour) },
	})
	put := map[string]func(of *catalog.Service, base catalog.Base) (time.Time, error){
		"product": func(of *catalog.Service, base catalog.Base) (time.Time, error) {
			p, _, err := of.PutProduct(ctx, catalog.Product{Name: "people", Routes: []string{"people"}}, base)
			return p.UpdatedAt, err
		},
		"plan": func(of *catalog.Service, base catalog.Base) (time.Time, error) {
			p, _, err := of.PutPlan(ctx, "people", catalog.Plan{Name: "free"}, base)
			return p.UpdatedAt, err
		},
	}
	for _, what := range []string{"product", "plan"} {
		change := put[what]
		for _, base := range []catalog.Base{{Tag: catalog.AnyTag}, {Tag: catalog.Tag(now())}} {
			if _, err := change(s, base); !errors.Is(err, catalog.ErrChanged) {
				t.Errorf("%s that there is not, on %+v: %v", what, base, err)
			}
		}
		at, err := change(s, catalog.Base{New: true})
		w.must(err)
		for range 3 {
			errs := together(times(8, func(i int) error {
				_, err := change([]*catalog.Service{s, slow}[i%2], catalog.Base{Tag: catalog.Tag(at)})
				return err
			})...)
			if count(errs, nil) != 1 || count(errs, catalog.ErrChanged) != 7 {
				t.Errorf("%s: %v", what, errs)
			}
			before := at
			at, err = change(slow, catalog.Base{Tag: catalog.AnyTag})
			w.must(err)
			if !at.After(before) {
				t.Errorf("%s: a change at %v comes after one at %v", what, at, before)
			}
		}
		if _, err := change(s, catalog.Base{New: true}); !errors.Is(err, catalog.ErrChanged) {
			t.Errorf("a new %s in place of another one: %v", what, err)
		}
		_, err = change(s, catalog.Base{})
		w.must(err)
	}
}
