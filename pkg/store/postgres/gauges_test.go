package postgres

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/keywarden/keywarden/pkg/alert"
	"github.com/keywarden/keywarden/pkg/usage"
)

func TestGaugesOfTheDatabase(t *testing.T) {
	w := newWorld(t)
	at := now()
	spec := alert.Spec{Signal: alert.KeyExpiry, Threshold: 7, ResolveThreshold: 14}
	m, err := w.FirstKeyExpiry(t.Context(), spec, at)
	if err != nil || !m.Known || m.Value != alert.Never {
		t.Errorf("without keys: %+v, %v", m, err)
	}
	u := w.user("user")
	for _, c := range []struct {
		created, expires time.Duration
		revoked          bool
	}{{-400, 3, true}, {-400, -1, false}, {-1, 1, false}, {-400, 5, false}, {-400, 9, false}} {
		k, _ := w.key(u)
		const day = 24 * time.Hour
		w.exec(`UPDATE api_keys SET created_at = $2, expires_at = $3, revoked_at = CASE WHEN $4 THEN now() END WHERE id = $1`, k.ID, at.Add(c.created*day), at.Add(c.expires*day), c.revoked)
	}
	m, err = w.FirstKeyExpiry(t.Context(), spec, at)
	if err != nil || !m.Known || m.Value != 5 || !strings.HasPrefix(m.Subject, "API key ") {
		t.Errorf("%+v, %v", m, err)
	}
	quota := alert.Spec{Signal: alert.QuotaReached, Window: 5 * time.Minute}
	for i, level := range []int{100, 80, 100, 100} {
		w.exec(`INSERT INTO quota_events (at, account, quota, scope, period, kind, subject, begins, ends, level, used, capacity)
			VALUES ($1, $2, 'monthly', '', 'month UTC', 'key', $3, now(), now(), $4, 1, 1)`, at.Add(-time.Duration(3-i)*2*time.Minute), uuid.New(), fmt.Sprint("k", i), level)
	}
	m, err = w.QuotasReached(t.Context(), quota, at)
	if err != nil || !m.Known || m.Value != 2 || m.Subject != "monthly of key k3" {
		t.Errorf("%+v, %v", m, err)
	}
	minute := at.Truncate(time.Minute)
	cell := func(n int64, route, refusal string, requests int64) usage.Cell {
		return usage.Cell{Number: n, Minute: minute, Route: route, Refusal: refusal, Class: 4, Requests: requests}
	}
	w.must(w.WriteUsage(t.Context(), usage.Flush{Replica: newID(), Number: 1, Cells: []usage.Cell{
		cell(1, "a", "auth.missing", 3), cell(2, "a", "", 5), cell(3, "b", "gateway.rate_limited", 7),
	}}))
	for want, filter := range map[int64]map[usage.Dimension]string{10: nil, 3: {usage.ByRoute: "a"}, 0: {usage.ByRoute: "c"}} {
		if n, err := w.RefusedRequests(t.Context(), minute, minute.Add(time.Minute), filter); n != want || err != nil {
			t.Errorf("%v: %d, %v", filter, n, err)
		}
	}
}
