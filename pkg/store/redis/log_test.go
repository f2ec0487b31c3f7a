package redis_test

import (
	"bytes"
	"encoding/json"
	"log/slog"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9/logging"

	"github.com/keywarden/keywarden/pkg/seal"
	"github.com/keywarden/keywarden/pkg/store/redis"
)

// lines is a log that many write.
type lines struct {
	mu   sync.Mutex
	text bytes.Buffer
}

// Write implements [io.Writer].
func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *lines) records(t *testing.T) (all []map[string]any) {
	t.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	for line := range strings.Lines(l.text.String()) {
		var record map[string]any
		if err := json.Unmarshal([]byte(line), &record); err != nil {
			t.Fatalf("%v: %q", err, line)
		}
		all = append(all, record)
	}
	return all
}

// The library tells of each attempt to connect, on stderr unless somebody takes it: a
// Redis that is away must not fill the log.
func TestWhatTheLibrarySaysIsLoggedAndBounded(t *testing.T) {
	var log lines
	at := time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)
	var mu sync.Mutex
	now := func() time.Time { mu.Lock(); defer mu.Unlock(); return at }
	redis.LogTo(slog.New(slog.NewJSONHandler(&log, nil)), now)
	t.Cleanup(logging.Enable) // what is there before anybody calls LogTo

	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	nobody := listener.Addr().String()
	if err := listener.Close(); err != nil {
		t.Fatal(err)
	}
	ping := func(times int) {
		for range times {
			s, err := redis.Open(redis.Options{URL: seal.NewSecret("redis://somebody:hunter2@" + nobody), Timeout: time.Second})
			if err != nil {
				t.Fatal(err)
			}
			if err := s.Ping(t.Context()); err == nil {
				t.Fatal("somebody is there")
			}
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
		}
	}
	ping(3)
	records := log.records(t)
	if len(records) != 1 {
		t.Fatalf("%d records of three failures at the same time: %v", len(records), records)
	}
	first := records[0]
	if said, _ := first["said"].(string); first["level"] != "WARN" || !strings.Contains(said, "failed to dial") || strings.Contains(said, "hunter2") {
		t.Errorf("%v", first)
	}
	mu.Lock()
	at = at.Add(time.Minute)
	mu.Unlock()
	ping(1)
	records = log.records(t)
	if len(records) != 2 || records[1]["left_out"] != 2.0 {
		t.Errorf("a minute later: %v", records)
	}
}

// What is said may quote a server's answer, which may be of any length.
func TestWhatTheLibrarySaysIsCut(t *testing.T) {
	var log lines
	l := redis.NewLog(slog.New(slog.NewJSONHandler(&log, nil)), time.Now)
	l.Printf(t.Context(), "%s", strings.Repeat("é", 1_000))
	if records := log.records(t); len(records) != 1 || len(records[0]["said"].(string)) > 500 || strings.Contains(records[0]["said"].(string), "\ufffd") {
		t.Errorf("%v", records)
	}
}
