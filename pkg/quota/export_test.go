package quota

// Epoch is that in which a reservation was booked.
func (r *Reservation) Epoch() int64 { return r.epoch }
