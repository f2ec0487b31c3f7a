package postgres

import (
	"context"
	"errors"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/keywarden/keywarden/pkg/access"
	"github.com/keywarden/keywarden/pkg/apikey"
	"github.com/keywarden/keywarden/pkg/catalog"
	"github.com/keywarden/keywarden/pkg/changes"
)

var _ catalog.Store = (*Store)(nil)

// Names are compared byte by byte, whatever the locale of the database: pages go on
// where the one before has ended.
const (
	productColumns = `p.id::text, p.name, p.title, p.description, p.visible, p.apps_only, p.routes, p.created_at, p.updated_at`
	byName         = ` ORDER BY name COLLATE "C"`

	// liveStates are those of subscriptions that have not ended.
	liveStates = `('pending', 'active', 'suspended')`

	// barredAfter is whether a subscription is barred, after it has come to state $2: what
	// an operator has ended stays so until one lets it begin again.
	barredAfter = `barred = CASE WHEN $2 IN ('rejected', 'revoked') THEN true WHEN $2 = 'active' THEN false ELSE s.barred END`
)

func scanProduct(row pgx.CollectableRow) (p catalog.Product, err error) {
	err = row.Scan(&p.ID, &p.Name, &p.Title, &p.Description, &p.Visible, &p.AppsOnly, &p.Routes, &p.CreatedAt, &p.UpdatedAt)
	return p, err
}

// number is the one number of a query.
func number(ctx context.Context, tx pgx.Tx, sql string, args ...any) (n int, err error) {
	err = tx.QueryRow(ctx, sql, args...).Scan(&n)
	return n, err
}

// PutProduct implements catalog.ProductStore. Writers of products take turns: there
// are few. A change is later than the one before, whatever the clocks of replicas say:
// its time is the tag that the next one is based on.
func (s *Store) PutProduct(ctx context.Context, p catalog.Product, base catalog.Base, prepare func(id string) changes.Change) (after catalog.Product, created bool, err error) {
	_, err = s.changeAs(ctx, func(tx pgx.Tx) (c changes.Change, err error) {
		if _, err := tx.Exec(ctx, `LOCK TABLE products IN SHARE ROW EXCLUSIVE MODE`); err != nil {
			return c, err
		}
		before, err := One(ctx, tx, scanProduct, catalog.ErrProduct, `SELECT `+productColumns+` FROM products p WHERE name = $1`, p.Name)
		if created = errors.Is(err, catalog.ErrProduct); err != nil && !created {
			return c, err
		}
		if err := base.Check(!created, before.UpdatedAt); err != nil {
			return c, err
		}
		if !created {
			after, err = One(ctx, tx, scanProduct, catalog.ErrProduct, `
				UPDATE products p SET title = $2, description = $3, visible = $4, apps_only = $5, routes = $6, updated_at = greatest($7, p.updated_at + interval '1 microsecond')
				WHERE name = $1 RETURNING `+productColumns, p.Name, p.Title, p.Description, p.Visible, p.AppsOnly, p.Routes, p.UpdatedAt)
			return prepare(after.ID), err
		}
		count, err := number(ctx, tx, `SELECT count(*) FROM products`)
		if err != nil {
			return c, err
		}
		if count >= catalog.MaxProducts {
			return c, catalog.ErrFull.WithDetail("There are %d products, and may be no more.", count)
		}
		after, err = One(ctx, tx, scanProduct, catalog.ErrProduct, `
			INSERT INTO products AS p (id, name, title, description, visible, apps_only, routes, created_at, updated_at)
			VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9) RETURNING `+productColumns,
			p.ID, p.Name, p.Title, p.Description, p.Visible, p.AppsOnly, p.Routes, p.CreatedAt, p.UpdatedAt)
		return prepare(after.ID), err
	})
	return after, created, err
}

// Product implements catalog.ProductStore.
func (s *Store) Product(ctx context.Context, name string) (catalog.Product, error) {
	if !storable(name) {
		return catalog.Product{}, catalog.ErrProduct
	}
	p, err := One(ctx, s.pool, scanProduct, catalog.ErrProduct, `SELECT `+productColumns+` FROM products p WHERE name = $1`, name)
	return p, unavailable(err)
}

