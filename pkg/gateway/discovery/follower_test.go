package discovery_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
	"pgregory.net/rapid"

	"github.com/keywarden/keywarden/pkg/gateway/discovery"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// scripted is a source that does what it is told.
type scripted struct {
	steps  chan func(publish func([]discovery.Found)) error // nil: go on
	starts atomic.Int64
}

func newScripted() *scripted {
	return &scripted{steps: make(chan func(func([]discovery.Found)) error)}
}

func (s *scripted) Watch(ctx context.Context, publish func([]discovery.Found)) error {
	s.starts.Add(1)
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case step := <-s.steps:
			if err := step(publish); err != nil {
				return err
			}
		}
	}
}

func (s *scripted) answers(hosts ...string) {
	s.steps <- func(publish func([]discovery.Found)) error { publish(list(hosts...)); return nil }
	synctest.Wait()
}

func (s *scripted) fails(err error) {
	s.steps <- func(func([]discovery.Found)) error { return err }
	synctest.Wait()
}

func list(hosts ...string) []discovery.Found {
	found := []discovery.Found{}
	for _, h := range hosts {
		found = append(found, discovery.Found{Host: h})
	}
	return found
}

// followed is a follower with what it has told.
type followed struct {
	*discovery.Follower
	t       *testing.T
	log     bytes.Buffer
	changed atomic.Int64
	failed  atomic.Int64
}

func follow(t *testing.T, s discovery.Source) *followed {
	t.Helper()
	f := &followed{t: t}
	f.Follower = discovery.Start(s, discovery.Options{
		Logger: slog.New(slog.NewTextHandler(&f.log, nil)), Now: time.Now,
		Changed: func() { f.changed.Add(1) }, Updated: func() {}, Failed: func() { f.failed.Add(1) },
	})
	t.Cleanup(func() { f.Stop(); f.Wait() })
	synctest.Wait()
	return f
}

func (f *followed) has(hosts ...string) {
	f.t.Helper()
	found, known := f.Found()
	got := []string{}
	for _, x := range found {
		got = append(got, x.Host)
	}
	if diff := cmp.Diff(hosts, got); !known || diff != "" {
		f.t.Errorf("known %t: %s", known, diff)
	}
}

func TestTheLastAnswerStaysWhileTheSourceIsAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScripted()
		f := follow(t, s)
		if _, known := f.Found(); known {
			t.Fatal("something is known before the first answer")
		}
		s.answers("b:2", "a:1")
		f.has("a:1", "b:2")
		for range 5 {
			s.fails(errors.New("gone"))
			time.Sleep(time.Minute)
			synctest.Wait()
		}
		f.has("a:1", "b:2")
		if state := f.State(); state.Error == nil || f.failed.Load() != 5 || s.starts.Load() != 6 {
			t.Errorf("state %+v after %d failures and %d starts", state, f.failed.Load(), s.starts.Load())
		}
		if n := strings.Count(f.log.String(), "level=WARN"); n != 1 {
			t.Errorf("one outage was logged %d times", n)
		}
		s.answers("c:3")
		time.Sleep(time.Second)
		synctest.Wait()
		f.has("c:3")
		if f.State().Error != nil || !strings.Contains(f.log.String(), "works again") {
			t.Error("the end of the outage was not noticed")
		}
	})
}

func TestASourceThatFailsIsStartedLessAndLessOften(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScripted()
		f := follow(t, s)
		begun := time.Now()
		for range 12 {
			s.fails(errors.New("no"))
		}
		s.answers("a:1")
		if took := time.Since(begun); took < 90*time.Second || took > 4*time.Minute {
			t.Errorf("12 attempts took %s of the source's time", took)
		}
		f.has("a:1")
	})
}

func TestAnEmptyAnswerIsHonouredAndNonsenseIsNot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScripted()
		f := follow(t, s)
		s.answers("a:1")
		time.Sleep(time.Second)
		s.answers("no port", "a b:1", "host")
		time.Sleep(time.Second)
		synctest.Wait()
		f.has("a:1")
		if f.State().Error == nil {
			t.Error("nonsense is not reported")
		}
		s.answers("x:1", ":::")
		time.Sleep(time.Second)
		synctest.Wait()
		f.has("x:1")
		if f.State().Error == nil {
			t.Error("the entry that was left out is not reported")
		}
		s.answers()
		time.Sleep(time.Second)
		synctest.Wait()
		f.has([]string{}...)
		if found, known := f.Found(); !known || len(found) != 0 || f.State().Error != nil {
			t.Errorf("after an empty answer: %v, known %t, state %+v", found, known, f.State())
		}
	})
}

func TestManyChangesAreOneAndTheSameAnswerIsNone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScripted()
		f := follow(t, s)
		s.answers("a:1")
		if f.changed.Load() != 1 {
			t.Fatal("the first answer waits")
		}
		for i := range 50 {
			s.answers(fmt.Sprintf("b:%d", i+1))
		}
		time.Sleep(time.Second)
		synctest.Wait()
		f.has("b:50")
		if n := f.changed.Load(); n > 3 {
			t.Errorf("50 changes at once were told %d times", n)
		}
		before := f.changed.Load()
		s.answers("b:50")
		time.Sleep(time.Second)
		synctest.Wait()
		if f.changed.Load() != before {
			t.Error("the same answer was told as a change")
		}
	})
}

// Whatever a source says, what is taken over is bounded, in order, without
// duplicates, and can be used.
func TestAnswersAreCleaned(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		answer := rapid.SliceOfN(rapid.Custom(func(t *rapid.T) discovery.Found {
			return discovery.Found{
				Host:     rapid.OneOf(rapid.StringMatching(`[a-c]:[1-3]`), rapid.StringMatching(`10\.0\.0\.[0-9]{1,3}:[0-9]{1,5}`), rapid.String()).Draw(t, "host"),
				Weight:   rapid.Int().Draw(t, "weight"),
				Priority: rapid.Int().Draw(t, "priority"),
				Zone:     rapid.String().Draw(t, "zone"),
			}
		}), 0, 50).Draw(t, "answer")
		found, err := discovery.Clean(answer)
		if len(answer) > 0 && (found == nil) != errors.Is(err, discovery.ErrNonsense) {
			t.Fatalf("found %v with error %v", found, err)
		}
		seen := map[string]bool{}
		for _, f := range found {
			if seen[f.Host] || f.Weight < 1 || f.Weight > 1000 || f.Priority < 0 || f.Priority > 100 || len(f.Zone) > 63 {
				t.Fatalf("%+v was taken over", f)
			}
			seen[f.Host] = true
		}
	})
}

func TestNoMoreThanTheBoundIsTakenOver(t *testing.T) {
	var answer []discovery.Found
	for i := range discovery.MaxTargets + 5 {
		answer = append(answer, discovery.Found{Host: fmt.Sprintf("10.0.%d.%d:80", i/256, i%256)})
	}
	found, err := discovery.Clean(answer)
	if len(found) != discovery.MaxTargets || err == nil {
		t.Errorf("%d targets, error %v", len(found), err)
	}
}
