package alert_test

import (
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/keywarden/keywarden/pkg/alert"
)

func known(v float64) alert.Reading { return alert.Reading{Known: true, Value: v} }

var nothing = alert.Reading{Why: "no requests"}

// TestRuleGoesThroughItsStates: each step is a minute after the one before.
func TestRuleGoesThroughItsStates(t *testing.T) {
	high := alert.Spec{Signal: alert.ServerErrorRate, Threshold: 5, ResolveThreshold: 2, For: 2 * time.Minute, ResolveAfter: 2 * time.Minute}
	low := alert.Spec{Signal: alert.CertificateExpiry, Threshold: 7, ResolveThreshold: 14}
	const ok, pending, firing, noData = alert.OK, alert.Pending, alert.Firing, alert.NoData
	type step struct {
		reading alert.Reading
		state   alert.State
		then    alert.Transition
	}
	for name, c := range map[string]struct {
		spec  alert.Spec
		steps []step
	}{
		"fires when it lasts, and ends when that lasts": {high, []step{
			{known(1), ok, alert.None}, {known(5), pending, alert.None}, {known(9), pending, alert.None}, {known(9), firing, alert.Fires},
			{known(9), firing, alert.None}, {known(1), firing, alert.None}, {known(1), firing, alert.None}, {known(1), ok, alert.Resolves}, {known(1), ok, alert.None},
		}},
		"a short peak is none": {high, []step{
			{known(9), pending, alert.None}, {known(9), pending, alert.None}, {known(4), ok, alert.None}, {known(9), pending, alert.None}, {known(9), pending, alert.None},
		}},
		"does not flap between the thresholds": {high, []step{
			{known(9), pending, alert.None}, {known(9), pending, alert.None}, {known(9), firing, alert.Fires}, {known(3), firing, alert.None}, {known(6), firing, alert.None},
			{known(2), firing, alert.None}, {known(1), firing, alert.None}, {known(2), firing, alert.None}, {known(1), firing, alert.None}, {known(1), firing, alert.None},
			{known(1), ok, alert.Resolves},
		}},
		"nothing begins without data": {high, []step{
			{nothing, noData, alert.None}, {known(9), pending, alert.None}, {known(9), pending, alert.None}, {nothing, noData, alert.None},
			{known(9), pending, alert.None}, {known(1), ok, alert.None}, {nothing, noData, alert.None},
		}},
		"nothing ends without data": {high, []step{
			{known(9), pending, alert.None}, {known(9), pending, alert.None}, {known(9), firing, alert.Fires}, {known(1), firing, alert.None}, {known(1), firing, alert.None},
			{nothing, firing, alert.None}, {known(1), firing, alert.None}, {known(1), firing, alert.None}, {known(1), ok, alert.Resolves},
		}},
		"small values are bad": {low, []step{
			{known(30), ok, alert.None}, {known(7), firing, alert.Fires}, {known(14), firing, alert.None}, {known(14.5), ok, alert.Resolves},
		}},
	} {
		var s alert.Status
		var then alert.Transition
		for i, step := range c.steps {
			s, then = s.Next(c.spec, step.reading, start.Add(time.Duration(i)*time.Minute))
			if s.State != step.state || then != step.then {
				t.Errorf("%s: step %d: %s and %d, want %s and %d", name, i, s.State, then, step.state, step.then)
			}
		}
	}
}

func TestAlertEndsWhenItsFigureDoesNotComeBack(t *testing.T) {
	spec := alert.Spec{Signal: alert.ServerErrorRate, Threshold: 5, ResolveThreshold: 5}
	s, _ := alert.Status{}.Next(spec, known(9), start)
	for hour := 1; hour < 24; hour++ {
		var then alert.Transition
		if s, then = s.Next(spec, nothing, start.Add(time.Duration(hour)*time.Hour)); s.State != alert.Firing || then != alert.None {
			t.Fatalf("after %d hours: %s", hour, s.State)
		}
	}
	if s, then := s.Next(spec, nothing, start.Add(25*time.Hour)); s.State != alert.NoData || then != alert.Resolves {
		t.Errorf("%s, %d", s.State, then)
	}
}

// TestBeginningsAndEndsTakeTurns: whatever the figures do, a rule fires only when it
// does not, and ends only what it fires; and it never fires on a figure that is good.
func TestBeginningsAndEndsTakeTurns(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		spec := alert.Spec{
			Signal: alert.ServerErrorRate, Threshold: 5, ResolveThreshold: rapid.Float64Range(1, 5).Draw(t, "resolve"),
			For:          time.Duration(rapid.IntRange(0, 5).Draw(t, "for")) * time.Minute,
			ResolveAfter: time.Duration(rapid.IntRange(0, 5).Draw(t, "after")) * time.Minute,
		}
		var s alert.Status
		firing, badSince, at := false, time.Time{}, start
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			at = at.Add(time.Duration(rapid.IntRange(1, 4).Draw(t, "minutes")) * time.Minute)
			m := nothing
			if rapid.IntRange(0, 4).Draw(t, "known") > 0 {
				m = known(rapid.Float64Range(0, 10).Draw(t, "value"))
			}
			bad := m.Known && m.Value >= spec.Threshold
			switch {
			case !bad:
				badSince = time.Time{}
			case badSince.IsZero():
				badSince = at
			}
			var then alert.Transition
			s, then = s.Next(spec, m, at)
			switch then {
			case alert.Fires:
				if firing || !bad || at.Sub(badSince) < spec.For {
					t.Fatalf("fires on %+v, firing before: %v", m, firing)
				}
				firing = true
			case alert.Resolves:
				if !firing || m.Known && m.Value >= spec.ResolveThreshold {
					t.Fatalf("ends on %+v, firing before: %v", m, firing)
				}
				firing = false
			case alert.None:
			}
			if firing != (s.State == alert.Firing) {
				t.Fatalf("the state is %s, firing %v", s.State, firing)
			}
			if !firing && bad && at.Sub(badSince) >= spec.For {
				t.Fatalf("bad for long enough, and %s", s.State)
			}
		}
	})
}
