package telemetry

import (
	"bytes"
	"io"
	"log/slog"
	"sync"
	"time"
)

const (
	// linesDelay is how long a line may wait for others. One write for many lines
	// costs a hundredth of one write for each, and nobody reads a log faster.
	linesDelay = 10 * time.Millisecond

	// linesLimit bounds what waits for a reader of the log that is slow or gone,
	// in bytes; about half a second of the access log under full load.
	linesLimit = 4 << 20

	// linesFull is how much is written without waiting any longer, in bytes.
	linesFull = 64 << 10

	// linesCloseLimit is how long Close waits for a reader that takes nothing.
	linesCloseLimit = 2 * time.Second
)

// Lines is a writer of log lines that never makes the one who logs wait: it
// gathers them and writes them together a moment later, in their order. When the
// sink is slow or full, lines are lost and counted; requests go on. It is safe
// for concurrent use.
type Lines struct {
	sink io.Writer

	mu      sync.Mutex
	waiting []byte
	spare   []byte // the buffer that is not waiting, for reuse
	timer   *time.Timer
	writing bool
	closed  bool
	idle    sync.Cond // signalled when writing ends
	lost    int64     // lines since the last report
	total   int64     // lost lines in all
	report  func(lost int64)
}

// NewLines makes a writer to sink. Its user closes it, to see the last lines.
func NewLines(sink io.Writer) *Lines {
	l := &Lines{sink: sink}
	l.idle.L = &l.mu
	return l
}

// ReportTo lets logger, which writes to l, say how many lines were lost once
// lines get through again.
func (l *Lines) ReportTo(logger *slog.Logger) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.report = func(lost int64) { logger.Warn("log lines were lost: the log was not taken in time", "lines", lost) }
}

// Lost is the number of lines that were lost so far.
func (l *Lines) Lost() int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.total
}

// Write implements [io.Writer] for whole lines. It never fails: what becomes of a
// line shows later.
func (l *Lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return l.sink.Write(p)
	}
	if len(l.waiting)+len(p) > linesLimit {
		l.lose(p)
		return len(p), nil
	}
	before := len(l.waiting)
	l.waiting = append(l.waiting, p...)
	switch {
	case l.writing: // flush comes back for it
	case before == 0:
		l.schedule(linesDelay)
	case before < linesFull && len(l.waiting) >= linesFull:
		l.schedule(0)
	}
	return len(p), nil
}

// schedule and lose are called under mu.
func (l *Lines) schedule(d time.Duration) {
	if l.timer == nil {
		l.timer = time.AfterFunc(d, l.flush)
		return
	}
	l.timer.Reset(d)
}

func (l *Lines) lose(text []byte) {
	n := int64(bytes.Count(text, []byte{'\n'}))
	l.lost += n
	l.total += n
}

// flush writes what waits. One flush runs at a time.
func (l *Lines) flush() {
	l.mu.Lock()
	if l.writing {
		l.mu.Unlock()
		return
	}
	text := l.waiting
	l.waiting, l.spare = l.spare[:0], nil
	l.writing = true
	l.mu.Unlock()

	written, err := 0, error(nil)
	if len(text) > 0 {
		written, err = l.sink.Write(text)
	}

	l.mu.Lock()
	if err != nil {
		l.lose(text[written:])
	}
	if cap(text) <= 2*linesFull { // or one bad moment would be held for ever
		l.spare = text[:0]
	}
	l.writing = false
	lost, report := l.lost, l.report
	tell := err == nil && report != nil && lost > 0 && len(l.waiting) < linesLimit/2 // or the report would be lost too
	if tell {
		l.lost = 0
	}
	if len(l.waiting) > 0 && !l.closed {
		l.schedule(linesDelay)
	}
	l.idle.Broadcast()
	l.mu.Unlock()
	if tell {
		report(lost)
	}
}

// Close writes what waits and makes later writes direct. A sink that takes
// nothing holds it up for a bounded time only.
func (l *Lines) Close() {
	done := make(chan struct{})
	go func() {
		defer close(done)
		l.mu.Lock()
		l.closed = true
		if l.timer != nil {
			l.timer.Stop()
		}
		for l.writing {
			l.idle.Wait()
		}
		l.mu.Unlock()
		l.flush()
	}()
	select {
	case <-done:
	case <-time.After(linesCloseLimit):
	}
}
