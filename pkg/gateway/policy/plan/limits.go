package plan

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/keywarden/keywarden/pkg/access"
	"github.com/keywarden/keywarden/pkg/catalog"
	policylimit "github.com/keywarden/keywarden/pkg/gateway/policy/ratelimit"
	"github.com/keywarden/keywarden/pkg/quota"
	"github.com/keywarden/keywarden/pkg/ratelimit"
)

// Counters makes the counters of rate limits.
type Counters interface {
	// Counter makes that of a limit. name is the same on every replica, and no other
	// limit's.
	Counter(name string, l ratelimit.Limit) (policylimit.Counter, error)
}

// Meters makes what quotas are metered with; quota.Meters is one.
type Meters interface {
	Meter(q quota.Quota, scope, kind string) (*quota.Meter, error)
}

// errNoSubject is a chain that was entered by who has no subscription. It lets nobody
// pass.
var errNoSubject = errors.New("the caller has no subscription here")

// maxRates bounds the rates for which there are counters.
const maxRates = 4096

// limits are the counters of plans. Plans of the same rate share one, which counts for
// each subscription by itself.
type limits struct {
	counters Counters
	meters   Meters

	mu    sync.Mutex
	rates map[access.RateTerms]policylimit.Counter

	// generation is another one when counters were forgotten, since there were too many:
	// chains that lead through them are to be made anew.
	generation atomic.Uint64
}

func newLimits(c Counters, m Meters) *limits {
	return &limits{counters: c, meters: m, rates: map[access.RateTerms]policylimit.Counter{}}
}

// planLimits are those of a plan; nil is none.
type planLimits struct {
	counter policylimit.Counter
	meter   *quota.Meter
}

// of is what the terms of a plan are counted with, and of which generation that is.
func (l *limits) of(t access.Terms) (made planLimits, generation uint64, err error) {
	if t.Quota != (access.QuotaTerms{}) {
		q, err := catalog.Quota(t.Quota)
		if err != nil {
			return made, 0, err
		}
		if made.meter, err = l.meters.Meter(q, "", catalog.QuotaKind); err != nil {
			return made, 0, err
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if t.Rate != (access.RateTerms{}) {
		if made.counter, err = l.counter(t.Rate); err != nil {
			return made, 0, err
		}
	}
	return made, l.generation.Load(), nil
}

// counter finds or makes that of a rate, under the lock.
func (l *limits) counter(t access.RateTerms) (policylimit.Counter, error) {
	if known := l.rates[t]; known != nil {
		return known, nil
	}
	limit := catalog.RateLimit(t)
	if err := limit.Validate(); err != nil {
		return nil, err
	}
	made, err := l.counters.Counter(fmt.Sprintf("platform/plan/%d-%s-%d", t.Requests, t.Window, t.Burst), limit)
	if err != nil {
		return nil, err
	}
	if len(l.rates) >= maxRates {
		clear(l.rates) // plans were changed thousands of times: what was counted in memory begins anew
		l.generation.Add(1)
	}
	l.rates[t] = made
	return made, nil
}