// ListProducts implements catalog.ProductStore.
func (s *Store) ListProducts(ctx context.Context, f catalog.ProductFilter) ([]catalog.Product, error) {
	if !storable(f.After) {
		return nil, nil
	}
	var w Where
	if f.VisibleOnly {
		w.Add(`visible`)
	}
	if f.After != "" {
		w.Add(`name COLLATE "C" > ?`, f.After)
	}
	return Many(ctx, s.pool, scanProduct, `SELECT `+productColumns+` FROM products p`+w.SQL()+byName+` LIMIT `+w.Arg(f.Limit), w.Args...)
}

// lockProduct keeps a product from being changed, or with another strength from being
// deleted, and returns its id.
func lockProduct(ctx context.Context, tx pgx.Tx, name, strength string) (id string, err error) {
	if !storable(name) {
		return "", catalog.ErrProduct
	}
	err = tx.QueryRow(ctx, `SELECT id::text FROM products WHERE name = $1 FOR `+strength, name).Scan(&id)
	if errors.Is(err, pgx.ErrNoRows) {
		return "", catalog.ErrProduct
	}
	return id, err
}

// DeleteProduct implements catalog.ProductStore. Who subscribes meanwhile waits for
// the lock, and then finds no product.
func (s *Store) DeleteProduct(ctx context.Context, name string, force bool, prepare func(id string) changes.Change) error {
	_, err := s.changeAs(ctx, func(tx pgx.Tx) (c changes.Change, err error) {
		id, err := lockProduct(ctx, tx, name, "UPDATE")
		if err != nil {
			return c, err
		}
		live, err := number(ctx, tx, `SELECT count(*) FROM subscriptions WHERE product_id = $1 AND state IN `+liveStates, id)
		if err != nil {
			return c, err
		}
		if live > 0 && !force {
			return c, catalog.ErrInUse
		}
		// Before the plans, without which those that have not ended cannot be.
		if _, err := tx.Exec(ctx, `DELETE FROM subscriptions WHERE product_id = $1`, id); err != nil {
			return c, err
		}
		_, err = tx.Exec(ctx, `DELETE FROM products WHERE id = $1`, id)
		return prepare(id), err
	})
	return err
}

const planColumns = `n.id::text, n.name, n.price, n.approval, n.rate_requests, n.rate_window, n.rate_burst,
	n.quota_units, n.quota_period, n.quota_zone, n.quota_rolling, n.created_at, n.updated_at`

func scanPlan(row pgx.CollectableRow) (p catalog.Plan, err error) {
	r, q := &p.Terms.Rate, &p.Terms.Quota
	err = row.Scan(&p.ID, &p.Name, &p.Price, &p.Approval, &r.Requests, &r.Window, &r.Burst,
		&q.Units, &q.Period, &q.Zone, &q.Rolling, &p.CreatedAt, &p.UpdatedAt)
	return p, err
}

// PutPlan implements catalog.ProductStore.
func (s *Store) PutPlan(ctx context.Context, product string, p catalog.Plan, base catalog.Base, prepare func(productID string) changes.Change) (after catalog.Plan, created bool, err error) {
	_, err = s.changeAs(ctx, func(tx pgx.Tx) (c changes.Change, err error) {
		id, err := lockProduct(ctx, tx, product, "UPDATE")
		if err != nil {
			return c, err
		}
		var count int
		var changed *time.Time
		err = tx.QueryRow(ctx, `SELECT count(*), max(updated_at) FILTER (WHERE name = $2) FROM plans WHERE product_id = $1`, id, p.Name).
			Scan(&count, &changed)
		if err != nil {
			return c, err
		}
		if created = changed == nil; created {
			changed = &time.Time{}
		}
		if err := base.Check(!created, *changed); err != nil {
			return c, err
		}
		if created && count >= catalog.MaxPlans {
			return c, catalog.ErrFull.WithDetail("The product has %d plans, and may have no more.", count)
		}
		r, q := p.Terms.Rate, p.Terms.Quota
		after, err = One(ctx, tx, scanPlan, catalog.ErrPlan, `
			INSERT INTO plans AS n (id, product_id, name, price, approval, rate_requests, rate_window, rate_burst,
				quota_units, quota_period, quota_zone, quota_rolling, created_at, updated_at)
			VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $13)
			ON CONFLICT ON CONSTRAINT plans_name_unique DO UPDATE SET price = excluded.price, approval = excluded.approval,
				rate_requests = excluded.rate_requests, rate_window = excluded.rate_window, rate_burst = excluded.rate_burst,
				quota_units = excluded.quota_units, quota_period = excluded.quota_period, quota_zone = excluded.quota_zone,
				quota_rolling = excluded.quota_rolling, updated_at = greatest(excluded.updated_at, n.updated_at + interval '1 microsecond')
			RETURNING `+planColumns,
			p.ID, id, p.Name, p.Price, p.Approval, r.Requests, r.Window, r.Burst, q.Units, q.Period, q.Zone, q.Rolling, p.CreatedAt)
		return prepare(id), err
	})
	return after, created, err
}

