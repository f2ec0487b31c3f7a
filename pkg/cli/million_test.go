package cli_test

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"fmt"
	"hash"
	"hash/crc32"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/keywarden/keywarden/pkg/apikey"
	"github.com/keywarden/keywarden/pkg/app/apptest"
	"github.com/keywarden/keywarden/pkg/app/platform"
	"github.com/keywarden/keywarden/pkg/config"
	"github.com/keywarden/keywarden/pkg/pglocal/pgtest"
	"github.com/keywarden/keywarden/pkg/seal"
)

// Sizes of the benchmark.
const (
	manyKeys   = 1_000_000
	manyUsers  = 10_000
	cacheLimit = 10_000  // keys.cache_entries
	firstCalls = 2_000   // keys that are used for the first time, timed one by one
	distinct   = 100_000 // keys that are used altogether: ten times what the cache holds
)

// BenchmarkMillionKeys shows that the number of keys in the table costs nothing
// at the start, nothing for a key that is known, and no memory beyond the cache, and
// that a page of a list costs the same wherever it is.
func BenchmarkMillionKeys(b *testing.B) {
	if testing.Short() {
		b.Skip("it fills a database with a million keys")
	}
	url, master := pgtest.New(b), seal.NewMasterKey()
	ring, err := seal.ParseKeyring(master)
	if err != nil {
		b.Fatal(err)
	}
	keys := newGenerator(b, ring)
	empty := programFigures(b, url, master, keys, 0)
	began := time.Now()
	keys.fill(b, url)
	b.Logf("%d keys of %d users inserted in %v", manyKeys, manyUsers, time.Since(began).Round(time.Second))
	full := programFigures(b, url, master, keys, distinct)

	b.Run("program", func(b *testing.B) {
		b.ReportMetric(0, "ns/op") // measured above, once
		b.ReportMetric(float64(empty.start.Milliseconds()), "start-empty-ms")
		b.ReportMetric(float64(full.start.Milliseconds()), "start-ms")
		b.ReportMetric(float64(empty.idle)/(1<<20), "rss-empty-MiB")
		b.ReportMetric(float64(full.idle)/(1<<20), "rss-started-MiB")
		b.ReportMetric(float64(full.used)/(1<<20), "rss-used-MiB")
		b.ReportMetric(float64(full.heap)/(1<<20), "heap-inuse-MiB")
		b.ReportMetric(float64(full.cached), "cached-keys")
		b.ReportMetric(float64(full.first50.Microseconds()), "first-p50-µs")
		b.ReportMetric(float64(full.first99.Microseconds()), "first-p99-µs")
		b.ReportMetric(float64(full.again50.Microseconds()), "again-p50-µs")
	})
	if full.cached > cacheLimit {
		b.Errorf("%d keys are in memory, the limit is %d", full.cached, cacheLimit)
	}
	p := openPlatform(b, url, ring)
	client := netip.MustParseAddr("192.0.2.1")
	verify := func(b *testing.B, key string) {
		if _, err := p.KeyCheck.VerifyKey(b.Context(), key, client); err != nil {
			b.Fatalf("%s: %v", key, err)
		}
	}
	b.Run("warm", func(b *testing.B) {
		const working = 1_000 // keys that are used again and again
		texts := make([]string, working)
		for i := range texts {
			texts[i] = keys.text(i)
			verify(b, texts[i])
		}
		b.ReportAllocs()
		i := 0
		for b.Loop() {
			verify(b, texts[i%working])
			i++
		}
	})
	b.Run("first", func(b *testing.B) {
		b.ReportAllocs()
		i := manyKeys // from the other end: none of them is known
		for b.Loop() {
			i--
			verify(b, keys.text(i))
		}
	})
	for _, page := range pages(b, url) {
		b.Run("page/"+page.name, func(b *testing.B) {
			var slow []time.Duration
			b.ReportAllocs()
			for b.Loop() {
				began := time.Now()
				list, err := p.Keys.List(b.Context(), page.filter)
				if err != nil || len(list) != page.filter.Limit {
					b.Fatalf("%d keys: %v", len(list), err)
				}
				slow = append(slow, time.Since(began))
			}
			slices.Sort(slow)
			b.ReportMetric(float64(percentile(slow, 99).Microseconds()), "p99-µs")
		})
	}
}

// pageSize is how many keys a page of a list has.
const pageSize = 100

// page is one page of a list.
type page struct {
	name   string
	filter apikey.Filter
}

