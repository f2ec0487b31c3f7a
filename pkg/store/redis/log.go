package redis

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	goredis "github.com/redis/go-redis/v9"
)

// LogTo sends what the client library says by itself, such as that it cannot connect,
// to logger, at most a line each [logPause]. The library has one place for that in a
// process, and without this call it prints to stderr past every rule of the log, a line
// for each attempt. Whoever builds a program calls it once, before [Open]; the last call
// of a process wins.
func LogTo(logger *slog.Logger, now func() time.Time) { goredis.SetLogger(NewLog(logger, now)) }

const (
	logPause = 10 * time.Second // between two lines
	maxSaid  = 400              // bytes of a line that are kept
)

// Log is a logger of the client library. It is safe for concurrent use.
type Log struct {
	logger *slog.Logger
	now    func() time.Time

	mu      sync.Mutex
	next    time.Time // no line before
	leftOut int64     // lines since the last one
}

// NewLog makes a log.
func NewLog(logger *slog.Logger, now func() time.Time) *Log { return &Log{logger: logger, now: now} }

// Printf is called by the library. All that it says unasked is of the kind that needs a
// look, but nothing fails by it: who made the call says so too.
func (l *Log) Printf(ctx context.Context, format string, values ...any) {
	leftOut, due := l.due()
	if !due {
		return
	}
	said := fmt.Sprintf(format, values...)
	if len(said) > maxSaid {
		said = strings.ToValidUTF8(said[:maxSaid], "")
	}
	l.logger.WarnContext(ctx, "the client of Redis reports", "said", said, "left_out", leftOut)
}

// due reports whether a line may be written now, and how many were not since the last.
func (l *Log) due() (leftOut int64, due bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := l.now()
	if now.Before(l.next) {
		l.leftOut++
		return 0, false
	}
	leftOut, l.leftOut, l.next = l.leftOut, 0, now.Add(logPause)
	return leftOut, true
}
