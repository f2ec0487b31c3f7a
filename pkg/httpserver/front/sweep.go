package front

import (
	"context"
	"time"
)

const (
	// sweepTick is how often the server looks whether clients are still there.
	sweepTick = 250 * time.Millisecond

	// oftenLooked is after how many looks a handler counts as one that takes long. Then
	// every third look is enough to notice a client that left within a second.
	oftenLooked = 8
)

// Watch cancels the requests whose clients have gone, until ctx ends. It looks only at
// connections whose handler has been running since the last look: a reader in the
// background of each request, as net/http has it, costs more than most requests do.
func (s *Server) Watch(ctx context.Context) {
	tick := time.NewTicker(sweepTick)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			for _, c := range s.slow() {
				if c.gone() {
					c.cancel()
				}
			}
		}
	}
}

// slow are the connections to look at now.
func (s *Server) slow() []*connection {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []*connection
	for c := range s.open {
		turn := c.turn.Load()
		switch {
		case turn != c.seen:
			c.seen, c.looks = turn, 0
		case turn%2 == 1:
			if c.looks++; c.looks <= oftenLooked || c.looks%3 == 0 {
				out = append(out, c)
			}
		}
	}
	return out
}
