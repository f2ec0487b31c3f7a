package limitfields_test

import (
	"net/http"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/keywarden/keywarden/pkg/gateway/policy/limitfields"
	"github.com/keywarden/keywarden/pkg/reqctx"
)

func TestAnAnswerTellsOfEveryLimitAndOfTheOneThatRefused(t *testing.T) {
	now := time.Unix(1000, 0)
	open := limitfields.Policy("open", limitfields.ConcurrentRequests, 3, 0)
	short := limitfields.Policy("short", limitfields.Requests, 10, time.Minute)
	long := limitfields.Policy("long", limitfields.Requests, 100, 24*time.Hour)
	const policies = `"open";q=3;qu="concurrent-requests", "short";q=10;w=60, "long";q=100;w=86400`
	of := func(limit, remaining, reset string) http.Header {
		return http.Header{"X-Ratelimit-Limit": {limit}, "X-Ratelimit-Remaining": {remaining}, "X-Ratelimit-Reset": {reset}}
	}
	ofOpen, ofShort, ofLong := limitfields.Left{Name: "open", Limit: 3, Remaining: 2},
		limitfields.Left{Name: "short", Limit: 10, Remaining: 9, Reset: 6 * time.Second},
		limitfields.Left{Name: "long", Limit: 100, Remaining: 40, Reset: time.Hour}
	refusedLong := ofLong
	refusedLong.Retry = time.Minute
	type step struct {
		policies string
		left     limitfields.Left
		refused  bool
	}
	for name, c := range map[string]struct {
		steps      []step
		policy     string
		limit      string
		oneOfThese http.Header
	}{
		"allowed": {
			[]step{{open, ofOpen, false}, {short, ofShort, false}, {long, ofLong, false}},
			policies, `"open";r=2, "short";r=9;t=6, "long";r=40;t=3600`, of("10", "9", "1006"),
		},
		"the last refuses": {
			[]step{{open, ofOpen, false}, {short, ofShort, false}, {long, refusedLong, true}},
			policies, `"open";r=2, "short";r=9;t=6, "long";r=40;t=60`, of("100", "40", "4600"),
		},
		"the one without a window refuses": {
			[]step{{open, limitfields.Left{Name: "open", Limit: 3}, true}},
			open, `"open";r=0`, of("3", "0", "1000"),
		},
		"nobody is counted": {[]step{{short, limitfields.Left{}, false}}, short, "", http.Header{}},
	} {
		h := http.Header{}
		for _, s := range c.steps {
			limitfields.Add(new(reqctx.Info), h, limitfields.Told{Policies: limitfields.NewPolicies([]string{s.policies}), Left: s.left}, s.refused, now)
		}
		want := c.oneOfThese
		want["Ratelimit-Policy"] = []string{c.policy}
		if c.limit != "" {
			want["Ratelimit"] = []string{c.limit}
		}
		if diff := cmp.Diff(want, h); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
}

// Two steps that tell at once say what they say one after the other, whatever was said before.
func TestToldAtOnceIsToldOneAfterTheOther(t *testing.T) {
	now := time.Unix(1000, 0)
	rapid.Check(t, func(rt *rapid.T) {
		told := func(name string) limitfields.Told {
			item := limitfields.Policy(name, limitfields.Requests, 10, time.Minute)
			of := limitfields.Told{Policies: limitfields.NewPolicies([]string{item})}
			if rapid.Bool().Draw(rt, name+" counts") {
				of.Left = limitfields.Left{
					Name: name, Limit: 10, Remaining: rapid.Int64Range(0, 10).Draw(rt, name+" left"),
					Reset: time.Duration(rapid.IntRange(0, 2).Draw(rt, name+" reset")) * time.Minute,
				}
			}
			return of
		}
		before, first, second := told("before"), told("first"), told("second")
		refused := rapid.Bool().Draw(rt, "refused")
		if refused && second.Left.Name != "" {
			second.Left.Retry = time.Second
		}
		apart, atOnce := http.Header{}, http.Header{}
		if rapid.Bool().Draw(rt, "somebody was before") {
			limitfields.Add(new(reqctx.Info), apart, before, false, now)
			limitfields.Add(new(reqctx.Info), atOnce, before, false, now)
		}
		limitfields.Add(new(reqctx.Info), apart, first, false, now)
		limitfields.Add(new(reqctx.Info), apart, second, refused, now)
		limitfields.AddBoth(new(reqctx.Info), atOnce, first, second, refused, now)
		if diff := cmp.Diff(apart, atOnce); diff != "" {
			rt.Fatal(diff)
		}
	})
}
