package httpserver

import (
	"context"
	"fmt"
	"log/slog"
	"time"
)

const (
	// drainTick is how often a shutdown looks at the connections.
	drainTick = 20 * time.Millisecond

	// unwindLimit is how long handlers whose connections were cut off have to
	// notice it.
	unwindLimit = time.Second
)

// Shutdown ends the server without losing a request, as far as ctx allows:
//
//  1. For DrainDelay everything goes on. The caller has withdrawn readiness.
//  2. For DrainGrace connections are still accepted, but each answer asks its
//     client to close: "Connection: close", in HTTP/2 GOAWAY.
//  3. The backlog is accepted until nothing more waits in it, and the listener
//     is closed.
//  4. Requests, streams and hijacked connections run to their end.
//  5. When ctx ends, what is left is cut off, and its number is in the error.
//
// From step 2 on, a connection that waits for a request is closed once it has
// been silent for IdleGrace. net/http would close it at once, together with the
// request that is just arriving on it; a client that is busy is instead told to
// leave with its next answer. A further call waits for the first one.
func (s *Server) Shutdown(ctx context.Context) error {
	s.mu.Lock()
	first, serving, ln := !s.stopping, s.serving, s.listener
	s.stopping = true
	s.mu.Unlock()
	if !first {
		<-s.stopped
		return nil
	}
	defer close(s.stopped)

	if serving {
		sleep(ctx, s.opts.DrainDelay)
		s.conns.draining.Store(true)
	}
	close(s.draining)
	if serving {
		s.drain(ctx, ln)
	}
	if ln != nil {
		_ = ln.Close()
	}
	if serving && s.front != nil {
		<-s.acceptDone // what was accepted last is among the connections
	}
	return s.cutOff(ctx)
}

// drain is steps 2 to 4; it returns when nothing is left or ctx ends.
func (s *Server) drain(ctx context.Context, ln *listener) {
	graceOver := time.NewTimer(s.opts.DrainGrace)
	defer graceOver.Stop()
	tick := time.NewTicker(drainTick)
	defer tick.Stop()

	acceptDone := s.acceptDone
	var goAwayAt time.Time // set when nothing is accepted any more
	goneAway := s.http2 == nil
	for {
		select {
		case <-ctx.Done():
			return
		case <-graceOver.C:
			ln.stop()
		case <-acceptDone:
			acceptDone = nil
			goAwayAt = time.Now().Add(s.opts.IdleGrace)
		case <-tick.C:
			s.closeQuiet()
		}
		if acceptDone != nil {
			continue
		}
		if s.conns.count() == 0 {
			return
		}
		if !goneAway && time.Now().After(goAwayAt) && !s.conns.shakingHands() {
			goneAway = true
			s.goAway(ctx)
		}
	}
}

// goAway tells the clients of HTTP/2 that have not been told with an answer. It
// comes late: a connection that was just accepted must be served its first
// request, and none is served that completes its handshake afterwards.
func (s *Server) goAway(ctx context.Context) {
	s.background.Go(func() { _ = s.http2.Shutdown(ctx) })
}

// closeQuiet closes the connections on which nothing is going on.
func (s *Server) closeQuiet() {
	for _, c := range s.conns.list((*conn).quiet) {
		c.closing = true
		if c.outer == c {
			_ = c.Close()
			continue
		}
		// TLS says goodbye first, which can block on a client that does not read.
		s.background.Go(func() { _ = c.outer.Close() })
	}
}

// cutOff ends everything that is left.
func (s *Server) cutOff(ctx context.Context) error {
	left := s.conns.list(func(*conn) bool { return true })
	for _, c := range left {
		_ = c.Close() // below TLS, so that no client can hold it up
	}
	_ = s.http1.Close()
	if s.http2 != nil {
		_ = s.http2.Close()
	}
	s.cancelBase()
	s.unwind()
	s.background.Wait()
	if err := s.metrics.Unregister(); err != nil {
		s.opts.Logger.Warn("metrics of a listener are left", slog.String("listener", s.opts.Name), slog.Any("err", err))
	}
	if len(left) == 0 {
		return nil
	}
	return fmt.Errorf("httpserver: %d connections were cut off: %w", len(left), context.Cause(ctx))
}

// unwind waits for the handlers that still run, so that the caller does not
// close the database under them.
func (s *Server) unwind() {
	limit := time.NewTimer(unwindLimit)
	defer limit.Stop()
	tick := time.NewTicker(drainTick / 4)
	defer tick.Stop()
	for s.inFlight.Load() > 0 {
		select {
		case <-limit.C:
			s.opts.Logger.Warn("handlers did not end when their connections were cut off",
				slog.String("listener", s.opts.Name), slog.Int64("handlers", s.inFlight.Load()))
			return
		case <-tick.C:
		}
	}
}

func sleep(ctx context.Context, d time.Duration) {
	if d <= 0 {
		return
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}
