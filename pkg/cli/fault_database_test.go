package cli_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/keywarden/keywarden/pkg/app/apptest"
	"github.com/keywarden/keywarden/pkg/faulttest"
	"github.com/keywarden/keywarden/pkg/loadtest"
	"github.com/keywarden/keywarden/pkg/pglocal"
	"github.com/keywarden/keywarden/pkg/pglocal/pgtest"
	"github.com/keywarden/keywarden/pkg/seal"
)

// faultSpan is how long a fault lasts: long in the long run.
func faultSpan(short, long time.Duration) time.Duration {
	if faulttest.Long() {
		return long
	}
	return short
}

// offered is a load that goes on in the background.
type offered struct {
	stop chan struct{}
	done chan *loadtest.Result
}

// offer sends the requests in turn at a rate, each due at its time, until end. An
// answer with another status than 200 is a failure.
func offer(s *server, rate float64, requests ...[]byte) *offered {
	const workers = 32
	o := &offered{stop: make(chan struct{}), done: make(chan *loadtest.Result, 1)}
	conns := make([]*loadtest.Conn, workers)
	for i := range conns {
		conns[i] = loadtest.NewConn(s.Addr, 30*time.Second)
	}
	go func() {
		o.done <- loadtest.Run(context.Background(), loadtest.Plan{
			Rate: rate, Duration: time.Hour, Workers: workers, Stop: o.stop,
			Do: func(ctx context.Context, worker, n int) error {
				status, body, err := conns[worker].Exchange(ctx, requests[n%len(requests)])
				if err == nil && status != http.StatusOK {
					err = fmt.Errorf("status %d: %.200s", status, body)
				}
				return err
			},
		})
		for _, c := range conns {
			c.Close()
		}
	}()
	return o
}

// end stops the load, none of whose requests may have failed.
func (o *offered) end(t *testing.T) *loadtest.Result {
	t.Helper()
	close(o.stop)
	r := <-o.done
	for kind, n := range r.Failures {
		t.Errorf("%d of %d requests failed: %s", n, r.Sent, kind)
	}
	return r
}

// withKeys are requests for a path, one for each key.
func withKeys(s *server, path string, keys []apptest.Key) (list [][]byte) {
	for _, k := range keys {
		list = append(list, loadtest.Request(http.MethodGet, path, s.Addr, "", "X-API-Key: "+k.Secret))
	}
	return list
}

// mint makes keys of a new user. The program has heard of all of them when it
// returns: the receipt of a later change says so.
func mint(t *testing.T, s *server, n int) (u *apptest.User, keys []apptest.Key) {
	t.Helper()
	u = s.User(t)
	for range n {
		keys = append(keys, s.Key(t, u, nil))
	}
	last := s.Key(t, u, nil)
	s.Want(t, http.StatusOK, http.MethodDelete, "/api-keys/"+last.ID+"?wait=true", nil, u.Auth()...)
	return u, keys
}

// use calls with each of the keys once.
func use(t *testing.T, s *server, path string, keys []apptest.Key) {
	t.Helper()
	for _, k := range keys {
		s.Want(t, http.StatusOK, http.MethodGet, path, nil, k.Auth()...)
	}
}

// comeAgain fails unless the answer says to come again, and not that the credential
// is bad: clients throw bad ones away.
func comeAgain(t *testing.T, a apptest.Answer) {
	t.Helper()
	if a.Status != http.StatusServiceUnavailable || a.Header.Get("Retry-After") == "" || a.Header.Get("WWW-Authenticate") != "" {
		t.Errorf("status %d, Retry-After %q, WWW-Authenticate %q: %s", a.Status, a.Header.Get("Retry-After"), a.Header.Get("WWW-Authenticate"), a.Body)
	}
}

