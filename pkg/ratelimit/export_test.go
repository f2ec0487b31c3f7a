package ratelimit

// Settle waits for a look whether the store is back.
func (g *Guard) Settle() { g.probes.Wait() }
