package ratelimit

// table is what is kept of some subjects by the hash of each: open addressing with
// linear probing, and removal that leaves no holes (Knuth, The Art of Computer
// Programming 6.4, algorithms L and R). A look-up mostly costs one miss of the
// cache, where a map costs several.
type table[V any] struct {
	slots []slot[V] // as many as a power of two, at most three quarters of them used
	used  int
}

type slot[V any] struct {
	hash uint64 // 0 for none
	kept V
}

// leastSlots is the size of a table that is not empty.
const leastSlots = 8

// hashBits are the low bits of a hash that chose the table.
const hashBits = 6

// find is where what is kept for a hash is, or where it would be put.
func (t *table[V]) find(hash uint64) (at int, known bool) {
	if len(t.slots) == 0 {
		return 0, false
	}
	for at = t.home(hash); ; at = t.after(at) {
		switch t.slots[at].hash {
		case hash:
			return at, true
		case 0:
			return at, false
		}
	}
}

// home is where the search for a hash begins.
func (t *table[V]) home(hash uint64) int { return int(hash>>hashBits) & (len(t.slots) - 1) }

func (t *table[V]) after(at int) int { return (at + 1) & (len(t.slots) - 1) }

// put keeps something for a hash that is not known yet.
func (t *table[V]) put(hash uint64, kept V) {
	if 4*(t.used+1) > 3*len(t.slots) {
		t.grow()
	}
	at, _ := t.find(hash)
	t.slots[at] = slot[V]{hash, kept}
	t.used++
}

func (t *table[V]) grow() {
	old := t.slots
	t.slots = make([]slot[V], max(leastSlots, 2*len(old)))
	for _, s := range old {
		if s.hash != 0 {
			at, _ := t.find(s.hash)
			t.slots[at] = s
		}
	}
}

// remove empties a slot, and moves into it what would not be found any more.
func (t *table[V]) remove(at int) {
	t.used--
	for next := t.after(at); t.slots[next].hash != 0; next = t.after(next) {
		// What lives at next may move to at unless its search begins between the two.
		mask := len(t.slots) - 1
		if (next-t.home(t.slots[next].hash))&mask >= (next-at)&mask {
			t.slots[at] = t.slots[next]
			at = next
		}
	}
	t.slots[at] = slot[V]{}
}
