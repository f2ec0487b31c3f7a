package apikey

import (
	"context"
	"sync"
	"time"
)

const (
	usageInterval = 10 * time.Second // between writes of last use
	maxUsage      = 100_000          // keys remembered between two writes
	usageTimeout  = 5 * time.Second
)

// usage remembers the minute of last use of keys until it is written. It is
// bounded: beyond the bound uses are forgotten, which costs only precision.
type usage struct {
	mu   sync.Mutex
	used map[string]time.Time // by key id
}

func newUsage() *usage { return &usage{used: map[string]time.Time{}} }

// note remembers that the key was used in the minute.
func (u *usage) note(keyID string, minute time.Time) {
	u.mu.Lock()
	defer u.mu.Unlock()
	last, known := u.used[keyID]
	if known && minute.After(last) || !known && len(u.used) < maxUsage {
		u.used[keyID] = minute
	}
}

// take returns what is remembered, and forgets it.
func (u *usage) take() map[string]time.Time {
	u.mu.Lock()
	defer u.mu.Unlock()
	taken := u.used
	u.used = map[string]time.Time{}
	return taken
}

// Run writes last uses until ctx ends, and once more then.
func (v *Verifier) Run(ctx context.Context) error {
	tick := time.NewTicker(usageInterval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			v.FlushUsage(context.WithoutCancel(ctx))
			return nil
		case <-tick.C:
			v.FlushUsage(ctx)
		}
	}
}

// FlushUsage writes the last uses that are not written yet. When that fails they
// are remembered on.
func (v *Verifier) FlushUsage(ctx context.Context) {
	used := v.used.take()
	if len(used) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, usageTimeout)
	defer cancel()
	if err := v.opts.Store.TouchKeys(ctx, used); err != nil {
		v.opts.Logger.DebugContext(ctx, "last uses are written later", "error", err)
		for id, minute := range used {
			v.used.note(id, minute)
		}
	}
}
