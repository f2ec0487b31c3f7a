package catalog

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/keywarden/keywarden/pkg/access"
	"github.com/keywarden/keywarden/pkg/audit"
	"github.com/keywarden/keywarden/pkg/changes"
	"github.com/keywarden/keywarden/pkg/problem"
	"github.com/keywarden/keywarden/pkg/quota"
	"github.com/keywarden/keywarden/pkg/ratelimit"
	"github.com/keywarden/keywarden/pkg/spec/check"
)

// Products returns products, by name.
func (s *Service) Products(ctx context.Context, f ProductFilter) ([]Product, error) {
	return s.Store.ListProducts(ctx, f)
}

// Product returns a product, or [ErrProduct]. Where only visible ones are asked for, a
// hidden one does not exist.
func (s *Service) Product(ctx context.Context, name string, visibleOnly bool) (Product, error) {
	p, err := s.Store.Product(ctx, name)
	if err == nil && visibleOnly && !p.Visible {
		return Product{}, ErrProduct
	}
	return p, err
}

// Plans returns the plans of a product, by name, or [ErrProduct].
func (s *Service) Plans(ctx context.Context, product string) ([]Plan, error) {
	return s.Store.ListPlans(ctx, product)
}

// PutProduct makes the product of this name, or changes it. What it opens holds at
// once, on every replica. [ErrChanged] says that it is not base.
func (s *Service) PutProduct(ctx context.Context, p Product, base Base) (after Product, created bool, err error) {
	if err := p.check(); err != nil {
		return p, false, err
	}
	if p.ID, p.CreatedAt, err = s.fresh(); err != nil {
		return p, false, err
	}
	p.UpdatedAt = p.CreatedAt
	var event changes.Event
	after, created, err = s.Store.PutProduct(ctx, p, base, func(id string) changes.Change {
		event = productEvent(id)
		return changes.Change{Event: event, Audit: audit.New(ctx, audit.ProductPut, kindProduct, p.Name).
			With("visible", strconv.FormatBool(p.Visible)).With("apps_only", strconv.FormatBool(p.AppsOnly)).
			With("routes", clip(strings.Join(p.Routes, " ")))}
	})
	if err != nil {
		return p, false, err
	}
	s.Notify(event)
	return after, created, nil
}

// DeleteProduct removes a product with its plans, or returns [ErrInUse] when it has
// subscriptions that have not ended; forced, they end with it.
func (s *Service) DeleteProduct(ctx context.Context, name string, force bool) error {
	var event changes.Event
	err := s.Store.DeleteProduct(ctx, name, force, func(id string) changes.Change {
		event = productEvent(id)
		entry := audit.New(ctx, audit.ProductDeleted, kindProduct, name).With("forced", strconv.FormatBool(force))
		return changes.Change{Event: event, Audit: entry}
	})
	if err != nil {
		return err
	}
	s.Notify(event)
	return nil
}

// PutPlan makes the plan of this name, or changes it. New limits hold at once for all
// that are subscribed to it. Another rate begins with its whole burst, and a quota of
// another period with all its units; one of more or fewer units goes on. [ErrChanged]
// says that it is not base.
func (s *Service) PutPlan(ctx context.Context, product string, p Plan, base Base) (after Plan, created bool, err error) {
	if err := p.check(); err != nil {
		return p, false, err
	}
	if p.ID, p.CreatedAt, err = s.fresh(); err != nil {
		return p, false, err
	}
	p.UpdatedAt = p.CreatedAt
	var event changes.Event
	after, created, err = s.Store.PutPlan(ctx, product, p, base, func(productID string) changes.Change {
		event = productEvent(productID)
		entry := audit.New(ctx, audit.PlanPut, kindPlan, product+"/"+p.Name).With("approval", string(p.Approval))
		if r := p.Terms.Rate; r.Requests > 0 {
			entry = entry.With("rate", fmt.Sprintf("%d/%s, burst %d", r.Requests, r.Window, r.Burst))
		}
		if q := p.Terms.Quota; q.Units > 0 {
			entry = entry.With("quota", fmt.Sprintf("%d per %s", q.Units, q.Period))
		}
		return changes.Change{Event: event, Audit: entry}
	})
	if err != nil {
		return p, false, err
	}
	s.Notify(event)
	return after, created, nil
}

// DeletePlan removes a plan, or returns [ErrInUse] when it has subscriptions that have
// not ended; forced, they are revoked.
func (s *Service) DeletePlan(ctx context.Context, product, name string, force bool) error {
	var event changes.Event
	err := s.Store.DeletePlan(ctx, product, name, force, func(productID string) changes.Change {
		event = productEvent(productID)
		entry := audit.New(ctx, audit.PlanDeleted, kindPlan, product+"/"+name).With("forced", strconv.FormatBool(force))
		return changes.Change{Event: event, Audit: entry}
	})
	if err != nil {
		return err
	}
	s.Notify(event)
	return nil
}

