// Package ratelimit decides how many requests a subject may make in a short
// window. A [Limit] is the arithmetic over a small state; a [Limiter] keeps that
// state for many subjects in the memory of one replica. It does not know what a
// subject is, nor how a refusal is answered.
package ratelimit

import (
	"errors"
	"fmt"
	"math/bits"
	"time"
)

// Algorithm is how a limit counts.
type Algorithm uint8

// The algorithms.
const (
	// GCRA is the generic cell rate algorithm (ITU-T I.371): units come back one by
	// one, evenly over the window, and at most Burst can be saved up.
	GCRA Algorithm = iota

	// SlidingWindow counts the units of the last window, with those of the fixed
	// window before the current one weighted by how much of it the last window still
	// covers.
	SlidingWindow
)

// Limit is so many units in each window. It is immutable and safe for concurrent
// use.
type Limit struct {
	Quota     int64
	Window    time.Duration
	Burst     int64 // GCRA: units at once; at least 1, and more than Quota for one who saves up over several windows
	Algorithm Algorithm
}

// Bounds of limits. They keep all arithmetic within 63 bits.
const (
	MaxQuota  = 1_000_000_000
	MaxWindow = 24 * time.Hour

	maxFill = 30 * 365 * 24 * time.Hour // until a burst is there again
)

// setBack is by how many nanoseconds a clock was set back for sure. A caller may
// have been held up for less since it looked at the clock.
const setBack = int64(time.Minute)

// Validate returns nil when the limit can be counted.
func (l Limit) Validate() error {
	switch {
	case l.Quota < 1 || l.Quota > MaxQuota:
		return fmt.Errorf("the quota must be from 1 to %d", MaxQuota)
	case l.Window < time.Millisecond || l.Window > MaxWindow:
		return fmt.Errorf("the window must be from 1ms to %s", MaxWindow)
	case l.Algorithm == GCRA && (l.Burst < 1 || l.Burst > MaxQuota):
		return fmt.Errorf("the burst must be from 1 to %d", MaxQuota)
	case l.Algorithm == GCRA && int64(l.Window) < l.Quota:
		return errors.New("the quota must not be more than one unit for each nanosecond of the window")
	case l.Algorithm == GCRA && l.Burst > int64(maxFill)/l.interval():
		return errors.New("the burst must come back within thirty years")
	}
	return nil
}

// State is what is remembered of a subject. The zero value is that of one who has
// used nothing. It is small, for there are millions of them.
type State struct {
	at       int64 // GCRA: when everything is there again, Unix nanoseconds; SlidingWindow: number of the current fixed window
	current  int32 // SlidingWindow: units in the current fixed window
	previous int32 // SlidingWindow: units in the one before
}

// Decision is the answer to a subject.
type Decision struct {
	Allowed    bool
	Limit      int64         // units that can be had at once
	Remaining  int64         // units that can be had now
	RetryAfter time.Duration // when refused: until the cost can be had; 0 if it never can
	ResetAfter time.Duration // until everything is there again
}

// Take takes cost units, at least 1, at now. A refusal takes nothing. now may step
// back: what was used stays used, for two windows and a minute at most.
func (l Limit) Take(s *State, now time.Time, cost int64) Decision {
	if l.Algorithm == SlidingWindow {
		return l.slide(s, now.UnixNano(), cost)
	}
	return l.flow(s, now.UnixNano(), cost)
}

// Most is how many units can be had at once.
func (l Limit) Most() int64 {
	if l.Algorithm == SlidingWindow {
		return l.Quota
	}
	return l.Burst
}

// Largest is the largest cost that can ever be had. Of a smoothed limit, whose burst
// is 1, one of many units passes as one unit does, and keeps the next waiting for all
// of them; so it is bounded by the window.
func (l Limit) Largest() int64 {
	if l.Algorithm == GCRA && l.Burst == 1 {
		return l.Quota
	}
	return l.Most()
}

// Peek is Take of nothing.
func (l Limit) Peek(s *State, now time.Time) Decision {
	copied := *s
	if l.Algorithm == SlidingWindow {
		return l.slide(&copied, now.UnixNano(), 0)
	}
	return l.flow(&copied, now.UnixNano(), 0)
}

