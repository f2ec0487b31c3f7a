package front

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
)

func TestTheContextOfARequestEndsWithItsHandlerAndWithTheConnection(t *testing.T) {
	type key struct{}
	for name, c := range map[string]struct {
		asked bool // for its end, before that came
		by    func(r *requestContext, connection context.CancelFunc)
	}{
		"handler":           {false, func(r *requestContext, _ context.CancelFunc) { r.end() }},
		"handler, asked":    {true, func(r *requestContext, _ context.CancelFunc) { r.end() }},
		"connection":        {false, func(_ *requestContext, connection context.CancelFunc) { connection() }},
		"connection, asked": {true, func(_ *requestContext, connection context.CancelFunc) { connection() }},
	} {
		synctest.Test(t, func(t *testing.T) {
			parent, cancel := context.WithCancel(t.Context())
			defer cancel()
			r := &requestContext{connection: parent}
			if r.Err() != nil {
				t.Fatalf("%s: it begins with %v", name, r.Err())
			}
			told := false
			derived, stop := context.WithCancel(context.WithValue(parent, key{}, 1))
			if c.asked {
				stop()
				derived, stop = context.WithCancel(context.WithValue(r, key{}, 1))
				context.AfterFunc(r, func() { told = true })
			}
			defer stop()
			c.by(r, cancel)
			synctest.Wait()
			if !errors.Is(r.Err(), context.Canceled) || !errors.Is(context.Cause(r), context.Canceled) {
				t.Errorf("%s: it ended with %v, %v", name, r.Err(), context.Cause(r))
			}
			select {
			case <-r.Done():
			default:
				t.Errorf("%s: nobody hears of the end", name)
			}
			if c.asked && (!told || derived.Err() == nil) {
				t.Errorf("%s: what was derived goes on", name)
			}
		})
	}
}

func TestTheContextOfARequestCostsNothingUntilItIsWaitedFor(t *testing.T) {
	type key struct{}
	r := &requestContext{connection: context.WithValue(t.Context(), key{}, 1)}
	if n := testing.AllocsPerRun(100, func() {
		if r.Err() != nil || r.Value(key{}) != 1 {
			t.Fatal("it is not what it was made of")
		}
		r.end()
		r.ended = false
	}); n > 0 {
		t.Errorf("%v allocations", n)
	}
}
