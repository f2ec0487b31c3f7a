package alert

import (
	"context"
	"log/slog"
	"slices"
	"strconv"
	"time"

	"github.com/google/uuid"

	"github.com/keywarden/keywarden/pkg/access"
	"github.com/keywarden/keywarden/pkg/audit"
	"github.com/keywarden/keywarden/pkg/changes"
	"github.com/keywarden/keywarden/pkg/problem"
	"github.com/keywarden/keywarden/pkg/seal"
)

// Options make a [Service]. All fields are required.
type Options struct {
	Store    Store
	Ring     *seal.Keyring
	Senders  map[Kind]Sender         // of the kinds that can be used here
	CheckURL func(text string) error // says what is wrong with the URL of a channel, for people
	Now      func() time.Time
	Logger   *slog.Logger
}

// Service is what operators see of alerts and do about them. It is safe for concurrent
// use.
type Service struct{ Options }

// NewService makes a service.
func NewService(o Options) *Service { return &Service{o} }

// Kinds of what audit entries of this package are about.
const (
	targetRule     = "alert_rule"
	targetChannel  = "alert_channel"
	targetSilence  = "alert_silence"
	targetDelivery = "alert_delivery"
)

func note(ctx context.Context, action audit.Action, kind, id string) changes.Change {
	return changes.Change{Audit: audit.New(ctx, action, kind, id)}
}

func newID() string { return uuid.Must(uuid.NewV7()).String() }

// ---- rules

// Rules returns rules, by id.
func (s *Service) Rules(ctx context.Context, f RuleFilter) ([]Rule, error) {
	return s.Store.ListAlertRules(ctx, f)
}

// Rule returns one rule, or [ErrRuleNotFound].
func (s *Service) Rule(ctx context.Context, id string) (Rule, error) {
	return s.Store.AlertRule(ctx, id)
}

// CreateRule makes a rule. Fields that are not given have defaults; see [Spec.Complete].
func (s *Service) CreateRule(ctx context.Context, spec Spec) (Rule, error) {
	spec = spec.Complete()
	if err := spec.Validate(); err != nil {
		return Rule{}, err
	}
	r := Rule{ID: newID(), Version: 1, Spec: spec}
	c := note(ctx, audit.AlertRuleCreated, targetRule, r.ID)
	c.Audit = c.Audit.With("name", spec.Name)
	return s.Store.InsertAlertRule(ctx, r, c)
}

// UpdateRule replaces what is said of a rule. Where the rule stands does not change,
// but a rule that is disabled goes back to its beginning, and what it fires is over.
func (s *Service) UpdateRule(ctx context.Context, id string, spec Spec) (Rule, error) {
	spec = spec.Complete()
	if err := spec.Validate(); err != nil {
		return Rule{}, err
	}
	c := note(ctx, audit.AlertRuleUpdated, targetRule, id)
	c.Audit = c.Audit.With("name", spec.Name)
	return s.Store.UpdateAlertRule(ctx, Rule{ID: id, Spec: spec}, closed("the rule was disabled", s.Now().UTC()), c)
}

// DeleteRule removes a rule. What it fires is over; its alerts stay in the history.
func (s *Service) DeleteRule(ctx context.Context, id string) error {
	return s.Store.DeleteAlertRule(ctx, id, closed("the rule was deleted", s.Now().UTC()), note(ctx, audit.AlertRuleDeleted, targetRule, id))
}

// ---- channels

// Channels returns channels, by id.
func (s *Service) Channels(ctx context.Context, f RuleFilter) ([]Channel, error) {
	return s.Store.ListAlertChannels(ctx, f)
}

// Channel returns one channel, or [ErrChannelNotFound].
func (s *Service) Channel(ctx context.Context, id string) (Channel, error) {
	return s.Store.AlertChannel(ctx, id)
}

// CreateChannel makes a channel.
func (s *Service) CreateChannel(ctx context.Context, spec ChannelSpec) (Channel, error) {
	ch := Channel{ID: newID(), Version: 1}
	if err := s.fill(&ch, spec); err != nil {
		return Channel{}, err
	}
	c := note(ctx, audit.AlertChannelCreated, targetChannel, ch.ID)
	c.Audit = c.Audit.With("name", ch.Name).With("kind", string(ch.Kind))
	return s.Store.InsertAlertChannel(ctx, ch, c)
}

