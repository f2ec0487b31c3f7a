package app

import "testing"

func TestHeapHasItsHeadroomAndNoMore(t *testing.T) {
	for live, want := range map[uint64]int{
		0: mostGCPercent, 1 << 20: mostGCPercent, 8 << 20: mostGCPercent, 16 << 20: 200, 32 << 20: usualGCPercent, 1 << 40: usualGCPercent,
	} {
		if got := gcPercent(live); got != want {
			t.Errorf("%d bytes in use: %d percent, want %d", live, got, want)
		}
	}
}
