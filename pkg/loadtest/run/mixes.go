package main

import (
	"context"
	"fmt"
	"math"
	"net/http"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/crypto/bcrypt"

	"github.com/keywarden/keywarden/pkg/loadtest"
)

// mix is a kind of requests.
type mix struct {
	name string
	what string
	rate float64 // unless told otherwise: what two busy cores carry
	// calls are sent in turn, one after the other.
	calls func(s *site) []call
	// hashes says that each request takes a password hash, which is slow on purpose.
	// In turn with the requests a hash alone is made, and the bounds hold for what the
	// percentiles of the requests are beyond those of the hashes.
	hashes bool
	// refusing, if positive, is how many requests a second may pass; the others are to
	// be refused.
	refusing float64
}

// call is one request, and the statuses that are right.
type call struct {
	request []byte
	right   []int
}

// limitRate is the limit of the route "limited" in configs/load/gateway.yaml, and
// its burst.
const limitRate = 50

// mixes are those of configs/load.
var mixes = []mix{
	{name: "login", what: "sign in with a password", rate: 1, hashes: true, calls: func(s *site) (list []call) {
		for _, u := range s.users {
			body := fmt.Sprintf(`{"email":%q,"password":%q}`, u.email, password)
			list = append(list, call{loadtest.Request(http.MethodPost, "/auth/login", s.addr, body), []int{http.StatusOK}})
		}
		return list
	}},
	{name: "key", what: "a key and an access token in turn at the platform itself", rate: 500, calls: func(s *site) (list []call) {
		for _, u := range s.users {
			list = append(list,
				call{loadtest.Request(http.MethodGet, "/api/test", s.addr, "", "X-API-Key: "+u.key), []int{http.StatusOK}},
				call{loadtest.Request(http.MethodGet, "/api/test", s.addr, "", "Authorization: Bearer "+u.token), []int{http.StatusOK}})
		}
		return list
	}},
	{name: "proxy", what: "calls through the gateway: lists, single records, one write in ten", rate: 500, calls: func(s *site) (list []call) {
		paths := []string{"/api/users", "/api/products", "/api/users/1", "/api/products/1", "/api/products", "/api/users/2", "/api/products/2", "/api/users", "/api/products/1"}
		for _, u := range s.users {
			for _, path := range paths {
				list = append(list, call{loadtest.Request(http.MethodGet, path, s.addr, "", "X-API-Key: "+u.key), []int{http.StatusOK}})
			}
			list = append(list, call{loadtest.Request(http.MethodPatch, "/api/products/1", s.addr, `{"stock": 7}`, "X-API-Key: "+u.key), []int{http.StatusOK}})
		}
		return list
	}},
	{name: "limits", what: fmt.Sprintf("one key at a route that lets %d a second through", limitRate), rate: 200, refusing: limitRate, calls: func(s *site) []call {
		return []call{{
			loadtest.Request(http.MethodGet, "/api/limited/products", s.addr, "", "X-API-Key: "+s.users[0].key),
			[]int{http.StatusOK, http.StatusTooManyRequests},
		}}
	}},
}

// measured is what became of a mix.
type measured struct {
	mix
	*loadtest.Result
	rate     float64          // that was asked for
	passed   int64            // of those that count or came before: answered with the first right status
	hash     *loadtest.Result // hashes alone, at the same rate, if the mix takes them
	p95, p99 time.Duration    // bounds
	span     time.Duration    // warming up included
}

// beyond is the percentile of the requests, without that of a hash alone where they
// take one. It can be negative: both are measured, on a machine that does other
// things as well.
func (m measured) beyond(q float64) time.Duration {
	d := m.Latency.Quantile(q)
	if m.hash != nil {
		d -= m.hash.Latency.Quantile(q)
	}
	return d
}

// fewestHashes is how many requests with a hash a measurement has at least: of fewer
// the 99th percentile is the longest, and says little.
const fewestHashes = 100

// exchangeTimeout bounds one request. It is far above the bounds: what takes that
// long is a failure of its own.
const exchangeTimeout = 10 * time.Second

// measure sends one mix.
func (s *site) measure(ctx context.Context, o settings, m mix) (measured, error) {
	span := o.duration
	if m.hashes {
		span = max(span, time.Duration(math.Ceil(fewestHashes/o.rates[m.name]*float64(time.Second))))
	}
	done := measured{mix: m, rate: o.rates[m.name], p95: o.p95, p99: o.p99, span: o.warm + span}
	calls := m.calls(s)
	conns := make([]*loadtest.Conn, o.workers)
	for i := range conns {
		conns[i] = loadtest.NewConn(s.addr, exchangeTimeout)
		defer conns[i].Close()
	}
	var passed atomic.Int64
	var alone sync.WaitGroup
	if m.hashes {
		hashed, err := bcrypt.GenerateFromPassword([]byte(password), defaultCost)
		if err != nil {
			return done, err
		}
		alone.Go(func() { done.hash = hashesAlone(ctx, done.rate, o.warm, span, hashed) })
	}
	done.Result = loadtest.Run(ctx, loadtest.Plan{
		Rate: done.rate, Warm: o.warm, Duration: span, Workers: o.workers,
		Do: func(ctx context.Context, worker, n int) error {
			c := calls[n%len(calls)]
			status, body, err := conns[worker].Exchange(ctx, c.request)
			switch {
			case err != nil:
				return err
			case !slices.Contains(c.right, status):
				return fmt.Errorf("status %d: %.200s", status, body)
			case status == c.right[0]:
				passed.Add(1)
			}
			return nil
		},
	})
	alone.Wait()
	done.passed = passed.Load()
	return done, ctx.Err()
}

// defaultCost is accounts.bcrypt_cost where nothing else is set.
const defaultCost = 12

// hashesAlone compares a password with its hash at the rate of the logins, half an
// interval after each, with as many at once as accounts.hash_concurrency has by
// default. So both meet the same machine: its speed of the moment, its other work,
// and one another.
func hashesAlone(ctx context.Context, rate float64, warm, span time.Duration, hashed []byte) *loadtest.Result {
	select {
	case <-ctx.Done():
		return &loadtest.Result{}
	case <-time.After(time.Duration(float64(time.Second) / rate / 2)):
	}
	return loadtest.Run(ctx, loadtest.Plan{
		Rate: rate, Warm: warm, Duration: span, Workers: max(1, runtime.NumCPU()/2),
		Do: func(context.Context, int, int) error { return bcrypt.CompareHashAndPassword(hashed, []byte(password)) },
	})
}