func productEvent(id string) changes.Event {
	return changes.Event{Kind: changes.ProductChanged, Subject: id}
}

// maxDetail bounds a detail of an audit entry, in bytes.
const maxDetail = 2000

func clip(text string) string {
	if len(text) <= maxDetail {
		return text
	}
	return text[:maxDetail] + "…"
}

// fault notes what is wrong with a field.
type faults []problem.Field

func (f *faults) add(field, format string, args ...any) {
	*f = append(*f, problem.Field{Field: field, Detail: fmt.Sprintf(format, args...)})
}

// err is nil when nothing is wrong.
func (f *faults) err() error {
	if len(*f) == 0 {
		return nil
	}
	return problem.ErrInvalid.WithFields(*f)
}

// text cleans a text for people, of at most limit characters.
func (f *faults) text(field string, value *string, limit int, required, lines bool) {
	*value = strings.TrimSpace(*value)
	switch {
	case *value == "" && required:
		f.add(field, "is required")
	case utf8.RuneCountInString(*value) > limit:
		f.add(field, "must be at most %d characters", limit)
	case !utf8.ValidString(*value) || strings.ContainsFunc(*value, func(r rune) bool {
		return unicode.Is(unicode.C, r) && (!lines || r != '\n')
	}):
		f.add(field, "must not contain control characters")
	}
}

// name checks the name of a product or a plan.
func (f *faults) name(value string) {
	if !IsName(value) {
		f.add("name", "must be 1 to %d lower-case letters, digits and hyphens, and begin with a letter or digit", maxName)
	}
}

// IsName reports whether a product or a plan can have the name.
func IsName(s string) bool {
	for i := range len(s) {
		switch c := s[i]; {
		case 'a' <= c && c <= 'z', '0' <= c && c <= '9', i > 0 && c == '-':
		default:
			return false
		}
	}
	return s != "" && len(s) <= maxName
}

// check cleans p in place, or names every wrong field.
func (p *Product) check() error {
	var f faults
	f.name(p.Name)
	if p.Title == "" {
		p.Title = p.Name
	}
	f.text("title", &p.Title, maxTitle, true, false)
	f.text("description", &p.Description, maxDescription, false, true)
	switch {
	case len(p.Routes) == 0:
		f.add("routes", "is required: names of routes, or of APIs")
	case len(p.Routes) > MaxRoutes:
		f.add("routes", "must have at most %d entries", MaxRoutes)
	default:
		for i, r := range p.Routes {
			if !check.IsName(r) {
				f.add(fmt.Sprintf("routes[%d]", i), "must be the name of a route or an API, without a wildcard: an API opens all its routes")
			}
		}
		p.Routes = slices.Clone(p.Routes)
		slices.Sort(p.Routes)
		p.Routes = slices.Compact(p.Routes)
	}
	return f.err()
}

// check cleans p in place, or names every wrong field.
func (p *Plan) check() error {
	var f faults
	f.name(p.Name)
	f.text("price", &p.Price, maxPrice, false, false)
	switch p.Approval {
	case "":
		p.Approval = Automatic
	case Automatic, Operator:
	default:
		f.add("approval", "must be automatic or operator")
	}
	if r := &p.Terms.Rate; *r != (access.RateTerms{}) {
		if r.Burst == 0 {
			r.Burst = r.Requests
		}
		if err := RateLimit(*r).Validate(); err != nil {
			f.add("rate", "%s", err.Error())
		}
	}
	if q := &p.Terms.Quota; *q != (access.QuotaTerms{}) {
		if q.Zone == "" {
			q.Zone = "UTC"
		}
		of, err := Quota(*q)
		if err == nil {
			err = of.Validate()
		}
		if err != nil {
			f.add("quota", "%s", strings.TrimPrefix(err.Error(), "quota: "))
		}
	}
	return f.err()
}

// RateLimit is the limit of the terms.
func RateLimit(r access.RateTerms) ratelimit.Limit {
	return ratelimit.Limit{Quota: r.Requests, Window: r.Window, Burst: r.Burst}
}

// QuotaName is the name of the quota of a plan, in the fields of answers and in the
// ledger, and QuotaKind what its accounts are of: subscriptions, by their ids.
const (
	QuotaName = "plan-quota"
	QuotaKind = "subscription"
)

// Quota is the quota of the terms.
func Quota(q access.QuotaTerms) (of quota.Quota, err error) {
	of = quota.Quota{Name: QuotaName, Limit: q.Units, Period: quota.Period{Rolling: q.Rolling}}
	if of.Period.Unit, err = quota.ParseUnit(q.Period); err != nil {
		return of, err
	}
	if q.Zone == "Local" || q.Zone == "" {
		return of, fmt.Errorf("the time zone must be a name of the time zone database, such as UTC or Europe/Berlin")
	}
	if of.Period.Zone, err = time.LoadLocation(q.Zone); err != nil {
		return of, fmt.Errorf("the time zone must be a name of the time zone database, such as UTC or Europe/Berlin")
	}
	return of, nil
}
