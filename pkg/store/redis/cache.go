package redis

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	goredis "github.com/redis/go-redis/v9"

	"github.com/keywarden/keywarden/pkg/httpcache"
)

// CacheOptions are what a [Cache] is made of. All fields are required.
type CacheOptions struct {
	MaxValue int           // bytes of one answer with its fields
	Timeout  time.Duration // of a call of Redis
	Failed   func(error)   // told when Redis does not answer, at most once a pause
	Now      func() time.Time
}

// Cache keeps answers in Redis, shared by all replicas. Each answer is stored with
// the mark of [httpcache.Mark], and what is purged or forgotten is only counted, in
// one hash: that costs the same however much it is. Where Redis does not answer
// nothing is stored, and after a failure it is left alone for a moment. It is safe
// for concurrent use.
type Cache struct {
	CacheOptions
	store  *Store
	log    string // hash: epoch, number of purges, and how often each resource was forgotten
	purges string // list of the newest purges
	read   *goredis.Script
	add    *goredis.Script
	after  atomic.Int64 // Unix time in nanoseconds before which Redis is left alone; 0: it answers

	settling sync.Mutex // held by the one who does what is owed

	mu      sync.Mutex
	epoch   string
	recent  httpcache.Purges // of the epoch
	owed    atomic.Bool      // there is something in debts
	debts   []httpcache.Purge
	forgets map[uint16]bool
	all     bool // owed: everything
}

// cachePause is how long Redis is left alone after a failure.
const cachePause = time.Second

// mostDebts bounds the purges that are owed one by one.
const mostDebts = 1000

var _ httpcache.Store = (*Cache)(nil)

// NewCache makes a cache over the connection of s.
func NewCache(s *Store, o CacheOptions) (*Cache, error) {
	if o.MaxValue < 1 || o.Timeout <= 0 || o.Failed == nil || o.Now == nil {
		return nil, errors.New("redis: the bounds of the cache are not given")
	}
	return &Cache{
		CacheOptions: o, store: s, log: s.prefix + "c:{log}", purges: s.prefix + "c:{log}:purges", forgets: map[uint16]bool{},
		read: goredis.NewScript(readLog), add: goredis.NewScript(addPurge),
	}, nil
}

// try calls Redis, unless it has failed just now. Of those who come after the pause
// one finds out for all.
func (c *Cache) try(ctx context.Context, call func(ctx context.Context) error) error {
	after := c.after.Load()
	if after != 0 {
		now := c.Now()
		next := now.Add(cachePause).UnixNano()
		if now.UnixNano() < after || !c.after.CompareAndSwap(after, next) {
			return errAway
		}
		after = next
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), c.Timeout)
	defer cancel()
	err := call(ctx)
	if err != nil && !errors.Is(err, goredis.Nil) {
		if c.after.Swap(c.Now().Add(cachePause).UnixNano()) == after {
			c.Failed(err)
		}
		return fmt.Errorf("the cache in Redis: %w", err)
	}
	if after != 0 {
		c.after.Store(0)
	}
	return nil
}

var errAway = errors.New("the cache in Redis failed a moment ago")

func (c *Cache) entry(key httpcache.Key) string {
	return c.store.prefix + "c:" + hex.EncodeToString(key.Entry[:])
}

func resourceField(resource uint16) string { return "r" + strconv.Itoa(int(resource)) }

// Get implements [httpcache.Store]: one round trip, unless there were purges.
func (c *Cache) Get(ctx context.Context, key httpcache.Key) (o *httpcache.Object, mark httpcache.Mark) {
	if !c.settle(ctx) {
		return nil, httpcache.Mark{}
	}
	var fields []any
	var value []byte
	err := c.try(ctx, func(ctx context.Context) error {
		pipe := c.store.client.Pipeline()
		known := pipe.HMGet(ctx, c.log, "epoch", "seq", resourceField(key.Resource))
		found := pipe.Get(ctx, c.entry(key))
		if _, err := pipe.Exec(ctx); err != nil && !errors.Is(err, goredis.Nil) {
			return err
		}
		fields = known.Val()
		value, _ = found.Bytes() // nothing is no error
		return nil
	})
	if err != nil {
		return nil, httpcache.Mark{}
	}
	mark, ok := markOf(fields)
	if !ok || !c.follow(ctx, mark) {
		return nil, httpcache.Mark{}
	}
	if len(value) == 0 || len(value) > c.MaxValue {
		return nil, mark
	}
	o, since, err := httpcache.Decode(value)
	if err != nil || since.Epoch != mark.Epoch || since.Resource != mark.Resource || !c.stands(o, since) {
		return nil, mark
	}
	return o, mark
}

