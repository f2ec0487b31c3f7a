package doctor

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/keywarden/keywarden/pkg/pglocal"
	"github.com/keywarden/keywarden/pkg/seal"
	"github.com/keywarden/keywarden/pkg/store/postgres"
	"github.com/keywarden/keywarden/pkg/store/postgres/inspect"
)

// How far two clocks may be apart. Tokens are forgiven tokens.leeway, 30 s by default.
const (
	clockNoticed = time.Second
	clockBroken  = 30 * time.Second
)

// longTransaction is how long a transaction may last that does not hold up migrations
// and the removal of old rows.
const longTransaction = 5 * time.Minute

// Database is what is known of the database before it is asked.
type Database struct {
	URL    seal.Secret
	Needed int // connections of one replica
	Now    func() time.Time
}

// Checks of the database. They share nothing, each has a connection of its own.
func (d Database) Checks() []Check {
	const patience = 15 * time.Second
	return []Check{
		{Area: "database", Timeout: patience, Run: d.connected("", d.server)},
		{Area: "database", Timeout: patience, Run: d.schema},
		{Area: "database", Timeout: patience, Run: d.connected("privileges", d.privileges)},
		{Area: "database", Timeout: patience, Run: d.connected("notifications", d.notifications)},
	}
}

// connected opens a connection for a check. Only that of no object says why there is none.
func (d Database) connected(object string, run func(ctx context.Context, db *inspect.Database) []Finding) func(context.Context) []Finding {
	return func(ctx context.Context) []Finding {
		db, err := inspect.Open(ctx, d.URL)
		switch {
		case err != nil && object != "":
			return []Finding{skipped(object, "the database cannot be reached", "")}
		case err != nil:
			return []Finding{failed("connection", "it cannot be reached: "+err.Error(), "Check host, port, password and certificate in DATABASE_URL, that the server runs, and docs/runbooks/database-down.md.")}
		}
		defer db.Close(context.WithoutCancel(ctx))
		return run(ctx, db)
	}
}

func (d Database) server(ctx context.Context, db *inspect.Database) []Finding {
	s, err := db.Server(ctx, d.Now)
	if err != nil {
		return []Finding{failed("server", err.Error(), "Read the server's log.")}
	}
	what := fmt.Sprintf("PostgreSQL %s, database %s of %s, round trip %s", s.Version, s.Database, size(s.Size), s.RoundTrip.Round(time.Microsecond))
	found := []Finding{ok("server", what)}
	if s.Major < pglocal.MinMajor {
		found[0] = failed("server", what, fmt.Sprintf("Upgrade it to version %d or newer.", pglocal.MinMajor))
	}
	if s.ReadOnly {
		found = append(found, failed("server", "it takes no changes: a standby, or set to read-only", "Name the primary in DATABASE_URL (target_session_attrs=read-write chooses it)."))
	}
	if s.TransactionPool {
		found = append(found, failed("pooler", "a pooler gives each transaction another session", "Connect to the server itself, or set pool_mode=session: notifications and locks of migrations need it."))
	}
	if free := s.MaxConnections - s.Connections; free < d.Needed {
		found = append(found, warning("connections", fmt.Sprintf("%d of %d are in use, a replica opens up to %d", s.Connections, s.MaxConnections, d.Needed), "Raise max_connections, or lower database.max_connections."))
	}
	if s.Waiting > 0 || s.LongestTransaction > longTransaction {
		found = append(found, warning("locks", fmt.Sprintf("%d sessions wait for a lock, the longest transaction is %s old", s.Waiting, s.LongestTransaction.Round(time.Second)), "Look for it in pg_stat_activity; docs/runbooks/database-down.md has the query."))
	}
	return append(found, clock("the database", s.Ahead, s.RoundTrip))
}

// clock says how far a clock is from ours; the measurement is as good as the round trip.
func clock(whose string, ahead, roundTrip time.Duration) Finding {
	off := max(ahead.Abs()-roundTrip/2, 0)
	detail := fmt.Sprintf("%s and this machine are %s apart", whose, ahead.Abs().Round(time.Millisecond))
	f := ok("", detail)
	switch {
	case off > clockBroken:
		f = failed("", detail, "Synchronise both with NTP: tokens are refused, and periods of quotas differ.")
	case off > clockNoticed:
		f = warning("", detail, "Synchronise both with NTP.")
	}
	f.Area = "clock"
	return f
}

func (d Database) schema(ctx context.Context) []Finding {
	s, err := postgres.ReadSchemaStatus(ctx, d.URL)
	switch {
	case errors.Is(err, postgres.ErrUnavailable):
		return []Finding{skipped("schema", "the database cannot be reached", "")}
	case err != nil:
		return []Finding{failed("schema", err.Error(), "The role must be able to read schema_migrations.")}
	case s.Dirty:
		return []Finding{failed("schema", fmt.Sprintf("version %d is marked dirty: a migration was cut short", s.Version), "Follow \"A dirty schema\" in docs/guides/operations.md.")}
	case s.Version == 0:
		return []Finding{warning("schema", "there is none yet", "serve makes it at its start, or run: keywarden migrate up")}
	case !s.Serves() && s.Version > s.Latest:
		return []Finding{failed("schema", fmt.Sprintf("version %d is newer than this binary, and needs one that knows version %d", s.Version, s.Floor), "Run the newer version of the program.")}
	case s.Version > s.Latest:
		return []Finding{warning("schema", fmt.Sprintf("version %d is newer than the %d of this binary, which may serve on it", s.Version, s.Latest), "Bring the binary up to date once the rollback is over.")}
	case s.Version < s.Latest:
		return []Finding{warning("schema", fmt.Sprintf("version %d of %d: %s pending", s.Version, s.Latest, count(int(s.Latest-s.Version), "migration")), "serve applies them at its start (database.migrate_on_start), or run: keywarden migrate up")}
	}
	return []Finding{ok("schema", fmt.Sprintf("version %d is current", s.Version))}
}

