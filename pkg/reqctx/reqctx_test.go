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
