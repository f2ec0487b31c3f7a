// Package audit records who did what to whom, when, from where and with which
// result. Every change of the platform writes its entry in the same database
// transaction, so there is no change without an entry and no entry without its
// change. Entries form a hash chain that [Chain] computes and verifies; storing
// them is the store's business.
package audit

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/keywarden/keywarden/pkg/access"
	"github.com/keywarden/keywarden/pkg/reqctx"
	"github.com/keywarden/keywarden/pkg/seal"
)

// Action names what was done, "area.verb".
type Action string

// The actions.
const (
	UserRegistered   Action = "user.registered"
	UserUpdated      Action = "user.updated"
	UserDeleted      Action = "user.deleted"
	PasswordChanged  Action = "user.password_changed"
	LoginSucceeded   Action = "session.login"
	LoginFailed      Action = "session.login_failed"
	SessionEnded     Action = "session.ended"
	RefreshReused    Action = "session.refresh_reused"
	KeyCreated       Action = "apikey.created"
	KeyUpdated       Action = "apikey.updated"
	KeyRotated       Action = "apikey.rotated"
	KeyRevoked       Action = "apikey.revoked"
	KeyQuarantined   Action = "apikey.quarantined"
	KeyReleased      Action = "apikey.released"
	CanaryUsed       Action = "apikey.canary_used"
	AccessDenied     Action = "access.denied"
	SigningKeyMade   Action = "signing_key.created"
	ConfigApplied    Action = "config.applied"
	ConfigRolledBack Action = "config.rolled_back"
	QuotaToppedUp    Action = "quota.topped_up"
	QuotaReset       Action = "quota.reset"
	CachePurged      Action = "cache.purged"
	SecretPut        Action = "secret.put"
	SecretDeleted    Action = "secret.deleted"
	SecretsResealed  Action = "secret.resealed"

	AlertRuleCreated      Action = "alert_rule.created"
	AlertRuleUpdated      Action = "alert_rule.updated"
	AlertRuleDeleted      Action = "alert_rule.deleted"
	AlertChannelCreated   Action = "alert_channel.created"
	AlertChannelUpdated   Action = "alert_channel.updated"
	AlertChannelDeleted   Action = "alert_channel.deleted"
	AlertChannelTested    Action = "alert_channel.tested"
	AlertChannelsResealed Action = "alert_channel.resealed"
	AlertSilenceCreated   Action = "alert_silence.created"
	AlertSilenceEnded     Action = "alert_silence.ended"
	AlertDeliveryRetried  Action = "alert_delivery.retried"

	ProductPut            Action = "product.put"
	ProductDeleted        Action = "product.deleted"
	PlanPut               Action = "plan.put"
	PlanDeleted           Action = "plan.deleted"
	AppCreated            Action = "app.created"
	AppUpdated            Action = "app.updated"
	AppDeleted            Action = "app.deleted"
	AppSuspended          Action = "app.suspended"
	AppResumed            Action = "app.resumed"
	SubscriptionRequested Action = "subscription.requested"
	SubscriptionApproved  Action = "subscription.approved"
	SubscriptionRejected  Action = "subscription.rejected"
	SubscriptionSuspended Action = "subscription.suspended"
	SubscriptionResumed   Action = "subscription.resumed"
	SubscriptionCancelled Action = "subscription.cancelled"
	SubscriptionRevoked   Action = "subscription.revoked"
)

// Result says how it ended.
type Result string

// The results.
const (
	Success Result = "success"
	Failure Result = "failure"
)

// Entry is what a change hands to the store. It never holds a secret: details
// are names, identifiers and counts.
type Entry struct {
	Action     Action
	ActorKind  string // "user", "key", "anonymous" or "system"
	ActorID    string // the user's id; empty when anonymous
	ActorKeyID string // the key the actor used, if any
	TargetKind string // "user", "session", "apikey", ...
	TargetID   string
	Result     Result
	Client     string // address, as text
	RequestID  string
	Detail     map[string]string
}

// New starts an entry for an action of the caller found in ctx.
func New(ctx context.Context, action Action, targetKind, targetID string) Entry {
	info := reqctx.From(ctx)
	e := Entry{
		Action: action, ActorKind: "anonymous", TargetKind: targetKind, TargetID: targetID,
		Result: Success, RequestID: info.ID,
	}
	if info.Client.IsValid() {
		e.Client = info.Client.String()
	}
	if info.ID == "" {
		e.ActorKind = "system"
	}
	if p := access.PrincipalFrom(ctx); p != nil {
		e.ActorKind, e.ActorID, e.ActorKeyID = string(p.Kind), p.UserID, p.KeyID
	}
	return e
}

// By sets the user who acted, where no credential says so (a login).
func (e Entry) By(userID string) Entry {
	e.ActorKind, e.ActorID = "user", userID
	return e
}

