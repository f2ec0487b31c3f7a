package alertstore

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/keywarden/keywarden/pkg/alert"
	"github.com/keywarden/keywarden/pkg/seal"
	"github.com/keywarden/keywarden/pkg/store/postgres"
)

// setFigure is a figure that a test sets.
type setFigure struct{ value atomic.Int64 }

// Measure implements alert.Figures.
func (l *setFigure) Measure(context.Context, alert.Spec, time.Time) (alert.Reading, error) {
	return alert.Reading{Known: true, Value: float64(l.value.Load()), Volume: 100}, nil
}

// receiver notes what it is sent, and by which replica.
type receiver struct {
	mu   sync.Mutex
	seen []alert.Notification
	fail func(n alert.Notification) error // asked before it is noted
}

// Send implements alert.Sender.
func (r *receiver) Send(_ context.Context, _ alert.Destination, n alert.Notification) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.fail != nil {
		if err := r.fail(n); err != nil {
			return err
		}
	}
	r.seen = append(r.seen, n)
	return nil
}

// counts is how often each id was received, by event.
func (r *receiver) counts() map[alert.Event]map[string]int {
	r.mu.Lock()
	defer r.mu.Unlock()
	all := map[alert.Event]map[string]int{}
	for _, n := range r.seen {
		if all[n.Event] == nil {
			all[n.Event] = map[string]int{}
		}
		all[n.Event][n.ID]++
	}
	return all
}

func alertSpec(name string, channels ...string) alert.Spec {
	return alert.Spec{
		Name: name, Enabled: true, Signal: alert.ServerErrorRate, Threshold: 5, ResolveThreshold: 2, Severity: alert.Critical, Channels: channels,
	}.Complete()
}

func (w *world) alertChannel(name string) alert.Channel {
	w.T.Helper()
	s := w.alerts(nil)
	ch, err := s.CreateChannel(w.T.Context(), alert.ChannelSpec{
		Name: name, Kind: alert.Slack, Enabled: true, URL: seal.NewSecret("https://hooks.example.com/" + name),
	})
	w.Must(err)
	return ch
}

// alerts is a service over the store; sender may be nil.
func (w *world) alerts(sender alert.Sender) *alert.Service {
	if sender == nil {
		sender = &receiver{}
	}
	return alert.NewService(alert.Options{
		Store: w.Store, Ring: w.ring, Senders: map[alert.Kind]alert.Sender{alert.Slack: sender, alert.Email: sender}, CheckURL: func(string) error { return nil },
		Now: time.Now, Logger: slog.New(slog.DiscardHandler),
	})
}

func (w *world) alertRule(spec alert.Spec) alert.Rule {
	w.T.Helper()
	r, err := w.alerts(nil).CreateRule(w.T.Context(), spec)
	w.Must(err)
	return r
}

// errKilled is what a replica hears that is not there any more.
var errKilled = errors.New("this process was killed")

// mortal is the store of a replica that can be killed: from then on nothing that it
// does reaches the database. Of those that share a doom, the first that comes to the
// call of its fate dies there.
type mortal struct {
	*Store
	doom *sync.Once
	fate string // name of the call
	dead atomic.Bool
}

func (m *mortal) dies(call string) bool {
	if m.fate == call {
		m.doom.Do(func() { m.dead.Store(true) })
	}
	return m.dead.Load()
}

func (m *mortal) ClaimAlertRules(ctx context.Context, replica string, lease, interval time.Duration, limit int) ([]alert.Claim, error) {
	if m.dead.Load() {
		return nil, errKilled
	}
	return m.Store.ClaimAlertRules(ctx, replica, lease, interval, limit)
}

func (m *mortal) CommitAlertRule(ctx context.Context, c alert.Claim, o alert.Outcome) (bool, error) {
	if m.dead.Load() || o.Alert != nil && m.dies("commit") {
		return false, errKilled
	}
	return m.Store.CommitAlertRule(ctx, c, o)
}

func (m *mortal) ReleaseAlertRules(ctx context.Context, replica string) error {
	if m.dead.Load() {
		return errKilled
	}
	return m.Store.ReleaseAlertRules(ctx, replica)
}

