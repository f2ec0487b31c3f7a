package alert_test

import (
	"context"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/keywarden/keywarden/pkg/alert"
	"github.com/keywarden/keywarden/pkg/seal"
)

// outbox is one with deliveries in memory, of which each is handed out when it is due.
type outbox struct {
	mu      sync.Mutex
	pending map[string]*alert.Sending
	due     map[string]time.Time
	results map[string]alert.Result
}

func newOutbox(channel alert.Channel, ids ...string) *outbox {
	o := &outbox{pending: map[string]*alert.Sending{}, due: map[string]time.Time{}, results: map[string]alert.Result{}}
	for _, id := range ids {
		o.pending[id] = &alert.Sending{Delivery: alert.Delivery{ID: id}, Notification: alert.Notification{ID: id}, To: channel}
	}
	return o
}

func (o *outbox) ClaimAlertDeliveries(_ context.Context, _ string, lease time.Duration, limit int) (list []alert.Sending, _ error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for id, s := range o.pending {
		if len(list) < limit && !time.Now().Before(o.due[id]) {
			s.Attempts++
			o.due[id] = time.Now().Add(lease)
			list = append(list, *s)
		}
	}
	return list, nil
}

func (o *outbox) FinishAlertDelivery(_ context.Context, d alert.Delivery, _ string, r alert.Result) (bool, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.results[d.ID] = r
	if o.due[d.ID] = time.Now().Add(r.Wait); r.State != alert.DeliveryPending {
		delete(o.pending, d.ID)
	}
	return true, nil
}

// sender answers as a test says.
type sender func(ctx context.Context, to alert.Destination, n alert.Notification) error

func (s sender) Send(ctx context.Context, to alert.Destination, n alert.Notification) error {
	return s(ctx, to, n)
}

func dispatch(t *testing.T, o *outbox, s sender, do func()) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		ring, err := seal.ParseKeyring(seal.NewMasterKey())
		if err != nil {
			t.Fatal(err)
		}
		d := alert.NewDispatcher(alert.DispatcherOptions{
			Outbox: o, Ring: ring, Senders: map[alert.Kind]alert.Sender{alert.Email: s}, Replica: "a", Logger: slog.New(slog.DiscardHandler),
		})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { defer close(done); _ = d.Run(ctx) }()
		do()
		cancel()
		<-done
	})
}

var mail = alert.Channel{ID: "c", Kind: alert.Email, Enabled: true, Recipients: []string{"ops@example.com"}}

func TestPausesBetweenAttemptsGrowAndEnd(t *testing.T) {
	o := newOutbox(mail, "d")
	var attempts []time.Time
	dispatch(t, o, func(context.Context, alert.Destination, alert.Notification) error {
		attempts = append(attempts, time.Now())
		return &alert.SendError{Reason: "no"}
	}, func() { wait(48 * time.Hour) })
	if len(attempts) != alert.MaxAttempts || o.results["d"] != (alert.Result{State: alert.DeliveryDead, Error: "no"}) {
		t.Fatalf("%d attempts, %+v", len(attempts), o.results)
	}
	for i := range attempts[1:] {
		pause, most := attempts[i+1].Sub(attempts[i]), min(5*time.Second<<i, 4*time.Hour)
		if pause < most/2 || pause > most+4*time.Second {
			t.Errorf("pause %d is %v, want %v to %v", i, pause, most/2, most)
		}
	}
	if all := attempts[len(attempts)-1].Sub(attempts[0]); all < 4*time.Hour || all > 12*time.Hour {
		t.Errorf("it was tried for %v", all)
	}
}