// Failed marks the entry as a refusal or failure.
func (e Entry) Failed() Entry {
	e.Result = Failure
	return e
}

// With adds one detail.
func (e Entry) With(name, value string) Entry {
	detail := maps.Clone(e.Detail)
	if detail == nil {
		detail = map[string]string{}
	}
	detail[name] = value
	e.Detail = detail
	return e
}

// Record is a stored entry: its place in the chain, its time, its hash.
type Record struct {
	Entry
	Seq  int64     // 1, 2, 3, ... without gaps
	At   time.Time // UTC, microseconds
	Prev []byte    // hash of the record before; 32 zero bytes for the first
	Hash []byte
}

// HashSize is the size of a chain hash in bytes.
const HashSize = sha256.Size

// Chain computes the hashes of records with a secret key, so that somebody who
// can write to the database alone cannot make a chain that verifies.
type Chain struct{ key seal.Secret }

// NewChain makes a chain under key, 32 secret bytes.
func NewChain(key []byte) Chain { return Chain{key: seal.NewSecret(string(key))} }

// Hash is HMAC-SHA256 over an unambiguous encoding of all of r but its hash:
// every field is preceded by its length, details are sorted by name.
func (c Chain) Hash(r Record) []byte {
	m := hmac.New(sha256.New, []byte(c.key.Reveal()))
	var n [8]byte
	number := func(v int64) {
		binary.BigEndian.PutUint64(n[:], uint64(v))
		m.Write(n[:])
	}
	text := func(s string) {
		number(int64(len(s)))
		m.Write([]byte(s))
	}
	number(r.Seq)
	number(r.At.UnixMicro())
	for _, s := range []string{
		string(r.Action), r.ActorKind, r.ActorID, r.ActorKeyID, r.TargetKind, r.TargetID,
		string(r.Result), r.Client, r.RequestID,
	} {
		text(s)
	}
	number(int64(len(r.Detail)))
	for _, name := range slices.Sorted(maps.Keys(r.Detail)) {
		text(name)
		text(r.Detail[name])
	}
	text(string(r.Prev))
	return m.Sum(nil)
}

// Filter selects records for a list; zero values select everything.
type Filter struct {
	Action   Action
	ActorID  string
	TargetID string
	Before   int64 // only records with a smaller Seq; 0 for the newest
	Limit    int
}

// Reader reads stored records.
type Reader interface {
	// ListAudit returns the records that match, newest first.
	ListAudit(ctx context.Context, f Filter) ([]Record, error)
	// ScanAudit calls yield for every record from Seq from on, oldest first,
	// until it returns an error.
	ScanAudit(ctx context.Context, from int64, yield func(Record) error) error
	// AuditHead returns the number and hash of the newest record.
	AuditHead(ctx context.Context) (seq int64, hash []byte, err error)
}

// Verification is the outcome of a verified chain.
type Verification struct {
	Records int64  `json:"records"`
	Head    string `json:"head"` // hex hash of the newest record
}

// BrokenError says where the chain does not hold.
type BrokenError struct {
	Seq    int64
	Reason string
}

func (e *BrokenError) Error() string {
	return fmt.Sprintf("the audit chain is broken at record %d: %s", e.Seq, e.Reason)
}

// Verify walks the whole chain: numbers without gaps, each hash right and
// carried on, and the newest record equal to the stored head, so that cutting
// the end off is noticed too. It returns a *BrokenError at the first fault.
func (c Chain) Verify(ctx context.Context, store Reader) (Verification, error) {
	headSeq, headHash, err := store.AuditHead(ctx)
	if err != nil {
		return Verification{}, err
	}
	prev := make([]byte, HashSize)
	var seq int64
	err = store.ScanAudit(ctx, 1, func(r Record) error {
		seq++
		switch {
		case r.Seq != seq:
			return &BrokenError{Seq: seq, Reason: fmt.Sprintf("it is missing, record %d follows", r.Seq)}
		case !hmac.Equal(r.Prev, prev):
			return &BrokenError{Seq: seq, Reason: "it does not continue the record before it"}
		case !hmac.Equal(r.Hash, c.Hash(r)):
			return &BrokenError{Seq: seq, Reason: "its content was changed"}
		}
		prev = r.Hash
		return nil
	})
	if err != nil {
		return Verification{}, err
	}
	// Records written while the scan ran lie beyond the head that was read
	// first; only a shorter chain or another head is a fault.
	if seq < headSeq || (seq == headSeq && !hmac.Equal(prev, headHash)) {
		return Verification{}, &BrokenError{Seq: seq + 1, Reason: "the newest records are missing"}
	}
	return Verification{Records: seq, Head: hex.EncodeToString(prev)}, nil
}
