package openapi

import (
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/keywarden/keywarden/pkg/strictyaml"
)

// ExtensionService names the service of an operation or a document.
const ExtensionService = "x-keywarden-service"

// Extensions of policies: the field of the gateway document without its prefix,
// with hyphens, and what one request costs.
const (
	ExtensionRateLimit = "x-keywarden-rate-limit"
	ExtensionQuota     = "x-keywarden-quota"
	ExtensionTimeout   = "x-keywarden-timeout"
	ExtensionCache     = "x-keywarden-cache"
	ExtensionCost      = "x-keywarden-cost"
)

func operationExtensions() []string {
	return []string{ExtensionService, ExtensionRateLimit, ExtensionQuota, ExtensionTimeout, ExtensionCache, ExtensionCost}
}

// documentExtensions are those at the top: what an operation costs is its own.
func documentExtensions() []string { return operationExtensions()[:5] }

// extensions reads ours.
func (r *reader) extensions(in []entry) (service *Extension, policies []Extension) {
	for _, e := range in {
		if !strings.HasPrefix(e.name, "x-keywarden-") || !slices.Contains(operationExtensions(), e.name) {
			continue
		}
		x := Extension{Place: e.value.place(), Name: e.name, node: e.value.node}
		switch {
		case e.name != ExtensionService:
			policies = append(policies, x)
		case x.Text() == "":
			r.fail(e.value, "must be the name of a service, or its URL")
		default:
			service = &x
		}
	}
	return service, policies
}

// backend reads x-google-backend. An operation's has a constant address where it
// says nothing else, the document's has not.
func (r *reader) backend(a at, operation bool) *Backend {
	if !a.there() {
		return nil
	}
	b := &Backend{Place: a.place(), Constant: operation}
	for _, e := range r.entries(a) {
		switch e.name {
		case "address":
			b.Address = r.text(e.value)
		case "deadline":
			seconds, err := strconv.ParseFloat(r.text(e.value), 64)
			const most = 24 * 60 * 60
			if err != nil || math.IsNaN(seconds) || seconds > most {
				r.fail(e.value, "must be a number of seconds, at most %d", most)
			} else if seconds > 0 {
				b.Deadline = seconds
			}
		case "path_translation":
			switch r.text(e.value) {
			case "CONSTANT_ADDRESS":
				b.Constant = true
			case "APPEND_PATH_TO_ADDRESS":
				b.Constant = false
			default:
				r.fail(e.value, "must be APPEND_PATH_TO_ADDRESS or CONSTANT_ADDRESS")
			}
		case "protocol":
			b.Protocol = r.text(e.value)
		case "disable_auth":
		default:
			r.note(e.at(), "has no counterpart; see last-mile credentials of the service")
		}
	}
	return b
}

// metricCosts reads x-google-quota.
func (r *reader) metricCosts(a at) map[string]int {
	if !a.there() {
		return nil
	}
	costs := map[string]int{}
	for _, e := range r.entries(a.field("metricCosts")) {
		const most = 1_000_000
		n := r.number(e.value)
		if n > most {
			r.fail(e.value, "must be at most %d", most)
			continue
		}
		costs[e.name] = int(n)
	}
	return costs
}

// perMinute is the one unit of limits that Endpoints has.
const perMinute = "1/min/{project}"

// metricLimits reads the limits of x-google-management.
func (r *reader) metricLimits(a at) []MetricLimit {
	var limits []MetricLimit
	for _, item := range r.items(a.field("quota").field("limits")) {
		l := MetricLimit{Place: item.place(), Name: r.text(item.field("name")), Metric: r.text(item.field("metric"))}
		l.PerMinute = r.number(item.field("values").field("STANDARD"))
		switch unit := r.text(item.field("unit")); {
		case l.Name == "" || l.Metric == "":
			r.fail(item, "name and metric are required")
		case unit != perMinute:
			r.fail(item, "unit is %s, must be %s", strictyaml.Quote(unit), perMinute)
		case l.PerMinute < 1:
			r.fail(item, "values.STANDARD must be a number above 0")
		default:
			limits = append(limits, l)
		}
	}
	return limits
}