// crash ends PostgreSQL, all of its processes, as the loss of its machine does.
func crash(t *testing.T, url string) {
	t.Helper()
	var backend int
	var all []int32
	if err := apptest.Connect(t, url).QueryRow(t.Context(), `SELECT pg_backend_pid(), array_agg(pid) FROM pg_stat_activity`).Scan(&backend, &all); err != nil {
		t.Fatal(err)
	}
	found := regexp.MustCompile(`PPid:\s+(\d+)`).FindStringSubmatch(readFile(t, fmt.Sprintf("/proc/%d/status", backend)))
	if found == nil {
		t.Skip("no /proc to find PostgreSQL in")
	}
	parent, err := strconv.Atoi(found[1])
	if err != nil {
		t.Fatal(err)
	}
	for _, pid := range append([]int32{int32(parent)}, all...) {
		if err := syscall.Kill(int(pid), syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) { // it may have noticed already
			t.Fatal(err)
		}
	}
	for _, pid := range all {
		apptest.Eventually(t, "a process of PostgreSQL has ended", func() bool {
			status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
			return err != nil || strings.Contains(string(status), "State:\tZ")
		})
	}
	apptest.Eventually(t, "PostgreSQL is gone", func() bool { return errors.Is(syscall.Kill(parent, 0), syscall.ESRCH) })
}

// alterDatabase is a statement that changes the database that it is executed in.
func alterDatabase(change string) string {
	return `DO $$ BEGIN EXECUTE format('ALTER DATABASE %I ` + change + `', current_database()); END $$`
}

// ms is a duration as it stands in a report.
func ms(d time.Duration) string { return fmt.Sprintf("%.1f ms", float64(d)/float64(time.Millisecond)) }

// REL-01: whoever is known notices nothing of a database that was killed, whoever is
// not is told to come again, and all of it works soon after it is back.
func TestFaultDatabaseKilled(t *testing.T) {
	const poolSize = 20
	database, b := pgtest.NewServer(t), backend(t)
	// A test's database forgets the last moment before a crash, unless told not to.
	if _, err := apptest.Connect(t, database.URL()).Exec(t.Context(), alterDatabase("SET synchronous_commit = on")); err != nil {
		t.Fatal(err)
	}
	s := serve(t, serving(database.URL(), seal.NewMasterKey(), "gateway.file="+behind(t, b.URL), fmt.Sprintf("database.max_connections=%d", poolSize)))
	_, keys := mint(t, s, 9)
	known, unknown := keys[:8], keys[8]
	use(t, s, "/b/echo", known)
	load := offer(s, 500, withKeys(s, "/b/echo", known)...)

	crash(t, database.URL())
	asked, over := 0, time.After(faultSpan(2*time.Second, 60*time.Second))
	for away := true; away; {
		comeAgain(t, s.Call(t, http.MethodGet, "/b/echo", nil, unknown.Auth()...))
		asked++
		select {
		case <-over:
			away = false
		case <-time.After(50 * time.Millisecond):
		}
	}
	database.Stop()
	database.Start()
	back := time.Now()
	apptest.Eventually(t, "a key that was not known works", func() bool {
		return s.Call(t, http.MethodGet, "/b/echo", nil, unknown.Auth()...).Status == http.StatusOK
	})
	apptest.Eventually(t, "it is ready", s.ready)
	recovery := time.Since(back)
	var connections int
	if err := apptest.Connect(t, database.URL()).QueryRow(t.Context(),
		`SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()`).Scan(&connections); err != nil {
		t.Fatal(err)
	}
	r := load.end(t)
	if connections > poolSize {
		t.Errorf("%d connections, the pool has %d", connections, poolSize)
	}
	if faulttest.Long() && recovery > 2*time.Second {
		t.Errorf("recovered after %v, want 2 s", recovery)
	}
	faulttest.Measured(t, "REL-01", "0 of %d calls with known keys failed at 500 a second; %d calls with an unknown key: 503 with Retry-After; all works %s after it is back, with %d connections",
		r.Sent, asked, ms(recovery), connections)
	s.stop()
}

