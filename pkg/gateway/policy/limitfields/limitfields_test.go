package limitfields_test

import (
	"net/http"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/keywarden/keywarden/pkg/gateway/policy/limitfields"
)

func TestAnAnswerTellsOfEveryLimitAndOfTheOneThatRefused(t *testing.T) {
	now := time.Unix(1000, 0)
	short := limitfields.Policy("short", limitfields.Requests, 10, time.Minute)
	open := limitfields.Policy("open", limitfields.ConcurrentRequests, 3, 0)
	for name, c := range map[string]struct {
		refused bool
		want    http.Header
	}{
		"allowed": {false, http.Header{
			"Ratelimit-Policy":  {`"open";q=3;qu="concurrent-requests", "short";q=10;w=60, "long";q=100;w=86400`},
			"Ratelimit":         {`"open";r=2, "short";r=9;t=6`},
			"X-Ratelimit-Limit": {"3"}, "X-Ratelimit-Remaining": {"2"}, "X-Ratelimit-Reset": {"1000"},
		}},
		"refused": {true, http.Header{
			"Ratelimit-Policy":  {`"open";q=3;qu="concurrent-requests", "short";q=10;w=60, "long";q=100;w=86400`},
			"Ratelimit":         {`"open";r=2, "short";r=9;t=6`},
			"X-Ratelimit-Limit": {"10"}, "X-Ratelimit-Remaining": {"9"}, "X-Ratelimit-Reset": {"1006"},
		}},
	} {
		h := http.Header{}
		limitfields.Add(h, open, limitfields.Left{Name: "open", Limit: 3, Remaining: 2}, false, now)
		limitfields.Add(h, short, limitfields.Left{Name: "short", Limit: 10, Remaining: 9, Reset: 6 * time.Second}, c.refused, now)
		limitfields.Add(h, limitfields.Policy("long", limitfields.Requests, 100, 24*time.Hour), limitfields.Left{}, false, now)
		if diff := cmp.Diff(c.want, h); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
}
