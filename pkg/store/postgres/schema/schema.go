// Package schema applies one migration at a time so that it happens wholly or not at
// all: the statements and the note of the new version are one transaction, sent as one
// message. It owns the transaction, its lock time-out and what a migration says of
// itself in its head; which migrations there are, in which order and under which lock is
// the business of golang-migrate, into which [Driver] fits.
//
// What is killed half way leaves nothing: neither tables nor a note that somebody has to
// look. A server process that does not notice that its client is gone ends the
// transaction by itself, one way or the other. What PostgreSQL refuses in a transaction,
// such as CREATE INDEX CONCURRENTLY, has no place in a migration: it would wait for the
// replicas that wait for the migration.
package schema

import (
	"database/sql"
	"errors"
	"fmt"
	"io"
	"math"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/golang-migrate/migrate/v4/database"
	migratepgx "github.com/golang-migrate/migrate/v4/database/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// LockTimeout is how long a statement of a migration waits for a lock. Everybody who
// comes later waits behind it, so it is short: the migration is tried again instead.
const LockTimeout = 250 * time.Millisecond

// ErrLocked says that a lock was not to be had in [LockTimeout].
var ErrLocked = errors.New("a transaction of somebody else holds a lock that the migration needs")

// Driver is golang-migrate's driver for pgx, but for how a migration runs.
type Driver struct {
	database.Driver
	next    int  // the version that the migration leads to
	noted   bool // next is in the database already
	timeout time.Duration
}

var _ database.Driver = (*Driver)(nil)

// NewDriver makes a driver over a pool that it closes with itself.
func NewDriver(db *sql.DB) (*Driver, error) {
	inner, err := migratepgx.WithInstance(db, &migratepgx.Config{})
	if err != nil {
		return nil, err
	}
	return &Driver{Driver: inner, timeout: LockTimeout}, nil
}

// SetVersion implements database.Driver. The note before a migration is not written: its
// transaction writes the note after.
func (d *Driver) SetVersion(version int, dirty bool) error {
	if dirty {
		d.next, d.noted = version, false
		return nil
	}
	if d.noted && d.next == version {
		return nil
	}
	return d.Driver.SetVersion(version, false)
}

// Run implements database.Driver. The statements go over the connection that holds the
// advisory lock: a server process that outlives its client keeps others out for as long
// as it works on the migration.
func (d *Driver) Run(migration io.Reader) error {
	text, err := io.ReadAll(migration)
	if err != nil {
		return err
	}
	head, err := ReadHead(string(text))
	if err != nil {
		return err
	}
	if err := d.Driver.Run(strings.NewReader(d.script(string(text), head))); err != nil {
		_ = d.Driver.Run(strings.NewReader("ROLLBACK")) // fails where the connection is gone, which rolls back, too
		return explain(err)
	}
	d.noted = true
	return nil
}

// script is the whole transaction.
func (d *Driver) script(text string, head Head) string {
	var b strings.Builder
	_, _ = fmt.Fprintf(&b, "BEGIN;\nSET LOCAL lock_timeout = %d;\n%s\n;\nDELETE FROM schema_migrations;\n", d.timeout.Milliseconds(), text)
	if d.next >= 0 {
		_, _ = fmt.Fprintf(&b, "INSERT INTO schema_migrations (version, dirty) VALUES (%d, false);\n", d.next)
	}
	if head.Floor > 0 {
		_, _ = fmt.Fprintf(&b, "COMMENT ON TABLE schema_migrations IS '%s%d';\n", floorComment, head.Floor)
	}
	b.WriteString("COMMIT;")
	return b.String()
}

// explain tells a lock that was not to be had from what is wrong with a migration.
func explain(err error) error {
	const lockNotAvailable = "55P03"
	var library database.Error
	if errors.As(err, &library) { // its text is that of the whole migration
		err = library.OrigErr
	}
	var pg *pgconn.PgError
	if errors.As(err, &pg) && pg.Code == lockNotAvailable {
		return fmt.Errorf("%w: %w", ErrLocked, err)
	}
	return fmt.Errorf("the migration failed and was rolled back: %w", err)
}

// Head is what a migration says of itself, in comments before its first statement.
type Head struct {
	// Floor is the oldest version of the schema that a program has to know to work on
	// this one: "-- floor: 12". Without it the migration only adds, and the programs
	// that worked before work after.
	Floor uint
}

// floorComment is how the floor is kept, so that it is in backups and that programs
// find it that know nothing of later versions.
const floorComment = "floor "

var headLine = regexp.MustCompile(`^--\s*floor:\s*(\S*)\s*$`)

// ReadHead reads the head of a migration.
func ReadHead(text string) (head Head, err error) {
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		if line != "" && !strings.HasPrefix(line, "--") {
			return head, nil
		}
		found := headLine.FindStringSubmatch(line)
		if found == nil {
			continue
		}
		n, err := strconv.ParseUint(found[1], 10, 31)
		if err != nil {
			return head, fmt.Errorf("the floor of a migration is %q, expected a version", found[1])
		}
		head.Floor = uint(n)
	}
	return head, nil
}

// FloorOf reads the floor from the comment of schema_migrations; 0 when there is none. One
// that cannot be read, as later programs may write it, is above every version: who does
// not understand what a schema demands must not run on it.
func FloorOf(comment string) uint {
	text, ok := strings.CutPrefix(comment, floorComment)
	if !ok {
		return 0
	}
	n, err := strconv.ParseUint(text, 10, 31)
	if err != nil {
		return math.MaxInt32
	}
	return uint(n)
}
