package front

import "testing"

// Generator makes requests, most of them nearly as they should be.
type Generator struct{ *generator }

func NewGenerator(seed uint64) Generator { return Generator{newGenerator(seed, 0)} }

// Next returns bytes that are good until the next call.
func (g Generator) Next() []byte { return g.next() }

// IntN is a number below n.
func (g Generator) IntN(n int) int { return g.rand.IntN(n) }

// Seeds are requests that have been used to make two servers disagree.
func Seeds(t testing.TB) []string { return seeds(t) }
