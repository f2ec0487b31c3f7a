package alert

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"slices"
	"time"

	"github.com/google/uuid"
)

// EvaluatorOptions make an [Evaluator]. Interval and Lease have defaults, the rest is
// required.
type EvaluatorOptions struct {
	Store    EvaluationStore
	Figures  Figures
	Replica  string        // id of this process
	Interval time.Duration // between two evaluations of a rule
	Lease    time.Duration // after which others take over the rules of a replica that is silent
	Logger   *slog.Logger
}

// Bounds of evaluation.
const (
	DefaultInterval = 30 * time.Second

	claimBatch     = 5                // rules that are taken at once
	measureTimeout = 10 * time.Second // of one figure
	leaseIntervals = 3
	minLease       = claimBatch*measureTimeout + 10*time.Second // no rule of a batch is still worked out at its end
	pollsPerTurn   = 4                                          // how often in an interval it is looked for rules that are due

	// Longer than a lease and gapIntervals without an evaluation is a gap: usage of that
	// time may not be there yet, since replicas could not write it either.
	gapIntervals = 2
	minGap       = time.Minute

	pruneInterval = time.Hour
	releaseWait   = 2 * time.Second

	// Kept is how long alerts, deliveries and silences are kept after their end.
	Kept = 90 * 24 * time.Hour
)

// Evaluator works out rules that are due, one after the other.
type Evaluator struct {
	EvaluatorOptions
	ailing bool // the last round failed, and that is in the log
}

// NewEvaluator makes an evaluator.
func NewEvaluator(o EvaluatorOptions) *Evaluator {
	if o.Interval <= 0 {
		o.Interval = DefaultInterval
	}
	if o.Lease <= 0 {
		o.Lease = max(leaseIntervals*o.Interval, minLease)
	}
	return &Evaluator{EvaluatorOptions: o}
}

// Run works out rules until ctx ends, and gives them back then. Every replica runs it.
// While the database is away nothing is evaluated; that is logged once.
func (e *Evaluator) Run(ctx context.Context) error {
	tick := time.NewTicker(e.Interval / pollsPerTurn)
	defer tick.Stop()
	prune := time.NewTicker(pruneInterval)
	defer prune.Stop()
	for {
		select {
		case <-ctx.Done():
			last, cancel := context.WithTimeout(context.WithoutCancel(ctx), releaseWait)
			defer cancel()
			if err := e.Store.ReleaseAlertRules(last, e.Replica); err != nil {
				e.Logger.WarnContext(last, "alert rules could not be given back; other replicas take them over later", "error", err)
			}
			return nil
		case <-prune.C:
			if err := e.Store.PruneAlerts(ctx, time.Now().Add(-Kept)); err != nil && ctx.Err() == nil && !e.ailing {
				e.Logger.WarnContext(ctx, "old alerts could not be deleted; the next sweep will", "error", err)
			}
		case <-tick.C:
			if err := e.Round(ctx); ctx.Err() == nil {
				e.report(ctx, err)
			}
		}
	}
}

// report logs the beginning and the end of an outage.
func (e *Evaluator) report(ctx context.Context, err error) {
	switch ailing := err != nil; {
	case ailing == e.ailing:
		return
	case ailing:
		e.Logger.WarnContext(ctx, "alert rules cannot be evaluated; they stay as they are", "error", err)
	default:
		e.Logger.InfoContext(ctx, "alert rules are evaluated again")
	}
	e.ailing = err != nil
}

// Round works out the rules that are due. It ends with the batch of one that cannot be
// committed: that is for the next turn, or the next replica.
func (e *Evaluator) Round(ctx context.Context) error {
	for range MaxRules/claimBatch + 1 {
		claims, err := e.Store.ClaimAlertRules(ctx, e.Replica, e.Lease, e.Interval, claimBatch)
		if err != nil {
			return err
		}
		var failed []error
		for _, c := range claims {
			failed = append(failed, e.evaluate(ctx, c))
		}
		if err := errors.Join(failed...); err != nil || len(claims) < claimBatch {
			return err
		}
	}
	return nil
}

