//go:build unix && !aix && !solaris

package pglocal

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"syscall"
	"time"
)

// account is the system user that PostgreSQL runs as. The zero value is the
// caller itself.
type account struct {
	name     string
	uid, gid uint32
	// switched is set when PostgreSQL runs as another user than the caller.
	switched bool
}

// chooseAccount picks the account for the cluster in dataDir. Only root needs
// another one than its own.
func chooseAccount(cluster string) (account, error) {
	if os.Geteuid() != 0 {
		return account{}, nil
	}
	info, err := os.Stat(cluster)
	if errors.Is(err, fs.ErrNotExist) {
		return unprivilegedAccount()
	}
	if err != nil {
		return account{}, err
	}
	return ownerOf(cluster, info)
}

// unprivilegedAccount is user postgres or else nobody. PostgreSQL wants a user
// that exists in the user database, not just any number.
func unprivilegedAccount() (account, error) {
	for _, name := range []string{"postgres", "nobody"} {
		u, err := user.Lookup(name)
		if err != nil {
			continue
		}
		uid, uidErr := strconv.ParseUint(u.Uid, 10, 32)
		// The group is the user's own: equal numbers mean nothing.
		gid, gidErr := strconv.ParseUint(u.Gid, 10, 32)
		if err := errors.Join(uidErr, gidErr); err != nil {
			return account{}, fmt.Errorf("read user %s: %w", name, err)
		}
		return account{name: name, uid: uint32(uid), gid: uint32(gid), switched: true}, nil
	}
	return account{}, errors.New("PostgreSQL refuses to run as root, and there is neither a user postgres nor nobody: " +
		"start as an ordinary user, or set DATABASE_URL to an existing server")
}

func ownerOf(cluster string, info fs.FileInfo) (account, error) {
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return account{}, fmt.Errorf("read the owner of %s", cluster)
	}
	if stat.Uid == 0 {
		return account{}, fmt.Errorf("%s belongs to root, which PostgreSQL refuses: "+
			"give it to the user it shall run as, such as: chown -R postgres: %s", cluster, cluster)
	}
	owner := account{name: strconv.FormatUint(uint64(stat.Uid), 10), uid: stat.Uid, gid: stat.Gid, switched: true}
	if u, err := user.LookupId(owner.name); err == nil {
		owner.name = u.Username
	}
	return owner, nil
}

// own gives a file or directory to the account.
func (a account) own(path string) error {
	if !a.switched {
		return nil
	}
	return os.Lchown(path, int(a.uid), int(a.gid))
}

// command prepares a program that runs as the account, in dir, and that gets
// onParentDeath where the system can do so.
func (a account) command(dir string, onParentDeath syscall.Signal, program string, args ...string) *exec.Cmd {
	cmd := exec.Command(program, args...) //nolint:noctx // the server outlives the context that starts it
	cmd.Dir = dir
	cmd.Env = environment()
	// In a process group of its own it does not get the terminal's Ctrl-C: it has
	// to outlive the caller's own shutdown.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if a.switched {
		cmd.SysProcAttr.Credential = &syscall.Credential{Uid: a.uid, Gid: a.gid}
	}
	signalOnParentDeath(cmd.SysProcAttr, onParentDeath)
	return cmd
}

// output runs program as the account and returns what it prints.
func (a account) output(ctx context.Context, program string, args ...string) (string, error) {
	var out bytes.Buffer
	cmd := a.command("/", syscall.SIGKILL, program, args...)
	cmd.Stdout = &out
	cmd.WaitDelay = time.Second
	if err := run(ctx, cmd); err != nil {
		return "", fmt.Errorf("run %s: %w", program, a.explain(err, program, "/"))
	}
	return out.String(), nil
}

// environment is all that PostgreSQL's programs get. The caller's environment
// may hold secrets, and PGDATA, PGPORT and their like would change what they do.
func environment() []string {
	env := []string{"LC_ALL=C"}
	for _, name := range []string{"PATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH"} {
		if value, ok := os.LookupEnv(name); ok { //nolint:forbidigo // where programs and their libraries are
			env = append(env, name+"="+value)
		}
	}
	return env
}

// explain adds the reason that a person can act on to a failure to run program
// in dir as the account.
func (a account) explain(err error, program, dir string) error {
	switch {
	case a.switched && errors.Is(err, syscall.EPERM):
		return fmt.Errorf("root cannot become user %s here (are the SETUID and SETGID capabilities missing?): "+
			"start as an ordinary user: %w", a.name, err)
	case a.switched && errors.Is(err, syscall.EACCES):
		for _, path := range []string{dir, program} {
			if barrier, mode := a.barrier(path); barrier != "" {
				return fmt.Errorf("PostgreSQL runs as user %s, who may not enter %s (mode %04o): "+
					"choose another directory, or: chmod o+x %s", a.name, barrier, mode, barrier)
			}
		}
	}
	return err
}

// barrier is the first directory on the way to path that the account may not
// enter, by owner and mode; empty when there is none.
func (a account) barrier(path string) (string, fs.FileMode) {
	barrier, mode := "", fs.FileMode(0)
	for dir := path; ; dir = filepath.Dir(dir) {
		if info, err := os.Stat(dir); err == nil && info.IsDir() && !a.mayEnter(info) {
			barrier, mode = dir, info.Mode().Perm()
		}
		if dir == filepath.Dir(dir) {
			return barrier, mode
		}
	}
}

func (a account) mayEnter(info fs.FileInfo) bool {
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return true
	}
	switch {
	case stat.Uid == a.uid:
		return info.Mode()&0o100 != 0
	case stat.Gid == a.gid:
		return info.Mode()&0o010 != 0
	default:
		return info.Mode()&0o001 != 0
	}
}