func (m *mortal) ClaimAlertDeliveries(ctx context.Context, replica string, lease time.Duration, limit int) ([]alert.Sending, error) {
	if m.dead.Load() {
		return nil, errKilled
	}
	list, err := m.Store.ClaimAlertDeliveries(ctx, replica, lease, limit)
	if len(list) > 0 && m.dies("claim") {
		return nil, errKilled
	}
	return list, err
}

func (m *mortal) FinishAlertDelivery(ctx context.Context, d alert.Delivery, replica string, r alert.Result) (bool, error) {
	if m.dead.Load() || m.dies("finish") {
		return false, errKilled
	}
	return m.Store.FinishAlertDelivery(ctx, d, replica, r)
}

// TestAlertFiresOnceOverThreeReplicasWithOneKilled: whatever the moment at which a
// replica dies, there is one alert, and the receiver is told of its beginning and of
// its end by one id each. It is told twice, by the same id, only when the replica died
// between sending and noting that.
func TestAlertFiresOnceOverThreeReplicasWithOneKilled(t *testing.T) {
	for _, at := range []string{"commit", "claim", "finish", ""} {
		t.Run("dies at "+at, func(t *testing.T) {
			w := newWorld(t)
			ch := w.alertChannel("ops")
			rule := w.alertRule(alertSpec("errors", ch.ID))
			figure, to := &setFigure{}, &receiver{}
			figure.value.Store(50)
			stop := runReplicas(t, w, figure, to, at)

			eventually(t, "the alert is told", func() bool { return len(to.counts()[alert.EventFiring]) > 0 })
			figure.value.Store(0)
			eventually(t, "its end is told", func() bool { return len(to.counts()[alert.EventResolved]) > 0 })
			eventually(t, "everything is delivered", func() bool {
				return w.Number(`SELECT count(*) FROM alert_deliveries WHERE state = 'delivered'`) == 2
			})
			deaths := stop()

			if at != "" && deaths == 0 {
				t.Fatal("nobody died: the test says nothing")
			}
			repeats := 0
			for event, ids := range to.counts() {
				if len(ids) != 1 {
					t.Errorf("%s was told by %d ids", event, len(ids))
				}
				for _, n := range ids {
					repeats += n - 1
				}
			}
			if most := map[string]int{"finish": 1}[at]; repeats != most {
				t.Errorf("%d repetitions, want %d", repeats, most)
			}
			if n := w.Number(`SELECT count(*) FROM alerts`); n != 1 {
				t.Errorf("%d alerts", n)
			}
			if n := w.Number(`SELECT count(*) FROM alert_deliveries`); n != 2 {
				t.Errorf("%d deliveries", n)
			}
			got, err := w.AlertRule(t.Context(), rule.ID)
			if err != nil || got.Status.State != alert.OK {
				t.Errorf("%+v, %v", got.Status, err)
			}
		})
	}
}

// runReplicas runs three replicas. The first that has a beginning to commit dies at the
// named call, and no other one does. stop ends them and says how many died.
func runReplicas(t *testing.T, w *world, figure alert.Figures, to alert.Sender, at string) (stop func() int) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	var group sync.WaitGroup
	var doom sync.Once
	var replicas []*mortal
	log := slog.New(slog.DiscardHandler)
	for i := range 3 {
		m := &mortal{Store: w.open(), doom: &doom, fate: at}
		replicas = append(replicas, m)
		replica := fmt.Sprint("replica ", i)
		e := alert.NewEvaluator(alert.EvaluatorOptions{
			Store: m, Figures: figure, Replica: replica, Interval: 40 * time.Millisecond, Lease: 300 * time.Millisecond, Logger: log,
		})
		d := alert.NewDispatcher(alert.DispatcherOptions{
			Outbox: m, Ring: w.ring, Senders: map[alert.Kind]alert.Sender{alert.Slack: to}, Replica: replica,
			Poll: 20 * time.Millisecond, Lease: 2 * time.Second, Logger: log,
		})
		group.Go(func() { _ = e.Run(ctx) })
		group.Go(func() { _ = d.Run(ctx) })
	}
	end := func() { cancel(); group.Wait() }
	t.Cleanup(end)
	return func() (deaths int) {
		end()
		for _, m := range replicas {
			if m.dead.Load() {
				deaths++
			}
		}
		return deaths
	}
}

