package httpedge

import (
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
	attrs := make([]slog.Attr, 0, 16)
	attrs = append(attrs,
		slog.String("method", bounded(r.Method, maxLoggedMethodBytes)),
		slog.String("path", bounded(x.path, maxLoggedPathBytes)),
		slog.Int("status", x.status),
		slog.Int64("bytes", x.bytes),
		slog.Float64("duration_ms", milliseconds(x.elapsed)))
	if x.info.Client.IsValid() {
		attrs = append(attrs, slog.String("client", x.info.Client.String()))
	}
	text := func(name, value string) {
		if value != "" {
			attrs = append(attrs, slog.String(name, value))
		}
	}
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
	record := slog.NewRecord(x.start.Add(x.elapsed), level, "request", 0)
	record.AddAttrs(attrs...)
	_ = handler.Handle(ctx, record)
}

// milliseconds keeps three decimals: the microseconds.
func milliseconds(d time.Duration) float64 {
	return float64(d.Microseconds()) / 1000
}
