package compress

import (
	"compress/gzip"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
)

// MaxWriters is how many answers a gateway compresses at a time. A compressor
// holds 1.2 MB for as long as its answer takes, so that slow clients of large
// answers would hold any amount: what is beyond goes out as it is.
const MaxWriters = 128

// level is the fastest one: of 16 KiB of JSON it leaves 18 %, where level 6 leaves
// 16 % and takes twice as long (go test -bench Levels).
const level = gzip.BestSpeed

// Writers are compressors for answers, a bounded number. They are safe for
// concurrent use.
type Writers struct {
	most int64
	used atomic.Int64
	pool sync.Pool
}

// NewWriters makes Writers, at most so many of which are in use at a time.
func NewWriters(most int) *Writers { return &Writers{most: int64(most)} }

// take returns a compressor that writes to sink, nil when all are in use.
func (ws *Writers) take(sink io.Writer) *gzip.Writer {
	if ws.used.Add(1) > ws.most {
		ws.used.Add(-1)
		return nil
	}
	w, ok := ws.pool.Get().(*gzip.Writer)
	if !ok {
		w = newGzip(level)
	}
	w.Reset(sink)
	return w
}

// put takes a compressor back, whose answer has ended or was broken off.
func (ws *Writers) put(w *gzip.Writer) {
	w.Reset(io.Discard) // holds on to nobody's answer
	ws.pool.Put(w)
	ws.used.Add(-1)
}

func newGzip(level int) *gzip.Writer {
	w, err := gzip.NewWriterLevel(io.Discard, level)
	if err != nil { // cannot happen: the level is a good one
		panic(fmt.Sprintf("compress: %v", err))
	}
	return w
}