// REL-02: when all connections end, as in a failover, known keys notice nothing, and
// no broken connection is left in the pool.
func TestFaultDatabaseEndsConnections(t *testing.T) {
	url, b := pgtest.New(t), backend(t)
	s := serve(t, serving(url, seal.NewMasterKey(), "gateway.file="+behind(t, b.URL)))
	_, keys := mint(t, s, 8)
	use(t, s, "/b/echo", keys)
	load := offer(s, 500, withKeys(s, "/b/echo", keys)...)
	db := apptest.Connect(t, url)
	rounds, calls, failed := 5, 0, 0
	if faulttest.Long() {
		rounds = 50
	}
	var longest time.Duration
	for range rounds {
		if _, err := db.Exec(t.Context(), `SELECT pg_terminate_backend(pid) FROM pg_stat_activity
			WHERE datname = current_database() AND pid <> pg_backend_pid()`); err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		for good := 0; good < 25; calls++ { // more than the pool has connections
			a := s.Call(t, http.MethodGet, "/api-keys/self", nil, keys[0].Auth()...)
			if a.Status == http.StatusOK {
				good++
				continue
			}
			comeAgain(t, a)
			good = 0
			failed++
			longest = max(longest, time.Since(began))
			if time.Since(began) > 30*time.Second {
				t.Fatal("the pool has connections that do not work")
			}
		}
	}
	r := load.end(t)
	if faulttest.Long() && longest > 2*time.Second {
		t.Errorf("calls of the control plane failed for %v, want at most 2 s", longest)
	}
	faulttest.Measured(t, "REL-02", "%d times all connections ended: 0 of %d calls with known keys failed; of %d reads of the control plane %d got 503, the last of them %s after",
		rounds, r.Sent, calls, failed, ms(longest))
	s.stop()
}

// publicID is what the database knows a key by.
func publicID(k apptest.Key) string {
	last := k.Secret[strings.LastIndexByte(k.Secret, '_')+1:]
	return last[:12]
}

// REL-03: a database that takes two seconds for everything holds up nobody who is
// known, and whoever is not for half a second; of many who come with the same key
// one asks.
func TestFaultDatabaseSlow(t *testing.T) {
	const delay, callersOfEach = 2 * time.Second, 20
	wire, url := faulttest.ToURL(t, pgtest.New(t))
	b := backend(t)
	s := serve(t, serving(url, seal.NewMasterKey(), "gateway.file="+behind(t, b.URL), "database.verify_timeout=500ms"))
	_, keys := mint(t, s, 13)
	known, unknown := keys[:8], keys[8:]
	use(t, s, "/b/echo", known)

	load := offer(s, 200, withKeys(s, "/b/echo", known)...)
	<-time.After(faultSpan(time.Second, 10*time.Second))
	before := load.end(t)
	for _, k := range unknown {
		wire.Watch(publicID(k))
	}
	load = offer(s, 200, withKeys(s, "/b/echo", known)...)
	wire.Set(faulttest.Fault{Delay: delay})
	var mu sync.Mutex
	var misses []time.Duration
	for _, k := range unknown {
		var all sync.WaitGroup
		for range callersOfEach {
			all.Go(func() {
				began := time.Now()
				a, err := s.Try(http.MethodGet, "/b/echo", nil, k.Auth()...)
				took := time.Since(began)
				mu.Lock()
				defer mu.Unlock()
				misses = append(misses, took)
				if err != nil {
					t.Error(err)
					return
				}
				comeAgain(t, a)
			})
		}
		all.Wait()
		if n := wire.Seen(publicID(k)); n > 1 {
			t.Errorf("%d callers with one key asked the database %d times", callersOfEach, n)
		}
	}
	<-time.After(faultSpan(0, 10*time.Second))
	during := load.end(t)
	wire.Set(faulttest.Fault{})
	for _, k := range unknown {
		apptest.Eventually(t, "what was not known works again", func() bool {
			return s.Call(t, http.MethodGet, "/b/echo", nil, k.Auth()...).Status == http.StatusOK
		})
	}
	p99 := faulttest.Percentile(misses, 99)
	if p99 >= delay {
		t.Errorf("those who are not known wait %v, as long as the database takes", p99)
	}
	if slow := during.Latency.Quantile(0.99); slow >= 500*time.Millisecond {
		t.Errorf("those who are known wait %v", slow)
	}
	faulttest.Measured(t, "REL-03", "known keys: 99th percentile %s before, %s meanwhile, 0 of %d failed; %d calls with %d unknown keys: 503 after %s (99th percentile), at most one query for each key",
		ms(before.Latency.Quantile(0.99)), ms(during.Latency.Quantile(0.99)), during.Sent, len(misses), len(unknown), ms(p99))
	s.stop()
}

