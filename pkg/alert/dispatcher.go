package alert

import (
	"context"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/keywarden/keywarden/pkg/seal"
)

// DispatcherOptions make a [Dispatcher]. Poll and Lease have defaults, Attempted may be
// nil, the rest is required.
type DispatcherOptions struct {
	Outbox  Outbox
	Ring    *seal.Keyring
	Senders map[Kind]Sender
	Replica string        // id of this process
	Poll    time.Duration // how often the outbox is looked into
	Lease   time.Duration // after which others take over what a replica was about to send; more than SendTimeout
	Logger  *slog.Logger

	// Attempted is told what became of each attempt, for metrics: [DeliveryPending] for one
	// that is made again. It is called from many goroutines; nil for nobody.
	Attempted func(kind Kind, state DeliveryState)
}

// Bounds of sending.
const (
	// SendTimeout bounds one attempt.
	SendTimeout = 15 * time.Second
	// MaxAttempts is after how many a delivery is given up, which takes some hours.
	MaxAttempts = 14

	defaultPoll = 2 * time.Second
	sendersBusy = 8 // deliveries that a replica sends at the same time
	sendLease   = 4 * SendTimeout
	noteTimeout = 10 * time.Second // of noting a result
	firstWait   = 5 * time.Second
	longestWait = 4 * time.Hour
)

// Dispatcher sends what is in the outbox.
type Dispatcher struct {
	DispatcherOptions
	ailing bool
}

// NewDispatcher makes a dispatcher.
func NewDispatcher(o DispatcherOptions) *Dispatcher {
	if o.Poll <= 0 {
		o.Poll = defaultPoll
	}
	if o.Lease <= 0 {
		o.Lease = sendLease
	}
	if o.Attempted == nil {
		o.Attempted = func(Kind, DeliveryState) {}
	}
	return &Dispatcher{DispatcherOptions: o}
}

// Run sends until ctx ends. Every replica runs it. An attempt that is under way at the
// end is cut short, and its delivery made again later with the same id.
func (d *Dispatcher) Run(ctx context.Context) error {
	tick := time.NewTicker(d.Poll)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			if err := d.Round(ctx); ctx.Err() == nil {
				d.report(ctx, err)
			}
		}
	}
}

func (d *Dispatcher) report(ctx context.Context, err error) {
	switch ailing := err != nil; {
	case ailing == d.ailing:
		return
	case ailing:
		d.Logger.WarnContext(ctx, "notifications cannot be taken from the outbox; they wait there", "error", err)
	default:
		d.Logger.InfoContext(ctx, "notifications are sent again")
	}
	d.ailing = err != nil
}

// Round sends what is due, some at a time, and returns when there is no more.
func (d *Dispatcher) Round(ctx context.Context) error {
	for ctx.Err() == nil {
		batch, err := d.Outbox.ClaimAlertDeliveries(ctx, d.Replica, d.Lease, sendersBusy)
		if err != nil {
			return err
		}
		var group sync.WaitGroup
		for _, s := range batch {
			group.Go(func() { d.deliver(ctx, s) })
		}
		group.Wait()
		if len(batch) < sendersBusy {
			return nil
		}
	}
	return ctx.Err()
}

// deliver makes one attempt and notes what became of it.
func (d *Dispatcher) deliver(ctx context.Context, s Sending) {
	r := d.attempt(ctx, s)
	if ctx.Err() != nil && r.State != DeliveryDelivered {
		return // it was cut short by us: the lease ends, and somebody else goes on
	}
	d.Attempted(s.To.Kind, r.State)
	noting, cancel := context.WithTimeout(context.WithoutCancel(ctx), noteTimeout)
	defer cancel()
	mine, err := d.Outbox.FinishAlertDelivery(noting, s.Delivery, d.Replica, r)
	about := []any{"delivery", s.ID, "channel", s.Channel, "attempt", s.Attempts}
	switch {
	case err != nil:
		d.Logger.WarnContext(ctx, "the result of a notification could not be noted; it is sent again", append(about, "error", err)...)
	case mine && r.State == DeliveryDead:
		d.Logger.ErrorContext(ctx, "a notification was given up", append(about, "reason", r.Error)...)
	}
}

func (d *Dispatcher) attempt(ctx context.Context, s Sending) Result {
	if s.Attempts > MaxAttempts {
		// Each attempt ended with the replica that made it.
		return Result{State: DeliveryDead, Error: "given up: the attempts did not end"}
	}
	if !s.To.Enabled {
		return Result{State: DeliveryDead, Error: "the channel is disabled"}
	}
	err := send(ctx, d.Ring, d.Senders, s.To, s.Notification)
	if err == nil {
		return Result{State: DeliveryDelivered}
	}
	why := sendError(err)
	d.Logger.WarnContext(ctx, "a notification was not taken", "delivery", s.ID, "channel", s.Channel, "attempt", s.Attempts, "error", err)
	if why.Permanent || s.Attempts >= MaxAttempts {
		return Result{State: DeliveryDead, Error: why.Reason}
	}
	jitter := rand.Float64() //nolint:gosec // it spreads attempts, and protects nothing
	return Result{State: DeliveryPending, Error: why.Reason, Wait: max(backoff(s.Attempts, jitter), min(why.RetryAfter, longestWait))}
}

// send makes one attempt through a channel.
func send(ctx context.Context, ring *seal.Keyring, senders map[Kind]Sender, ch Channel, n Notification) error {
	sender := senders[ch.Kind]
	if sender == nil {
		return &SendError{Reason: "this replica cannot send through channels of the kind " + string(ch.Kind)}
	}
	to, err := ch.open(ring)
	if err != nil {
		return &SendError{Reason: "the channel does not open under the master key", Cause: err}
	}
	ctx, cancel := context.WithTimeout(ctx, SendTimeout)
	defer cancel()
	return sender.Send(ctx, to, n)
}

// backoff is the pause after so many attempts: it doubles up to longestWait, and is cut
// by up to half at random, so that many deliveries that failed together do not come
// back together. chance is from 0 to 1.
func backoff(attempts int, chance float64) time.Duration {
	wait := longestWait
	if shift := attempts - 1; shift < 20 {
		wait = min(firstWait<<shift, longestWait)
	}
	return time.Duration(float64(wait) * (1 - chance/2))
}
