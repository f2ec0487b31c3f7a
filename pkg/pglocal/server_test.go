//go:build unix && !aix && !solaris

package pglocal

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestRestartKeepsData(t *testing.T) {
	opts := Options{DataDir: dataDir(t), MaxConnections: 17}
	first := start(t, opts)
	mustExecute(t, first.URL(), "CREATE TABLE kept (word text); INSERT INTO kept VALUES ('here')")
	stop(t, first)

	second := start(t, opts)
	if got := query(t, second.URL(), "SELECT word FROM kept"); got != "here" {
		t.Errorf("after a restart: %q", got)
	}
	if first.URL() != second.URL() {
		t.Errorf("the URL changed with the restart: %s, %s", first.URL(), second.URL())
	}
}

func TestServerSettings(t *testing.T) {
	cases := []struct {
		name string
		opts Options
		want map[string]string
	}{
		{"durable by default", Options{}, map[string]string{
			"fsync": "on", "full_page_writes": "on", "synchronous_commit": "on", "data_checksums": "on",
			"max_connections": "100",
		}},
		{"disposable", Options{Disposable: true, MaxConnections: 17}, map[string]string{
			"fsync": "off", "full_page_writes": "off", "synchronous_commit": "off", "max_connections": "17",
		}},
	}
	always := map[string]string{
		"listen_addresses": "", "server_encoding": "UTF8", "TimeZone": "UTC", "unix_socket_permissions": "0700",
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			// These would change what PostgreSQL does if they reached it.
			t.Setenv("PGPORT", "1")
			t.Setenv("PGDATA", "/nowhere")
			t.Setenv("PGUSER", "stranger")
			c.opts.DataDir = dataDir(t)
			s := start(t, c.opts)
			for _, settings := range []map[string]string{always, c.want} {
				for name, want := range settings {
					if got := query(t, s.AdminURL(), "SELECT current_setting('"+name+"')"); got != want {
						t.Errorf("%s = %q, want %q", name, got, want)
					}
				}
			}
			collation := query(t, s.URL(), "SELECT datcollate || ' ' || pg_get_userbyid(datdba) FROM pg_database WHERE datname = current_database()")
			if collation != "C keywarden" {
				t.Errorf("collation and owner of the database: %s", collation)
			}
			if got := query(t, s.URL(), "SELECT rolsuper::text FROM pg_roles WHERE rolname = current_user"); got != "false" {
				t.Errorf("the product's role is a superuser: %s", got)
			}
		})
	}
}

func TestOnlyTheOwnerReachesTheSocket(t *testing.T) {
	l := layout{dir: sharedDir(t)}
	s := start(t, Options{DataDir: l.dir, Disposable: true})
	for _, dir := range []string{s.socketDir, l.cluster()} {
		info, err := os.Stat(dir)
		if err != nil {
			t.Fatal(err)
		}
		if mode := info.Mode().Perm(); mode != 0o700 {
			t.Errorf("%s has mode %04o", dir, mode)
		}
		if uid := info.Sys().(*syscall.Stat_t).Uid; os.Geteuid() == 0 && uid == 0 {
			t.Errorf("%s belongs to root", dir)
		}
	}
}

func TestRootFollowsTheOwnerOfAnExistingCluster(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root drops its privileges")
	}
	l := layout{dir: usedDir(t)}
	const nobody, nogroup = 65534, 65534
	err := filepath.WalkDir(l.cluster(), func(path string, _ os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		return os.Lchown(path, nobody, nogroup)
	})
	if err != nil {
		t.Fatal(err)
	}
	s := start(t, Options{DataDir: l.dir, Disposable: true})
	if s.account.uid != nobody {
		t.Errorf("runs as user %d", s.account.uid)
	}
}

func TestRootsOwnClusterIsRefusedWithARemedy(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root drops its privileges")
	}
	l := layout{dir: dataDir(t)}
	if err := os.MkdirAll(l.cluster(), 0o700); err != nil {
		t.Fatal(err)
	}
	writeFile(t, filepath.Join(l.cluster(), "PG_VERSION"), "15\n")
	_, err := Start(t.Context(), Options{DataDir: l.dir})
	wantError(t, err, nil, "belongs to root", "chown -R postgres: "+l.cluster())
}