func (e *Evaluator) evaluate(ctx context.Context, c Claim) error {
	m := e.measure(ctx, c)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	next, transition := c.Rule.Status.Next(c.Rule.Spec, m, c.At)
	o := outcome(c, next, transition)
	mine, err := e.Store.CommitAlertRule(ctx, c, o)
	if err != nil || !mine {
		return err
	}
	if transition != None {
		e.Logger.InfoContext(ctx, "alert", "rule", c.Rule.Name, "state", string(o.Alert.State), "value", o.Alert.Value,
			"threshold", o.Alert.Threshold, "alert", o.Alert.ID, "told", o.Tell != nil)
	}
	return nil
}

// measure asks for the figure. One that cannot be had is unknown, which begins nothing.
func (e *Evaluator) measure(ctx context.Context, c Claim) Reading {
	last := c.Rule.Status.EvaluatedAt
	if !last.IsZero() && c.At.Sub(last) > max(e.Lease+gapIntervals*e.Interval, minGap) {
		return unknown("the rule was not evaluated for " + short(c.At.Sub(last).Round(time.Second)))
	}
	ctx, cancel := context.WithTimeout(ctx, measureTimeout)
	defer cancel()
	m, err := e.Figures.Measure(ctx, c.Rule.Spec, c.At)
	if err != nil {
		e.Logger.DebugContext(ctx, "the figure of an alert rule cannot be had", "rule", c.Rule.Name, "error", err)
		return unknown("the figure could not be worked out")
	}
	return m
}

// outcome is what follows from a transition: the alert, and what is told of it. What
// was silenced when it began is told as soon as it is not, unless it is over by then.
func outcome(c Claim, next Status, t Transition) Outcome {
	o := Outcome{Status: next}
	switch {
	case t == Fires:
		o.Status.AlertID, o.Status.Notified = uuid.Must(uuid.NewV7()).String(), !c.Silenced
		a := begin(c, o.Status)
		o.Alert = &a
		o.tell(EventFiring, c, !c.Silenced)
	case t == Resolves:
		a := begin(c, c.Rule.Status)
		a.State, a.ResolvedAt, a.Value, a.Volume = Resolved, c.At, next.Reading.Value, next.Reading.Volume
		if !next.Reading.Known {
			a.Value, a.Reason = c.Rule.Status.Reading.Value, "there has been no figure for too long"
		}
		o.Alert = &a
		o.Status.AlertID, o.Status.Notified = "", false
		o.tell(EventResolved, c, c.Rule.Status.Notified)
	case next.State == Firing && !next.Notified && !c.Silenced:
		o.Status.Notified = true
		a := begin(c, o.Status)
		o.Alert = &a
		o.tell(EventFiring, c, true)
	}
	return o
}

// tell puts the alert into a notification.
func (o *Outcome) tell(event Event, c Claim, really bool) {
	if really {
		o.Tell = &Notification{Event: event, At: c.At, Alert: *o.Alert}
	}
}

// begin is the alert that a rule which fires stands for.
func begin(c Claim, s Status) Alert {
	r := c.Rule
	return Alert{
		ID: s.AlertID, RuleID: r.ID, Rule: r.Name, Signal: r.Signal, Severity: r.Severity, Summary: r.Summary,
		State: Firing, Value: s.Reading.Value, Unit: r.Signal.Unit(), Threshold: r.Threshold, Volume: s.Reading.Volume,
		Subject: s.Reading.Subject, Filter: maps.Clone(r.Filter), FiredAt: s.Since,
	}
}

// closed makes of an alert the notification that it is over for another reason than
// its figure.
func closed(reason string, at time.Time) func(Alert) Notification {
	return func(a Alert) Notification {
		a.State, a.ResolvedAt, a.Reason = Resolved, at, reason
		return Notification{Event: EventResolved, At: at, Alert: a}
	}
}

func sortedKeys(m map[string]string) []string { return slices.Sorted(maps.Keys(m)) }