// ListPlans implements catalog.ProductStore.
func (s *Store) ListPlans(ctx context.Context, product string) ([]catalog.Plan, error) {
	p, err := s.Product(ctx, product)
	if err != nil {
		return nil, err
	}
	return Many(ctx, s.pool, scanPlan, `SELECT `+planColumns+` FROM plans n WHERE product_id = $1`+byName, p.ID)
}

// DeletePlan implements catalog.ProductStore.
func (s *Store) DeletePlan(ctx context.Context, product, name string, force bool, prepare func(productID string) changes.Change) error {
	_, err := s.changeAs(ctx, func(tx pgx.Tx) (c changes.Change, err error) {
		id, err := lockProduct(ctx, tx, product, "UPDATE")
		if err != nil {
			return c, err
		}
		plan, err := planID(ctx, tx, id, name)
		if err != nil {
			return c, err
		}
		live, err := number(ctx, tx, `SELECT count(*) FROM subscriptions WHERE plan_id = $1 AND state IN `+liveStates, plan)
		if err != nil {
			return c, err
		}
		if live > 0 && !force {
			return c, catalog.ErrInUse
		}
		if _, err := tx.Exec(ctx, `
			UPDATE subscriptions SET state = 'revoked', updated_at = now() WHERE plan_id = $1 AND state IN `+liveStates, plan); err != nil {
			return c, err
		}
		_, err = tx.Exec(ctx, `DELETE FROM plans WHERE id = $1`, plan)
		return prepare(id), err
	})
	return err
}

func planID(ctx context.Context, tx pgx.Tx, productID, name string) (id string, err error) {
	if !storable(name) {
		return "", catalog.ErrPlan
	}
	err = tx.QueryRow(ctx, `SELECT id::text FROM plans WHERE product_id = $1 AND name = $2`, productID, name).Scan(&id)
	if errors.Is(err, pgx.ErrNoRows) {
		return "", catalog.ErrPlan
	}
	return id, err
}

const appColumns = `a.id::text, a.user_id::text, a.name, a.description, a.suspended_at, a.created_at, a.updated_at`

func scanApp(row pgx.CollectableRow) (a catalog.App, err error) {
	err = row.Scan(&a.ID, &a.UserID, &a.Name, &a.Description, &a.SuspendedAt, &a.CreatedAt, &a.UpdatedAt)
	return a, err
}

// InsertApp implements catalog.AppStore.
func (s *Store) InsertApp(ctx context.Context, a catalog.App, limit int, c changes.Change) error {
	_, err := s.Change(ctx, c, func(tx pgx.Tx) error {
		// The owner's row is locked so that two calls count one after the other.
		if _, err := tx.Exec(ctx, `SELECT FROM users WHERE id = $1 FOR UPDATE`, a.UserID); err != nil {
			return err
		}
		count, err := number(ctx, tx, `SELECT count(*) FROM apps WHERE user_id = $1 AND deleted_at IS NULL`, a.UserID)
		if err != nil {
			return err
		}
		if count >= limit {
			return catalog.ErrFull.WithDetail("This user has %d apps, and may have no more; delete one first.", count)
		}
		_, err = tx.Exec(ctx, `
			INSERT INTO apps (id, user_id, name, description, created_at, updated_at) VALUES ($1, $2, $3, $4, $5, $5)`,
			a.ID, a.UserID, a.Name, a.Description, a.CreatedAt)
		return err
	})
	return err
}

const oneApp = `SELECT ` + appColumns + ` FROM apps a WHERE id = $1 AND deleted_at IS NULL`

// App implements catalog.AppStore.
func (s *Store) App(ctx context.Context, id string) (catalog.App, error) {
	if !IsUUID(id) {
		return catalog.App{}, catalog.ErrApp
	}
	a, err := One(ctx, s.pool, scanApp, catalog.ErrApp, oneApp, id)
	return a, unavailable(err)
}

