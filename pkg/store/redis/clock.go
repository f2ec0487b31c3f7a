package redis

import (
	"context"
	"time"
)

// Now is the clock of Redis, by which it counts.
func (s *Store) Now(ctx context.Context) (time.Time, error) { return s.client.Time(ctx).Result() }