func TestOnlyOneReplicaHasARule(t *testing.T) {
	w := newWorld(t)
	for i := range 20 {
		w.alertRule(alertSpec(fmt.Sprint("rule ", i)))
	}
	var mu sync.Mutex
	holders := map[string][]string{}
	errs := together(8, func(i int) error {
		for range 10 {
			claims, err := w.ClaimAlertRules(t.Context(), fmt.Sprint("replica ", i), time.Hour, time.Hour, 3)
			if err != nil {
				return err
			}
			mu.Lock()
			for _, c := range claims {
				holders[c.Rule.Name] = append(holders[c.Rule.Name], fmt.Sprint(i))
			}
			mu.Unlock()
		}
		return nil
	})
	w.Must(errors.Join(errs...))
	if len(holders) != 20 {
		t.Errorf("%d rules were taken", len(holders))
	}
	for rule, by := range holders {
		if len(by) != 1 {
			t.Errorf("%s was taken by %v", rule, by)
		}
	}
}

func TestRuleThatWasTakenOverOrChangedIsNotCommitted(t *testing.T) {
	w := newWorld(t)
	ch := w.alertChannel("ops")
	r := w.alertRule(alertSpec("errors", ch.ID))
	claim := func(replica string) alert.Claim {
		t.Helper()
		w.Exec(`UPDATE alert_rules SET next_at = now(), leased_until = now()`)
		list, err := w.ClaimAlertRules(t.Context(), replica, time.Hour, time.Hour, 10)
		if err != nil || len(list) != 1 {
			t.Fatalf("%d claims, %v", len(list), err)
		}
		return list[0]
	}
	fires := func(c alert.Claim) alert.Outcome {
		a := alert.Alert{ID: newID(), RuleID: r.ID, Rule: r.Name, State: alert.Firing, FiredAt: c.At}
		return alert.Outcome{Status: alert.Status{State: alert.Firing, AlertID: a.ID}, Alert: &a, Tell: &alert.Notification{Event: alert.EventFiring, Alert: a}}
	}
	for name, meanwhile := range map[string]func(){
		"taken over": func() { claim("b") },
		"changed":    func() { _, err := w.UpdateAlertRule(t.Context(), r, nil, noted("test", r.ID)); w.Must(err) },
	} {
		c := claim("a")
		meanwhile()
		if mine, err := w.CommitAlertRule(t.Context(), c, fires(c)); mine || err != nil {
			t.Errorf("%s: %v, %v", name, mine, err)
		}
	}
	if n := w.Number(`SELECT (SELECT count(*) FROM alerts) + (SELECT count(*) FROM alert_deliveries)`); n != 0 {
		t.Errorf("%d rows were written", n)
	}
	c := claim("c")
	if mine, err := w.CommitAlertRule(t.Context(), c, fires(c)); !mine || err != nil {
		t.Errorf("%v, %v", mine, err)
	}
	// Another alert of the same rule cannot begin, and leaves nothing behind.
	c = claim("c")
	if _, err := w.CommitAlertRule(t.Context(), c, fires(c)); err == nil {
		t.Error("a rule fires twice")
	}
	if n := w.Number(`SELECT count(*) FROM alert_deliveries`); n != 1 {
		t.Errorf("%d deliveries", n)
	}
}

