package alert

import (
	"context"
	"time"

	"github.com/keywarden/keywarden/pkg/changes"
)

// RuleFilter selects rules, by id.
type RuleFilter struct {
	After string
	Limit int
}

// AlertFilter selects alerts, newest first; zero values select all.
type AlertFilter struct {
	State  State
	RuleID string
	Before string // only those with a smaller id
	Limit  int
}

// SilenceFilter selects silences, newest first.
type SilenceFilter struct {
	Ended  bool // also those that have ended
	Before string
	Limit  int
}

// DeliveryFilter selects deliveries, newest first; zero values select all.
type DeliveryFilter struct {
	State     DeliveryState
	AlertID   string
	ChannelID string
	Before    string
	Limit     int
}

// Store keeps what operators see and change. Every change is committed with its audit
// entry. Ids that are malformed are unknown ones. Implementations are safe for
// concurrent use.
type Store interface {
	RuleStore
	ChannelStore
	HistoryStore

	// RecordChange writes an audit entry.
	RecordChange(ctx context.Context, c changes.Change) (epoch int64, err error)
}

// RuleStore is the part of a [Store] that is about rules.
type RuleStore interface {
	ListAlertRules(ctx context.Context, f RuleFilter) ([]Rule, error)
	AlertRule(ctx context.Context, id string) (Rule, error)
	// InsertAlertRule may return ErrNameTaken, ErrFull, or ErrChannelNotFound.
	InsertAlertRule(ctx context.Context, r Rule, c changes.Change) (Rule, error)
	// UpdateAlertRule replaces what an operator says of a rule. An evaluation that is
	// under way comes to nothing. close is called when the rule is disabled while it
	// fires: it makes of the alert what is told of its end.
	UpdateAlertRule(ctx context.Context, r Rule, close func(Alert) Notification, c changes.Change) (Rule, error)
	DeleteAlertRule(ctx context.Context, id string, close func(Alert) Notification, c changes.Change) error
}

// ChannelStore is the part of a [Store] that is about channels.
type ChannelStore interface {
	ListAlertChannels(ctx context.Context, f RuleFilter) ([]Channel, error)
	AlertChannel(ctx context.Context, id string) (Channel, error)
	InsertAlertChannel(ctx context.Context, ch Channel, c changes.Change) (Channel, error)
	// UpdateAlertChannel stores the next version of a channel, unless that of the one
	// that is stored is not the one before: then it is ErrChannelNotFound.
	UpdateAlertChannel(ctx context.Context, ch Channel, c changes.Change) (Channel, error)
	// DeleteAlertChannel returns ErrInUse while a rule names the channel.
	DeleteAlertChannel(ctx context.Context, id string, c changes.Change) error
	// AlertChannelsNotUnder returns channels whose sealed part is under another master key.
	AlertChannelsNotUnder(ctx context.Context, keyID string, f RuleFilter) ([]Channel, error)
	// ResealAlertChannel replaces the sealed part of a channel, unless that is not before any more.
	ResealAlertChannel(ctx context.Context, ch Channel, before []byte) (bool, error)
}

// HistoryStore is the part of a [Store] that is about what has come of rules, and what
// became of telling of it.
type HistoryStore interface {
	ListAlerts(ctx context.Context, f AlertFilter) ([]Alert, error)
	Alert(ctx context.Context, id string) (Alert, error)

	ListAlertSilences(ctx context.Context, f SilenceFilter) ([]Silence, error)
	InsertAlertSilence(ctx context.Context, s Silence, c changes.Change) (Silence, error)
	// EndAlertSilence ends a silence now.
	EndAlertSilence(ctx context.Context, id string, c changes.Change) error

	ListAlertDeliveries(ctx context.Context, f DeliveryFilter) ([]Delivery, error)
	// RetryAlertDelivery makes a dead delivery pending, with all its attempts.
	RetryAlertDelivery(ctx context.Context, id string, c changes.Change) (Delivery, error)
}

// Claim is a rule that a replica has taken to work it out once.
type Claim struct {
	Rule     Rule
	Turn     int64     // what the commit must name; every claim and every change of the rule has another one
	At       time.Time // on the clock of the database
	Silenced bool
}

// Outcome is what an evaluation leads to.
type Outcome struct {
	Status Status
	Alert  *Alert        // that begins, ends, or is told now; nil for none
	Tell   *Notification // is put on its way to the rule's channels, or for an end to those that were told of the beginning
}

// EvaluationStore hands out rules and takes outcomes.
type EvaluationStore interface {
	// ClaimAlertRules takes at most limit enabled rules that are due and that no other
	// replica has, for lease, and makes them due again after interval. A replica keeps
	// the rules that it has.
	ClaimAlertRules(ctx context.Context, replica string, lease, interval time.Duration, limit int) ([]Claim, error)
	// CommitAlertRule commits an outcome with its notifications, or reports false when
	// the turn is over.
	CommitAlertRule(ctx context.Context, c Claim, o Outcome) (bool, error)
	// ReleaseAlertRules gives back what a replica has.
	ReleaseAlertRules(ctx context.Context, replica string) error
	// PruneAlerts deletes alerts, deliveries and silences that ended before.
	PruneAlerts(ctx context.Context, before time.Time) error
}

// Outbox hands out deliveries and takes results.
type Outbox interface {
	// ClaimAlertDeliveries takes at most limit deliveries that are due and that no
	// other replica has, for lease, and counts an attempt of each. The end of an alert
	// is not handed out before its beginning is out of the way.
	ClaimAlertDeliveries(ctx context.Context, replica string, lease time.Duration, limit int) ([]Sending, error)
	// FinishAlertDelivery notes the result of the attempt; it reports false when the
	// delivery was taken over meanwhile.
	FinishAlertDelivery(ctx context.Context, d Delivery, replica string, r Result) (bool, error)
}
