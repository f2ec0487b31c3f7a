package httpedge

import (
	"context"
	"log/slog"
	"net/http"
	"time"
)

// maxLoggedPathBytes bounds the one long text a client writes into the log.
const maxLoggedPathBytes = 2 << 10

// maxLoggedMethodBytes bounds a method that nobody knows.
const maxLoggedMethodBytes = 32

// log writes the line of the access log. Failures of ours are errors and carry
// their cause; everything else, what clients do wrong included, is information:
// a stranger must not be able to fill the log with warnings. Request and trace
// id come from the logger's handler.
func (o *observer) log(r *http.Request, x *exchange) {
	level := slog.LevelInfo
	if x.failed() {
		level = slog.LevelError
	}
	ctx := r.Context()
	handler := o.logger.Handler()
	if !handler.Enabled(ctx, level) {
		return
	}
	space := o.attrs.Get().(*[]slog.Attr)
	attrs := append((*space)[:0],
		slog.String("method", bounded(r.Method, maxLoggedMethodBytes)),
		slog.String("path", bounded(x.path, maxLoggedPathBytes)),
		slog.Int("status", x.status),
		slog.Int64("bytes", x.bytes),
		slog.Float64("duration_ms", milliseconds(x.elapsed)))
	text := func(name, value string) {
		if value != "" {
			attrs = append(attrs, slog.String(name, value))
		}
	}
	text("client", x.info.ClientText())
	text("host", WithoutCredentials(x.info.Host))
	text("route", x.info.Route)
	text("service", x.info.Service)
	text("subject", x.info.Subject)
	text("key_id", x.info.KeyID)
	text("code", x.info.Code)
	for _, f := range x.info.Fields {
		text(f.Name, WithoutCredentials(f.Value))
	}
	if x.outcome != completed {
		text("outcome", errorType(x.status, x.outcome))
	}
	if x.info.Err != nil {
		attrs = append(attrs, slog.Any("err", x.info.Err))
	}
	// The logger itself would find out its caller and the time, both again.
	at := x.start.Add(x.elapsed)
	defer func() {
		clear(attrs) // they would keep what they show
		*space = attrs
		o.attrs.Put(space)
	}()
	if plain, ok := handler.(plainHandler); ok && plain.HandlePlain(ctx, at, level, message, attrs) {
		return
	}
	record := slog.NewRecord(at, level, message, 0)
	record.AddAttrs(attrs...)
	_ = handler.Handle(ctx, record)
}

const message = "request"

// plainHandler is a handler that can do with less than a record. It reports whether it
// has taken the line.
type plainHandler interface {
	HandlePlain(ctx context.Context, at time.Time, level slog.Level, message string, attrs []slog.Attr) bool
}

// milliseconds keeps three decimals: the microseconds.
func milliseconds(d time.Duration) float64 {
	return float64(d.Microseconds()) / 1000
}
