package pglocal

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// processesIn lists the processes whose working directory is below dir.
func processesIn(t *testing.T, dir string) []int {
	t.Helper()
	links, err := filepath.Glob("/proc/[0-9]*/cwd")
	if err != nil {
		t.Fatal(err)
	}
	var pids []int
	for _, link := range links {
		cwd, err := os.Readlink(link)
		if err != nil || !strings.HasPrefix(cwd, dir) {
			continue // It has ended, or is none of ours.
		}
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(link)))
		if err != nil {
			t.Fatal(err)
		}
		pids = append(pids, pid)
	}
	return pids
}

func TestTerminalSignalsDoNotReachPostgreSQL(t *testing.T) {
	s := start(t, Options{DataDir: sharedDir(t), Disposable: true})
	group, err := syscall.Getpgid(s.process.cmd.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	if group == syscall.Getpgrp() {
		t.Error("PostgreSQL is in the caller's process group, where Ctrl-C goes")
	}
}

func TestKilledProgramLeavesNoPostgreSQL(t *testing.T) {
	dir := dataDir(t)
	child := startReadyChild(t, dir)
	if len(processesIn(t, dir)) == 0 {
		t.Fatal("the test sees no PostgreSQL at all")
	}
	killChild(t, child)
	eventually(t, "no process of PostgreSQL is left", func() bool { return len(processesIn(t, dir)) == 0 })
	if log := readFile(t, layout{dir: dir}.log()); !strings.Contains(log, "database system is shut down") {
		t.Errorf("no orderly shutdown:\n%s", log)
	}
	start(t, Options{DataDir: dir})
}

func TestStartRightAfterAKillWaitsForTheOldServer(t *testing.T) {
	dir := dataDir(t)
	child := startReadyChild(t, dir)
	address, err := Running(dir)
	if err != nil {
		t.Fatal(err)
	}
	mustExecute(t, address, "CREATE TABLE kept (word text); INSERT INTO kept VALUES ('here')")
	// Not waited for: a dead program whose parent takes no notice is a dead one too.
	if err := child.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	s := startAfterKill(t, Options{DataDir: dir})
	if got := query(t, s.URL(), "SELECT word FROM kept"); got != "here" {
		t.Errorf("got %q", got)
	}
}

// startAfterKill is start, again while the killed program is still there: a
// signal's sender does not wait for its effect.
func startAfterKill(t *testing.T, opts Options) *Server {
	t.Helper()
	for {
		s, err := Start(t.Context(), opts)
		if errors.Is(err, ErrInUse) && strings.Contains(err.Error(), "stop it, or give") {
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = s.Stop(context.Background()) })
		return s
	}
}

func TestFirstStartThatIsKilledLeavesNothingHalfDone(t *testing.T) {
	l := layout{dir: dataDir(t)}
	killFirstStart(t, l)
	s := start(t, Options{DataDir: l.dir})
	if got := query(t, s.URL(), "SELECT current_database()"); got != Database {
		t.Errorf("got %q", got)
	}
	if left, _ := filepath.Glob(filepath.Join(l.dir, unfinishedPrefix+"*")); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

// killFirstStart kills a program whose initdb is at work, which it is when its
// first files are there. On a busy machine that can come too late, so it tries
// more than once.
func killFirstStart(t *testing.T, l layout) {
	t.Helper()
	for range 10 {
		child, _ := startChild(t, l.dir)
		eventually(t, "a cluster is being made", func() bool {
			made, err := filepath.Glob(filepath.Join(l.dir, "*", "PG_VERSION"))
			return err == nil && len(made) > 0
		})
		killChild(t, child)
		if _, err := os.Stat(l.cluster()); err != nil {
			return
		}
		if err := Remove(t.Context(), l.dir); err != nil {
			t.Fatal(err)
		}
	}
	t.Fatal("every first start was complete before it was killed")
}

func TestServerLeftBehindByADeadProgramIsStopped(t *testing.T) {
	l := layout{dir: sharedDir(t)}
	orphan, err := Start(t.Context(), Options{DataDir: l.dir, Disposable: true})
	if err != nil {
		t.Fatal(err)
	}
	// From here on it is as on a system that does not tell PostgreSQL of its
	// program's death: PostgreSQL alone holds its lock.
	orphan.lock.release()
	s := start(t, Options{DataDir: l.dir, Disposable: true})
	select {
	case <-orphan.Done():
	default:
		t.Error("two servers run on one directory")
	}
	if got := query(t, s.URL(), "SELECT 'new'"); got != "new" {
		t.Errorf("got %q", got)
	}
}

func TestRootsServerRunsAsItsOwnUserAndGroup(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root drops its privileges")
	}
	t.Setenv("PGLOCAL_TEST_SECRET", "not for PostgreSQL")
	s := start(t, Options{DataDir: sharedDir(t), Disposable: true})
	pid := s.process.cmd.Process.Pid
	var uids, gids, groups []string
	for line := range strings.Lines(readFile(t, fmt.Sprintf("/proc/%d/status", pid))) {
		fields := strings.Fields(line)
		switch fields[0] {
		case "Uid:":
			uids = fields[1:]
		case "Gid:":
			gids = fields[1:]
		case "Groups:":
			groups = fields[1:]
		}
	}
	want, err := user.Lookup(s.account.name)
	if err != nil {
		t.Fatal(err)
	}
	uid, gid := want.Uid, want.Gid
	if diff := cmp.Diff([][]string{{uid, uid, uid, uid}, {gid, gid, gid, gid}, {}}, [][]string{uids, gids, groups}); diff != "" {
		t.Errorf("user, group and further groups of PostgreSQL: %s", diff)
	}
	if env := readFile(t, fmt.Sprintf("/proc/%d/environ", pid)); strings.Contains(env, "PGLOCAL_TEST_SECRET") {
		t.Error("PostgreSQL got the caller's environment")
	}
}
