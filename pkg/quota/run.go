package quota

import (
	"context"
	"time"
)

// Stats tell what the meters hold and have done.
type Stats struct {
	Subjects  int   // that are remembered
	Leased    int64 // units that are held and not given out
	Lost      int64 // units that could not be given back: lost to their period
	Unmetered int64 // units that open quotas let pass without the ledger
	Events    int64 // that this replica has caused

	Granted int64 // requests that had enough, those without the ledger included
	Refused int64 // requests that had not
	Unknown int64 // requests that were refused because the ledger did not answer
	Failed  int64 // calls of the ledger for units that it did not answer
}

// Stats walks all subjects; it is meant for metrics.
func (ms *Meters) Stats() Stats {
	s := Stats{
		Lost: ms.lost.Load(), Unmetered: ms.passed.Load(), Events: ms.told.Load(),
		Failed: ms.failed.Load(),
	}
	for i := range ms.shards {
		sh := &ms.shards[i]
		s.Granted, s.Refused, s.Unknown = s.Granted+sh.granted.Load(), s.Refused+sh.refused.Load(), s.Unknown+sh.unknown.Load()
		sh.mu.Lock()
		s.Subjects += len(sh.leases)
		for _, e := range sh.leases {
			if e.mu.TryLock() { // one that waits for the ledger holds next to nothing
				s.Leased += e.units
				e.mu.Unlock()
			}
		}
		sh.mu.Unlock()
	}
	return s
}

// Changed tells that something was done to an account, by its id: the ledger is
// asked before any more of its units are given out.
func (ms *Meters) Changed(id string) { ms.changed(func(e *lease) bool { return e.id == id }) }

// Reset tells that changes may have been missed; see [Meters.Changed].
func (ms *Meters) Reset() { ms.changed(func(*lease) bool { return true }) }

func (ms *Meters) changed(concerns func(*lease) bool) {
	for i := range ms.shards {
		for _, e := range ms.shards[i].all() {
			if concerns(e) {
				e.stale.Store(true)
			}
		}
	}
}

// all is a copy of the list of leases, for those who wait for their locks: a lease
// that waits for the ledger must not hold up the others of its shard.
func (s *shard) all() []*lease {
	s.mu.Lock()
	defer s.mu.Unlock()
	list := make([]*lease, 0, len(s.leases))
	for _, e := range s.leases {
		list = append(list, e)
	}
	return list
}

// Run gives back what subjects who went silent do not need, and books what is owed,
// until ctx ends. [Meters.Close] is to be called after it.
func (ms *Meters) Run(ctx context.Context) error {
	tick := time.NewTicker(interval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case u := <-ms.unused:
			ms.giveBackBatch(ctx, ms.gather([]Unused{u}))
		case <-tick.C:
			ms.Tidy(ctx)
		}
	}
}

// Tidy is what Run does every few seconds.
func (ms *Meters) Tidy(ctx context.Context) {
	debts := atATime
	for i := range ms.shards {
		for _, e := range ms.shards[i].all() {
			if !e.mu.TryLock() {
				continue // in use
			}
			gone := ms.tidy(ctx, e, &debts)
			e.mu.Unlock()
			if gone {
				ms.shards[i].remove(e)
			}
		}
		ms.giveBackBatch(ctx, ms.gather(nil))
	}
}

// tidy looks after one lease, and reports that it is not needed any more.
func (ms *Meters) tidy(ctx context.Context, e *lease, debts *int) (gone bool) {
	now := ms.now()
	e.end(now)
	if e.owed > 0 && *debts > 0 {
		*debts--
		_ = e.meter.pay(ctx, e, now) // what cannot be booked now stays owed
	}
	if e.meter == nil || now-e.seen < idle || e.owed > 0 {
		return false
	}
	e.gone = true
	ms.giveUp(Unused{ID: e.id, Epoch: e.epoch, Units: e.units})
	e.units = 0
	return true
}

// remove takes a lease that is gone out of the map.
func (s *shard) remove(e *lease) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.leases[e.index] == e {
		delete(s.leases, e.index)
	}
}

// sample is how many leases are looked at to make room for another.
const sample = 8

// forget makes room in a shard, whose lock is held: of a few leases, the one with
// the fewest units. Those go back to the ledger.
func (ms *Meters) forget(s *shard) {
	var victim *lease
	seen := 0
	for _, e := range s.leases { // begins anywhere
		if seen == sample {
			break
		}
		if !e.mu.TryLock() {
			continue // in use
		}
		seen++
		if victim == nil || e.units+e.owed < victim.units+victim.owed {
			victim, e = e, victim
		}
		if e != nil {
			e.mu.Unlock()
		}
	}
	if victim == nil {
		return
	}
	victim.gone = true
	ms.giveUp(Unused{ID: victim.id, Epoch: victim.epoch, Units: victim.units})
	victim.units = 0
	delete(s.leases, victim.index)
	victim.mu.Unlock()
}

// giveUp has units returned to the ledger, soon. They are lost where too many wait.
func (ms *Meters) giveUp(u Unused) {
	if u.Units <= 0 || u.Epoch == 0 {
		return
	}
	select {
	case ms.unused <- u:
	default:
		ms.lost.Add(u.Units)
	}
}

// gather adds to list what waits to be returned, up to a batch.
func (ms *Meters) gather(list []Unused) []Unused {
	for len(list) < batch {
		select {
		case u := <-ms.unused:
			list = append(list, u)
		default:
			return list
		}
	}
	return list
}

// giveBackBatch returns units to the ledger, once: nobody knows what a call that
// has failed has done, and units that come back twice would be given out twice.
func (ms *Meters) giveBackBatch(ctx context.Context, list []Unused) {
	if len(list) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), ms.Timeout)
	defer cancel()
	if err := ms.Ledger.Return(ctx, list); err != nil {
		units := int64(0)
		for _, u := range list {
			units += u.Units
		}
		ms.lost.Add(units)
		ms.Logger.WarnContext(ctx, "units of quotas could not be given back and are lost to their periods", "units", units, "error", err)
	}
}

// Close gives everything back that is held. What is reserved afterwards is booked
// one by one, so that requests which are still on their way are served.
func (ms *Meters) Close(ctx context.Context) {
	ms.closed.Store(true)
	for i := range ms.shards {
		for _, e := range ms.shards[i].all() {
			e.mu.Lock()
			e.end(ms.now())
			if e.owed > 0 && ctx.Err() == nil {
				_ = e.meter.pay(ctx, e, ms.now()) // the last attempt
			}
			ms.giveUp(Unused{ID: e.id, Epoch: e.epoch, Units: e.units})
			e.units = 0
			e.mu.Unlock()
			if len(ms.unused) >= batch {
				ms.giveBackBatch(ctx, ms.gather(nil))
			}
		}
	}
	for ctx.Err() == nil && len(ms.unused) > 0 {
		ms.giveBackBatch(ctx, ms.gather(nil))
	}
}