// Grant is what a subject gets of what it asked for.
type Grant struct {
	Units    int64    // 0 when not even the least could be had
	Decision Decision // as of the units, or of the least that was refused
}

// Reserve takes as many units as can be had, at most want, and none when there are
// fewer than least; see [Limit.Take]. A least and a want of 0 are a look at what
// there is.
func (l Limit) Reserve(s *State, now time.Time, least, want int64) Grant {
	units := min(max(least, want), max(least, l.Peek(s, now).Remaining))
	d := l.Take(s, now, units)
	if !d.Allowed {
		units = 0
	}
	return Grant{Units: units, Decision: d}
}

// Refund gives units back that were taken for nothing.
func (l Limit) Refund(s *State, cost int64) {
	if l.Algorithm == SlidingWindow {
		s.current = int32(max(0, int64(s.current)-cost))
		return
	}
	s.at -= cost * l.interval()
}

// interval is how long a unit takes to come back, in nanoseconds, rounded up: the
// limit is never exceeded for the sake of a fraction.
func (l Limit) interval() int64 { return (int64(l.Window) + l.Quota - 1) / l.Quota }

func (l Limit) flow(s *State, now, cost int64) Decision {
	interval := l.interval()
	tolerance := interval * l.Burst
	if s.at-now > 2*tolerance+int64(l.Window)+setBack {
		s.at = now + tolerance // the clock was set back
	}
	full := max(s.at, now)
	d := Decision{Limit: l.Burst}
	if cost > l.Largest() {
		d.Remaining, d.ResetAfter = (now+tolerance-full)/interval, time.Duration(full-now)
		d.Remaining = max(0, d.Remaining)
		return d
	}
	if over := full + min(cost, l.Burst)*interval - now - tolerance; over > 0 && cost > 0 {
		d.RetryAfter = time.Duration(over)
	} else {
		d.Allowed = true
		full += cost * interval
		if cost > 0 {
			s.at = full
		}
	}
	d.Remaining = max(0, (now+tolerance-full)/interval)
	d.ResetAfter = time.Duration(full - now)
	return d
}

func (l Limit) slide(s *State, now, cost int64) Decision {
	window := int64(l.Window)
	number, into := now/window, now%window
	switch {
	case number == s.at:
	case number == s.at+1:
		s.at, s.previous, s.current = number, s.current, 0
	case number > s.at:
		s.at, s.previous, s.current = number, 0, 0
	case (s.at-1-number)*window > setBack: // the clock was set back, and would keep the subject waiting
		s.at, s.previous, s.current = number, 0, int32(min(l.Quota, int64(s.current)+int64(s.previous)))
	default: // likewise, a little: what was used stays used
		into = 0
	}
	current, previous := int64(s.current), int64(s.previous)
	used := current + share(previous, window-into, window)
	d := Decision{Limit: l.Quota, Remaining: max(0, l.Quota-used)}
	d.ResetAfter = time.Duration(2*window - into)
	if current == 0 && cost == 0 {
		d.ResetAfter = time.Duration(window - into)
	}
	switch {
	case cost > l.Quota:
		return d
	case used+cost > l.Quota:
		d.RetryAfter = l.untilFree(s, into, cost)
		return d
	}
	s.current = int32(current + cost)
	d.Allowed, d.Remaining = true, max(0, l.Quota-used-cost)
	return d
}

// untilFree is how long until cost units can be had, if nobody takes any.
func (l Limit) untilFree(s *State, into, cost int64) time.Duration {
	window, room := int64(l.Window), l.Quota-cost
	current, previous := int64(s.current), int64(s.previous)
	if current <= room && previous > 0 {
		// In this window, as soon as the share of the one before is small enough.
		return time.Duration(max(1, window-into-share(window, room-current, previous)))
	}
	// In the next window, where the current one is the one before.
	rest := window - into
	if current > room {
		rest += window - share(window, room, current)
	}
	return time.Duration(max(1, rest))
}

// share is n * part / whole, with all its bits, rounded down; n*part/whole must
// fit into 63 bits.
func share(n, part, whole int64) int64 {
	hi, lo := bits.Mul64(uint64(n), uint64(part))
	q, _ := bits.Div64(hi, lo, uint64(whole))
	return int64(q)
}
