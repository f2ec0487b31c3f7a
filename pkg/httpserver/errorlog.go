package httpserver

import (
	"bytes"
	"context"
	"log"
	"log/slog"
	"strings"
)

// newErrorLog takes what net/http has to say. What clients do to a connection
// (scans, broken handshakes, streams out of order) is of interest only to who
// is looking for it; the rest points at a fault of ours.
func newErrorLog(logger *slog.Logger) *log.Logger {
	return log.New(errorLog{logger}, "", 0)
}

type errorLog struct{ logger *slog.Logger }

// Write implements io.Writer; log.Logger calls it once per message.
func (l errorLog) Write(p []byte) (int, error) {
	text := string(bytes.TrimRight(p, "\n"))
	level := slog.LevelWarn
	switch {
	case strings.Contains(text, "panic serving"):
		level = slog.LevelError
	case strings.HasPrefix(text, "http: TLS handshake error"), strings.HasPrefix(text, "http2:"),
		strings.HasPrefix(text, "timeout waiting for"), strings.HasPrefix(text, "http: URL query contains semicolon"):
		level = slog.LevelDebug
	}
	l.logger.LogAttrs(context.Background(), level, "http server", slog.String("detail", text))
	return len(p), nil
}
