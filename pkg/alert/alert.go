// Package alert tells people when a figure of the platform is not what it should be:
// a rule asks for a figure over a window, and says from when on that is an alert, when
// it is over, and whom to tell.
//
// It owns rules, the state machine that each of them goes through, channels, silences,
// and the outbox of notifications. [Service] is what operators do, [Evaluator] works
// out rules, and [Dispatcher] sends. It counts nothing: figures come through [Figures].
// How a notification travels is for package alert/channel, and rows are the store's
// business.
//
// # One alert over several replicas
//
// A rule is worked out by the replica that holds its lease. What follows from it, the
// new state, the alert and the notifications, is committed in one transaction that
// fails when another replica has taken the rule meanwhile. So there is one alert, and
// one notification for each of its channels, whoever is killed at which moment.
// A notification is sent at least once: a replica that ends between sending and noting
// that makes another one send it again, with the same id.
package alert

import (
	"time"

	"github.com/keywarden/keywarden/pkg/problem"
)

// Errors of this package.
var (
	ErrRuleNotFound     = problem.Define(problem.NotFound, "alert.rule_not_found", "There is no alert rule with this id.")
	ErrChannelNotFound  = problem.Define(problem.NotFound, "alert.channel_not_found", "There is no alert channel with this id.")
	ErrAlertNotFound    = problem.Define(problem.NotFound, "alert.not_found", "There is no alert with this id.")
	ErrSilenceNotFound  = problem.Define(problem.NotFound, "alert.silence_not_found", "There is no silence with this id, or it has ended.")
	ErrDeliveryNotFound = problem.Define(problem.NotFound, "alert.delivery_not_found", "There is no delivery with this id that was given up.")

	ErrNameTaken = problem.Define(problem.Conflict, "alert.name_taken", "Another one has this name.")
	ErrInUse     = problem.Define(problem.Conflict, "alert.channel_in_use", "Rules notify this channel. Take it out of them first.")
	ErrFull      = problem.Define(problem.Conflict, "alert.too_many", "There are as many as there may be. Delete some first.")
	ErrNoMail    = problem.Define(problem.Conflict, "alert.no_mail_server", "No mail server is configured, so that mail cannot be sent.")

	// ErrTestFailed says that the notification of a test did not arrive.
	ErrTestFailed = problem.Define(problem.BadGateway, "alert.test_failed", "The channel did not take the notification.")
)

// Bounds.
const (
	MaxRules      = 500
	MaxChannels   = 100
	MaxSilences   = 500 // that have not ended
	MaxName       = 100 // characters
	MaxText       = 500 // characters of a summary or a comment
	MaxPerRule    = 10  // channels
	MaxRecipients = 20
)

// Severity says how bad an alert is.
type Severity string

// The severities.
const (
	Info     Severity = "info"
	Warning  Severity = "warning"
	Critical Severity = "critical"
)

// Severities are all of them.
func Severities() []Severity { return []Severity{Info, Warning, Critical} }

// Alert is one time that a rule fired, from the beginning to the end.
type Alert struct {
	ID       string   `json:"id"`
	RuleID   string   `json:"rule_id"` // which may be gone by now
	Rule     string   `json:"rule"`    // its name at the time
	Signal   Signal   `json:"signal"`
	Severity Severity `json:"severity"`
	Summary  string   `json:"summary,omitempty"` // what the rule says that it means

	State     State             `json:"state"`             // Firing or Resolved
	Value     float64           `json:"value"`             // of the figure when it fired, and at the end when it is over
	Unit      string            `json:"unit"`              // of value and threshold
	Threshold float64           `json:"threshold"`         // at the time
	Volume    int64             `json:"volume,omitempty"`  // requests that the value is about
	Subject   string            `json:"subject,omitempty"` // what the value belongs to, such as a certificate
	Filter    map[string]string `json:"filter,omitempty"`  // of the rule
	FiredAt   time.Time         `json:"fired_at"`

	ResolvedAt time.Time `json:"resolved_at,omitzero"`
	Reason     string    `json:"reason,omitempty"` // why it is over, where that is not the figure
}

// Status is where a rule stands. It is what one evaluation leaves to the next.
type Status struct {
	State State     `json:"state"`
	Since time.Time `json:"since,omitzero"` // when the state began; zero before the first evaluation

	// ClearSince is since when the figure of a firing rule has been good; zero while it is not.
	ClearSince time.Time `json:"clear_since,omitzero"`
	// UnknownSince is since when there has been no figure; zero while there is one.
	UnknownSince time.Time `json:"unknown_since,omitzero"`

	EvaluatedAt time.Time `json:"evaluated_at,omitzero"`
	Reading     Reading   `json:"reading"` // of the last evaluation
	AlertID     string    `json:"alert_id,omitempty"`
	Notified    bool      `json:"notified,omitempty"` // somebody was told of the alert that fires
}

// Silence keeps notifications from being sent. A rule goes through its states all the
// same; when an alert still fires at the end of the silence, it is told then.
type Silence struct {
	ID        string
	RuleID    string // empty for all rules
	Begins    time.Time
	Ends      time.Time
	Comment   string
	CreatedBy string // id of the user
	CreatedAt time.Time
}
