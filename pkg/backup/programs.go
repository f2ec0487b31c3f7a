package backup

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/keywarden/keywarden/pkg/seal"
)

// ErrNoPrograms says that PostgreSQL's programs for backups are not on this machine.
var ErrNoPrograms = errors.New("pg_dump, pg_restore and psql are needed on this machine")

// programs are PostgreSQL's own, of one version and in one folder.
type programs struct {
	dir     string
	version string
	major   int
}

// clientDirs are the usual places of PostgreSQL's programs beside PATH. The star stands
// for the version.
func clientDirs() []string {
	return []string{
		"/usr/lib/postgresql/*/bin", "/usr/pgsql-*/bin", "/usr/lib/postgresql*/bin", "/usr/libexec/postgresql*",
		"/opt/homebrew/opt/postgresql@*/bin", "/opt/homebrew/opt/libpq/bin", "/usr/local/opt/postgresql@*/bin", "/usr/local/opt/libpq/bin",
		"/usr/local/pgsql/bin", "/Applications/Postgres.app/Contents/Versions/*/bin",
	}
}

// findPrograms finds those that can dump a server of the major version: the same one if
// there is, else the nearest newer. explicit is a folder to look into alone.
func findPrograms(ctx context.Context, explicit string, server int) (programs, error) {
	var best programs
	var seen []string
	for _, dir := range folders(explicit) {
		p, err := probe(ctx, dir)
		if ctx.Err() != nil {
			return programs{}, ctx.Err()
		}
		if err != nil {
			continue
		}
		seen = append(seen, p.version+" in "+p.dir)
		if p.major >= server && (best.dir == "" || p.major < best.major) {
			best = p
		}
	}
	if best.dir != "" {
		return best, nil
	}
	hint := fmt.Sprintf("install the client programs of PostgreSQL %d or newer (Debian, Ubuntu: apt-get install postgresql-client-%d), "+
		"or name their folder in KEYWARDEN_POSTGRES_BIN", server, server)
	if len(seen) > 0 {
		return best, fmt.Errorf("%w in version %d or newer, and there is only %s: %s", ErrNoPrograms, server, strings.Join(seen, ", "), hint)
	}
	return best, fmt.Errorf("%w: %s", ErrNoPrograms, hint)
}

func folders(explicit string) []string {
	if explicit != "" {
		return []string{explicit}
	}
	var dirs []string
	for _, pattern := range clientDirs() {
		found, err := filepath.Glob(pattern)
		if err == nil {
			dirs = append(dirs, found...)
		}
	}
	if path, err := exec.LookPath("pg_dump"); err == nil {
		dirs = append(dirs, filepath.Dir(path))
	}
	return dirs
}

var versionText = regexp.MustCompile(`\(PostgreSQL\) (\d+)(\S*)`)

// probe asks the programs in dir for their version.
func probe(ctx context.Context, dir string) (programs, error) {
	p := programs{dir: dir}
	const patience = 10 * time.Second
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for _, name := range []string{"pg_restore", "psql", "pg_dump"} {
		cmd := exec.CommandContext(ctx, filepath.Join(dir, name), "--version")
		cmd.Env = environment()
		out, err := cmd.Output()
		if err != nil {
			return p, err
		}
		found := versionText.FindStringSubmatch(string(out))
		if found == nil {
			return p, fmt.Errorf("%s in %s does not say its version", name, dir)
		}
		p.version = found[1] + found[2]
		p.major, _ = strconv.Atoi(found[1]) // digits, by the expression
	}
	return p, nil
}

// command prepares one of the programs. Where the database is goes by the environment:
// what is on a command line can be read by everybody on the machine.
func (p programs) command(ctx context.Context, name string, connection []string, args ...string) (*exec.Cmd, *bytes.Buffer) {
	cmd := exec.CommandContext(ctx, filepath.Join(p.dir, name), args...)
	cmd.Env = append(environment(), connection...)
	said := &bytes.Buffer{}
	cmd.Stderr = &tail{said}
	cmd.WaitDelay = 5 * time.Second
	return cmd, said
}

// tail keeps the beginning of what a program says, which is where the reason is.
type tail struct{ *bytes.Buffer }

// Write implements io.Writer.
func (t *tail) Write(b []byte) (int, error) {
	const most = 8 << 10
	if room := most - t.Len(); room > 0 {
		t.Buffer.Write(b[:min(room, len(b))])
	}
	return len(b), nil
}

// explain puts what a program said in the place of its exit code.
func explain(ctx context.Context, name string, err error, said *bytes.Buffer) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if text := strings.TrimSpace(said.String()); text != "" {
		return fmt.Errorf("%s: %s", name, text)
	}
	return fmt.Errorf("%s: %w", name, err)
}

// environment is all that the programs get beside the connection: PGHOST, PGOPTIONS and
// their like of the caller would change what they do.
func environment() []string {
	env := []string{"LC_ALL=C"}
	for _, name := range []string{"PATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "HOME"} {
		if value, ok := os.LookupEnv(name); ok { //nolint:forbidigo // where programs, their libraries and root certificates are
			env = append(env, name+"="+value)
		}
	}
	return env
}

// errURL stands for the parser's error, which may quote the URL with its password.
var errURL = errors.New("the database URL is not valid: expected postgres://user:password@host:port/name")

// variables are the parameters of a URL that libpq has variables for.
func variables() map[string]string {
	return map[string]string{
		"host": "PGHOST", "port": "PGPORT", "user": "PGUSER", "password": "PGPASSWORD", "dbname": "PGDATABASE",
		"sslmode": "PGSSLMODE", "sslrootcert": "PGSSLROOTCERT", "sslcert": "PGSSLCERT", "sslkey": "PGSSLKEY", "sslcrl": "PGSSLCRL",
		"connect_timeout": "PGCONNECT_TIMEOUT", "options": "PGOPTIONS", "gssencmode": "PGGSSENCMODE", "channel_binding": "PGCHANNELBINDING",
		"target_session_attrs": "PGTARGETSESSIONATTRS", "krbsrvname": "PGKRBSRVNAME", "passfile": "PGPASSFILE", "sslsni": "PGSSLSNI",
	}
}

// ofDriver are the parameters that our own driver takes from the same variables of the
// environment where the URL does not give them: both must reach the same database.
func ofDriver() []string {
	return []string{"host", "port", "dbname", "user", "password", "passfile", "sslmode", "sslkey", "sslcert", "sslrootcert", "connect_timeout", "target_session_attrs"}
}

// connection is the URL in variables of libpq. Parameters that only our own driver knows
// are left out. Several hosts go by the parameter host alone.
func connection(address seal.Secret) ([]string, error) {
	u, err := url.Parse(address.Reveal())
	if err != nil || u.Scheme != "postgres" && u.Scheme != "postgresql" {
		return nil, errURL
	}
	values := map[string]string{"dbname": strings.TrimPrefix(u.Path, "/"), "user": u.User.Username()}
	values["password"], _ = u.User.Password()
	if u.Host != "" {
		values["host"], values["port"] = u.Hostname(), u.Port()
	}
	known := variables()
	for name, given := range u.Query() {
		if _, ok := known[name]; ok && len(given) > 0 {
			values[name] = given[0]
		}
	}
	env := []string{"PGAPPNAME=keywarden-backup"}
	for _, name := range ofDriver() {
		if values[name] == "" {
			values[name], _ = os.LookupEnv(known[name]) //nolint:forbidigo // the driver looks there, too
		}
	}
	for name, value := range values {
		if value != "" {
			env = append(env, known[name]+"="+value)
		}
	}
	return env, nil
}
