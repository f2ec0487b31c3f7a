package quota

import "context"

// Reservation is what was taken for a request. The zero value is one of nothing. It
// belongs to one goroutine.
type Reservation struct {
	meter *Meter
	lease *lease
	cost  int64
	epoch int64
	owed  bool // the ledger did not answer, and nothing was booked
}

// Cancel gives everything back: the request has not reached the service.
func (r *Reservation) Cancel(ctx context.Context) { r.Settle(ctx, 0) }

// Settle says what the request has cost in the end, 0 or more. What is less than
// reserved is given back. What is more is taken as far as there are units: the
// account is then booked to its limit, and not beyond. Only the first call counts.
//
// More than was reserved may need the ledger, for at most its time-out.
func (r *Reservation) Settle(ctx context.Context, actual int64) {
	e, m := r.lease, r.meter
	r.lease = nil
	if e == nil || actual == r.cost {
		return
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.end(m.now())
	if actual > r.cost {
		m.charge(ctx, e, min(actual, 2*MaxLimit)-r.cost)
		return
	}
	back := r.cost - max(0, actual)
	switch {
	case r.owed:
		e.owed -= min(e.owed, back) // what was never booked makes no units
	case r.epoch != e.epoch:
		// Its period is over, or it was reset: the units are void.
	case e.gone:
		m.giveUp(Unused{ID: e.id, Epoch: r.epoch, Units: back})
	default:
		m.giveBack(e, back)
	}
}

// charge takes more than was reserved.
func (m *Meter) charge(ctx context.Context, e *lease, more int64) {
	e.owed = min(2*MaxLimit, e.owed+more)
	_ = m.pay(ctx, e, m.now()) // what cannot be booked now stays owed
	if e.gone && e.units > 0 {
		m.giveUp(Unused{ID: e.id, Epoch: e.epoch, Units: e.units})
		e.units = 0
	}
}

// giveBack puts units into the lease, and back into the ledger what is more than a
// block, or than these units: a replica never holds more than that.
func (m *Meter) giveBack(e *lease, units int64) {
	paid := min(e.owed, units)
	e.owed -= paid
	e.units += units - paid
	if excess := e.units - max(units, m.largest()); excess > 0 {
		m.giveUp(Unused{ID: e.id, Epoch: e.epoch, Units: excess})
		e.units -= excess
	}
}