// ListApps implements catalog.AppStore.
func (s *Store) ListApps(ctx context.Context, f catalog.AppFilter) ([]catalog.App, error) {
	if f.UserID != "" && !IsUUID(f.UserID) || f.Before != "" && !IsUUID(f.Before) {
		return nil, nil
	}
	var w Where
	w.Add(`deleted_at IS NULL`)
	if f.UserID != "" {
		w.Add(`user_id = ?`, f.UserID)
	}
	if f.Before != "" {
		w.Add(`id < ?`, f.Before)
	}
	return Many(ctx, s.pool, scanApp, `SELECT `+appColumns+` FROM apps a`+w.SQL()+` ORDER BY id DESC LIMIT `+w.Arg(f.Limit), w.Args...)
}

// ChangeApp implements catalog.AppStore.
func (s *Store) ChangeApp(ctx context.Context, id string, edit func(catalog.App) (catalog.App, changes.Change, error)) (changed catalog.App, err error) {
	if !IsUUID(id) {
		return changed, catalog.ErrApp
	}
	_, err = s.changeAs(ctx, func(tx pgx.Tx) (c changes.Change, err error) {
		a, err := One(ctx, tx, scanApp, catalog.ErrApp, oneApp+` FOR UPDATE`, id)
		if err != nil {
			return c, err
		}
		if changed, c, err = edit(a); err != nil {
			return c, err
		}
		_, err = tx.Exec(ctx, `UPDATE apps SET name = $2, description = $3, suspended_at = $4, updated_at = $5 WHERE id = $1`,
			id, changed.Name, changed.Description, changed.SuspendedAt, changed.UpdatedAt)
		return c, err
	})
	if err != nil {
		return catalog.App{}, err
	}
	return changed, nil
}

// DeleteApp implements catalog.AppStore. The lock on the app's row keeps out keys that
// are made and subscriptions that begin at the same moment.
func (s *Store) DeleteApp(ctx context.Context, id string, now time.Time, c changes.Change) error {
	if !IsUUID(id) {
		return catalog.ErrApp
	}
	_, err := s.Change(ctx, c, func(tx pgx.Tx) error {
		tag, err := tx.Exec(ctx, `UPDATE apps SET deleted_at = $2, updated_at = $2 WHERE id = $1 AND deleted_at IS NULL`, id, now)
		if err == nil && tag.RowsAffected() == 0 {
			return catalog.ErrApp
		}
		if err != nil {
			return err
		}
		b := &pgx.Batch{}
		b.Queue(`UPDATE api_keys SET revoked_at = $2, updated_at = $2 WHERE app_id = $1 AND revoked_at IS NULL`, id, now)
		b.Queue(`UPDATE subscriptions SET state = 'cancelled', updated_at = $2 WHERE app_id = $1 AND state IN `+liveStates, id, now)
		return tx.SendBatch(ctx, b).Close()
	})
	return err
}

// lockAppOfKey keeps the app of a new key from being deleted meanwhile.
func lockAppOfKey(ctx context.Context, tx pgx.Tx, k apikey.Key) error {
	if k.App == "" {
		return nil
	}
	if !IsUUID(k.App) {
		return apikey.ErrApp
	}
	tag, err := tx.Exec(ctx, `SELECT FROM apps WHERE id = $1 AND user_id = $2 AND deleted_at IS NULL FOR SHARE`, k.App, k.UserID)
	if err == nil && tag.RowsAffected() == 0 {
		return apikey.ErrApp
	}
	return err
}

const subscriptionColumns = `s.id::text, s.app_id::text, a.user_id::text, s.product_id::text, p.name, coalesce(n.name, ''), s.state, s.created_at, s.updated_at
	FROM subscriptions s JOIN apps a ON a.id = s.app_id JOIN products p ON p.id = s.product_id LEFT JOIN plans n ON n.id = s.plan_id`

func scanSubscription(row pgx.CollectableRow) (s catalog.Subscription, err error) {
	err = row.Scan(&s.ID, &s.App, &s.UserID, &s.ProductID, &s.Product, &s.Plan, &s.State, &s.CreatedAt, &s.UpdatedAt)
	return s, err
}

