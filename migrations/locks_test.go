package migrations_test

import (
	"fmt"
	"io/fs"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/keywarden/keywarden/migrations"
)

var (
	comment    = regexp.MustCompile(`(?m)--.*$`)
	body       = regexp.MustCompile(`(?s)\$\$.*?\$\$`)
	creates    = regexp.MustCompile(`(?i)^CREATE (?:UNLOGGED )?TABLE (?:IF NOT EXISTS )?(\w+)`)
	indexes    = regexp.MustCompile(`(?i)^CREATE (?:UNIQUE )?INDEX (?:CONCURRENTLY )?(?:IF NOT EXISTS )?\w+ ON (\w+)`)
	alters     = regexp.MustCompile(`(?i)^ALTER TABLE (\w+)`)
	constraint = regexp.MustCompile(`(?is)\bADD (?:CONSTRAINT \w+ )?(?:CHECK|FOREIGN KEY|UNIQUE|PRIMARY KEY|EXCLUDE)\b`)
	rewrites   = regexp.MustCompile(`(?is)\bALTER (?:COLUMN )?\w+ (?:SET DATA )?TYPE\b|\bSET NOT NULL\b|\bDEFAULT (?:gen_random_uuid|clock_timestamp|random)\b`)
)

// heavy is what of a migration reads or writes all rows of a table that may be in use,
// while those who use it wait.
func heavy(text string) (found []string) {
	text = comment.ReplaceAllString(body.ReplaceAllString(text, ""), "")
	var statements, fresh []string
	for s := range strings.SplitSeq(text, ";") {
		if s = strings.Join(strings.Fields(s), " "); s != "" {
			statements = append(statements, s)
		}
		if m := creates.FindStringSubmatch(s); m != nil {
			fresh = append(fresh, m[1])
		}
	}
	for _, s := range statements {
		if m := indexes.FindStringSubmatch(s); m != nil && !slices.Contains(fresh, m[1]) && len(statements) > 1 {
			found = append(found, fmt.Sprintf("an index on %s must be alone in its migration: %s", m[1], s))
		}
		m := alters.FindStringSubmatch(s)
		if m == nil || slices.Contains(fresh, m[1]) {
			continue
		}
		if n := len(constraint.FindAllString(s, -1)); n != strings.Count(strings.ToUpper(s), "NOT VALID") {
			found = append(found, fmt.Sprintf("a constraint on %s must be NOT VALID, and validated by a later migration: %s", m[1], s))
		}
		if rewrites.MatchString(s) {
			found = append(found, fmt.Sprintf("all of %s is rewritten or read under a lock: %s", m[1], s))
		}
	}
	return found
}

// While a migration runs, other replicas serve: what reads or writes all rows of a table
// that they use must not hold the lock that they wait for.
func TestMigrationsHoldNobodyUpForLong(t *testing.T) {
	names, err := fs.Glob(migrations.FS, "*.up.sql")
	if err != nil || len(names) == 0 {
		t.Fatal(names, err)
	}
	for _, name := range names {
		text, err := fs.ReadFile(migrations.FS, name)
		if err != nil {
			t.Fatal(err)
		}
		for _, h := range heavy(string(text)) {
			if !slices.Contains(excepted, name) {
				t.Errorf("%s: %s", name, h)
			}
		}
	}
}

// excepted migrations change tables that are small wherever there are any.
var excepted = []string{"000004_roles.up.sql"}

func TestWhatHoldsOthersUpIsFound(t *testing.T) {
	for text, want := range map[string]int{
		"CREATE TABLE a (x int CHECK (x > 0)); CREATE INDEX i ON a (x); ALTER TABLE a ADD CONSTRAINT c CHECK (x < 9);": 0,
		"CREATE INDEX i ON a (x); -- alone":                                                         0,
		"CREATE TABLE b (x int); CREATE UNIQUE INDEX i ON a (x);":                                   1,
		"ALTER TABLE a ADD COLUMN y int, ADD CONSTRAINT c CHECK (y > 0);":                           1,
		"ALTER TABLE a ADD COLUMN y int,\n ADD CONSTRAINT c\n CHECK (y > 0) NOT VALID;":             0,
		"ALTER TABLE a ADD CONSTRAINT c CHECK (y > 0) NOT VALID, ADD FOREIGN KEY (y) REFERENCES b;": 1,
		"ALTER TABLE a VALIDATE CONSTRAINT c;":                                                      0,
		"ALTER TABLE a ALTER COLUMN y TYPE bigint; ALTER TABLE a ALTER y SET NOT NULL;":             2,
		"ALTER TABLE a ADD COLUMN y uuid NOT NULL DEFAULT gen_random_uuid();":                       1,
		"ALTER TABLE a ADD COLUMN y timestamptz NOT NULL DEFAULT now();":                            0,
	} {
		if diff := cmp.Diff(want, len(heavy(text))); diff != "" {
			t.Errorf("%s: %v", text, heavy(text))
		}
	}
}
