package analytics

import (
	"context"
	"log/slog"
	"time"
)

// Limits bound what is kept of each sum: beyond, values become [Folded], those with the
// fewest requests first.
type Limits struct {
	Values       int // of one dimension
	Combinations int // of all dimensions
}

// DefaultLimits are enough for platforms on which 20,000 keys are used within a day.
func DefaultLimits() Limits { return Limits{Values: 20_000, Combinations: 50_000} }

// Grace is how long after its end an hour is summed up for the first time. A minute
// that comes later than that makes it be done again.
const Grace = 5 * time.Minute

// Store makes sums and drops them.
type Store interface {
	// RollUpAnalytics makes the sums of one interval that has ended, or makes those of one again
	// that something came late for. It reports false when there is nothing to do, or
	// another replica is at it. Minutes from before rawSince may have been deleted: sums
	// of these are not made again.
	RollUpAnalytics(ctx context.Context, now, rawSince time.Time, l Limits) (bool, error)
	// DropAnalytics drops the sums of months that ended before it is told to keep them,
	// if the next longer ones exist.
	DropAnalytics(ctx context.Context, now time.Time, r Retention) error
}

// Roller keeps the sums up to date. Every replica runs one.
type Roller struct {
	Store     Store
	Raw       time.Duration // for which minutes are kept; 0 for ever
	Retention Retention
	Limits    Limits
	Now       func() time.Time
	Logger    *slog.Logger
}

const (
	rollInterval = time.Minute
	rollTimeout  = 10 * time.Minute // of one round
)

// Run does so until ctx ends.
func (r *Roller) Run(ctx context.Context) error {
	tick := time.NewTicker(rollInterval)
	defer tick.Stop()
	ailing := false
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		err := r.Sweep(ctx)
		switch {
		case ctx.Err() != nil || (err != nil) == ailing:
		case err != nil:
			r.Logger.WarnContext(ctx, "analytics cannot be summed up; it is tried again each minute", "error", err)
		default:
			r.Logger.InfoContext(ctx, "analytics are summed up again")
		}
		ailing = err != nil
	}
}

// Sweep does all that is to do now.
func (r *Roller) Sweep(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, rollTimeout)
	defer cancel()
	now := r.Now().UTC()
	again := r.Retention.Hours // of what may come late, and is there still to be summed up
	if r.Raw > 0 {
		again = min(again, r.Raw)
	}
	rawSince := now.Add(time.Hour - again) // the hour is for clocks that differ
	for {
		if more, err := r.Store.RollUpAnalytics(ctx, now, rawSince, r.Limits); err != nil {
			return err
		} else if !more {
			return r.Store.DropAnalytics(ctx, now, r.Retention)
		}
	}
}
