package schema

import (
	"fmt"
	"io/fs"
	"math"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/keywarden/keywarden/migrations"
)

// contract is why a migration may take something away, and the floor that keeps out the
// programs that still need it; 0 where none does.
type contract struct {
	reason string
	floor  uint
}

// contracts are the migrations that break a rule.
var contracts = map[string]contract{
	"000004_roles": {"the constraint comes back wider: whoever kept to the narrower one keeps to it", 0},
}

// rule is a kind of statement that programs of the version before do not survive. What
// holds up others for long is the matter of the tests beside the migrations.
type rule struct {
	what    string
	is      *regexp.Regexp
	unless  *regexp.Regexp // nil for never
	onTable bool           // harmless on a table that the same migration has made
}

const (
	name = `"?([a-z_][a-z0-9_]*)"?`
	on   = `^alter table (?:if exists )?(?:only )?` + name + `\b`
)

var rules = []rule{
	{"cannot be in a transaction, and waits for the replicas that wait for it", regexp.MustCompile(`\bconcurrently\b`), nil, false},
	{"takes something away", regexp.MustCompile(`^(?:drop|truncate)\b`), nil, false},
	{"takes a column or constraint away", regexp.MustCompile(on + `.*\bdrop\b`), regexp.MustCompile(`\bdrop (?:not null|default)\b`), true},
	{"renames", regexp.MustCompile(`^alter .*\brename\b`), nil, false},
	{"changes a type", regexp.MustCompile(on + `.*\balter (?:column )?\S+ (?:set data )?type\b`), nil, true},
	{"demands what programs of the version before do not give", regexp.MustCompile(on + `.*\bset not null\b`), nil, true},
	{"demands what programs of the version before do not give", regexp.MustCompile(on + `.*\badd (?:column )?.*\bnot null\b`), regexp.MustCompile(`\bdefault\b`), true},
	{"changes every row in one transaction: do it in batches, in the program", regexp.MustCompile(`^(?:update|delete from) ` + name), regexp.MustCompile(`\bwhere\b`), true},
}

// dollar are bodies of functions; comments and texts in quotes could look like statements.
var (
	dollar  = regexp.MustCompile(`(?s)\$([a-z]*)\$.*?\$([a-z]*)\$`)
	quoted  = regexp.MustCompile(`'(?:[^']|'')*'`)
	comment = regexp.MustCompile(`--[^\n]*`)
	spaces  = regexp.MustCompile(`\s+`)
	made    = regexp.MustCompile(`^create (?:unlogged )?table (?:if not exists )?` + name)
)

// statements are those of a migration in lower case, on one line each.
func statements(sql string) (list []string) {
	sql = quoted.ReplaceAllString(dollar.ReplaceAllString(comment.ReplaceAllString(sql, ""), "body"), "text")
	for one := range strings.SplitSeq(sql, ";") {
		if one = strings.TrimSpace(spaces.ReplaceAllString(strings.ToLower(one), " ")); one != "" {
			list = append(list, one)
		}
	}
	return list
}

// breaches lists what of a migration breaks a rule.
func breaches(sql string) (found []string) {
	var own []string
	for _, s := range statements(sql) {
		if m := made.FindStringSubmatch(s); m != nil {
			own = append(own, m[1])
		}
		for _, r := range rules {
			m := r.is.FindStringSubmatch(s)
			if m == nil || r.unless != nil && r.unless.MatchString(s) || r.onTable && len(m) > 1 && slices.Contains(own, m[1]) {
				continue
			}
			found = append(found, r.what+": "+s)
			break
		}
	}
	return found
}

func TestMigrationsOnlyAdd(t *testing.T) {
	names, err := fs.Glob(migrations.FS, "*.up.sql")
	if err != nil || len(names) == 0 {
		t.Fatal(names, err)
	}
	var floor uint
	for i, file := range names {
		var version int
		if _, err := fmt.Sscanf(file, "%06d_", &version); err != nil || version != i+1 {
			t.Errorf("%s: version %d, want %d: numbers have no gaps", file, version, i+1)
		}
		text, err := fs.ReadFile(migrations.FS, file)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := fs.Stat(migrations.FS, strings.TrimSuffix(file, ".up.sql")+".down.sql"); err != nil {
			t.Errorf("%s has no way back: %v", file, err)
		}
		head, err := ReadHead(string(text))
		if err != nil {
			t.Errorf("%s: %v", file, err)
		}
		migration := strings.TrimSuffix(file, ".up.sql")
		found := breaches(string(text))
		c, allowed := contracts[migration]
		switch {
		case len(found) > 0 && c.reason == "":
			t.Errorf("%s:\n  %s\nPrograms of the release before must work on this schema: split it, or give the reason in this test and a floor in the migration.", file, strings.Join(found, "\n  "))
		case len(found) == 0 && allowed:
			t.Errorf("%s breaks no rule any more: take it off the list", file)
		case head.Floor != c.floor:
			t.Errorf("%s has the floor %d, and the list says %d", file, head.Floor, c.floor)
		case head.Floor > 0 && head.Floor < floor, head.Floor > uint(i+1):
			t.Errorf("%s has the floor %d after %d: it lets programs in that were kept out, or nobody", file, head.Floor, floor)
		}
		floor = max(floor, head.Floor)
	}
}

