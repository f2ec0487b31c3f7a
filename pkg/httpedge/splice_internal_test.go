package httpedge

import (
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/keywarden/keywarden/pkg/header"
	"github.com/keywarden/keywarden/pkg/splice"
)

// socket is a writer that can take lists and pipes.
type socket struct {
	http.ResponseWriter
	list header.List
}

func (s *socket) AddFields(l header.List) bool          { s.list = l; return true }
func (*socket) CanDrain() bool                          { return true }
func (*socket) DrainPipe(*splice.Pipe) (n int, _ error) { return 7, nil }

func TestResponsePassesListsAndPipesOnWhereItCan(t *testing.T) {
	r := httptest.NewRequest(http.MethodGet, "/", nil)
	inner := &socket{ResponseWriter: httptest.NewRecorder()}
	w := wrapResponse(inner, r)
	if !w.AddFields(header.List{{Name: "A", Value: "b"}}) || inner.list.Get("A") != "b" {
		t.Errorf("the list has not arrived: %v", inner.list)
	}
	if !w.CanDrain() {
		t.Error("it cannot be drained into")
	}
	if n, err := w.DrainPipe(nil); n != 7 || err != nil || w.bytes != 7 {
		t.Errorf("%d bytes, %d counted, %v", n, w.bytes, err)
	}
	plain := wrapResponse(httptest.NewRecorder(), r)
	if plain.CanDrain() || plain.AddFields(nil) {
		t.Error("a writer can what the one below cannot")
	}
}
