package compile

import (
	"errors"
	"slices"
	"strings"

	"github.com/keywarden/keywarden/pkg/openapi"
	"github.com/keywarden/keywarden/pkg/spec/check"
	"github.com/keywarden/keywarden/pkg/spec/policies"
	"github.com/keywarden/keywarden/pkg/strictyaml"
)

// extended is the form of the extensions: each has that of the policy of its name.
type extended struct {
	RateLimit *policies.RateLimits `json:"x-keywarden-rate-limit"`
	Quota     *policies.Quotas     `json:"x-keywarden-quota"`
	Timeout   *policies.Timeout    `json:"x-keywarden-timeout"`
	Cache     *policies.Cache      `json:"x-keywarden-cache"`
	Cost      int                  `json:"x-keywarden-cost"`
}

// policies adds to p what the extensions of an operation say, and of the document
// where the operation says nothing.
func (c *compiler) policies(op *openapi.Operation, p *policies.Policies) {
	cost, costs := 0, openapi.Place{}
	of := func(e openapi.Extension) {
		x := c.extension(e)
		p.RateLimit, p.Quota = either(x.RateLimit, p.RateLimit), either(x.Quota, p.Quota)
		p.Timeout, p.Cache = either(x.Timeout, p.Timeout), either(x.Cache, p.Cache)
		if e.Name == openapi.ExtensionCost {
			cost, costs = x.Cost, e.Place
			if cost < 1 || cost > maxCost {
				c.fail(costs, "must be from 1 to %d", maxCost)
			}
		}
	}
	for _, e := range c.doc.Policies {
		if !slices.ContainsFunc(op.Policies, func(own openapi.Extension) bool { return own.Name == e.Name }) {
			of(e)
		}
	}
	for _, e := range op.Policies {
		of(e)
	}
	if cost > 0 && !charge(p, cost) {
		c.note(costs, "%s: costs, and has no limit or quota in the description that would count it", title(op))
	}
	c.metrics(op, p)
	own := slices.ContainsFunc(op.Policies, func(e openapi.Extension) bool { return e.Name == openapi.ExtensionCache })
	if !own && op.Method != "GET" && op.Method != "HEAD" {
		p.Cache = nil // the document means those whose answers can be kept
	}
}

const maxCost = 1_000_000

func either[T any](a, b *T) *T {
	if a != nil {
		return a
	}
	return b
}

// charge puts a cost into every limit and quota without one of its own, and reports
// whether there is any.
func charge(p *policies.Policies, cost int) bool {
	var costs []*policies.Cost
	if p.RateLimit != nil {
		for i := range p.RateLimit.Limits {
			costs = append(costs, &p.RateLimit.Limits[i].Cost)
		}
	}
	if p.Quota != nil {
		for i := range p.Quota.Quotas {
			costs = append(costs, &p.Quota.Quotas[i].Cost)
		}
	}
	for _, c := range costs {
		if *c == (policies.Cost{}) {
			c.Cost = cost
		}
	}
	return len(costs) > 0
}

// extension decodes one extension, as strictly as the gateway document.
func (c *compiler) extension(e openapi.Extension) (x extended) {
	text, err := e.YAML()
	if err != nil {
		c.fail(e.Place, "cannot be read: %s", err)
		return x
	}
	if err := strictyaml.Decode(text, &x).Report(""); err != nil {
		c.refused(e, e.Name, err)
		return extended{}
	}
	p := policies.Policies{RateLimit: x.RateLimit, Quota: x.Quota, Timeout: x.Timeout, Cache: x.Cache}
	p.Normalise()
	var v check.Checker
	p.Validate("", &v)
	field := "." + strings.ReplaceAll(strings.TrimPrefix(e.Name, "x-keywarden-"), "-", "_")
	c.refused(e, field, v.Report(""))
	return x
}

// refused puts what is wrong with the value of an extension to its place.
func (c *compiler) refused(e openapi.Extension, prefix string, err error) {
	var list *openapi.Violations
	if !errors.As(err, &list) {
		return
	}
	for _, v := range list.List {
		p := e.Place
		p.Path += strings.TrimPrefix(v.Path, prefix)
		c.fail(p, "%s", v.Detail)
	}
}

// metrics makes quotas of x-google-quota and the limits of its metrics.
func (c *compiler) metrics(op *openapi.Operation, p *policies.Policies) {
	var names []string
	for metric, cost := range op.MetricCosts {
		if cost > 0 {
			names = append(names, metric)
		}
	}
	slices.Sort(names)
	for _, metric := range names {
		limited := false
		for _, l := range c.doc.Limits {
			if l.Metric != metric {
				continue
			}
			limited = true
			if p.Quota == nil {
				p.Quota = &policies.Quotas{Gate: policies.Gate{Mode: policies.Enforce}}
			}
			q := policies.Quota{Name: quotaName(c.options.API, l.Name), Subject: policies.Subject{By: policies.ByUser}, Limit: l.PerMinute, Period: policies.PeriodMinute, Shared: true}
			q.SetDefaults()
			q.Cost.Cost = op.MetricCosts[metric]
			p.Quota.Quotas = append(p.Quota.Quotas, q)
		}
		if !limited {
			c.note(op.Place, "%s: costs %s, a metric that no limit of x-google-management has", title(op), check.Quote(metric))
		}
	}
}

// quotaName is the name of the quota of a limit, which counts for the whole API.
func quotaName(api, limit string) string {
	if name := api + "-" + limit; check.IsName(name) {
		return name
	}
	return fit(api+"-"+slug(limit), limit)
}
