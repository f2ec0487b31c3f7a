// Package health finds out which targets of a service are well: actively, by
// asking them, and passively, by watching what becomes of the requests they get.
// What it finds is kept in the targets' states, where package balance looks.
package health

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"sync"
	"time"

	"github.com/keywarden/keywarden/pkg/gateway/balance"
)

// Kind says how a target is asked.
type Kind string

// The kinds of active check.
const (
	HTTP Kind = "http" // GET of a path, by the status of the answer
	TCP  Kind = "tcp"  // a connection
	GRPC Kind = "grpc" // a call of grpc.health.v1.Health/Check
)

// StatusRange is a range of HTTP statuses, both ends included.
type StatusRange struct{ From, To int }

// Contains reports whether status is in the range.
func (r StatusRange) Contains(status int) bool { return status >= r.From && status <= r.To }

// Active configures active checks. All fields are required, but Path and Status
// for HTTP only; Service is for GRPC and may be empty.
type Active struct {
	Kind           Kind
	Path           string        // escaped, with its query if any
	Service        string        // whose health a server is asked for; empty: its own
	Interval       time.Duration // between the begin of one check and the next
	Timeout        time.Duration // of one check
	HealthyAfter   int           // successes in a row until a target counts as well
	UnhealthyAfter int           // failures in a row until it does not
	Status         []StatusRange // statuses that are successes
}

// Prober sends the requests of HTTP checks; the pool of a target is one.
type Prober = http.RoundTripper

// Checked is a target to check.
type Checked struct {
	State  *balance.State
	URL    *url.URL // scheme, host and base path
	Prober Prober
}

// Checker checks the targets of one service until it is stopped.
type Checker struct {
	config  Active
	logger  *slog.Logger
	now     func() time.Time
	watched map[*balance.State]*watched
}

// watched is a target that is being checked.
type watched struct {
	Checked
	cancel context.CancelFunc
	done   sync.WaitGroup
}

// Start begins to check the targets, each at its own time within the interval.
func Start(config Active, targets []Checked, logger *slog.Logger, now func() time.Time) *Checker {
	c := &Checker{config: config, logger: logger, now: now}
	c.Follow(targets)
	return c
}

// Follow checks these targets from now on and no others; what is known of those
// that stay is kept. When it returns, the checks of others have ended. Follow and
// Stop are for one goroutine at a time.
func (c *Checker) Follow(targets []Checked) {
	next := make(map[*balance.State]*watched, len(targets))
	for _, t := range targets {
		if w := c.watched[t.State]; w != nil && w.Prober == t.Prober {
			next[t.State] = w
			delete(c.watched, t.State)
		}
	}
	c.Stop()
	for _, t := range targets {
		if next[t.State] != nil {
			continue
		}
		ctx, cancel := context.WithCancel(context.Background())
		w := &watched{Checked: t, cancel: cancel}
		w.done.Go(func() { c.watch(ctx, t) })
		next[t.State] = w
	}
	c.watched = next
}

// Stop ends all checks and waits for them.
func (c *Checker) Stop() {
	for _, w := range c.watched {
		w.cancel()
	}
	for _, w := range c.watched {
		w.done.Wait()
	}
	c.watched = nil
}

// watch checks one target again and again.
func (c *Checker) watch(ctx context.Context, t Checked) {
	// The first checks are spread, so that targets are not all asked at once.
	timer := time.NewTimer(rand.N(c.config.Interval)) //nolint:gosec // no secret
	defer timer.Stop()
	good, bad := 0, 0
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
		timer.Reset(c.config.Interval)
		err := c.check(ctx, t)
		switch {
		case ctx.Err() != nil:
			return
		case err == nil:
			good, bad = good+1, 0
			if t.State.Down() && good >= c.config.HealthyAfter {
				t.State.SetDown(false, c.now())
				c.logger.InfoContext(ctx, "a target is well again", "target", t.State.Name())
			}
		default:
			good, bad = 0, bad+1
			if !t.State.Down() && bad >= c.config.UnhealthyAfter {
				t.State.SetDown(true, c.now())
				c.logger.WarnContext(ctx, "a target is not well", "target", t.State.Name(), "error", err)
			}
		}
	}
}

// check asks once; nil means well.
func (c *Checker) check(ctx context.Context, t Checked) error {
	ctx, cancel := context.WithTimeout(ctx, c.config.Timeout)
	defer cancel()
	switch c.config.Kind {
	case TCP:
		return dial(ctx, t.URL)
	case GRPC:
		return c.call(ctx, t)
	default:
		return c.get(ctx, t)
	}
}

func dial(ctx context.Context, target *url.URL) error {
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", hostPort(target))
	if err != nil {
		return err
	}
	return conn.Close()
}

// hostPort is the address of a URL, with the port of its scheme when it has none.
func hostPort(u *url.URL) string {
	if u.Port() != "" {
		return u.Host
	}
	port := "80"
	if u.Scheme == "https" {
		port = "443"
	}
	return net.JoinHostPort(u.Hostname(), port)
}

// maxCheckBody bounds what is read of an answer, so that its connection can be
// used again.
const maxCheckBody = 64 << 10

func (c *Checker) get(ctx context.Context, t Checked) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, t.URL.Scheme+"://"+t.URL.Host+c.config.Path, nil)
	if err != nil {
		return err
	}
	req.Header.Set("User-Agent", "keywarden-health")
	resp, err := t.Prober.RoundTrip(req)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	_, _ = io.Copy(io.Discard, io.LimitReader(resp.Body, maxCheckBody))
	for _, r := range c.config.Status {
		if r.Contains(resp.StatusCode) {
			return nil
		}
	}
	return fmt.Errorf("status %d", resp.StatusCode)
}
