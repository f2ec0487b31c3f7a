package chain

import (
	"errors"
	"time"

	"github.com/keywarden/keywarden/pkg/gateway/policy"
	"github.com/keywarden/keywarden/pkg/gateway/policy/cache"
	"github.com/keywarden/keywarden/pkg/spec/policies"
)

// errNoCache is a wiring mistake.
var errNoCache = errors.New("this gateway has no place to keep answers in")

// cache makes the step that keeps the answers of a route.
func (d *Document) cache(route Route, c *policies.Cache) (policy.Step, error) {
	if d.Cache == nil {
		return policy.Step{}, errNoCache
	}
	return cache.New(cache.Config{
		Route: route.Name, Service: route.Service, Public: c.Public, DefaultTTL: time.Duration(c.DefaultTTL),
		MaxObject: int64(c.MaxObject), VaryByHeaders: c.VaryByHeaders,
		StaleWhileRevalidate: time.Duration(c.StaleWhileRevalidate), StaleIfError: time.Duration(c.StaleIfError),
	}, d.Cache)
}
