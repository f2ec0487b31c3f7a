// Package quota bounds how much somebody may use in a minute, an hour, a day, a
// week or a month. What was used is booked in a ledger that all replicas share, one
// account for each subject, in one conditional update, so that an account is never
// overdrawn by a single unit. A replica takes units from the ledger in blocks and
// gives them out one by one: a [Meter] does that, and most of its decisions touch
// no network.
//
// It owns periods, leases and what operators may do to an account. It does not know
// what a subject is, how a refusal is answered, or where the ledger is kept.
package quota

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/google/uuid"
)

// MaxLimit bounds the units of a quota, and those of a top-up. It keeps all
// arithmetic within 63 bits.
const MaxLimit = 1_000_000_000_000

// Quota is so many units in each period.
type Quota struct {
	Name   string // tells it from others, in the answer and in the ledger
	Limit  int64
	Period Period

	// Open lets requests pass while the ledger does not answer and this replica has no
	// units left. They are booked when it answers again, as far as there are units.
	Open bool
}

// Validate returns nil when the quota can be kept.
func (q Quota) Validate() error {
	switch {
	case q.Name == "" || len(q.Name) > maxText:
		return fmt.Errorf("the name must have from 1 to %d bytes", maxText)
	case q.Limit < 1 || q.Limit > MaxLimit:
		return fmt.Errorf("the limit must be from 1 to %d", int64(MaxLimit))
	case int(q.Period.Unit) >= len(unitNames):
		return errors.New("the period must be a minute, an hour, a day, a week or a month")
	}
	return nil
}

// maxText bounds the texts of an identity, in bytes.
const maxText = 128

// Identity says whose account it is, and for what.
type Identity struct {
	Quota  string // name of the quota
	Scope  string // name of the route; empty for an account that routes share
	Period string // see [Period.String]: another period is another account
	Kind   string // of the subject: "key", "user", "address", ...

	// Subject is the id of the key, which stays the same when the key is rotated, the
	// id of the user, and so on.
	Subject string
}

// ID is the name of the account: a UUID (version 8, RFC 9562) of the SHA-256 of its
// identity, so that all replicas give it the same one without asking.
func (i Identity) ID() string {
	h := sha256.New()
	for _, text := range [...]string{i.Quota, i.Scope, i.Period, i.Kind, i.Subject} {
		h.Write(strconv.AppendInt(nil, int64(len(text)), 10))
		h.Write([]byte(":" + text))
	}
	var id uuid.UUID
	copy(id[:], h.Sum(nil))
	id[6] = id[6]&0x0f | 0x80
	id[8] = id[8]&0x3f | 0x80
	return id.String()
}

// subjectOf is the subject as it is stored: what is too long, or no text that a
// database takes, is replaced by its hash.
func subjectOf(subject string) string {
	if len(subject) <= maxText && utf8.ValidString(subject) && strings.IndexByte(subject, 0) < 0 {
		return subject
	}
	sum := sha256.Sum256([]byte(subject))
	return "sha256:" + hex.EncodeToString(sum[:])
}

// Ledger keeps accounts that replicas share. Implementations are safe for
// concurrent use, and their clock is the one that counts.
type Ledger interface {
	// Reserve books up to Want units as used, and none when there are fewer than
	// Least, in one conditional update. It opens the account, or its next period,
	// where there is none yet. When it fails, units may be booked or not.
	Reserve(ctx context.Context, ask Ask) (Grant, error)

	// Return books units as not used. Those of another epoch are passed over. It must
	// not be repeated when it fails.
	Return(ctx context.Context, unused []Unused) error
}

// Ask is what a replica asks of the ledger.
type Ask struct {
	ID string // of the Identity
	Identity
	Limit  int64
	Period Period
	Least  int64 // at least 1
	Want   int64 // at least Least
}

// Grant is the ledger's answer.
type Grant struct {
	Units    int64 // 0 when there were fewer than the least
	Epoch    int64 // of the account: another one after each reset, and in each period
	Used     int64 // what was granted is in it
	Capacity int64 // the limit and what was topped up
	Ends     time.Time
	Now      time.Time // on the ledger's clock, as Ends

	// Crossed is what this very grant has crossed of the account for the first time in
	// the period.
	Crossed []Event
}

// Unused is what a replica gives back.
type Unused struct {
	ID    string // of the account
	Epoch int64  // in which the units were granted
	Units int64
}

// Levels are how much of an account must be used for an event, in percent.
func Levels() []int { return []int{80, 100} }

// Event tells that so much of an account is used. For each account there is one for
// each level in a period, on whichever replica, and whatever is reset or topped up.
type Event struct {
	Number int64 // grows, with gaps
	At     time.Time
	ID     string // of the account
	Identity
	Level    int // percent
	Used     int64
	Capacity int64
	Span
}
