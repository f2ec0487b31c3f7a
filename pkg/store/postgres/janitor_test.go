package postgres

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"

	"github.com/keywarden/keywarden/pkg/access"
)

// left is the names of the rows that a query finds.
func (w *world) left(sql string) []string {
	w.t.Helper()
	rows, err := w.pool.Query(w.t.Context(), sql)
	w.must(err)
	names, err := pgx.CollectRows(rows, pgx.RowTo[string])
	w.must(err)
	return names
}

func TestSweepDeletesWhatHasExpiredAndNothingElse(t *testing.T) {
	w := newWorld(t)
	u := w.user(access.RoleUser)
	k, current := w.key(u)
	at := now()
	const day = 24 * time.Hour
	// Each row's name says what is expected of it.
	session := func(name string, idle, expires, ended time.Duration) {
		s, refresh := newSession(u)
		w.must(w.InsertSession(t.Context(), s, u.UpdatedAt, refresh, noted("test", "")))
		w.exec(`UPDATE sessions SET user_agent = $2, created_at = $3, idle_until = $4, expires_at = $5, ended_at = $6 WHERE id = $1`,
			s.ID, name, at.Add(-400*day), at.Add(idle), at.Add(expires), nullable(at, ended))
	}
	session("keep: live", day, day, 0)
	session("keep: expired, known client", -29*day, -29*day, 0)
	session("keep: ended, known client", day, day, -29*day)
	session("gone: idle", -31*day, day, 0)
	session("gone: expired", day, -31*day, 0)
	session("gone: ended", day, day, -31*day)
	var live string
	w.must(w.pool.QueryRow(t.Context(), `SELECT id::text FROM sessions WHERE user_agent = 'keep: live'`).Scan(&live))
	w.exec(`DELETE FROM refresh_tokens WHERE session_id = $1`, live)
	for digest, spent := range map[string]time.Duration{"keep: unspent": 0, "keep: spent": -29 * day, "gone: spent": -31 * day} {
		w.exec(`INSERT INTO refresh_tokens (digest, session_id, created_at, spent_at) VALUES (convert_to(rpad($1, 32), 'utf8'), $2, $3, $4)`,
			digest, live, at.Add(-400*day), nullable(at, spent))
	}
	for token, expires := range map[string]time.Duration{"keep": time.Second, "gone": -time.Second} {
		w.exec(`INSERT INTO idempotency VALUES ($1, $2, '', '', $3)`, u.ID, token, at.Add(expires))
	}
	for name, until := range map[string]time.Duration{"keep: grace": time.Second, "gone": -time.Second} {
		w.exec(`INSERT INTO api_key_secrets (id, key_id, bcrypt, created_at, valid_until) VALUES ($1, $2, $3, $4, $5)`,
			newID(), k.ID, name, at, at.Add(until))
	}
	for name, retires := range map[string]time.Duration{"keep: verifies": day, "keep: lately": -29 * day, "gone": -31 * day} {
		w.exec(`INSERT INTO signing_keys VALUES ($1, $2, $3, $3, $4)`, newID(), []byte(name), at, at.Add(retires))
	}
	for name, seen := range map[string]time.Duration{"keep": -59 * time.Minute, "gone": -61 * time.Minute} {
		w.exec(`INSERT INTO replicas VALUES ($1, 0, $2)`, name, at.Add(seen))
	}
	w.exec(`DELETE FROM change_log`)
	for i, age := range []time.Duration{61 * time.Minute, 60*time.Minute + time.Second, 59 * time.Minute} {
		w.exec(`INSERT INTO change_log VALUES ($1, 'user', 's', $2)`, i+1, at.Add(-age))
	}
	users, keys, records := w.contents()["users"], w.contents()["api_keys"], w.contents()["audit_log"]

	w.must(w.Sweep(t.Context(), at))
	for table, c := range map[string]struct {
		sql  string
		want []string
	}{
		"sessions": {
			`SELECT user_agent FROM sessions ORDER BY 1`,
			[]string{"keep: ended, known client", "keep: expired, known client", "keep: live"},
		},
		"refresh_tokens": {
			`SELECT trim(convert_from(digest, 'utf8')) FROM refresh_tokens JOIN sessions ON id = session_id WHERE user_agent = 'keep: live' ORDER BY 1`,
			[]string{"keep: spent", "keep: unspent"},
		},
		"idempotency":     {`SELECT token FROM idempotency`, []string{"keep"}},
		"api_key_secrets": {`SELECT bcrypt FROM api_key_secrets ORDER BY 1`, []string{current.Bcrypt, "keep: grace"}},
		"signing_keys":    {`SELECT convert_from(sealed, 'utf8') FROM signing_keys ORDER BY 1`, []string{"keep: lately", "keep: verifies"}},
		"replicas":        {`SELECT id FROM replicas`, []string{"keep"}},
		"change_log":      {`SELECT epoch::text FROM change_log`, []string{"3"}},
		"ledger":          {`SELECT pruned::text FROM ledger`, []string{"2"}},
	} {
		if diff := cmp.Diff(c.want, w.left(c.sql)); diff != "" {
			t.Errorf("%s: %s", table, diff)
		}
	}
	after := w.contents()
	if after["users"] != users || after["api_keys"] != keys || after["audit_log"] != records {
		t.Error("a sweep touched users, keys or audit records")
	}
	w.must(w.Sweep(t.Context(), at))
	if diff := cmp.Diff(after, w.contents()); diff != "" {
		t.Error("a second sweep: ", diff)
	}
}

