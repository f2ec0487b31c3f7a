// Package redis keeps in Redis (or Valkey, single or cluster) what replicas share
// and can afford to lose: counters of rate limits. Records live in PostgreSQL.
package redis

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"fmt"
	"time"

	goredis "github.com/redis/go-redis/v9"

	"github.com/keywarden/keywarden/pkg/ratelimit"
	"github.com/keywarden/keywarden/pkg/seal"
)

// Store is a connection to Redis. It is safe for concurrent use.
type Store struct {
	client  goredis.UniversalClient
	prefix  string
	gcra    *goredis.Script
	sliding *goredis.Script
}

// Options say where Redis is. All fields but Cluster and Prefix are required.
type Options struct {
	URL     seal.Secret // redis://, rediss:// or unix://
	Cluster bool        // the URL names a node of a cluster
	Prefix  string      // of every key
	Timeout time.Duration
}

// Open prepares the connection; it is made when it is needed first. The caller
// closes the store.
func Open(o Options) (*Store, error) {
	parsed, err := goredis.ParseURL(o.URL.Reveal())
	if err != nil {
		return nil, fmt.Errorf("the URL of Redis: %w", redacted(err, o.URL))
	}
	u := &goredis.UniversalOptions{
		Addrs: []string{parsed.Addr}, DB: parsed.DB, Username: parsed.Username, Password: parsed.Password,
		DialTimeout: o.Timeout, ReadTimeout: o.Timeout, WriteTimeout: o.Timeout, PoolTimeout: o.Timeout,
		ContextTimeoutEnabled: true,
		MaxRetries:            -1, // who asks has other ways when there is no answer
		IsClusterMode:         o.Cluster,
	}
	if parsed.TLSConfig != nil {
		u.TLSConfig = parsed.TLSConfig.Clone()
		u.TLSConfig.MinVersion = tls.VersionTLS12
	}
	return &Store{
		client: goredis.NewUniversalClient(u), prefix: o.Prefix,
		gcra: goredis.NewScript(gcra), sliding: goredis.NewScript(sliding),
	}, nil
}

// redacted keeps the password of a URL out of the message of why it is none.
func redacted(err error, url seal.Secret) error {
	if url.Empty() {
		return err
	}
	return fmt.Errorf("must be redis://user:password@host:port/0, rediss:// or unix:// (%T)", err)
}

// Close ends the connections.
func (s *Store) Close() error { return s.client.Close() }

// Stats are figures of the connections to Redis.
type Stats struct {
	Connections, Idle uint32 // now

	// Since the start: connections that were there when they were needed, or had to be
	// opened; times that none could be had in time.
	Hits, Misses, Timeouts uint32
}

// Stats tell of the connections.
func (s *Store) Stats() Stats {
	p := s.client.PoolStats()
	return Stats{Connections: p.TotalConns, Idle: p.IdleConns, Hits: p.Hits, Misses: p.Misses, Timeouts: p.Timeouts}
}

// Ping asks whether Redis answers.
func (s *Store) Ping(ctx context.Context) error { return s.client.Ping(ctx).Err() }

// Reserve implements ratelimit.Store: one script, one round trip, by the clock of
// Redis. The key is hash-tagged, so that the script's only key says where in a
// cluster it lives.
func (s *Store) Reserve(ctx context.Context, key string, l ratelimit.Limit, least, want int64) (ratelimit.Grant, error) {
	script := s.gcra
	args := []any{l.Window.Microseconds(), l.Quota, l.Burst, least, want}
	if l.Algorithm == ratelimit.SlidingWindow {
		script = s.sliding
	}
	answer, err := script.Run(ctx, s.client, []string{s.prefix + "rl:{" + bounded(key) + "}"}, args...).Int64Slice()
	if err != nil {
		return ratelimit.Grant{}, fmt.Errorf("reserving in Redis: %w", err)
	}
	if len(answer) != 4 {
		return ratelimit.Grant{}, fmt.Errorf("reserving in Redis: %d values instead of 4", len(answer))
	}
	d := ratelimit.Decision{
		Allowed: answer[0] >= least, Limit: l.Most(), Remaining: answer[1],
		RetryAfter: time.Duration(answer[2]) * time.Microsecond, ResetAfter: time.Duration(answer[3]) * time.Microsecond,
	}
	return ratelimit.Grant{Units: answer[0], Decision: d}, nil
}

// longest is how long the name of a counter may be, in bytes.
const longest = 128

// bounded is the key, or its digest: subjects are as long as callers choose.
func bounded(key string) string {
	if len(key) <= longest {
		return key
	}
	digest := sha256.Sum256([]byte(key))
	return "sha256-" + hex.EncodeToString(digest[:])
}

var _ ratelimit.Store = (*Store)(nil)