// fill puts what an operator says into a channel, for its version.
func (s *Service) fill(ch *Channel, spec ChannelSpec) error {
	if err := spec.validate(s.CheckURL); err != nil {
		return err
	}
	if s.Senders[spec.Kind] == nil {
		return ErrNoMail // the one kind that needs configuration
	}
	ch.Name, ch.Kind, ch.Enabled, ch.Recipients = spec.Name, spec.Kind, spec.Enabled, slices.Clone(spec.Recipients)
	return ch.seal(s.Ring, Destination{URL: spec.URL, Secret: spec.Secret})
}

// UpdateChannel replaces what is said of a channel; without a URL or a secret those
// that there are stay. The secret alone does not stay with another URL: that would
// hand signatures made for one receiver to another one. The kind cannot be changed.
func (s *Service) UpdateChannel(ctx context.Context, id string, spec ChannelSpec) (Channel, error) {
	ch, err := s.Store.AlertChannel(ctx, id)
	if err != nil {
		return Channel{}, err
	}
	if spec.Kind != "" && spec.Kind != ch.Kind {
		return Channel{}, problem.ErrInvalid.WithField("kind", "cannot be changed: make another channel")
	}
	spec.Kind = ch.Kind
	if ch.Kind != Email && (spec.URL.Empty() || spec.Secret.Empty()) {
		before, err := ch.open(s.Ring)
		if err != nil {
			return Channel{}, problem.ErrInternal.With(err)
		}
		if spec.URL.Empty() {
			spec.URL = before.URL
		}
		if spec.Secret.Empty() && spec.URL.Equal(before.URL.Reveal()) {
			spec.Secret = before.Secret
		}
	}
	ch.Version++
	if err := s.fill(&ch, spec); err != nil {
		return Channel{}, err
	}
	c := note(ctx, audit.AlertChannelUpdated, targetChannel, id)
	c.Audit = c.Audit.With("name", ch.Name)
	return s.Store.UpdateAlertChannel(ctx, ch, c)
}

// DeleteChannel removes a channel that no rule names, with its deliveries.
func (s *Service) DeleteChannel(ctx context.Context, id string) error {
	return s.Store.DeleteAlertChannel(ctx, id, note(ctx, audit.AlertChannelDeleted, targetChannel, id))
}

// TestChannel sends a notification through a channel, once and at once, and returns
// its id. It works for channels that are disabled. What went wrong is
// [ErrTestFailed], with the reason as its detail.
func (s *Service) TestChannel(ctx context.Context, id string) (string, error) {
	ch, err := s.Store.AlertChannel(ctx, id)
	if err != nil {
		return "", err
	}
	at := s.Now().UTC()
	n := Notification{ID: newID(), Event: EventTest, At: at, Alert: Alert{Rule: "test", Severity: Info, FiredAt: at}}
	c := note(ctx, audit.AlertChannelTested, targetChannel, id)
	failed := send(ctx, s.Ring, s.Senders, ch, n)
	if failed != nil {
		c.Audit = c.Audit.Failed()
	}
	if _, err := s.Store.RecordChange(ctx, c); err != nil {
		return "", err
	}
	if failed != nil {
		return "", ErrTestFailed.WithDetail("The channel did not take the notification: %s.", sendError(failed).Reason).With(failed)
	}
	return n.ID, nil
}

// ---- alerts, silences, deliveries

// Alerts returns alerts, newest first.
func (s *Service) Alerts(ctx context.Context, f AlertFilter) ([]Alert, error) {
	return s.Store.ListAlerts(ctx, f)
}

// Alert returns one alert, or [ErrAlertNotFound].
func (s *Service) Alert(ctx context.Context, id string) (Alert, error) { return s.Store.Alert(ctx, id) }

// Silences returns silences, newest first.
func (s *Service) Silences(ctx context.Context, f SilenceFilter) ([]Silence, error) {
	return s.Store.ListAlertSilences(ctx, f)
}

// MaxSilence bounds how long a silence lasts, and how far ahead it begins.
const MaxSilence = 30 * 24 * time.Hour