// Subscribe implements catalog.SubscriptionStore.
func (s *Store) Subscribe(ctx context.Context, a catalog.Application, decide func(catalog.Standing) (catalog.State, changes.Change, error)) (sub catalog.Subscription, err error) {
	if !IsUUID(a.App) {
		return sub, catalog.ErrApp
	}
	_, err = s.changeAs(ctx, func(tx pgx.Tx) (c changes.Change, err error) {
		app, err := One(ctx, tx, scanApp, catalog.ErrApp, oneApp+` FOR UPDATE`, a.App)
		if err != nil {
			return c, err
		}
		if a.Owner != "" && app.UserID != a.Owner {
			return c, catalog.ErrApp
		}
		of := catalog.Standing{ID: a.ID, UserID: app.UserID, Suspended: app.SuspendedAt != nil}
		product, err := lockProduct(ctx, tx, a.Product, "SHARE")
		if err != nil {
			return c, err
		}
		if err := tx.QueryRow(ctx, `SELECT visible FROM products WHERE id = $1`, product).Scan(&of.Visible); err != nil {
			return c, err
		}
		state, c, plan, err := s.decide(ctx, tx, a, product, of, decide)
		if err != nil {
			return c, err
		}
		err = tx.QueryRow(ctx, `
			INSERT INTO subscriptions AS s (id, state, app_id, product_id, plan_id, created_at, updated_at) VALUES ($1, $2, $3, $4, $5, $6, $6)
			ON CONFLICT (id) DO UPDATE SET app_id = excluded.app_id, plan_id = excluded.plan_id, state = excluded.state, updated_at = excluded.updated_at,
				`+barredAfter+`
			RETURNING id::text`, state.id, state.state, a.App, product, plan, a.Now).Scan(&state.id)
		if err != nil {
			return c, err
		}
		sub, err = One(ctx, tx, scanSubscription, catalog.ErrSubscription, `SELECT `+subscriptionColumns+` WHERE s.id = $1`, state.id)
		return c, err
	})
	if err != nil {
		return catalog.Subscription{}, err
	}
	return sub, nil
}

// decided is what becomes of an application.
type decided struct {
	id    string // of the subscription
	state catalog.State
}

// decide finds what is there of the subscription, and has it decided. It does not say
// that a plan of a product is missing before decide has said that the caller may know
// of the product.
func (s *Store) decide(ctx context.Context, tx pgx.Tx, a catalog.Application, product string, of catalog.Standing,
	decide func(catalog.Standing) (catalog.State, changes.Change, error),
) (d decided, c changes.Change, plan string, err error) {
	// What a deleted app has left comes after what this app has.
	var before catalog.State
	err = tx.QueryRow(ctx, `
		SELECT s.id::text, s.state FROM subscriptions s JOIN apps a ON a.id = s.app_id
		WHERE a.user_id = $1 AND s.product_id = $2 AND (s.app_id = $3 OR a.deleted_at IS NOT NULL)
		ORDER BY s.app_id <> $3, s.id LIMIT 1 FOR UPDATE OF s`, of.UserID, product, a.App).Scan(&of.ID, &before)
	if err != nil && !errors.Is(err, pgx.ErrNoRows) {
		return d, c, "", err
	}
	err = tx.QueryRow(ctx, `
		SELECT EXISTS (SELECT FROM subscriptions s JOIN apps a ON a.id = s.app_id
			WHERE a.user_id = $1 AND s.product_id = $2 AND s.barred)`, of.UserID, product).Scan(&of.Barred)
	if err != nil {
		return d, c, "", err
	}
	plan, missing := planID(ctx, tx, product, a.Plan)
	if missing == nil {
		if err := tx.QueryRow(ctx, `SELECT approval FROM plans WHERE id = $1`, plan).Scan(&of.Approval); err != nil {
			return d, c, "", err
		}
	}
	d.id = of.ID
	if d.state, c, err = decide(of); err != nil {
		return d, c, "", err
	}
	switch {
	case missing != nil:
		return d, c, "", missing
	case before != "" && !before.Ended():
		return d, c, "", catalog.ErrSubscribed
	}
	live, err := number(ctx, tx, `SELECT count(*) FROM subscriptions WHERE app_id = $1 AND state IN `+liveStates, a.App)
	if err == nil && live >= catalog.MaxSubscriptions {
		err = catalog.ErrFull.WithDetail("The app has %d subscriptions, and may have no more; cancel one first.", live)
	}
	return d, c, plan, err
}

// Subscription implements catalog.SubscriptionStore.
func (s *Store) Subscription(ctx context.Context, id string) (catalog.Subscription, error) {
	if !IsUUID(id) {
		return catalog.Subscription{}, catalog.ErrSubscription
	}
	sub, err := One(ctx, s.pool, scanSubscription, catalog.ErrSubscription, `SELECT `+subscriptionColumns+` WHERE s.id = $1`, id)
	return sub, unavailable(err)
}