// REL-04: a database that takes no connection more is waited for by a bounded
// number, for a bounded time.
func TestFaultDatabaseFull(t *testing.T) {
	const inFlight = 150 // of one address: from 200 look-ups on it would be throttled
	waves := 2
	if faulttest.Long() {
		waves = 30
	}
	database, b, metrics := pgtest.NewServer(t), backend(t), freeAddress(t)
	s := serve(t, serving(database.URL(), seal.NewMasterKey(), "gateway.file="+behind(t, b.URL), "server.metrics_addr="+metrics,
		"database.verify_timeout=500ms", "server.max_connections_per_ip=0"))
	_, keys := mint(t, s, 8)
	use(t, s, "/b/echo", keys)
	db := apptest.Connect(t, database.URL())
	limit := func(n int) {
		t.Helper()
		if _, err := db.Exec(t.Context(), alterDatabase(fmt.Sprintf("CONNECTION LIMIT %d", n))); err != nil {
			t.Fatal(err)
		}
	}
	limit(0)
	if _, err := db.Exec(t.Context(), `SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()`); err != nil {
		t.Fatal(err)
	}
	goroutines := func() uint64 {
		return number(t, "http://"+metrics+"/debug/pprof/goroutine?debug=1", `total (\d+)`)
	}
	load := offer(s, 200, withKeys(s, "/b/echo", keys)...)
	idle, most := goroutines(), uint64(0)
	var mu sync.Mutex
	var misses []time.Duration
	var never atomic.Bool
	for wave := range waves {
		var all sync.WaitGroup
		for i := range inFlight {
			all.Go(func() {
				key := (*generator)(nil).text(wave*inFlight + i) // well-formed, and never made: each has to be looked up
				c := &client{addr: s.Addr, stopping: &never, header: "\r\nX-API-Key: " + key}
				if !c.dial() {
					t.Error(c.fails)
					return
				}
				defer c.hangUp()
				began := time.Now()
				err := c.exchange(request("GET", "/b/echo", ""))
				took := time.Since(began)
				mu.Lock()
				defer mu.Unlock()
				misses = append(misses, took)
				if err == nil || !strings.HasPrefix(err.Error(), "status 503") {
					t.Errorf("a key that cannot be looked up: %v", err)
				}
			})
		}
		ended := make(chan struct{})
		go func() { all.Wait(); close(ended) }()
		for running := true; running; {
			most = max(most, goroutines())
			select {
			case <-ended:
				running = false
			case <-time.After(20 * time.Millisecond):
			}
		}
	}
	// One for the connection, one that notices its end, and the look-up that it waits
	// for: each wave needs as many as the first.
	if grew := most - min(idle, most); grew > 4*inFlight {
		t.Errorf("%d goroutines more for %d requests in flight", grew, inFlight)
	}
	apptest.Eventually(t, "the goroutines of the waves have ended", func() bool { return goroutines() < idle+inFlight/4+20 })
	r := load.end(t)
	limit(-1)
	apptest.Eventually(t, "it is ready again", s.ready)
	s.Want(t, http.StatusUnauthorized, http.MethodGet, "/b/echo", nil, "X-API-Key", (*generator)(nil).text(1))
	faulttest.Measured(t, "REL-04", "0 of %d calls with known keys failed; %d calls that had to ask, %d at a time: 503, half of them within %s, all within %s; goroutines %d, then at most %d, then back",
		r.Sent, len(misses), inFlight, ms(faulttest.Percentile(misses, 50)), ms(faulttest.Percentile(misses, 100)), idle, most)
	s.stop()
}

// fullDisk is a small file system that can be filled. Only root can have one.
type fullDisk struct {
	t   *testing.T
	dir string
}

func newDisk(t *testing.T, size string) *fullDisk {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("SKIPPED, NOT TESTED: only root can mount a small file system")
	}
	d := &fullDisk{t, openDir(t) + "/disk"}
	if err := os.Mkdir(d.dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("mount", "-t", "tmpfs", "-o", "mode=755,size="+size, "tmpfs", d.dir).CombinedOutput(); err != nil {
		t.Skipf("SKIPPED, NOT TESTED: no small file system can be mounted here: %s", out)
	}
	t.Cleanup(func() {
		if out, err := exec.Command("umount", "--lazy", d.dir).CombinedOutput(); err != nil {
			t.Errorf("umount: %s", out)
		}
	})
	return d
}

func (d *fullDisk) ballast() string { return filepath.Join(d.dir, "ballast") }

