package cli_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/keywarden/keywarden/pkg/pglocal/pgtest"
	"github.com/keywarden/keywarden/pkg/seal"
	"github.com/keywarden/keywarden/pkg/store/redis/redistest"
)

// What four replicas are offered.
const (
	limitPerSecond = 200
	limitReplicas  = 4
	overload       = 10 // times the limit
	callers        = 32 // closed loops, all replicas together

	// largestLease is the most units that one replica holds for a subject: 1/40 of the
	// limit, see ratelimit.Leased.
	largestLease = limitPerSecond / 40
)

const limitedDocument = `
version: 1
routes:
  - name: limited
    match: {path: {exact: /limited}}
    auth: {mode: none}
    rate_limit: [{name: all, by: route, rate: %d/1s}]
    respond: {status: 204}
`

// fleet is some replicas on one database, and what they have answered.
type fleet struct {
	t        *testing.T
	replicas []*server
	began    time.Time
	offered  atomic.Int64
	alone    atomic.Int64 // answers by the share of one replica

	mu       sync.Mutex
	accepted []time.Duration // since began
	failed   []string
}

func startFleet(t *testing.T, set ...string) *fleet {
	file := writeFile(t, t.TempDir()+"/gateway.yaml", fmt.Sprintf(limitedDocument, limitPerSecond))
	in := serving(pgtest.New(t), seal.NewMasterKey(), append([]string{"gateway.file=" + file, "gateway.watch=false"}, set...)...)
	f := &fleet{t: t}
	for range limitReplicas {
		f.replicas = append(f.replicas, serve(t, in))
	}
	return f
}

// load offers requests at a steady pace for a time.
func (f *fleet) load(span time.Duration) {
	f.mu.Lock()
	f.accepted, f.failed = nil, nil
	f.mu.Unlock()
	f.offered.Store(0)
	f.alone.Store(0)
	f.began = time.Now()
	ctx, cancel := context.WithTimeout(context.Background(), span)
	defer cancel()
	var group sync.WaitGroup
	for i := range callers {
		transport := &http.Transport{MaxConnsPerHost: 1}
		client := &http.Client{Transport: transport, Timeout: 10 * time.Second}
		url := f.replicas[i%len(f.replicas)].URL + "/limited"
		group.Go(func() {
			defer transport.CloseIdleConnections()
			pace := time.NewTicker(callers * time.Second / (limitPerSecond * overload))
			defer pace.Stop()
			for ctx.Err() == nil {
				select {
				case <-ctx.Done():
				case <-pace.C:
					f.call(client, url)
				}
			}
		})
	}
	group.Wait()
}

func (f *fleet) call(client *http.Client, url string) {
	resp, err := client.Get(url)
	at := time.Since(f.began)
	f.offered.Add(1)
	f.mu.Lock()
	defer f.mu.Unlock()
	if err != nil {
		f.failed = append(f.failed, err.Error())
		return
	}
	_, _ = io.Copy(io.Discard, resp.Body)
	_ = resp.Body.Close()
	if resp.Header.Get("X-RateLimit-Scope") == "replica" {
		f.alone.Add(1)
	}
	switch {
	case resp.Header.Get("X-RateLimit-Limit") == "" || resp.Header.Get("RateLimit") == "" || resp.Header.Get("RateLimit-Policy") == "":
		f.failed = append(f.failed, fmt.Sprintf("status %d without the fields of the limit", resp.StatusCode))
	case resp.StatusCode == http.StatusNoContent:
		f.accepted = append(f.accepted, at)
	case resp.StatusCode != http.StatusTooManyRequests || resp.Header.Get("Retry-After") == "":
		f.failed = append(f.failed, fmt.Sprintf("status %d, Retry-After %q", resp.StatusCode, resp.Header.Get("Retry-After")))
	}
}

// windows counts what was accepted in each second.
func (f *fleet) windows(n int) []int {
	counts := make([]int, n)
	for _, at := range f.accepted {
		if i := int(at / time.Second); i < n {
			counts[i]++
		}
	}
	return counts
}

// holds checks what was accepted in each window but the first ones, which may use
// what was saved up.
func (f *fleet) holds(counts []int, least, most int) {
	f.t.Helper()
	for _, fail := range f.failed[:min(3, len(f.failed))] {
		f.t.Errorf("of %d requests %d failed: %s", f.offered.Load(), len(f.failed), fail)
	}
	total := 0
	for _, n := range counts {
		total += n
	}
	mean := float64(total) / float64(len(counts))
	f.t.Logf("limit %d a second, %d offered, accepted in each second: %v, mean %.1f (%.1f %%), bound of a second %d",
		limitPerSecond, f.offered.Load(), counts, mean, 100*mean/limitPerSecond, most)
	if mean < 0.95*limitPerSecond || mean > 1.10*limitPerSecond {
		f.t.Errorf("the mean is not within 95 %% and 110 %% of the limit")
	}
	if slices.Max(counts) > most || slices.Min(counts) < least {
		f.t.Errorf("a second is not from %d to %d", least, most)
	}
}

// TestLimitsHoldOverFourReplicas offers ten times a limit to four programs that
// share counters.
func TestLimitsHoldOverFourReplicas(t *testing.T) {
	if testing.Short() {
		t.Skip("takes half a minute")
	}
	// Answers that cross the border of two seconds are on their way for at most a
	// moment: a caller has one.
	const most = limitPerSecond + limitReplicas*largestLease + callers
	const warm = 2
	windows := 6
	if soaking() {
		windows = 20
	}
	for name, set := range map[string]func(t *testing.T) []string{
		"postgres": func(*testing.T) []string { return []string{"counters.store=postgres"} },
		"redis": func(t *testing.T) []string {
			return []string{"counters.store=redis", "redis.url=" + redistest.Start(t).URL.Reveal()}
		},
		"redis strict": func(t *testing.T) []string {
			return []string{"counters.strict=true", "redis.url=" + redistest.Start(t).URL.Reveal()}
		},
	} {
		t.Run(name, func(t *testing.T) {
			// A machine that tests keep busy is no outage, neither of the store nor of the clients.
			f := startFleet(t, append(set(t), "counters.timeout=1s", "redis.timeout=1s")...)
			f.load(time.Duration(warm+windows) * time.Second)
			f.holds(f.windows(warm + windows)[warm:], limitPerSecond*6/10, most)
			if n := f.alone.Load(); n > 0 {
				t.Errorf("%d answers were decided without the store", n)
			}
		})
	}
}

// REL-08: without Redis each replica enforces its share, says so, and nothing fails.
func TestLimitsHoldByShareWithoutRedis(t *testing.T) {
	server := redistest.Start(t)
	f := startFleet(t, "redis.url="+server.URL.Reveal())
	f.load(8 * time.Second) // heartbeats have told every replica of the others
	server.Stop()
	const warm, windows = 2, 4
	f.load((warm + windows) * time.Second)
	f.holds(f.windows(warm + windows)[warm:], limitPerSecond*8/10, limitPerSecond+callers)
	if n, all := f.alone.Load(), f.offered.Load(); n < all*9/10 {
		t.Errorf("of %d answers %d say that a replica has decided alone", all, n)
	}
}
