package httpedge

import "github.com/keywarden/keywarden/pkg/header"

// AddFields implements [header.Sink].
func (w *response) AddFields(l header.List) bool {
	sink, ok := w.ResponseWriter.(header.Sink)
	return ok && sink.AddFields(l)
}
