// Package shared connects what requests use up and leave behind, and what replicas
// share of it: the counters of rate limits, the leases of quotas, answers that are
// kept, and who used what. It chooses by configuration where each of them is.
package shared

import (
	"context"
	"log/slog"
	"net/http"
	"strings"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel/metric"

	"github.com/keywarden/keywarden/pkg/analytics"
	"github.com/keywarden/keywarden/pkg/changes"
	"github.com/keywarden/keywarden/pkg/config"
	"github.com/keywarden/keywarden/pkg/gateway/policy/cache"
	"github.com/keywarden/keywarden/pkg/httpcache"
	"github.com/keywarden/keywarden/pkg/httpcache/purge"
	"github.com/keywarden/keywarden/pkg/httpedge"
	"github.com/keywarden/keywarden/pkg/quota"
	"github.com/keywarden/keywarden/pkg/reqctx"
	"github.com/keywarden/keywarden/pkg/store/postgres"
	"github.com/keywarden/keywarden/pkg/store/postgres/rollup"
	"github.com/keywarden/keywarden/pkg/store/redis"
	"github.com/keywarden/keywarden/pkg/usage"
)

// Options is what it is made of. All fields are required.
type Options struct {
	Config    *config.Config
	Counters  *Counters
	Store     *postgres.Store
	ReplicaID string
	Replicas  func() int          // that live now, this one included
	Notify    func(changes.Event) // told of changes that are made here
	Meter     metric.Meter
	Logger    *slog.Logger
}

// State is what the requests of a replica use up and leave behind.
type State struct {
	Quotas   *quota.Meters
	Accounts *quota.Service // of quotas
	Cache    *cache.Cache
	Purges   *purge.Service
	Usage    *usage.Meter

	options Options
	metrics metrics
	answers httpcache.Store
	memory  *httpcache.Memory // nil where answers are in Redis
	stored  atomic.Int64      // answers that were given to the cache
	swept   atomic.Int64      // unix nanoseconds: when analytics were last found to be summed up
}

// Bounds that are not worth an option.
const (
	quotaSubjects   = 1_000_000
	cacheBackground = 64
	cacheValue      = 2 << 20 // bytes of one answer in Redis
)

// New makes everything; nothing is asked for yet. The caller runs the tasks and
// closes the state.
func New(o Options) (s *State, err error) {
	s = &State{options: o}
	if err := s.observe(); err != nil {
		return nil, err
	}
	s.Quotas, err = quota.NewMeters(quota.Options{
		Ledger: o.Store, Subjects: quotaSubjects, Timeout: o.Config.Database.VerifyTimeout, Replicas: o.Replicas,
		Logger: o.Logger, Now: time.Now,
	})
	if err != nil {
		return nil, err
	}
	s.Accounts = quota.NewService(o.Store, o.Notify)
	if err := s.openCache(); err != nil {
		return nil, err
	}
	s.Purges = &purge.Service{Recorder: o.Store, Notify: o.Notify, Store: s.answers, Logger: o.Logger}
	s.Usage = usage.NewMeter(usage.Options{
		Store: o.Store, Replica: o.ReplicaID, Interval: o.Config.Usage.FlushInterval, Now: time.Now, Logger: o.Logger,
	})
	return s, nil
}

func (s *State) openCache() (err error) {
	c, remote := s.options.Config.Cache, s.options.Counters.redis
	if remote != nil && c.Store != "memory" {
		s.answers, err = redis.NewCache(remote, redis.CacheOptions{
			MaxValue: cacheValue, Timeout: s.options.Config.Redis.Timeout, Failed: s.cacheFailed, Now: time.Now,
		})
	} else {
		s.memory, err = httpcache.NewMemory(httpcache.MemoryOptions{Bytes: int64(c.MaxBytes), Entries: c.Entries})
		s.answers = s.memory
	}
	if err != nil {
		return err
	}
	s.Cache, err = cache.Open(cache.Options{
		Store: countedAnswers{s.answers, &s.stored}, Now: time.Now, Remote: s.memory == nil, MaxBackground: cacheBackground,
		Observe: s.observeCache(), Panicked: s.cachePanicked,
	})
	return err
}

func (s *State) cacheFailed(err error) {
	s.options.Logger.Warn("the answers in Redis cannot be had: the services are asked", "error", err)
}

func (s *State) cachePanicked(route string, fault any, stack []byte) {
	s.options.Logger.Error("panic while an answer was fetched in the background", "route", route, "panic", fault, "stack", string(stack))
}

// Tasks are what must run while the platform is connected.
func (s *State) Tasks() []func(context.Context) error {
	return []func(context.Context) error{
		s.Quotas.Run,
		s.Usage.Run,
		s.rollUp,
		func(ctx context.Context) error {
			return s.options.Store.RunUsageJanitor(ctx, s.options.Config.Usage.Retention, time.Now, s.options.Logger)
		},
	}
}

// rollUp adds usage up for analytics until the end.
func (s *State) rollUp(ctx context.Context) error {
	roller := &analytics.Roller{
		Store: sweptSums{rollup.New(s.options.Store), &s.swept}, Raw: s.options.Config.Usage.Retention, Retention: analytics.DefaultRetention(),
		Limits: analytics.DefaultLimits(), Now: time.Now, Logger: s.options.Logger,
	}
	s.swept.Store(time.Now().UnixNano()) // until the first time, this is how long it has not been
	return roller.Run(ctx)
}

// Apply is told of changes by the follower.
func (s *State) Apply(e changes.Event) {
	s.Quotas.Apply(e)
	s.Purges.Apply(e)
}

// Reset is told by the follower that changes may have been missed.
func (s *State) Reset() {
	s.Quotas.Reset()
	s.Purges.Reset()
}

// Ended counts a request that has ended.
func (s *State) Ended(info *reqctx.Info, e httpedge.Ended) {
	s.Usage.Record(usage.Event{
		At: e.At, UserID: info.Subject, KeyID: info.KeyID, App: info.App, Route: info.Route, API: apiOf(info.Route), Product: info.Product,
		Refusal: refusalOf(info, e.Status), Client: info.Client, Status: e.Status, Duration: e.Duration,
		RequestBytes: e.RequestBytes, ResponseBytes: e.ResponseBytes,
	})
}

// apiOf is the API that a route of the gateway belongs to: what is before the first
// dot of its name. Routes of the platform begin with a slash and belong to none.
func apiOf(route string) string {
	api, _, dotted := strings.Cut(route, ".")
	if !dotted || strings.HasPrefix(route, "/") {
		return ""
	}
	return api
}

// statusClientGone stands in logs and figures for an answer that nobody waited for.
const statusClientGone = 499

// refusalOf is why a request was refused; empty where it was not, but failed or was
// given up.
func refusalOf(info *reqctx.Info, status int) string {
	if status < http.StatusBadRequest || status >= statusClientGone {
		return ""
	}
	return info.Code
}

// Close gives back what is held, once no request is served and the tasks have
// ended.
func (s *State) Close(ctx context.Context) error {
	s.Cache.Close()
	s.Quotas.Close(ctx)
	if s.memory != nil {
		s.memory.Close()
	}
	return nil
}
