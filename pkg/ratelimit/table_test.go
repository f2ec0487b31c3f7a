package ratelimit

import (
	"testing"

	"pgregory.net/rapid"
)

func TestTableIsAMap(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var table table[State]
		model := map[uint64]State{}
		// Few homes, so that runs of slots are long and wrap around.
		hashes := rapid.Custom(func(t *rapid.T) uint64 {
			return rapid.Uint64Range(0, 40).Draw(t, "home")<<hashBits | rapid.Uint64Range(1, 3).Draw(t, "rest")
		})
		t.Repeat(map[string]func(*rapid.T){
			"put": func(t *rapid.T) {
				hash, state := hashes.Draw(t, "hash"), State{at: rapid.Int64().Draw(t, "at")}
				if at, known := table.find(hash); known {
					table.slots[at].kept = state
				} else {
					table.put(hash, state)
				}
				model[hash] = state
			},
			"remove": func(t *rapid.T) {
				hash := hashes.Draw(t, "hash")
				if at, known := table.find(hash); known {
					table.remove(at)
				}
				delete(model, hash)
			},
			"": func(t *rapid.T) {
				if table.used != len(model) {
					t.Fatalf("%d are used, want %d", table.used, len(model))
				}
				for hash, want := range model {
					if at, known := table.find(hash); !known || table.slots[at].kept != want {
						t.Fatalf("%x is lost", hash)
					}
				}
				for _, s := range table.slots {
					if _, known := model[s.hash]; s.hash != 0 && !known {
						t.Fatalf("%x is still there", s.hash)
					}
				}
			},
		})
	})
}
