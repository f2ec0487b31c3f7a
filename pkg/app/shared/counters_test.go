package shared

import (
	"bytes"
	"log/slog"
	"strings"
	"sync"
	"testing"

	"github.com/redis/go-redis/v9/logging"
	"go.opentelemetry.io/otel/metric/noop"

	"github.com/keywarden/keywarden/pkg/config"
)

// log is one that many write.
type log struct {
	mu   sync.Mutex
	text bytes.Buffer
}

// Write implements [io.Writer].
func (l *log) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *log) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// Without this the client library prints to stderr, past the level and the form of the log.
func TestWhatTheClientOfRedisSaysIsLogged(t *testing.T) {
	cfg, err := config.Load(config.Source{Lookup: func(name string) (string, bool) {
		if name == "REDIS_URL" {
			return "redis://127.0.0.1:1", true
		}
		return "", false
	}})
	if err != nil {
		t.Fatal(err)
	}
	var written log
	t.Cleanup(logging.Enable) // what is there before
	c, err := OpenCounters(CounterOptions{
		Config: cfg, Replicas: func() int { return 1 }, Meter: noop.Meter{}, Logger: slog.New(slog.NewJSONHandler(&written, nil)),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	if err := c.redis.Ping(t.Context()); err == nil {
		t.Fatal("somebody listens at port 1")
	}
	if !strings.Contains(written.String(), "failed to dial") {
		t.Errorf("the log has %q", written.String())
	}
}
