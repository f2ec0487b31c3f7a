package alert

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/keywarden/keywarden/pkg/seal"
)

// Event is what a notification tells.
type Event string

// The events.
const (
	EventFiring   Event = "alert.firing"
	EventResolved Event = "alert.resolved"
	EventTest     Event = "alert.test"
)

// Notification is what a channel is told.
type Notification struct {
	ID    string    `json:"-"` // of the delivery: the same however often it is sent
	Event Event     `json:"type"`
	At    time.Time `json:"timestamp"`
	Alert Alert     `json:"data"`
}

// Title is the notification in one line.
func (n Notification) Title() string {
	switch n.Event {
	case EventTest:
		return "[test] Keywarden can reach this channel"
	case EventResolved:
		return "[resolved] " + n.Alert.Rule
	default:
		return "[" + string(n.Alert.Severity) + "] " + n.Alert.Rule
	}
}

// Fact is one line of a notification.
type Fact struct{ Name, Value string }

// Facts are what is known of the alert, for people.
func (n Notification) Facts() []Fact {
	a := n.Alert
	if n.Event == EventTest {
		return nil
	}
	facts := []Fact{
		{"Signal", string(a.Signal)}, {"Value", quantity(a.Value, a.Unit)}, {"Threshold", quantity(a.Threshold, a.Unit)},
	}
	add := func(name, value string) {
		if value != "" {
			facts = append(facts, Fact{name, value})
		}
	}
	add("About", a.Subject)
	add("Only", filterText(a.Filter))
	if a.Volume > 0 {
		add("Requests", strconv.FormatInt(a.Volume, 10))
	}
	add("Since", a.FiredAt.UTC().Format(time.RFC3339))
	if n.Event == EventResolved {
		add("Until", a.ResolvedAt.UTC().Format(time.RFC3339))
		add("Reason", a.Reason)
	}
	return facts
}

func filterText(filter map[string]string) string {
	var parts []string
	for _, name := range sortedKeys(filter) {
		parts = append(parts, name+"="+filter[name])
	}
	return strings.Join(parts, ", ")
}

func quantity(v float64, unit string) string {
	text := strconv.FormatFloat(v, 'f', 2, 64)
	text = strings.TrimSuffix(strings.TrimRight(text, "0"), ".")
	switch unit {
	case "":
		return text
	case "%":
		return text + unit
	}
	return text + " " + unit
}

// Destination is where a notification goes to.
type Destination struct {
	URL        seal.Secret // of webhook and slack
	Secret     seal.Secret // of webhook: signs
	Recipients []string    // of email
}

// Sender sends notifications through one kind of channel. Implementations are safe for
// concurrent use. An error that tells a person something is a *SendError.
type Sender interface {
	Send(ctx context.Context, to Destination, n Notification) error
}

// SendError is why a notification was not taken. Reason is for people, and holds
// neither an address that a name leads to nor anything that a receiver said.
type SendError struct {
	Reason     string
	Permanent  bool          // sending it again does not help
	RetryAfter time.Duration // not before that; 0 where the receiver did not say
	Cause      error         // for the log
}

// Error is the text for logs.
func (e *SendError) Error() string {
	if e.Cause != nil {
		return fmt.Sprintf("%s: %v", e.Reason, e.Cause)
	}
	return e.Reason
}

// Unwrap is the cause.
func (e *SendError) Unwrap() error { return e.Cause }

// sendError is err as a SendError.
func sendError(err error) *SendError {
	var known *SendError
	if errors.As(err, &known) {
		return known
	}
	if errors.Is(err, context.DeadlineExceeded) {
		return &SendError{Reason: "no answer in time", Cause: err}
	}
	return &SendError{Reason: "it could not be sent", Cause: err}
}

// DeliveryState is where a delivery is.
type DeliveryState string

// The states of deliveries.
const (
	DeliveryPending   DeliveryState = "pending"
	DeliveryDelivered DeliveryState = "delivered"
	DeliveryDead      DeliveryState = "dead" // given up
)

// DeliveryStates are all of them.
func DeliveryStates() []DeliveryState {
	return []DeliveryState{DeliveryPending, DeliveryDelivered, DeliveryDead}
}

// Delivery is a notification on its way to one channel.
type Delivery struct {
	ID         string
	AlertID    string
	ChannelID  string
	Channel    string // its name
	Event      Event
	State      DeliveryState
	Attempts   int    // that were begun
	Error      string // of the last attempt, for people
	NextAt     time.Time
	CreatedAt  time.Time
	FinishedAt time.Time // zero while it is pending
}

// Sending is a delivery that this replica has taken to send.
type Sending struct {
	Delivery
	Notification Notification
	To           Channel // with what is sealed
}

// Result is what became of a sending.
type Result struct {
	State DeliveryState
	Error string
	Wait  time.Duration // until the next attempt, of a pending one
}