// markOf reads the fields of the log. Without an epoch there is no mark: the log is
// new, or Redis has lost it.
func markOf(fields []any) (mark httpcache.Mark, ok bool) {
	if len(fields) != 3 {
		return mark, false
	}
	mark.Known = true
	mark.Epoch, _ = fields[0].(string)
	for i, into := range []*uint64{1: &mark.Purges, 2: &mark.Resource} {
		if text, there := fields[i].(string); there && into != nil {
			n, err := strconv.ParseUint(text, 10, 64)
			if err != nil {
				return mark, false
			}
			*into = n
		}
	}
	return mark, true
}

// follow reads the purges up to those of mark, if they are not known.
func (c *Cache) follow(ctx context.Context, mark httpcache.Mark) bool {
	c.mu.Lock()
	epoch, last := c.epoch, c.recent.Last()
	c.mu.Unlock()
	if mark.Epoch != "" && epoch == mark.Epoch && last >= mark.Purges {
		return true
	}
	var answer []any
	err := c.try(ctx, func(ctx context.Context) (err error) {
		answer, err = c.read.Run(ctx, c.store.client, []string{c.log, c.purges}, epoch, last, newEpoch()).Slice()
		return err
	})
	if err != nil || len(answer) != 3 {
		return false
	}
	now, _ := answer[0].(string)
	count, _ := answer[1].(int64)
	list, _ := answer[2].([]any)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.epoch != epoch || c.recent.Last() != last {
		return c.epoch == mark.Epoch && c.recent.Last() >= mark.Purges // somebody else was faster
	}
	if from := uint64(count) - uint64(len(list)); now != epoch || from != last {
		c.epoch = now
		c.recent.Reset(from)
	}
	for _, text := range list {
		s, _ := text.(string)
		p, err := httpcache.ParsePurge(s)
		if err != nil { // of a newer version: who knows what it takes away
			c.recent.Reset(c.recent.Last() + 1)
			continue
		}
		c.recent.Add(p)
	}
	return c.epoch == mark.Epoch
}

func (c *Cache) stands(o *httpcache.Object, since httpcache.Mark) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.epoch == since.Epoch && c.recent.Stands(o, since.Purges)
}

// Put implements [httpcache.Store]. What was purged meanwhile is stored, and never
// given: its mark is too old.
func (c *Cache) Put(ctx context.Context, key httpcache.Key, o *httpcache.Object, keep time.Duration, since httpcache.Mark) {
	if keep <= 0 || !since.Known || c.owed.Load() {
		return
	}
	value, err := httpcache.Encode(o, since)
	if err != nil || len(value) > c.MaxValue {
		return
	}
	_ = c.try(ctx, func(ctx context.Context) error {
		return c.store.client.Set(ctx, c.entry(key), value, max(keep, time.Millisecond)).Err()
	})
}

// Delete implements [httpcache.Store].
func (c *Cache) Delete(ctx context.Context, key httpcache.Key) {
	err := c.try(ctx, func(ctx context.Context) error { return c.store.client.Del(ctx, c.entry(key)).Err() })
	if err != nil {
		c.owe(func() { c.forgets[key.Resource] = true })
	}
}

// Forget implements [httpcache.Store].
func (c *Cache) Forget(ctx context.Context, resource uint16) {
	err := c.try(ctx, func(ctx context.Context) error {
		return c.store.client.HIncrBy(ctx, c.log, resourceField(resource), 1).Err()
	})
	if err != nil {
		c.owe(func() { c.forgets[resource] = true })
	}
}