func TestDirectoryThatPostgreSQLMayNotEnterIsNamed(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root drops its privileges")
	}
	closed := t.TempDir()
	if err := os.Chmod(filepath.Dir(closed), 0o700); err != nil {
		t.Fatal(err)
	}
	_, err := Start(t.Context(), Options{DataDir: filepath.Join(closed, "pg")})
	wantError(t, err, nil, "who may not enter "+filepath.Dir(closed)+" (mode 0700)", "chmod o+x "+filepath.Dir(closed))
}

func TestLongDataDirectoryGetsAShortSocket(t *testing.T) {
	dir := filepath.Join(dataDir(t), strings.Repeat("long", 30))
	s := start(t, Options{DataDir: dir, Disposable: true})
	if got := query(t, s.URL(), "SELECT 'yes'"); got != "yes" {
		t.Errorf("got %q", got)
	}
	if strings.HasPrefix(s.socketDir, dir) {
		t.Fatalf("the socket is in %s", s.socketDir)
	}
	running, err := Running(dir)
	if err != nil || running != s.URL() {
		t.Errorf("Running: %q, %v", running, err)
	}
	stop(t, s)
	if _, err := os.Lstat(s.socketDir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the socket directory is left behind: %v", err)
	}
}

func TestSecondInstanceIsRefusedAndReachesNothing(t *testing.T) {
	t.Run("in this process", func(t *testing.T) {
		opts := Options{DataDir: sharedDir(t), Disposable: true}
		first := start(t, opts)
		_, err := Start(t.Context(), opts)
		wantError(t, err, ErrInUse, fmt.Sprintf("process %d uses %s", os.Getpid(), opts.DataDir))
		if got := query(t, first.URL(), "SELECT 'alive'"); got != "alive" {
			t.Errorf("the first instance answers %q", got)
		}
	})
	t.Run("in another process", func(t *testing.T) {
		opts := Options{DataDir: sharedDir(t), Disposable: true}
		child := startReadyChild(t, opts.DataDir)
		_, err := Start(t.Context(), opts)
		wantError(t, err, ErrInUse, fmt.Sprintf("process %d uses %s", child.Process.Pid, opts.DataDir))
		address, err := Running(opts.DataDir)
		if err != nil {
			t.Fatal(err)
		}
		if got := query(t, address, "SELECT 'alive'"); got != "alive" {
			t.Errorf("the first instance answers %q", got)
		}
	})
}

func TestPostgreSQLStartedByOtherMeansIsRefused(t *testing.T) {
	l := layout{dir: sharedDir(t)}
	first := start(t, Options{DataDir: l.dir, Disposable: true})
	// Without the locks in its hands it is as if somebody had run pg_ctl.
	for _, lock := range []string{l.lock(), l.serverLock()} {
		if err := os.Rename(lock, lock+".gone"); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = os.Rename(lock+".gone", lock) })
	}
	_, err := Start(t.Context(), Options{DataDir: l.dir})
	wantError(t, err, ErrInUse, "not started by this program")
	if got := query(t, first.URL(), "SELECT 'alive'"); got != "alive" {
		t.Errorf("the first instance answers %q", got)
	}
}

func TestServerThatDiesClosesDoneAndRecovers(t *testing.T) {
	opts := Options{DataDir: dataDir(t)}
	s := start(t, opts)
	mustExecute(t, s.URL(), "CREATE TABLE kept (word text); INSERT INTO kept VALUES ('here')")
	select {
	case <-s.Done():
		t.Fatal("Done is closed while the server runs")
	default:
	}
	if err := s.Err(); err != nil {
		t.Fatalf("Err of a running server: %v", err)
	}
	s.process.signal(syscall.SIGKILL)
	<-s.Done()
	wantError(t, s.Err(), nil, "ended by itself", "killed")
	stop(t, s)
	wantError(t, s.Err(), nil, "ended by itself", "killed")

	again := start(t, opts)
	if got := query(t, again.URL(), "SELECT word FROM kept"); got != "here" {
		t.Errorf("after the crash: %q", got)
	}
}

func TestStopIsNoError(t *testing.T) {
	s := start(t, Options{DataDir: sharedDir(t), Disposable: true})
	stop(t, s)
	stop(t, s)
	<-s.Done()
	if err := s.Err(); err != nil {
		t.Errorf("Err after Stop: %v", err)
	}
}