// ListSubscriptions implements catalog.SubscriptionStore.
func (s *Store) ListSubscriptions(ctx context.Context, f catalog.SubscriptionFilter) ([]catalog.Subscription, error) {
	if f.App != "" && !IsUUID(f.App) || f.Before != "" && !IsUUID(f.Before) || !storable(f.Product, string(f.State)) {
		return nil, nil
	}
	var w Where
	if f.App != "" {
		w.Add(`s.app_id = ?`, f.App)
	}
	if f.Product != "" {
		w.Add(`p.name = ?`, f.Product)
	}
	if f.State != "" {
		w.Add(`s.state = ?`, string(f.State))
	}
	if f.Before != "" {
		w.Add(`s.id < ?`, f.Before)
	}
	return Many(ctx, s.pool, scanSubscription, `SELECT `+subscriptionColumns+w.SQL()+` ORDER BY s.id DESC LIMIT `+w.Arg(f.Limit), w.Args...)
}

// ChangeSubscription implements catalog.SubscriptionStore.
func (s *Store) ChangeSubscription(ctx context.Context, id string, now time.Time, decide func(catalog.Subscription) (catalog.State, changes.Change, error)) (sub catalog.Subscription, err error) {
	if !IsUUID(id) {
		return sub, catalog.ErrSubscription
	}
	_, err = s.changeAs(ctx, func(tx pgx.Tx) (c changes.Change, err error) {
		sub, err = One(ctx, tx, scanSubscription, catalog.ErrSubscription, `SELECT `+subscriptionColumns+` WHERE s.id = $1 FOR UPDATE OF s`, id)
		if err != nil {
			return c, err
		}
		state, c, err := decide(sub)
		if err != nil {
			return c, err
		}
		sub.State, sub.UpdatedAt = state, now
		_, err = tx.Exec(ctx, `UPDATE subscriptions s SET state = $2, updated_at = $3, `+barredAfter+` WHERE id = $1`, id, state, now)
		return c, err
	})
	if err != nil {
		return catalog.Subscription{}, err
	}
	return sub, nil
}

// grantColumns are what the app of a key may reach: whether that is nothing for now,
// and its active subscriptions with what their products open and their plans allow.
const grantColumns = `coalesce(a.suspended_at IS NOT NULL OR a.deleted_at IS NOT NULL, false),
	CASE WHEN k.app_id IS NOT NULL THEN (
		SELECT jsonb_agg(jsonb_build_object('id', b.id, 'product_id', p.id, 'product', p.name, 'plan', n.name, 'routes', p.routes,
			'requests', n.rate_requests, 'window', n.rate_window, 'burst', n.rate_burst,
			'units', n.quota_units, 'period', n.quota_period, 'zone', n.quota_zone, 'rolling', n.quota_rolling) ORDER BY b.id)
		FROM subscriptions b JOIN products p ON p.id = b.product_id JOIN plans n ON n.id = b.plan_id
		WHERE b.app_id = k.app_id AND b.state = 'active') END`

// entitled is an element of grantColumns.
type entitled struct {
	ID        string   `json:"id"`
	ProductID string   `json:"product_id"`
	Product   string   `json:"product"`
	Plan      string   `json:"plan"`
	Routes    []string `json:"routes"`
	Requests  int64    `json:"requests"`
	Window    int64    `json:"window"`
	Burst     int64    `json:"burst"`
	Units     int64    `json:"units"`
	Period    string   `json:"period"`
	Zone      string   `json:"zone"`
	Rolling   bool     `json:"rolling"`
}

func entitlements(list []entitled) []access.Entitlement {
	if len(list) == 0 {
		return nil
	}
	all := make([]access.Entitlement, len(list))
	for i, e := range list {
		all[i] = access.Entitlement{
			Subscription: e.ID, ProductID: e.ProductID, Product: e.Product, Plan: e.Plan, Routes: e.Routes,
			Terms: access.Terms{
				Rate:  access.RateTerms{Requests: e.Requests, Window: time.Duration(e.Window), Burst: e.Burst},
				Quota: access.QuotaTerms{Units: e.Units, Period: e.Period, Zone: e.Zone, Rolling: e.Rolling},
			},
		}
	}
	return all
}
