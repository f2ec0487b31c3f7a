package alert_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/keywarden/keywarden/pkg/alert"
)

// book is an evaluation store with one rule, in memory. A test holds mu but while it
// waits.
type book struct {
	mu       sync.Mutex
	rule     alert.Rule
	due      time.Time
	silenced bool
	down     error
	lost     bool // another replica has taken the rule
	alerts   []alert.Alert
	told     []alert.Notification
	released int
	rounds   int
}

func (b *book) ClaimAlertRules(_ context.Context, _ string, _, interval time.Duration, _ int) ([]alert.Claim, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.rounds++
	if b.down != nil {
		return nil, b.down
	}
	if now := time.Now(); !now.Before(b.due) {
		b.due = now.Add(interval)
		return []alert.Claim{{Rule: b.rule, At: now, Silenced: b.silenced}}, nil
	}
	return nil, nil
}

func (b *book) CommitAlertRule(_ context.Context, _ alert.Claim, o alert.Outcome) (bool, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.down != nil || b.lost {
		return false, b.down
	}
	b.rule.Status = o.Status
	if o.Alert != nil {
		b.alerts = append(b.alerts, *o.Alert)
	}
	if o.Tell != nil {
		b.told = append(b.told, *o.Tell)
	}
	return true, nil
}

func (b *book) ReleaseAlertRules(context.Context, string) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.released++
	return b.down
}

func (b *book) PruneAlerts(context.Context, time.Time) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.down
}

// figure is a reading that a test sets.
type figure struct {
	mu      *sync.Mutex // of the book
	reading alert.Reading
	err     error
	asked   int
}

func (f *figure) Measure(context.Context, alert.Spec, time.Time) (alert.Reading, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.asked++
	return f.reading, f.err
}

// evaluate runs an evaluator in a bubble of time.
func evaluate(t *testing.T, do func(b *book, f *figure, log *bytes.Buffer)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		b, log := &book{}, &bytes.Buffer{}
		f := &figure{mu: &b.mu}
		b.rule.Spec = alert.Spec{Name: "errors", Enabled: true, Signal: alert.ServerErrorRate, Threshold: 5, ResolveThreshold: 2, Severity: alert.Critical}
		b.rule.ID = "rule"
		e := alert.NewEvaluator(alert.EvaluatorOptions{Store: b, Figures: f, Replica: "a", Logger: slog.New(slog.NewTextHandler(log, nil))})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { defer close(done); _ = e.Run(ctx) }()
		b.mu.Lock()
		do(b, f, log)
		b.mu.Unlock()
		cancel()
		<-done
		if b.released != 1 {
			t.Errorf("the rules were given back %d times", b.released)
		}
	})
}

// wait is wait without holding the book.
func (b *book) wait(d time.Duration) {
	b.mu.Unlock()
	defer b.mu.Lock()
	wait(d)
}

// wait lets time pass, and what is to happen then.
func wait(d time.Duration) { time.Sleep(d); synctest.Wait() }

func events(b *book) string {
	var list []string
	for _, n := range b.told {
		list = append(list, string(n.Event))
	}
	return strings.Join(list, " ")
}

func TestAlertIsToldAtItsBeginningAndAtItsEnd(t *testing.T) {
	evaluate(t, func(b *book, f *figure, _ *bytes.Buffer) {
		f.reading = known(9)
		b.wait(10 * time.Minute)
		f.reading = known(0)
		b.wait(10 * time.Minute)
		if events(b) != "alert.firing alert.resolved" || len(b.alerts) != 2 || b.alerts[0].ID != b.alerts[1].ID {
			t.Fatalf("%s: %+v", events(b), b.alerts)
		}
		begin, end := b.told[0].Alert, b.told[1].Alert
		if begin.Value != 9 || begin.Threshold != 5 || begin.Unit != "%" || begin.State != alert.Firing || end.State != alert.Resolved || end.Value != 0 || !end.ResolvedAt.After(end.FiredAt) || !end.FiredAt.Equal(begin.FiredAt) {
			t.Errorf("%+v\n%+v", begin, end)
		}
		if f.asked < 38 || f.asked > 42 {
			t.Errorf("%d figures in 20 minutes, of one every 30 seconds", f.asked)
		}
	})
}

func TestSilencedAlertIsToldWhenTheSilenceEndsUnlessItIsOver(t *testing.T) {
	evaluate(t, func(b *book, f *figure, _ *bytes.Buffer) {
		b.silenced = true
		f.reading = known(9)
		b.wait(5 * time.Minute)
		f.reading = known(0)
		b.wait(5 * time.Minute)
		if events(b) != "" || len(b.alerts) != 2 {
			t.Fatalf("in silence: %s, %d changes", events(b), len(b.alerts))
		}
		f.reading = known(9)
		b.wait(5 * time.Minute)
		b.silenced = false
		b.wait(5 * time.Minute)
		b.silenced = true // whoever was told of the beginning is told of the end
		f.reading = known(0)
		b.wait(5 * time.Minute)
		if events(b) != "alert.firing alert.resolved" {
			t.Errorf("%s", events(b))
		}
	})
}

// TestNothingHappensWhileTheDatabaseIsAway: neither does it afterwards, because of
// figures that replicas could not write meanwhile; and the log has two lines of it.
func TestNothingHappensWhileTheDatabaseIsAway(t *testing.T) {
	evaluate(t, func(b *book, f *figure, log *bytes.Buffer) {
		f.reading = known(0)
		b.wait(5 * time.Minute)
		b.down = errors.New("no database")
		asked := f.asked
		b.wait(time.Hour)
		if f.asked != asked || b.rule.Status.State != alert.OK {
			t.Errorf("%d figures, %s", f.asked-asked, b.rule.Status.State)
		}
		b.down = nil
		f.reading = known(100) // as long as usage is written late
		b.wait(10 * time.Second)
		if b.rule.Status.State != alert.NoData || !strings.Contains(b.rule.Status.Reading.Why, "was not evaluated for") {
			t.Errorf("%+v", b.rule.Status)
		}
		f.reading = known(0)
		b.wait(5 * time.Minute)
		if events(b) != "" || b.rule.Status.State != alert.OK {
			t.Errorf("%s, %s", events(b), b.rule.Status.State)
		}
		if n := strings.Count(log.String(), "level=WARN"); n != 1 || strings.Count(log.String(), "evaluated again") != 1 {
			t.Errorf("the log is\n%s", log)
		}
	})
}

func TestFigureThatCannotBeHadIsNoData(t *testing.T) {
	evaluate(t, func(b *book, f *figure, log *bytes.Buffer) {
		f.err = errors.New("too much")
		b.wait(time.Minute)
		if b.rule.Status.State != alert.NoData || b.rule.Status.Reading.Why != "the figure could not be worked out" {
			t.Errorf("%+v", b.rule.Status)
		}
		f.err, f.reading = nil, known(9)
		b.wait(time.Minute)
		f.err = errors.New("too much")
		b.wait(time.Hour)
		if b.rule.Status.State != alert.Firing || events(b) != "alert.firing" || strings.Contains(log.String(), "level=WARN") {
			t.Errorf("%+v, %s\n%s", b.rule.Status, events(b), log)
		}
	})
}

func TestLostRuleIsLeftAlone(t *testing.T) {
	evaluate(t, func(b *book, f *figure, log *bytes.Buffer) {
		b.lost = true
		f.reading = known(9)
		b.wait(5 * time.Minute)
		if len(b.alerts) != 0 || strings.Contains(log.String(), "state=firing") {
			t.Errorf("%+v\n%s", b.alerts, log)
		}
	})
}