func TestWhatBecameOfAttemptsIsTold(t *testing.T) {
	o := newOutbox(mail, "d")
	var told []alert.DeliveryState
	synctest.Test(t, func(t *testing.T) {
		ring, err := seal.ParseKeyring(seal.NewMasterKey())
		if err != nil {
			t.Fatal(err)
		}
		taken := false
		s := sender(func(context.Context, alert.Destination, alert.Notification) error {
			if taken {
				return nil
			}
			taken = true
			return &alert.SendError{Reason: "no"}
		})
		d := alert.NewDispatcher(alert.DispatcherOptions{
			Outbox: o, Ring: ring, Senders: map[alert.Kind]alert.Sender{alert.Email: s}, Replica: "a", Logger: slog.New(slog.DiscardHandler),
			Attempted: func(kind alert.Kind, state alert.DeliveryState) {
				if kind != alert.Email {
					t.Errorf("kind %s", kind)
				}
				told = append(told, state)
			},
		})
		for range 2 {
			if err := d.Round(t.Context()); err != nil {
				t.Error(err)
			}
			time.Sleep(time.Minute)
		}
	})
	if want := []alert.DeliveryState{alert.DeliveryPending, alert.DeliveryDelivered}; !slices.Equal(told, want) {
		t.Errorf("told %v, want %v", told, want)
	}
}

func TestWhatDoesNotHelpIsNotTriedAgain(t *testing.T) {
	disabled := mail
	disabled.Enabled = false
	unknown := mail
	unknown.Kind = "pager"
	for name, c := range map[string]struct {
		channel alert.Channel
		state   alert.DeliveryState
		reason  string
	}{
		"the receiver is gone":    {mail, alert.DeliveryDead, "gone"},
		"the channel is disabled": {disabled, alert.DeliveryDead, "the channel is disabled"},
		"nobody can send":         {unknown, alert.DeliveryPending, "this replica cannot send through channels of the kind pager"},
	} {
		o := newOutbox(c.channel, "d")
		dispatch(t, o, func(context.Context, alert.Destination, alert.Notification) error {
			return &alert.SendError{Reason: "gone", Permanent: true}
		}, func() { wait(3 * time.Second) })
		if r := o.results["d"]; r.State != c.state || r.Error != c.reason {
			t.Errorf("%s: %+v", name, r)
		}
	}
}

// TestSlowReceiverIsCutShortAndDelaysNobodyElse: eight are sent to at a time.
func TestSlowReceiverIsCutShortAndDelaysNobodyElse(t *testing.T) {
	o := newOutbox(mail, "slow", "b", "c", "d", "e")
	dispatch(t, o, func(ctx context.Context, _ alert.Destination, n alert.Notification) error {
		if n.ID != "slow" {
			return nil
		}
		<-ctx.Done()
		return ctx.Err()
	}, func() {
		wait(3 * time.Second)
		o.mu.Lock()
		if len(o.results) != 4 {
			t.Errorf("while one is slow: %+v", o.results)
		}
		o.mu.Unlock()
		wait(alert.SendTimeout)
		o.mu.Lock()
		if r := o.results["slow"]; r.State != alert.DeliveryPending || r.Error != "no answer in time" {
			t.Errorf("%+v", r)
		}
		o.mu.Unlock()
	})
}

// TestAttemptThatTheEndOfTheReplicaCutsShortIsNoFailure: another replica goes on.
func TestAttemptThatTheEndOfTheReplicaCutsShortIsNoFailure(t *testing.T) {
	o := newOutbox(mail, "d")
	dispatch(t, o, func(ctx context.Context, _ alert.Destination, _ alert.Notification) error {
		<-ctx.Done()
		return ctx.Err()
	}, func() { wait(3 * time.Second) })
	if len(o.results) != 0 || o.pending["d"] == nil {
		t.Errorf("%+v", o.results)
	}
}

func TestReplicasThatKeepDyingDoNotSendForEver(t *testing.T) {
	o := newOutbox(mail, "d")
	o.pending["d"].Attempts = alert.MaxAttempts
	dispatch(t, o, func(context.Context, alert.Destination, alert.Notification) error {
		t.Error("it is sent once more")
		return nil
	}, func() { wait(3 * time.Second) })
	if o.results["d"].State != alert.DeliveryDead {
		t.Errorf("%+v", o.results)
	}
}