func TestRulesKnowWhatBreaksTheVersionBefore(t *testing.T) {
	for sql, breaks := range map[string]bool{
		"DROP TABLE users;":                                                                                    true,
		"TRUNCATE users":                                                                                       true,
		"ALTER TABLE users DROP COLUMN name":                                                                   true,
		"ALTER TABLE users\n  DROP name":                                                                       true,
		"ALTER TABLE users ADD COLUMN a int, DROP CONSTRAINT c":                                                true,
		"ALTER TABLE users RENAME TO people":                                                                   true,
		"ALTER TABLE users RENAME COLUMN a TO b":                                                               true,
		"ALTER INDEX a RENAME TO b":                                                                            true,
		"ALTER TABLE users ALTER COLUMN name TYPE varchar(10)":                                                 true,
		"ALTER TABLE ONLY users ALTER name SET DATA TYPE int":                                                  true,
		"ALTER TABLE users ALTER COLUMN name SET NOT NULL":                                                     true,
		"ALTER TABLE users ADD COLUMN a int NOT NULL":                                                          true,
		"UPDATE users SET a = 1":                                                                               true,
		"CREATE TABLE t (a int); DROP TABLE users":                                                             true,
		"CREATE TABLE t (a int); ALTER TABLE users RENAME TO t":                                                true,
		"CREATE TABLE t (a int NOT NULL)":                                                                      false,
		"CREATE TABLE t (a int); CREATE INDEX t_a ON t (a)":                                                    false,
		"CREATE TABLE t (a int); ALTER TABLE t ADD CONSTRAINT c CHECK (a > 0)":                                 false,
		"ALTER TABLE users ADD COLUMN a text NOT NULL DEFAULT ''":                                              false,
		"ALTER TABLE users ADD COLUMN a text":                                                                  false,
		"ALTER TABLE users ADD CONSTRAINT c CHECK (a > 0) NOT VALID":                                           false,
		"ALTER TABLE users VALIDATE CONSTRAINT c":                                                              false,
		"CREATE INDEX CONCURRENTLY users_a ON users (a)":                                                       true,
		"-- DROP TABLE users\nCREATE TABLE t (a text DEFAULT 'drop table')":                                    false,
		"CREATE FUNCTION f() RETURNS trigger AS $$ BEGIN DELETE FROM x; DROP TABLE y; END $$ LANGUAGE plpgsql": false,
		"INSERT INTO t DEFAULT VALUES":                                                                         false,
	} {
		if found := breaches(sql); len(found) > 0 != breaks {
			t.Errorf("%s: %v", sql, found)
		}
	}
}

func TestHeadOfAMigration(t *testing.T) {
	for text, want := range map[string]Head{
		"":                               {},
		"-- Users.\n\nCREATE TABLE x ()": {},
		"-- Takes a column.\n-- floor: 14\nALTER":    {Floor: 14},
		"CREATE TABLE x ();\n-- floor: 14\nSELECT 1": {},
		"-- the floor: 14 is not meant\nSELECT":      {},
	} {
		got, err := ReadHead(text)
		if diff := cmp.Diff(want, got); err != nil || diff != "" {
			t.Errorf("%q: %v %s", text, err, diff)
		}
	}
	for _, bad := range []string{"-- floor: x\n", "-- floor:\n", "-- floor: -1\n"} {
		if head, err := ReadHead(bad); err == nil {
			t.Errorf("%q is read as %+v", bad, head)
		}
	}
	for comment, want := range map[string]uint{
		"floor 14": 14, "": 0, "floor": 0, "another comment": 0,
		"floor x": math.MaxInt32, "floor 14; since 2027": math.MaxInt32, "floor -1": math.MaxInt32, "floor 99999999999": math.MaxInt32,
	} {
		if got := FloorOf(comment); got != want {
			t.Errorf("%q: %d", comment, got)
		}
	}
}
