package ginproxy

import (
	"bufio"
	"io"
	"sync"
	"time"
)

// lines is a buffered writer for the access log that many requests write to.
type lines struct {
	mu   sync.Mutex
	out  *bufio.Writer
	stop chan struct{}
	done sync.WaitGroup
}

const (
	linesBytes    = 64 << 10
	linesInterval = 100 * time.Millisecond // the longest time that a line waits
)

func newLines(sink io.Writer) *lines {
	l := &lines{out: bufio.NewWriterSize(sink, linesBytes), stop: make(chan struct{})}
	l.done.Go(func() {
		ticker := time.NewTicker(linesInterval)
		defer ticker.Stop()
		for {
			select {
			case <-ticker.C:
				_ = l.flush() // shows in the next Write
			case <-l.stop:
				return
			}
		}
	})
	return l
}

// Write implements io.Writer.
func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.out.Write(p)
}

func (l *lines) flush() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.out.Flush()
}

// Close writes what is left. It is called once.
func (l *lines) Close() error {
	close(l.stop)
	l.done.Wait()
	return l.flush()
}
