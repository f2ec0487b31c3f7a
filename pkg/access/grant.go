package access

import (
	"slices"
	"strings"
	"time"
)

// Grant is what the key of an app may reach: the routes of the products that the app
// is subscribed to, each under the limits of its plan. It is immutable, and is made
// when the key's record is loaded, so that a request asks nobody. The nil grant
// reaches nothing.
type Grant struct {
	suspended bool
	opens     map[string]*Entitlement // by the name of a route or an API
	products  []string                // ids
}

// Entitlement is one active subscription.
type Entitlement struct {
	Subscription string   // UUID; what its limits are counted for
	ProductID    string   // UUID
	Product      string   // name
	Plan         string   // name
	Terms        Terms    // of the plan
	Routes       []string // that the product opens: names of routes, and of APIs, which are all routes "api.*"
}

// Terms are the limits of a plan. Values can be compared: plans with the same limits
// have equal terms.
type Terms struct {
	Rate  RateTerms
	Quota QuotaTerms
}

// RateTerms are so many requests in each window; the zero value is no limit.
type RateTerms struct {
	Requests int64
	Window   time.Duration
	Burst    int64 // requests at once
}

// QuotaTerms are so many units in each period; the zero value is no quota.
type QuotaTerms struct {
	Units   int64
	Period  string // minute, hour, day, week or month
	Zone    string // where days, weeks and months begin: a name of the IANA time zone database
	Rolling bool   // the period begins with the first request, and not with the calendar
}

// NewGrant makes the grant of an app. Where several subscriptions open the same route
// by the same name, the first of the list counts. A suspended app reaches nothing.
func NewGrant(suspended bool, list []Entitlement) *Grant {
	g := &Grant{suspended: suspended, opens: map[string]*Entitlement{}}
	for i := range list {
		e := list[i]
		g.products = append(g.products, e.ProductID)
		for _, name := range e.Routes {
			if g.opens[name] == nil {
				g.opens[name] = &e
			}
		}
	}
	return g
}

// For is what opens a route, or nil. The most specific name counts: that of the route
// itself, else that of the innermost API which it belongs to. It does not allocate.
func (g *Grant) For(route string) *Entitlement {
	if g == nil || g.suspended {
		return nil
	}
	for name := range Names(route) {
		if e := g.opens[name]; e != nil {
			return e
		}
	}
	return nil
}

// Suspended reports whether the app may reach nothing for now.
func (g *Grant) Suspended() bool { return g != nil && g.suspended }

// Holds reports whether the grant is by a subscription to the product.
func (g *Grant) Holds(productID string) bool {
	return g != nil && slices.Contains(g.products, productID)
}

// Names yields the names by which a product can open a route: its own, and those of
// the APIs that it belongs to, from the innermost on. Those of "people.admin.list"
// are that, "people.admin" and "people".
func Names(route string) func(yield func(string) bool) {
	return func(yield func(string) bool) {
		for name := route; yield(name); {
			dot := strings.LastIndexByte(name, '.')
			if dot <= 0 {
				return
			}
			name = name[:dot]
		}
	}
}