// Purge implements [httpcache.Store].
func (c *Cache) Purge(ctx context.Context, p httpcache.Purge) error {
	if err := p.Validate(); err != nil {
		return err
	}
	err := c.purge(ctx, p)
	if err != nil {
		c.owe(func() {
			if c.debts = append(c.debts, p); len(c.debts) > mostDebts {
				c.all, c.debts = true, nil
			}
		})
	}
	return err
}

func (c *Cache) purge(ctx context.Context, p httpcache.Purge) error {
	return c.try(ctx, func(ctx context.Context) error {
		return c.add.Run(ctx, c.store.client, []string{c.log, c.purges}, p.String(), newEpoch(), httpcache.PurgesKept).Err()
	})
}

// owe remembers what could not be done. Until it is, this replica gives nothing.
func (c *Cache) owe(add func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	add()
	c.owed.Store(true)
}

// settle does what is owed; false while it is not done.
func (c *Cache) settle(ctx context.Context) bool {
	if !c.owed.Load() {
		return true
	}
	if !c.settling.TryLock() {
		return false
	}
	defer c.settling.Unlock()
	c.mu.Lock()
	debts, forgets, all := c.debts, c.forgets, c.all
	c.debts, c.forgets, c.all = nil, map[uint16]bool{}, false
	c.mu.Unlock()
	err := c.pay(ctx, debts, forgets, all)
	c.mu.Lock()
	defer c.mu.Unlock()
	if err != nil {
		c.all = c.all || all || len(debts)+len(c.debts) > mostDebts
		c.debts = append(debts, c.debts...)
		for resource := range forgets {
			c.forgets[resource] = true
		}
		return false
	}
	c.owed.Store(c.all || len(c.debts)+len(c.forgets) > 0)
	return !c.owed.Load()
}

func (c *Cache) pay(ctx context.Context, debts []httpcache.Purge, forgets map[uint16]bool, all bool) error {
	if all {
		return c.try(ctx, func(ctx context.Context) error { return c.store.client.HSet(ctx, c.log, "epoch", newEpoch()).Err() })
	}
	for _, p := range debts {
		if err := c.purge(ctx, p); err != nil {
			return err
		}
	}
	if len(forgets) == 0 {
		return nil
	}
	return c.try(ctx, func(ctx context.Context) error {
		pipe := c.store.client.Pipeline()
		for resource := range forgets {
			pipe.HIncrBy(ctx, c.log, resourceField(resource), 1)
		}
		_, err := pipe.Exec(ctx)
		return err
	})
}

// newEpoch names a memory of Redis that nobody has seen before.
func newEpoch() string { return rand.Text() }

// The scripts of the log. Both keys live on one node of a cluster.
const (
	// readLog returns the epoch, the number of the newest purge, and the purges that
	// one who knows an epoch up to a number has not seen.
	readLog = `
local epoch = redis.call('HGET', KEYS[1], 'epoch')
if not epoch then
  epoch = ARGV[3]
  redis.call('HSET', KEYS[1], 'epoch', epoch)
end
local last = tonumber(redis.call('HGET', KEYS[1], 'seq') or '0')
local count = redis.call('LLEN', KEYS[2])
local unseen = last - tonumber(ARGV[2])
if epoch ~= ARGV[1] or unseen < 0 or unseen > count then unseen = count end
local list = {}
if unseen > 0 then list = redis.call('LRANGE', KEYS[2], -unseen, -1) end
return {epoch, last, list}
`

	// addPurge appends a purge.
	addPurge = `
redis.call('HSETNX', KEYS[1], 'epoch', ARGV[2])
redis.call('HINCRBY', KEYS[1], 'seq', 1)
redis.call('RPUSH', KEYS[2], ARGV[1])
redis.call('LTRIM', KEYS[2], -tonumber(ARGV[3]), -1)
return 1
`
)