// TestEndOfARuleIsToldToThoseWhoKnowOfItsAlert: a rule that is disabled or deleted while
// it fires must not leave an alert open at the receivers.
func TestEndOfARuleIsToldToThoseWhoKnowOfItsAlert(t *testing.T) {
	for _, how := range []string{"disabled", "deleted"} {
		w := newWorld(t)
		service := w.alerts(nil)
		ch, other := w.alertChannel("ops"), w.alertChannel("other")
		r := w.alertRule(alertSpec("errors", ch.ID))
		figure := &setFigure{}
		figure.value.Store(50)
		e := alert.NewEvaluator(alert.EvaluatorOptions{Store: w.Store, Figures: figure, Replica: "a", Logger: slog.New(slog.DiscardHandler)})
		w.Must(e.Round(t.Context()))
		if n := w.Number(`SELECT count(*) FROM alert_deliveries WHERE event = 'alert.firing'`); n != 1 {
			t.Fatalf("%d deliveries", n)
		}
		spec := alertSpec("errors", other.ID) // who was not told
		if how == "disabled" {
			spec.Enabled = false
			got, err := service.UpdateRule(t.Context(), r.ID, spec)
			if err != nil || got.Status.State != alert.OK || got.Version != 2 || got.Enabled {
				t.Errorf("%+v, %v", got, err)
			}
		} else {
			w.Must(service.DeleteRule(t.Context(), r.ID))
			if _, err := service.Rule(t.Context(), r.ID); !errors.Is(err, alert.ErrRuleNotFound) {
				t.Error(err)
			}
		}
		list, err := service.Alerts(t.Context(), alert.AlertFilter{RuleID: r.ID, Limit: 10})
		if err != nil || len(list) != 1 || list[0].State != alert.Resolved || !strings.Contains(list[0].Reason, how) {
			t.Errorf("%s: %+v, %v", how, list, err)
		}
		if n := w.Number(`SELECT count(*) FROM alert_deliveries WHERE event = 'alert.resolved' AND channel_id = $1`, ch.ID); n != 1 {
			t.Errorf("%s: %d deliveries to who was told", how, n)
		}
		if n := w.Number(`SELECT count(*) FROM alert_deliveries WHERE channel_id = $1`, other.ID); n != 0 {
			t.Errorf("%s: %d deliveries to who was not", how, n)
		}
	}
}

func TestDeliveriesAreTriedAgainGivenUpAndRevived(t *testing.T) {
	w := newWorld(t)
	ch := w.alertChannel("ops")
	w.alertRule(alertSpec("errors", ch.ID))
	figure := &setFigure{}
	figure.value.Store(50)
	e := alert.NewEvaluator(alert.EvaluatorOptions{Store: w.Store, Figures: figure, Replica: "a", Logger: slog.New(slog.DiscardHandler)})
	w.Must(e.Round(t.Context()))
	figure.value.Store(0)
	w.Exec(`UPDATE alert_rules SET next_at = now()`)
	w.Must(e.Round(t.Context()))

	down := true
	var tried []string
	to := &receiver{fail: func(n alert.Notification) error {
		tried = append(tried, n.ID+" "+string(n.Event))
		if down {
			return &alert.SendError{Reason: "the receiver answered with status 500"}
		}
		return nil
	}}
	d := alert.NewDispatcher(alert.DispatcherOptions{
		Outbox: w.Store, Ring: w.ring, Senders: map[alert.Kind]alert.Sender{alert.Slack: to}, Replica: "a", Logger: slog.New(slog.DiscardHandler),
	})
	for range alert.MaxAttempts + 2 {
		w.Must(d.Round(t.Context()))
		w.Exec(`UPDATE alert_deliveries SET next_at = now() WHERE event = 'alert.firing' AND state = 'pending'`)
		if len(tried) < alert.MaxAttempts && strings.Contains(strings.Join(tried, " "), "resolved") {
			t.Fatal("the end was sent before the beginning was out of the way")
		}
	}
	service := w.alerts(nil)
	dead, err := service.Deliveries(t.Context(), alert.DeliveryFilter{State: alert.DeliveryDead, Limit: 10})
	if err != nil || len(dead) != 1 || dead[0].Attempts != alert.MaxAttempts || dead[0].Error != "the receiver answered with status 500" || dead[0].FinishedAt.IsZero() {
		t.Fatalf("%+v, %v", dead, err)
	}
	for _, attempt := range tried[:alert.MaxAttempts] {
		if attempt != dead[0].ID+" alert.firing" {
			t.Errorf("an attempt was %s", attempt)
		}
	}
	down = false
	again, err := service.RetryDelivery(t.Context(), dead[0].ID)
	if err != nil || again.State != alert.DeliveryPending || again.Attempts != 0 {
		t.Errorf("%+v, %v", again, err)
	}
	w.Exec(`UPDATE alert_deliveries SET next_at = now()`)
	w.Must(d.Round(t.Context()))
	w.Exec(`UPDATE alert_deliveries SET next_at = now()`)
	w.Must(d.Round(t.Context()))
	if n := w.Number(`SELECT count(*) FROM alert_deliveries WHERE state = 'delivered'`); n != 2 {
		t.Errorf("%d are delivered", n)
	}
	for _, id := range []string{dead[0].ID, newID(), "x"} {
		if _, err := service.RetryDelivery(t.Context(), id); !errors.Is(err, alert.ErrDeliveryNotFound) {
			t.Errorf("%s: %v", id, err)
		}
	}
}

