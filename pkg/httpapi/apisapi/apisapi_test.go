package apisapi

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// An import that nobody waits for any more holds its turn until it ends, so that
// hostile descriptions are worked on one after the other.
func TestTurnIsHeldUntilTheWorkEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := &Handler{working: make(chan struct{}, 1)}
		ends := make(chan struct{})
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := h.work(ctx, func() result { <-ends; return result{} }); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("the first: %v", err)
		}
		ctx, cancel = context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := h.work(ctx, func() result { t.Error("two at the same time"); return result{} }); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("the second: %v", err)
		}
		close(ends)
		mine := errors.New("mine")
		if r, err := h.work(t.Context(), func() result { return result{err: mine} }); err != nil || !errors.Is(r.err, mine) {
			t.Errorf("the third: %v, %v", r.err, err)
		}
	})
}

func TestPanicInAnImportIsAnError(t *testing.T) {
	h := &Handler{working: make(chan struct{}, 1)}
	for range 2 { // the turn is given back
		r, err := h.work(t.Context(), func() result { panic("oh") })
		if err != nil || r.err == nil || !strings.Contains(r.err.Error(), "panic: oh") {
			t.Errorf("got %v, %v", r.err, err)
		}
	}
}
