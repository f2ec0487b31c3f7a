package heap

import (
	"context"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"testing"
	"time"
)

func TestHeapHasItsHeadroomAndNoMore(t *testing.T) {
	for live, want := range map[uint64]int{
		0: mostPercent, 1 << 20: mostPercent, headroom / 4: mostPercent, headroom / 2: 200, headroom: usualPercent, 1 << 40: usualPercent,
	} {
		if got := percentFor(live); got != want {
			t.Errorf("%d bytes in use: %d percent, want %d", live, got, want)
		}
	}
}

func TestTheMeasureFollowsWhatIsInUseAndIsGivenBack(t *testing.T) {
	before := debug.SetGCPercent(150)
	defer debug.SetGCPercent(before)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() { defer close(ended); Tune(ctx) }()
	now := func() int {
		sample := []metrics.Sample{{Name: "/gc/gogc:percent"}}
		metrics.Read(sample)
		return int(sample[0].Value.Uint64())
	}
	await := func(what string, holds func(percent int) bool) {
		t.Helper()
		for limit := time.Now().Add(30 * time.Second); !holds(now()); time.Sleep(time.Millisecond) {
			if time.Now().After(limit) {
				t.Fatalf("%s: %d percent", what, now())
			}
			runtime.GC()
		}
	}
	await("with little in use", func(percent int) bool { return percent == mostPercent })
	func() {
		large := make([]byte, 64<<20)
		await("with much in use", func(percent int) bool { return percent == usualPercent })
		runtime.KeepAlive(large)
	}()
	await("with little in use again", func(percent int) bool { return percent == mostPercent })
	cancel()
	<-ended
	if got := now(); got != 150 {
		t.Errorf("it ended with %d percent, began with 150", got)
	}
}