func TestLateResultDoesNotOverruleTheNextAttempt(t *testing.T) {
	w := newWorld(t)
	ch := w.alertChannel("ops")
	w.alertRule(alertSpec("errors", ch.ID))
	figure := &setFigure{}
	figure.value.Store(50)
	w.Must(alert.NewEvaluator(alert.EvaluatorOptions{Store: w.Store, Figures: figure, Replica: "a", Logger: slog.New(slog.DiscardHandler)}).Round(t.Context()))
	first, err := w.ClaimAlertDeliveries(t.Context(), "a", time.Hour, 10)
	if err != nil || len(first) != 1 || first[0].Notification.Alert.Rule != "errors" || first[0].Notification.ID != first[0].ID {
		t.Fatalf("%+v, %v", first, err)
	}
	if list, err := w.ClaimAlertDeliveries(t.Context(), "b", time.Hour, 10); len(list) != 0 || err != nil {
		t.Fatalf("another replica takes it too: %v, %v", list, err)
	}
	w.Exec(`UPDATE alert_deliveries SET leased_until = now()`)
	second, err := w.ClaimAlertDeliveries(t.Context(), "b", time.Hour, 10)
	if err != nil || len(second) != 1 || second[0].ID != first[0].ID || second[0].Attempts != 2 {
		t.Fatalf("%+v, %v", second, err)
	}
	if mine, err := w.FinishAlertDelivery(t.Context(), first[0].Delivery, "a", alert.Result{State: alert.DeliveryDead}); mine || err != nil {
		t.Errorf("%v, %v", mine, err)
	}
	if mine, err := w.FinishAlertDelivery(t.Context(), second[0].Delivery, "b", alert.Result{State: alert.DeliveryDelivered}); !mine || err != nil {
		t.Errorf("%v, %v", mine, err)
	}
}

// TestChannelSecretsAreSealedForTheirRow: nothing of them is in the database in the
// clear, and what is moved to another row, or is of an earlier version, does not open.
func TestChannelSecretsAreSealedForTheirRow(t *testing.T) {
	w := newWorld(t)
	to := &receiver{}
	service := w.alerts(to)
	const canary = "canary-path-9Xk2"
	one, err := service.CreateChannel(t.Context(), alert.ChannelSpec{Name: "one", Kind: alert.Slack, Enabled: true, URL: seal.NewSecret("https://hooks.example.com/" + canary)})
	w.Must(err)
	two := w.alertChannel("two")
	for _, table := range []string{"alert_channels", "audit_log"} {
		if n := w.Number(`SELECT count(*) FROM ` + table + ` r WHERE r::text LIKE '%canary%' OR r::text LIKE '%` + fmt.Sprintf("%x", canary) + `%'`); n != 0 {
			t.Errorf("the URL is in %s", table)
		}
	}
	if one.Host != "hooks.example.com" {
		t.Errorf("the host is %q", one.Host)
	}
	if _, err := service.TestChannel(t.Context(), one.ID); err != nil || len(to.seen) != 1 || to.seen[0].Event != alert.EventTest {
		t.Errorf("%v, %v", err, to.seen)
	}
	w.Exec(`UPDATE alert_channels SET sealed = (SELECT sealed FROM alert_channels WHERE id = $1) WHERE id = $2`, one.ID, two.ID)
	if _, err := service.TestChannel(t.Context(), two.ID); !errors.Is(err, alert.ErrTestFailed) {
		t.Errorf("moved: %v", err)
	}
	updated, err := service.UpdateChannel(t.Context(), one.ID, alert.ChannelSpec{Name: "one more", Enabled: true})
	if err != nil || updated.Version != 2 || updated.Name != "one more" {
		t.Fatalf("%+v, %v", updated, err)
	}
	w.Exec(`UPDATE alert_channels SET sealed = $2 WHERE id = $1`, one.ID, one.Sealed)
	if _, err := service.TestChannel(t.Context(), one.ID); !errors.Is(err, alert.ErrTestFailed) {
		t.Errorf("an earlier version: %v", err)
	}
	w.Exec(`UPDATE alert_channels SET sealed = $2 WHERE id = $1`, one.ID, updated.Sealed)
}