// nullable is a time after at, NULL for none.
func nullable(at time.Time, after time.Duration) *time.Time {
	if after == 0 {
		return nil
	}
	at = at.Add(after)
	return &at
}

func TestSweepIsBoundedAndGoesOn(t *testing.T) {
	w := newWorld(t)
	at := now()
	w.exec(`INSERT INTO change_log SELECT n, 'user', 's', $1 FROM generate_series(1, $2) n`, at.Add(-2*time.Hour), sweepBatch+1)
	w.exec(`UPDATE ledger SET epoch = $1`, sweepBatch+1)
	for _, want := range []int64{1, 0, 0} {
		w.must(w.Sweep(t.Context(), at))
		if n := w.number(`SELECT count(*) FROM change_log`); n != want {
			t.Errorf("%d events are left, want %d", n, want)
		}
		if n := w.number(`SELECT pruned FROM ledger`); n != sweepBatch+1-want {
			t.Errorf("pruned through %d with %d events left", n, want)
		}
	}
}

func TestSweepOfOneKindDoesNotKeepTheOthers(t *testing.T) {
	w := newWorld(t)
	w.exec(`DROP TABLE refresh_tokens`)
	w.exec(`INSERT INTO replicas VALUES ('gone', 0, $1)`, now().Add(-2*time.Hour))
	if err := w.Sweep(t.Context(), now()); err == nil {
		t.Error("the failure of one kind is not told")
	}
	if n := w.number(`SELECT count(*) FROM replicas`); n != 0 {
		t.Error("it keeps the others from being swept")
	}
}

func TestReplicasSweepAtTheSameTime(t *testing.T) {
	w := newWorld(t)
	u := w.user(access.RoleUser)
	w.exec(`INSERT INTO idempotency SELECT $1, n::text, '', '', $2 FROM generate_series(1, 500) n`, u.ID, now().Add(-time.Hour))
	w.exec(`UPDATE change_log SET at = at - interval '2 hours'`)
	errs := together(times(6, func(int) error { return w.Sweep(t.Context(), now()) })...)
	if count(errs, nil) != len(errs) {
		t.Error(errs)
	}
	if n := w.number(`SELECT count(*) FROM idempotency`) + w.number(`SELECT count(*) FROM change_log`); n != 0 {
		t.Errorf("%d rows are left", n)
	}
}