func (d Database) privileges(ctx context.Context, db *inspect.Database) []Finding {
	missing, err := db.MissingPrivileges(ctx)
	switch {
	case err != nil:
		return []Finding{failed("privileges", err.Error(), "Look at the role's privileges with: \\dp")}
	case len(missing) == 0:
		return []Finding{ok("privileges", "the role may migrate, read and write")}
	}
	const most = 5
	more := ""
	if len(missing) > most {
		more, missing = fmt.Sprintf(" and %d more", len(missing)-most), missing[:most]
	}
	return []Finding{failed("privileges", "the role lacks "+strings.Join(missing, ", ")+more, "Make the role the owner of the database and its tables, or GRANT what is missing.")}
}

func (d Database) notifications(ctx context.Context, db *inspect.Database) []Finding {
	heard, err := db.Notified(ctx)
	switch {
	case err != nil:
		return []Finding{failed("notifications", err.Error(), "Read the server's log.")}
	case !heard:
		return []Finding{failed("notifications", "a notification does not arrive: is there a pooler in between?", "Connect to the server itself, or set pool_mode=session; until then revocations take revocation.poll_interval.")}
	}
	return []Finding{ok("notifications", "a notification arrives")}
}

// MasterKey asks whether the ring opens what the database has sealed. ringErr says why
// there is no ring.
func (d Database) MasterKey(ring *seal.Keyring, ringErr error) Check {
	const area = "master key"
	if ringErr != nil {
		return Broken(area, ringErr.Error(), "Set KEYWARDEN_MASTER_KEY, or KEYWARDEN_MASTER_KEY_FILE; a new installation gets one from: keywarden keygen")
	}
	return Check{Area: area, Run: func(ctx context.Context) []Finding {
		db, err := inspect.Open(ctx, d.URL)
		if err != nil {
			return []Finding{skipped("", "well-formed, id "+ring.ID()+"; the database to compare it with cannot be reached", "")}
		}
		defer db.Close(context.WithoutCancel(ctx))
		return masterKey(ctx, db, ring)
	}}
}

func masterKey(ctx context.Context, db *inspect.Database, ring *seal.Keyring) []Finding {
	sealed, place, err := db.ChainKey(ctx)
	if err != nil {
		return []Finding{failed("", err.Error(), "The role must be able to read sealed_secrets.")}
	}
	if sealed == nil {
		return []Finding{ok("", "well-formed, id "+ring.ID()+"; this database was not used with any key yet")}
	}
	if _, _, err := ring.Open(sealed, place); errors.Is(err, seal.ErrUnknownKey) {
		return []Finding{failed("", "this is the wrong key for this database: what is sealed there is under another one than "+strings.Join(ring.IDs(), ", "),
			"Set KEYWARDEN_MASTER_KEY to the key that this database was used with, or list that one in KEYWARDEN_SECURITY_MASTER_KEYS_RETIRED to rotate it.")}
	} else if err != nil {
		return []Finding{failed("", "the key is the right one, but the key of the audit chain does not open: the row was changed", "Restore the database: docs/runbooks/restore-from-backup.md.")}
	}
	rows, err := db.SealedUnder(ctx)
	if err != nil {
		return []Finding{failed("", err.Error(), "The role must be able to read every table.")}
	}
	return append([]Finding{ok("", "it opens what this database has sealed, id "+ring.ID())}, otherKeys(rows, ring)...)
}

// otherKeys says what is still under another key than the current one: who drops a
// retired key too early loses it.
func otherKeys(rows []inspect.Sealed, ring *seal.Keyring) (found []Finding) {
	for _, r := range rows {
		what := fmt.Sprintf("%s of %s under key %s", count(int(r.Rows), "row"), r.Table, r.KeyID)
		switch {
		case r.KeyID == ring.ID():
		case r.Table == "api_key_secrets" || r.Table == "idempotency":
			found = append(found, ok(r.Table, what+" (they are checked by bcrypt once, or expire within a day)"))
		case slices.Contains(ring.IDs(), r.KeyID):
			found = append(found, warning(r.Table, what+", which is retired", "Keep that key in KEYWARDEN_SECURITY_MASTER_KEYS_RETIRED: a start of serve seals them anew."))
		default:
			found = append(found, failed(r.Table, what+", which is not in the configuration", "List that key in KEYWARDEN_SECURITY_MASTER_KEYS_RETIRED."))
		}
	}
	return found
}

// size writes bytes for people.
func size(n int64) string {
	const kib = 1 << 10
	units := []string{"B", "KiB", "MiB", "GiB", "TiB"}
	value, unit := float64(n), 0
	for value >= kib && unit < len(units)-1 {
		value /= kib
		unit++
	}
	if unit == 0 {
		return fmt.Sprintf("%d B", n)
	}
	return fmt.Sprintf("%.1f %s", value, units[unit])
}