// pages are pages of the list of all keys, as an admin sees it: the first, one half way
// through, and the last. Then one of the list of a single user.
func pages(b *testing.B, url string) []page {
	b.Helper()
	db := apptest.Connect(b, url)
	text := func(query string, args ...any) (value string) {
		b.Helper()
		if err := db.QueryRow(b.Context(), query, args...).Scan(&value); err != nil {
			b.Fatal(err)
		}
		return value
	}
	after := func(n int) string {
		return text(`SELECT id::text FROM api_keys ORDER BY id DESC OFFSET $1 LIMIT 1`, n-1)
	}
	return []page{
		{"first", apikey.Filter{Limit: pageSize}},
		{"middle", apikey.Filter{Limit: pageSize, Before: after(manyKeys / 2)}},
		{"last", apikey.Filter{Limit: pageSize, Before: after(manyKeys - pageSize)}},
		{"user", apikey.Filter{Limit: manyKeys / manyUsers, UserID: text(`SELECT user_id::text FROM api_keys LIMIT 1`)}},
	}
}

// openPlatform is the platform in this process, to time what it does without HTTP.
func openPlatform(b *testing.B, url string, ring *seal.Keyring) *platform.Platform {
	b.Helper()
	cfg, err := config.Load(config.Source{Flags: map[string]string{"keys.cache_entries": strconv.Itoa(cacheLimit)}})
	if err != nil {
		b.Fatal(err)
	}
	logger := slog.New(slog.DiscardHandler)
	p, err := platform.Open(b.Context(), platform.Options{Config: cfg, URL: seal.NewSecret(url), Ring: ring, Logger: logger})
	if err != nil {
		b.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	if err := p.Start(ctx); err != nil {
		b.Fatal(err)
	}
	var running sync.WaitGroup
	for _, task := range append(p.Followers(), p.Chores(logger)...) {
		running.Go(func() { _ = task(ctx) })
	}
	b.Cleanup(func() {
		cancel()
		running.Wait()
		p.Close()
	})
	return p
}

// figures are what the program costs.
type figures struct {
	start                     time.Duration // from the call of the program until it serves
	idle, used, heap          uint64        // bytes: resident after the start, after the use, and of the heap then
	cached                    int
	first50, first99, again50 time.Duration // of one call over HTTP
}

// programFigures starts the program and uses as many keys as are asked for.
func programFigures(b *testing.B, url string, master seal.Secret, keys *generator, use int) (f figures) {
	b.Helper()
	metrics := freeAddress(b)
	in := serving(url, master, "keys.cache_entries="+strconv.Itoa(cacheLimit), "server.metrics_addr="+metrics, "log.level=info")
	s := serve(b, in) // the first start of all migrates and makes keys
	f.start = time.Hour
	for range 3 { // the best of them: the machine has other things to do
		s.stop()
		began := time.Now()
		s = serve(b, in)
		f.start = min(f.start, time.Since(began))
	}
	f.idle = residentBytes(b, s.cmd.Process.Pid)
	if use == 0 {
		s.stop()
		return f
	}
	connection := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 1}}
	defer connection.CloseIdleConnections()
	call := func(i int) time.Duration {
		began := time.Now()
		req, err := http.NewRequestWithContext(b.Context(), http.MethodGet, s.URL+"/api/test", nil)
		if err != nil {
			b.Fatal(err)
		}
		req.Header.Set("X-API-Key", keys.text(i))
		resp, err := connection.Do(req)
		if err != nil {
			b.Fatal(err)
		}
		_, _ = io.Copy(io.Discard, resp.Body)
		_ = resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			b.Fatalf("key %d: status %d", i, resp.StatusCode)
		}
		return time.Since(began)
	}
	var first, again []time.Duration
	for i := range use {
		took := call(i)
		if i >= use-firstCalls {
			first = append(first, took)
			again = append(again, call(i))
		}
	}
	slices.Sort(first)
	slices.Sort(again)
	f.first50, f.first99, f.again50 = percentile(first, 50), percentile(first, 99), percentile(again, 50)
	f.used = residentBytes(b, s.cmd.Process.Pid)
	f.heap = number(b, "http://"+metrics+"/debug/pprof/heap?debug=1&gc=1", `(?m)^# HeapInuse = (\d+)$`)
	f.cached = int(number(b, "http://"+metrics+"/metrics", `(?m)^keywarden_keys_cached\S* (\S+)$`))
	s.stop()
	return f
}

func freeAddress(b testing.TB) string {
	b.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	return l.Addr().String()
}

// number reads the number that the pattern finds at url.
func number(b testing.TB, url, pattern string) uint64 {
	b.Helper()
	status, body, err := get(context.Background(), url)
	if err != nil || status != http.StatusOK {
		b.Fatalf("%s: status %d, %v", url, status, err)
	}
	found := regexp.MustCompile(pattern).FindStringSubmatch(body)
	if found == nil {
		b.Fatalf("%s has nothing like %s", url, pattern)
	}
	n, err := strconv.ParseFloat(found[1], 64)
	if err != nil {
		b.Fatal(err)
	}
	return uint64(n)
}