func TestChannelsAreSealedAnewUnderTheCurrentKey(t *testing.T) {
	old, current := seal.NewMasterKey(), seal.NewMasterKey()
	ring := func(k seal.Secret, retired ...seal.Secret) *seal.Keyring {
		t.Helper()
		r, err := seal.ParseKeyring(k, retired...)
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	w := newWorld(t)
	w.ring = ring(old)
	ch, mail := w.alertChannel("ops"), alert.ChannelSpec{Name: "mail", Kind: alert.Email, Enabled: true, Recipients: []string{"ops@example.com"}}
	_, err := w.alerts(nil).CreateChannel(t.Context(), mail)
	w.Must(err)
	w.ring = ring(current, old)
	for _, want := range []int{1, 0} {
		if n, err := w.alerts(nil).Reseal(t.Context()); n != want || err != nil {
			t.Errorf("%d, %v, want %d", n, err, want)
		}
	}
	w.ring = ring(current)
	if _, err := w.alerts(nil).TestChannel(t.Context(), ch.ID); err != nil {
		t.Error(err)
	}
}

func TestAlertThingsAreListedNamedOnceAndBounded(t *testing.T) {
	w := newWorld(t)
	service := w.alerts(nil)
	ch := w.alertChannel("ops")
	one, two := w.alertRule(alertSpec("one", ch.ID)), w.alertRule(alertSpec("two"))
	if _, err := service.CreateRule(t.Context(), alertSpec("one")); !errors.Is(err, alert.ErrNameTaken) {
		t.Error(err)
	}
	if _, err := service.UpdateRule(t.Context(), two.ID, alertSpec("one")); !errors.Is(err, alert.ErrNameTaken) {
		t.Error(err)
	}
	if _, err := service.CreateRule(t.Context(), alertSpec("three", newID())); !errors.Is(err, alert.ErrChannelNotFound) {
		t.Error(err)
	}
	if err := service.DeleteChannel(t.Context(), ch.ID); !errors.Is(err, alert.ErrInUse) {
		t.Error(err)
	}
	rules, err := service.Rules(t.Context(), alert.RuleFilter{Limit: 10})
	if err != nil || len(rules) != 2 || !cmp.Equal(rules[0].Spec, one.Spec) || !cmp.Equal(rules[0].Channels, []string{ch.ID}) {
		t.Errorf("%+v, %v", rules, err)
	}
	if rules, err = service.Rules(t.Context(), alert.RuleFilter{After: one.ID, Limit: 10}); err != nil || len(rules) != 1 || rules[0].ID != two.ID {
		t.Errorf("%+v, %v", rules, err)
	}
	w.Must(service.DeleteRule(t.Context(), one.ID))
	w.Must(service.DeleteChannel(t.Context(), ch.ID))
	for _, id := range []string{one.ID, newID(), "x", strings.ToUpper(two.ID)} {
		_, rule := service.Rule(t.Context(), id)
		_, channel := service.Channel(t.Context(), id)
		_, one := service.Alert(t.Context(), id)
		for _, c := range []struct{ got, want error }{
			{rule, alert.ErrRuleNotFound}, {channel, alert.ErrChannelNotFound}, {one, alert.ErrAlertNotFound},
			{service.DeleteRule(t.Context(), id), alert.ErrRuleNotFound}, {service.DeleteChannel(t.Context(), id), alert.ErrChannelNotFound},
			{service.EndSilence(t.Context(), id), alert.ErrSilenceNotFound},
		} {
			if !errors.Is(c.got, c.want) {
				t.Errorf("%s: %v, want %v", id, c.got, c.want)
			}
		}
	}
	w.Exec(`INSERT INTO alert_rules (id, version, name, enabled, spec) SELECT gen_random_uuid(), 1, 'n' || g, false, '{}' FROM generate_series(1, $1) g`, alert.MaxRules-1)
	if _, err := service.CreateRule(t.Context(), alertSpec("one more")); !errors.Is(err, alert.ErrFull) {
		t.Error(err)
	}
}

func TestSilencesHoldBackUntilTheirEnd(t *testing.T) {
	w := newWorld(t)
	service := w.alerts(nil)
	ch := w.alertChannel("ops")
	r, other := w.alertRule(alertSpec("errors", ch.ID)), w.alertRule(alertSpec("others"))
	silence, err := service.Silence(t.Context(), alert.Silence{RuleID: r.ID, Ends: time.Now().Add(time.Hour), Comment: "deployment"})
	w.Must(err)
	_, err = service.Silence(t.Context(), alert.Silence{Begins: time.Now().Add(time.Hour), Ends: time.Now().Add(2 * time.Hour)})
	w.Must(err)
	if _, err := service.Silence(t.Context(), alert.Silence{RuleID: newID(), Ends: time.Now().Add(time.Hour)}); !errors.Is(err, alert.ErrRuleNotFound) {
		t.Error(err)
	}
	silenced := func() map[string]bool {
		w.Exec(`UPDATE alert_rules SET next_at = now()`)
		claims, err := w.ClaimAlertRules(t.Context(), "a", time.Hour, time.Hour, 10)
		w.Must(err)
		found := map[string]bool{}
		for _, c := range claims {
			found[c.Rule.ID] = c.Silenced
		}
		return found
	}
	if diff := cmp.Diff(map[string]bool{r.ID: true, other.ID: false}, silenced()); diff != "" {
		t.Error(diff)
	}
	list, err := service.Silences(t.Context(), alert.SilenceFilter{Limit: 10})
	if err != nil || len(list) != 2 || list[1].Comment != "deployment" || list[1].RuleID != r.ID || list[0].RuleID != "" {
		t.Errorf("%+v, %v", list, err)
	}
	w.Must(service.EndSilence(t.Context(), silence.ID))
	if err := service.EndSilence(t.Context(), silence.ID); !errors.Is(err, alert.ErrSilenceNotFound) {
		t.Error(err)
	}
	if diff := cmp.Diff(map[string]bool{r.ID: false, other.ID: false}, silenced()); diff != "" {
		t.Error(diff)
	}
	if list, err := service.Silences(t.Context(), alert.SilenceFilter{Ended: true, Limit: 10}); err != nil || len(list) != 2 {
		t.Errorf("%+v, %v", list, err)
	}
	// A silence that has not begun yet can be taken back, too.
	w.Must(service.EndSilence(t.Context(), list[0].ID))
}

func TestAlertsArePruned(t *testing.T) {
	w := newWorld(t)
	ch := w.alertChannel("ops")
	w.Exec(`INSERT INTO alerts (id, rule_id, state, alert, fired_at, resolved_at) VALUES
		($1, $4, 'resolved', '{}', now(), now() - interval '2 days'), ($2, $4, 'resolved', '{}', now(), now()), ($3, $4, 'firing', '{}', now() - interval '9 days', NULL)`,
		newID(), newID(), newID(), newID())
	w.Exec(`INSERT INTO alert_deliveries (id, alert_id, channel_id, event, notification) SELECT gen_random_uuid(), id, $1, 'alert.firing', '{}' FROM alerts`, ch.ID)
	w.Exec(`INSERT INTO alert_silences VALUES ($1, NULL, now() - interval '3 days', now() - interval '2 days', '', '', now()), ($2, NULL, now(), now(), '', '', now())`, newID(), newID())
	w.Must(w.PruneAlerts(t.Context(), time.Now().Add(-24*time.Hour)))
	if n := w.Number(`SELECT (SELECT count(*) FROM alerts) * 100 + (SELECT count(*) FROM alert_deliveries) * 10 + (SELECT count(*) FROM alert_silences)`); n != 221 {
		t.Errorf("left are %d", n)
	}
}

func TestRoundsFailWithoutTheDatabase(t *testing.T) {
	w := newWorld(t)
	w.alertRule(alertSpec("errors"))
	s := w.open()
	s.db.Close()
	e := alert.NewEvaluator(alert.EvaluatorOptions{Store: s, Figures: &setFigure{}, Replica: "a", Logger: slog.New(slog.DiscardHandler)})
	d := alert.NewDispatcher(alert.DispatcherOptions{Outbox: s, Ring: w.ring, Replica: "a", Logger: slog.New(slog.DiscardHandler)})
	for _, err := range []error{e.Round(t.Context()), d.Round(t.Context())} {
		if !errors.Is(err, postgres.ErrUnavailable) {
			t.Error(err)
		}
	}
}