// Silence keeps notifications back from in.Begins, which is now unless it is given,
// until in.Ends. The rule must exist, if one is given.
func (s *Service) Silence(ctx context.Context, in Silence) (Silence, error) {
	now := s.Now().UTC().Truncate(time.Microsecond)
	if in.Begins.IsZero() {
		in.Begins = now
	}
	var m mistakes
	m.add(in.RuleID != "" && !isID(in.RuleID), "rule_id", "must be the id of a rule, or absent for all rules")
	m.add(!in.Ends.After(in.Begins) || !in.Ends.After(now), "ends", "must be in the future, and after begins")
	m.add(in.Ends.Sub(in.Begins) > MaxSilence, "ends", "must be at most 30 days after begins")
	m.add(in.Begins.After(now.Add(MaxSilence)), "begins", "must be within 30 days")
	m.text("comment", in.Comment, 0, MaxText)
	if err := m.err(); err != nil {
		return Silence{}, err
	}
	in.ID, in.CreatedAt, in.Begins, in.Ends = newID(), now, in.Begins.UTC(), in.Ends.UTC()
	if p := access.PrincipalFrom(ctx); p != nil {
		in.CreatedBy = p.UserID
	}
	c := note(ctx, audit.AlertSilenceCreated, targetSilence, in.ID)
	c.Audit = c.Audit.With("rule", in.RuleID).With("ends", in.Ends.Format(time.RFC3339))
	return s.Store.InsertAlertSilence(ctx, in, c)
}

// EndSilence ends a silence that has not ended.
func (s *Service) EndSilence(ctx context.Context, id string) error {
	return s.Store.EndAlertSilence(ctx, id, note(ctx, audit.AlertSilenceEnded, targetSilence, id))
}

// Deliveries returns deliveries, newest first.
func (s *Service) Deliveries(ctx context.Context, f DeliveryFilter) ([]Delivery, error) {
	return s.Store.ListAlertDeliveries(ctx, f)
}

// RetryDelivery sends a delivery that was given up again, with the same id.
func (s *Service) RetryDelivery(ctx context.Context, id string) (Delivery, error) {
	return s.Store.RetryAlertDelivery(ctx, id, note(ctx, audit.AlertDeliveryRetried, targetDelivery, id))
}

// ---- master keys

const (
	resealInterval = time.Hour
	resealBatch    = MaxChannels
)

// Run seals channels anew that are under a retired master key: at the beginning, and
// every hour, since a replica that knows the new key later may seal under the old one
// meanwhile. It returns when ctx ends. Several replicas may run it.
func (s *Service) Run(ctx context.Context) error {
	tick := time.NewTicker(resealInterval)
	defer tick.Stop()
	for {
		if n, err := s.Reseal(ctx); err != nil && ctx.Err() == nil {
			s.Logger.WarnContext(ctx, "alert channels could not be sealed anew", "sealed", n, "error", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// Reseal seals every channel that is under another master key anew under the current
// one, and returns how many those were. One that does not open is logged and left.
func (s *Service) Reseal(ctx context.Context) (sealed int, err error) {
	list, err := s.Store.AlertChannelsNotUnder(ctx, s.Ring.ID(), RuleFilter{Limit: resealBatch})
	if err != nil {
		return 0, err
	}
	for _, ch := range list {
		to, err := ch.open(s.Ring)
		if err != nil {
			s.Logger.ErrorContext(ctx, "an alert channel does not open", "channel", ch.ID, "key", ch.KeyID, "error", err)
			continue
		}
		before := ch.Sealed
		if err := ch.seal(s.Ring, to); err != nil {
			return sealed, err
		}
		ok, err := s.Store.ResealAlertChannel(ctx, ch, before)
		if err != nil {
			return sealed, err
		}
		if ok {
			sealed++
		}
	}
	if sealed == 0 {
		return 0, nil
	}
	c := note(ctx, audit.AlertChannelsResealed, targetChannel, "")
	c.Audit = c.Audit.With("count", strconv.Itoa(sealed)).With("key", s.Ring.ID())
	_, err = s.Store.RecordChange(ctx, c)
	return sealed, err
}