// fill leaves no room at all.
func (d *fullDisk) fill() {
	d.t.Helper()
	f, err := os.OpenFile(d.ballast(), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		d.t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	for _, size := range []int{1 << 20, 4096} {
		for err = nil; err == nil; {
			_, err = f.Write(make([]byte, size))
		}
		if !errors.Is(err, syscall.ENOSPC) {
			d.t.Fatal(err)
		}
	}
}

func (d *fullDisk) free() {
	d.t.Helper()
	if err := os.Remove(d.ballast()); err != nil {
		d.t.Fatal(err)
	}
}

// REL-06, REL-19: while the disk of the database is full, calls go on, and a change
// happens wholly or not at all.
func TestFaultDiskOfTheDatabaseFull(t *testing.T) {
	disk := newDisk(t, "256m")
	options := pglocal.Options{DataDir: filepath.Join(disk.dir, "p"), MaxConnections: 50}
	database, err := pglocal.Start(t.Context(), options)
	if errors.Is(err, pglocal.ErrNotInstalled) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = database.Stop(context.Background()) })
	b, metrics := backend(t), freeAddress(t)
	in := serving(database.URL(), seal.NewMasterKey(), "gateway.file="+behind(t, b.URL), "server.metrics_addr="+metrics, "keys.max_per_user=100000")
	s := serve(t, in)
	u, keys := mint(t, s, 8)
	use(t, s, "/b/echo", keys)
	load := offer(s, 200, withKeys(s, "/b/echo", keys)...)
	made := 0
	change := func() (done bool) {
		a := s.Call(t, http.MethodPost, "/api-keys", map[string]string{"name": strings.Repeat("n", 100)}, u.Auth()...)
		switch {
		case a.Status == http.StatusCreated:
			made++
			return true
		case a.Status < http.StatusInternalServerError:
			t.Fatalf("a change that has no room: %d %s", a.Status, a.Body)
		}
		return false
	}
	disk.fill()
	refused := 0
	// What PostgreSQL has allocated it may still use.
	for deadline := time.Now().Add(2 * time.Minute); refused < 20; {
		if !change() {
			refused++
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d changes were made on a full disk, and %d refused", made, refused)
		}
	}
	<-time.After(faultSpan(time.Second, 20*time.Second))
	live := s.Call(t, http.MethodGet, "/healthz", nil).Status
	disk.free()
	crashed := database.Err() != nil
	if crashed { // it ends when its log of changes has no room; who runs it starts it again
		_ = database.Stop(t.Context())
		if database, err = pglocal.Start(t.Context(), options); err != nil {
			t.Fatal(err)
		}
	}
	apptest.Eventually(t, "changes are made again", change)
	r := load.end(t)
	if live != http.StatusOK {
		t.Errorf("/healthz: %d", live)
	}
	nothingIsHalfDone(t, database.URL())
	var count int
	if err := apptest.Connect(t, database.URL()).QueryRow(t.Context(), `SELECT count(*) FROM api_keys`).Scan(&count); err != nil {
		t.Fatal(err)
	}
	if want := made + 8 + 1; count != want {
		t.Errorf("%d keys in the database, %d were acknowledged", count, want)
	}
	verify := in
	verify.args = append([]string{"audit", "verify"}, in.args[1:]...)
	run(t, verify).want(0, "The audit chain holds")
	dropped := optionalNumber(t, "http://"+metrics+"/metrics", `(?m)^keywarden_usage_dropped_total\S* (\S+)$`)
	faulttest.Measured(t, "REL-06", "0 of %d calls failed; %d changes were refused, nothing was done by half, the audit chain holds; requests not counted for usage: %d; PostgreSQL crashed: %t",
		r.Sent, refused, dropped, crashed)
	s.stop()
}

// optionalNumber is number of something that may not be there yet, which is 0.
func optionalNumber(t *testing.T, url, pattern string) uint64 {
	t.Helper()
	status, body, err := get(t.Context(), url)
	if err != nil || status != http.StatusOK {
		t.Fatalf("%s: status %d, %v", url, status, err)
	}
	found := regexp.MustCompile(pattern).FindStringSubmatch(body)
	if found == nil {
		return 0
	}
	n, err := strconv.ParseFloat(found[1], 64)
	if err != nil {
		t.Fatal(err)
	}
	return uint64(n)
}
