package quota

// Epoch is that in which a reservation was booked.
func (r *Reservation) Epoch() int64 { return r.epoch }

// HashLike gives the subjects of the meter the hashes that they have with another one.
func (m *Meter) HashLike(other *Meter) { m.hash = other.hash }
