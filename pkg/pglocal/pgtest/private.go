package pgtest

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"

	"github.com/keywarden/keywarden/pkg/pglocal"
	"github.com/keywarden/keywarden/pkg/pglocal/internal/filelock"
)

// maxIdle bounds the clusters that are kept when nobody uses them, 50 MB each.
const maxIdle = 6

// openHost is the server of TEST_DATABASE_URL, else a private one.
func openHost() (host, error) {
	if address := os.Getenv("TEST_DATABASE_URL"); address != "" {
		return openExternal(address)
	}
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	c, err := takeCluster(ctx)
	if err != nil {
		return host{}, err
	}
	return c.host(), nil // Nobody stops it: the process's end does.
}

// cluster is a kept cluster in the hands of this process.
type cluster struct {
	home   string
	owner  *os.File // locked as long as the cluster is in our hands
	server *pglocal.Server
}

func (c *cluster) host() host {
	return host{admin: c.server.AdminURL(), user: c.server.URL(), cluster: c}
}

// dataDir is short, for the sake of the socket's path.
func (c *cluster) dataDir() string { return filepath.Join(c.home, "p") }

func (c *cluster) ownerFile() string { return filepath.Join(c.home, "owner") }

func (c *cluster) options() pglocal.Options {
	return pglocal.Options{
		DataDir: c.dataDir(), BinDir: os.Getenv("KEYWARDEN_POSTGRES_BIN"),
		Disposable: true, MaxConnections: 200,
	}
}

// takeCluster starts the first kept cluster that nobody has, or a new one, without
// the databases of earlier tests. give, or the end of the process, gives it back.
func takeCluster(ctx context.Context) (*cluster, error) {
	base, err := baseDir()
	if err != nil {
		return nil, err
	}
	trim(ctx, base)
	c, err := freeCluster(base)
	if err != nil {
		return nil, err
	}
	if err := c.start(ctx); err != nil {
		_ = filelock.Unlock(c.owner)
		return nil, err
	}
	if err := c.host().dropLeftovers(ctx); err != nil {
		return nil, errors.Join(err, c.give(ctx))
	}
	return c, nil
}

// trim removes idle clusters beyond maxIdle. What cannot be removed stays for the
// next one; it is no reason to fail somebody's test.
func trim(ctx context.Context, base string) {
	for i := maxIdle; ; i++ {
		c := cluster{home: homeOf(base, i)}
		owner, err := filelock.TryLock(c.ownerFile())
		if errors.Is(err, filelock.ErrHeld) {
			continue
		}
		if err != nil {
			return // There are no more.
		}
		// Its home stays, for whoever waits at its door.
		_ = pglocal.Remove(ctx, c.dataDir())
		_ = filelock.Unlock(owner)
	}
}

func homeOf(base string, i int) string { return filepath.Join(base, strconv.Itoa(i)) }

// freeCluster takes the place of one cluster. There are as many as were ever in
// use at the same time.
func freeCluster(base string) (*cluster, error) {
	for i := 0; ; i++ {
		home := homeOf(base, i)
		if err := os.Mkdir(home, dirMode()); err != nil && !errors.Is(err, fs.ErrExist) {
			return nil, err
		}
		c := &cluster{home: home}
		var err error
		if c.owner, err = filelock.TryLock(c.ownerFile()); err == nil {
			return c, nil
		}
		if !errors.Is(err, filelock.ErrHeld) {
			return nil, err
		}
	}
}

// start starts the cluster if it can be trusted, else a new one in its place.
func (c *cluster) start(ctx context.Context) (err error) {
	if err := c.distrust(ctx); err != nil {
		return err
	}
	if c.server, err = pglocal.Start(ctx, c.options()); err == nil {
		return nil
	}
	if removeErr := pglocal.Remove(ctx, c.dataDir()); removeErr != nil {
		return errors.Join(err, removeErr)
	}
	c.server, err = pglocal.Start(ctx, c.options())
	return err
}

// distrust removes the cluster when another version of PostgreSQL made it, or
// when the machine was started since: it may have crashed, which a cluster
// without fsync does not always survive.
func (c *cluster) distrust(ctx context.Context) error {
	binaries, err := pglocal.Find(ctx, c.options().BinDir)
	if err != nil {
		return err
	}
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	origin, file := binaries.Version+"\n"+string(boot), filepath.Join(c.home, "origin")
	if known, err := os.ReadFile(file); err == nil && string(known) == origin {
		return nil
	}
	if err := pglocal.Remove(ctx, c.dataDir()); err != nil {
		return err
	}
	return os.WriteFile(file, []byte(origin), 0o600)
}

// give stops the server and leaves the cluster to the next one.
func (c *cluster) give(ctx context.Context) error {
	return errors.Join(c.server.Stop(ctx), filelock.Unlock(c.owner))
}

// baseDir is the user's directory for test clusters. Its name is known to all,
// so one that somebody else made is refused.
func baseDir() (string, error) {
	base := filepath.Join(os.TempDir(), fmt.Sprintf("kw-pgtest-%d", os.Geteuid()))
	if err := os.Mkdir(base, dirMode()); err != nil && !errors.Is(err, fs.ErrExist) {
		return "", err
	}
	info, err := os.Lstat(base)
	if err != nil {
		return "", err
	}
	if !info.IsDir() || !ownedByCaller(info) || info.Mode().Perm()&0o022 != 0 {
		return "", fmt.Errorf("%s is not a directory that only this user can write to: remove it", base)
	}
	return base, nil
}

// dirMode lets PostgreSQL pass, which is another user when root runs the tests.
func dirMode() fs.FileMode {
	if os.Geteuid() == 0 {
		return 0o711
	}
	return 0o700
}