// residentBytes is the memory that a process holds; 0 where that cannot be seen.
func residentBytes(b testing.TB, pid int) uint64 {
	b.Helper()
	if runtime.GOOS != "linux" {
		return 0
	}
	found := regexp.MustCompile(`VmRSS:\s+(\d+) kB`).FindStringSubmatch(readFile(b, fmt.Sprintf("/proc/%d/status", pid)))
	if found == nil {
		b.Fatal("no VmRSS in /proc")
	}
	n, err := strconv.ParseUint(found[1], 10, 64)
	if err != nil {
		b.Fatal(err)
	}
	return n << 10
}

// generator makes the keys of the benchmark by their number, so that nobody has
// to remember a million of them. It follows docs/decisions and package apikey.
type generator struct {
	pepperID string
	mac      hash.Hash
}

func newGenerator(b *testing.B, ring *seal.Keyring) *generator {
	b.Helper()
	return &generator{pepperID: ring.IDs()[0], mac: hmac.New(sha256.New, ring.Derive("api-key-verifier"))}
}

const base62 = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"

// text is key number i.
func (*generator) text(i int) string {
	seed := sha256.Sum256(strconv.AppendInt(nil, int64(i), 10))
	key := append(make([]byte, 0, 58), "kw_live_bench"...)
	for at := 6; at >= 0; at-- { // the rest of the public id
		key = append(key, base62[i/pow62(at)%62])
	}
	for _, v := range seed {
		key = append(key, base62[int(v)%62])
	}
	sum := int(crc32.ChecksumIEEE(key))
	for at := 5; at >= 0; at-- {
		key = append(key, base62[sum/pow62(at)%62])
	}
	return string(key)
}

func pow62(n int) int {
	p := 1
	for range n {
		p *= 62
	}
	return p
}

// verifier is what the database keeps of a key.
func (g *generator) verifier(key string) []byte {
	g.mac.Reset()
	_, _ = io.WriteString(g.mac, key)
	return g.mac.Sum(nil)
}

// fill inserts all the keys, past the program.
func (g *generator) fill(b *testing.B, url string) {
	b.Helper()
	db := apptest.Connect(b, url)
	now := time.Now().UTC()
	users := make([]uuid.UUID, manyUsers)
	for i := range users {
		users[i] = uuid.Must(uuid.NewV7())
	}
	id := func(table byte, i int) uuid.UUID {
		sum := sha256.Sum256([]byte{table, byte(i), byte(i >> 8), byte(i >> 16)})
		return uuid.UUID(sum[:16])
	}
	copyRows := func(table string, columns []string, n int, row func(i int) []any) {
		b.Helper()
		if _, err := db.CopyFrom(b.Context(), []string{table}, columns, &rows{n: n, row: row}); err != nil {
			b.Fatalf("fill %s: %v", table, err)
		}
	}
	copyRows("users", []string{"id", "email", "role", "password_hash", "created_at", "updated_at"}, manyUsers, func(i int) []any {
		return []any{users[i], fmt.Sprintf("bench%d@example.com", i), "user", "none", now, now}
	})
	copyRows("api_keys", []string{"id", "public_id", "user_id", "name", "env", "prefix", "last_four", "created_at", "updated_at"}, manyKeys, func(i int) []any {
		key := g.text(i)
		return []any{id('k', i), key[8:20], users[i%manyUsers], "bench", "live", key[:20], key[len(key)-4:], now, now}
	})
	copyRows("api_key_secrets", []string{"id", "key_id", "bcrypt", "verifier", "pepper_id", "created_at"}, manyKeys, func(i int) []any {
		// A hash of nothing: the verifier spares bcrypt.
		return []any{id('s', i), id('k', i), "$2a$10$abcdefghijklmnopqrstuuJvNOIxxH9dKHd1kFKDF0Z5vWzu0mFc6", g.verifier(g.text(i)), g.pepperID, now}
	})
	if _, err := db.Exec(b.Context(), `ANALYZE`); err != nil {
		b.Fatal(err)
	}
}

// rows feeds COPY.
type rows struct {
	n, next int
	row     func(i int) []any
}

// Next implements pgx.CopyFromSource.
func (r *rows) Next() bool {
	r.next++
	return r.next <= r.n
}

// Values implements pgx.CopyFromSource.
func (r *rows) Values() ([]any, error) { return r.row(r.next - 1), nil }

// Err implements pgx.CopyFromSource.
func (*rows) Err() error { return nil }
