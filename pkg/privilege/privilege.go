// Package privilege compares what API keys may do with what they do: it remembers
// which scopes of a key a call has needed, and when last, and says from that which
// scopes the key could do without.
//
// It owns the remembering in memory, what of it is handed to a [Store] and when, and
// the comparison. It decides about no call, and takes nothing from a key: that is for
// its owner.
package privilege

import (
	"context"
	"maps"
	"slices"
	"time"

	"github.com/keywarden/keywarden/pkg/access"
)

// Use is the last use of a scope by a key that is known.
type Use struct {
	KeyID  string // UUID
	Scope  string
	Minute time.Time // its beginning, UTC
}

// Store keeps last uses.
type Store interface {
	// TouchKeyScopes keeps each use that is later than the one it has. Uses of keys that
	// are gone are left out. It may fail after having kept some of them.
	TouchKeyScopes(ctx context.Context, uses []Use) error
}

// Recorded is what was recorded of a key.
type Recorded struct {
	// Since is the beginning of the recording: when the key was made, or got a scope that
	// it had not, or when recording itself began.
	Since     time.Time
	OwnerRole access.Role
	LastUsed  map[string]time.Time // by scope, to the minute; also of scopes that the key has no more
}

// Bounds of a judgement.
const (
	// Window is how long ago a use may be that still counts.
	Window = 90 * 24 * time.Hour
	// Enough is how long uses must have been recorded before a scope is called unused: a
	// job that runs once a month needs its scope.
	Enough = 31 * 24 * time.Hour
)

// Verdict says whether a key needs a scope.
type Verdict string

// The verdicts.
const (
	Used    Verdict = "used"    // within Window
	Unused  Verdict = "unused"  // not within Window, and that is known for long enough
	Unknown Verdict = "unknown" // not used, but not recorded for long enough
)

// Scope is a scope that a key holds.
type Scope struct {
	Name     string
	LastUsed time.Time // zero for never since the recording began
	Verdict  Verdict
}

// Review compares what a key holds with what it uses.
type Review struct {
	Since       time.Time // beginning of the recording
	Scopes      []Scope   // what the key holds in effect, by name
	Ineffective []string  // what it was granted and its owner does not hold now, sorted
	Suggested   []string  // what it should hold: its scopes but the unused ones, sorted
	Narrower    bool      // Suggested is less than what the key was granted
}

// NewReview judges the scopes that a key was granted. A key that was granted the
// wildcard is told to hold what it uses.
func NewReview(granted []string, roles access.Roles, r Recorded, now time.Time) Review {
	held := roles.Cut(r.OwnerRole, granted)
	v := Review{Since: r.Since, Scopes: make([]Scope, 0, len(held)), Ineffective: []string{}, Suggested: make([]string, 0, len(held))}
	if slices.Contains(granted, access.Wildcard) {
		held = roles.Cut(r.OwnerRole, slices.AppendSeq(held, maps.Keys(r.LastUsed)))
		v.Narrower = true
	}
	for _, name := range held {
		s := Scope{Name: name, LastUsed: r.LastUsed[name]}
		s.Verdict = judge(s.LastUsed, r.Since, now)
		if s.Verdict != Unused {
			v.Suggested = append(v.Suggested, name)
		}
		v.Scopes = append(v.Scopes, s)
	}
	for _, name := range granted {
		if !slices.Contains(held, name) {
			v.Ineffective = append(v.Ineffective, name)
		}
		v.Narrower = v.Narrower || !slices.Contains(v.Suggested, name)
	}
	slices.Sort(v.Ineffective)
	v.Ineffective = slices.Compact(v.Ineffective)
	return v
}

// judge is the verdict on a scope that was used last at lastUsed, zero for never.
func judge(lastUsed, since, now time.Time) Verdict {
	switch {
	case !lastUsed.IsZero() && now.Sub(lastUsed) <= Window:
		return Used
	case now.Sub(since) < Enough:
		return Unknown
	}
	return Unused
}