func TestStopAbortsAServerThatDoesNotStop(t *testing.T) {
	opts := Options{DataDir: dataDir(t)}
	s := start(t, opts)
	mustExecute(t, s.URL(), "CREATE TABLE kept (word text); INSERT INTO kept VALUES ('here')")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	ctx, cancelDeadline := context.WithDeadline(ctx, time.Now().Add(time.Hour))
	defer cancelDeadline()
	// A stopped process stands for one that hangs.
	s.process.signal(syscall.SIGSTOP)
	err := s.Stop(ctx)
	wantError(t, err, context.Canceled, "was aborted")

	again := start(t, opts)
	if got := query(t, again.URL(), "SELECT word FROM kept"); got != "here" {
		t.Errorf("after the abort: %q", got)
	}
}

func TestStalePIDFileOfALivingProcessDoesNotHinderAStart(t *testing.T) {
	l := layout{dir: sharedDir(t)}
	a, err := chooseAccount(l.cluster())
	if err != nil {
		t.Fatal(err)
	}
	// As after a container's restart, where process ids come again: the file names a
	// process of PostgreSQL's user, which PostgreSQL takes for another server.
	other := a.command("/", syscall.SIGKILL, "/bin/sleep", "3600")
	if err := other.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = other.Process.Kill()
		_ = other.Wait()
	})
	writeFile(t, l.postmasterPID(), strconv.Itoa(other.Process.Pid)+"\n"+l.cluster()+"\n")
	start(t, Options{DataDir: l.dir, Disposable: true})
}

func TestFailedStartShowsPostgreSQLsLog(t *testing.T) {
	l := layout{dir: usedDir(t)}
	writeFile(t, filepath.Join(l.cluster(), "postgresql.conf"), "no_such_setting = 1\n")
	_, err := Start(t.Context(), Options{DataDir: l.dir, Disposable: true})
	wantError(t, err, nil, "no_such_setting")
	if _, err := Running(l.dir); !errors.Is(err, ErrNotRunning) {
		t.Errorf("Running: %v", err)
	}
	if err := Remove(t.Context(), l.dir); err != nil {
		t.Errorf("the failed start kept the directory: %v", err)
	}
}

func TestStartHeedsItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	l := layout{dir: dataDir(t)}
	_, err := Start(ctx, Options{DataDir: l.dir})
	wantError(t, err, context.Canceled)
	if err := Remove(t.Context(), l.dir); err != nil {
		t.Errorf("the failed start kept the directory: %v", err)
	}
}

func TestStatementErrorsStayOutOfTheLog(t *testing.T) {
	l := layout{dir: sharedDir(t)}
	s := start(t, Options{DataDir: l.dir, Disposable: true})
	mustExecute(t, s.URL(), "DROP TABLE IF EXISTS people; CREATE TABLE people (email text PRIMARY KEY); INSERT INTO people VALUES ('a@b.example')")
	if err := execute(t, s.URL(), "INSERT INTO people VALUES ('a@b.example')"); err == nil {
		t.Fatal("no error of the statement to be logged")
	}
	stop(t, s)
	if log := readFile(t, l.log()); strings.Contains(log, "a@b.example") {
		t.Errorf("the log shows users' data:\n%s", log)
	}
}

func TestRemoveDeletesEverythingButNotWhatIsInUse(t *testing.T) {
	dir := dataDir(t)
	s := start(t, Options{DataDir: dir, Disposable: true})
	if err := Remove(t.Context(), dir); !errors.Is(err, ErrInUse) {
		t.Fatalf("Remove while in use: %v", err)
	}
	stop(t, s)
	for range 2 {
		if err := Remove(t.Context(), dir); err != nil {
			t.Fatal(err)
		}
		if _, err := os.Lstat(dir); !errors.Is(err, os.ErrNotExist) {
			t.Fatalf("after Remove: %v", err)
		}
	}
}

func TestURLIsReadByItsParts(t *testing.T) {
	u, err := url.Parse(socketURL("/a dir/with?odd&signs", Role, Database))
	if err != nil {
		t.Fatal(err)
	}
	got := []string{u.Scheme, u.User.Username(), u.Host, u.Path, u.Query().Get("host"), u.Query().Get("sslmode")}
	want := []string{"postgres", "keywarden", "", "/keywarden", "/a dir/with?odd&signs", "disable"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}
