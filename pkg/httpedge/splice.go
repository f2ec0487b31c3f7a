package httpedge

import "github.com/keywarden/keywarden/pkg/splice"

// CanDrain implements [splice.Sink].
func (w *response) CanDrain() bool {
	sink, ok := w.ResponseWriter.(splice.Sink)
	return ok && sink.CanDrain()
}

// DrainPipe implements [splice.Sink].
func (w *response) DrainPipe(p *splice.Pipe) (int, error) {
	n, err := w.ResponseWriter.(splice.Sink).DrainPipe(p)
	w.count(int64(n))
	return n, err
}
