// Package shared connects what requests use up and leave behind, and what replicas
// share of it: the counters of rate limits, the leases of quotas, answers that are
// kept, and who used what. It chooses by configuration where each of them is.
package shared

import (
	"context"
	"log/slog"
	"time"

	"go.opentelemetry.io/otel/metric"

	"github.com/keywarden/keywarden/pkg/changes"
	"github.com/keywarden/keywarden/pkg/config"
	"github.com/keywarden/keywarden/pkg/gateway/policy/cache"
	"github.com/keywarden/keywarden/pkg/httpcache"
	"github.com/keywarden/keywarden/pkg/httpcache/purge"
	"github.com/keywarden/keywarden/pkg/httpedge"
	"github.com/keywarden/keywarden/pkg/quota"
	"github.com/keywarden/keywarden/pkg/reqctx"
	"github.com/keywarden/keywarden/pkg/store/postgres"
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
	s.Cache, err = cache.Open(cache.Options{Store: s.answers, Now: time.Now, Remote: s.memory == nil, MaxBackground: cacheBackground, Observe: s.observeCache()})
	return err
}

func (s *State) cacheFailed(err error) {
	s.options.Logger.Warn("the answers in Redis cannot be had: the services are asked", "error", err)
}

// Tasks are what must run while the platform is connected.
func (s *State) Tasks() []func(context.Context) error {
	return []func(context.Context) error{
		s.Quotas.Run,
		s.Usage.Run,
		func(ctx context.Context) error {
			return s.options.Store.RunUsageJanitor(ctx, s.options.Config.Usage.Retention, time.Now, s.options.Logger)
		},
	}
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
		At: e.At, UserID: info.Subject, KeyID: info.KeyID, Route: info.Route, Status: e.Status, Duration: e.Duration,
		RequestBytes: e.RequestBytes, ResponseBytes: e.ResponseBytes,
	})
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
