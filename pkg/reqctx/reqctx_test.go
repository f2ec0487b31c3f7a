package reqctx_test

import (
	"context"
	"reflect"
	"testing"

	"github.com/keywarden/keywarden/pkg/reqctx"
)

func TestInnerLayersFillInTheSameInfo(t *testing.T) {
	info := &reqctx.Info{ID: "1"}
	ctx, cancel := context.WithCancel(reqctx.With(t.Context(), info))
	defer cancel()
	reqctx.From(ctx).Route = "/users/:id"
	if info.Route != "/users/:id" {
		t.Error("what an inner layer found out did not arrive")
	}
}

func TestOutsideARequestTheInfoIsEmptyAndNobodyElses(t *testing.T) {
	ctx := t.Context()
	reqctx.From(ctx).ID = "written by somebody"
	if got := reqctx.From(ctx); got == nil || !reflect.DeepEqual(*got, reqctx.Info{}) {
		t.Errorf("outside a request the info is %+v", got)
	}
}

func TestABlankContextIsFilledInOnce(t *testing.T) {
	blank := new(reqctx.Carrier).Blank(t.Context())
	ctx, info := reqctx.New(blank)
	if ctx != blank || reqctx.From(blank) != info {
		t.Error("the blank was not used")
	}
	if again, other := reqctx.New(ctx); again == ctx || other == info {
		t.Error("two requests share an info")
	}
}

func TestValuesAreOnesOwn(t *testing.T) {
	info := new(reqctx.Info)
	var all [][]string
	for n := range 8 {
		v := info.Values(n % 4)
		if len(v) != n%4 || cap(v) != len(v) {
			t.Fatalf("%d values with room for %d, want %d", len(v), cap(v), n%4)
		}
		for i := range v {
			v[i] = string(rune('a' + n))
		}
		all = append(all, v)
	}
	for n, v := range all {
		for _, text := range v {
			if text != string(rune('a'+n)) {
				t.Errorf("the values of %d are %q", n, v)
			}
		}
	}
}
