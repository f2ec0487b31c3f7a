package doctor

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"syscall"
	"time"

	"github.com/keywarden/keywarden/pkg/seal"
	"github.com/keywarden/keywarden/pkg/store/redis"
)

// Redis asks whether Redis answers, and for its clock.
func Redis(url seal.Secret, cluster bool, timeout time.Duration, now func() time.Time) Check {
	const area = "redis"
	if url.Empty() {
		return Absent(area, "none is configured (redis.url)")
	}
	return Check{Area: area, Run: func(ctx context.Context) []Finding {
		// A first connection may take longer than the program's patience with each call.
		store, err := redis.Open(redis.Options{URL: url, Cluster: cluster, Timeout: max(timeout, 2*time.Second)})
		if err != nil {
			return []Finding{failed("", err.Error(), "Correct REDIS_URL.")}
		}
		defer func() { _ = store.Close() }()
		if err := store.Ping(ctx); err != nil {
			return []Finding{failed("", "it does not answer: "+err.Error(), "Check host, port and password in REDIS_URL and that the server runs; see docs/runbooks/redis-down.md.")}
		}
		before := now()
		at, err := store.Now(ctx)
		trip := now().Sub(before)
		switch {
		case err != nil:
			return []Finding{failed("", "it answers, but not with its time: "+err.Error(), "Let the user run TIME and scripts (ACL).")}
		case trip > timeout:
			return []Finding{
				warning("", fmt.Sprintf("a call took %s, and counts as a failure after %s (redis.timeout)", trip.Round(time.Microsecond), timeout), "Bring Redis nearer, or raise redis.timeout."),
				clock("Redis", at.Sub(before.Add(trip/2)), trip),
			}
		}
		return []Finding{ok("", "it answers, round trip "+trip.Round(time.Microsecond).String()), clock("Redis", at.Sub(before.Add(trip/2)), trip)}
	}}
}

// Listener says whether a program may listen on the address; expected is whether an
// instance of ours is known to be there.
func Listener(name, address string, running bool) Check {
	return Check{Area: "listener", Run: func(ctx context.Context) []Finding {
		l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", address)
		switch {
		case err == nil:
			_ = l.Close()
			return []Finding{ok(name, address+" is free")}
		case errors.Is(err, syscall.EADDRINUSE) && running:
			return []Finding{ok(name, address+" is in use by the running instance")}
		case errors.Is(err, syscall.EADDRINUSE):
			return []Finding{warning(name, address+" is in use, and what is there does not answer as an instance of this program", "Stop the other program (ss -ltnp shows it), or choose another address.")}
		case errors.Is(err, syscall.EACCES):
			return []Finding{failed(name, "this user may not listen on "+address, "Choose a port from 1024 up, or give the program CAP_NET_BIND_SERVICE.")}
		}
		return []Finding{failed(name, err.Error(), "Choose an address that this machine has.")}
	}}
}

// DataDir looks at the folder for local files. Without a private database, it need not
// be there.
func DataDir(dir string, needed bool) Check {
	return Check{Area: "data directory", Run: func(context.Context) []Finding {
		info, err := os.Stat(dir)
		switch {
		case errors.Is(err, fs.ErrNotExist) && !needed:
			return []Finding{skipped("", dir+" does not exist and is not needed with an external database", "")}
		case errors.Is(err, fs.ErrNotExist):
			return []Finding{ok("", dir+" does not exist yet; the first start makes it")}
		case err != nil:
			return []Finding{failed("", err.Error(), "Let this user enter the folder and all above it.")}
		case !info.IsDir():
			return []Finding{failed("", dir+" is not a folder", "Set data.dir to another one.")}
		}
		found := []Finding{writable(dir)}
		if info.Mode().Perm()&0o022 != 0 && runtime.GOOS != "windows" {
			found = append(found, failed("", dir+" can be written to by others", "chmod go-w "+dir))
		}
		if key, err := os.Stat(filepath.Join(dir, "master.key")); err == nil && key.Mode().Perm()&0o077 != 0 && runtime.GOOS != "windows" {
			found = append(found, failed("master.key", "it can be read by others, and the program refuses it", "chmod 600 "+filepath.Join(dir, "master.key")))
		}
		return append(found, space(dir)...)
	}}
}

// writable tries it: mode bits do not tell of read-only file systems and of ACLs.
func writable(dir string) Finding {
	f, err := os.CreateTemp(dir, ".doctor-*")
	if err != nil {
		return failed("", "this user cannot write to "+dir, "Make the user that runs the program its owner: chown -R <user> "+dir)
	}
	_, _ = f.Close(), os.Remove(f.Name())
	return ok("", dir+" can be written to")
}

// Descriptors compares the limit of open files with what the listener may hold: each
// forwarded request has a connection on either side.
func Descriptors(connections int) Check {
	const area, spare = "file descriptors", 512
	return Check{Area: area, Run: func(context.Context) []Finding {
		limit, known := descriptorLimit()
		if !known {
			return []Finding{skipped("", "this system does not tell its limit", "")}
		}
		detail := fmt.Sprintf("the limit is %d, and server.max_connections is %d", limit, connections)
		if need := uint64(2*connections + spare); limit < need {
			return []Finding{warning("", detail, fmt.Sprintf("Raise it to %d (systemd: LimitNOFILE=, shell: ulimit -n), or lower server.max_connections.", need))}
		}
		return []Finding{ok("", detail)}
	}}
}
