package httpedge

import (
	"log/slog"
	"net/http"
	"time"

	"github.com/keywarden/keywarden/pkg/telemetry"
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
	at := x.start.Add(x.elapsed) // the logger itself would ask for the time again
	if o.lines != nil {
		if line := o.lines.StartLine(at, level, message); line != nil {
			x.writeTo(line, r)
			if line.Finish(ctx, x.info) {
				return
			}
		}
	}
	handler := o.logger.Handler()
	if !handler.Enabled(ctx, level) {
		return
	}
	record := slog.NewRecord(at, level, message, 0)
	x.writeTo(recordFields{&record}, r)
	_ = handler.Handle(ctx, record)
}

const message = "request"

// lineStarter is a handler that can do with less than a record; it begins no line where it
// cannot, nor where the level is not logged.
type lineStarter interface {
	StartLine(at time.Time, level slog.Level, message string) *telemetry.Line
}

// fieldWriter takes the fields of a line. It is a [telemetry.Line] or a record.
type fieldWriter interface {
	Text(name telemetry.Name, value string)
	Field(name, value string)
	Int(name telemetry.Name, value int64)
	Milliseconds(name telemetry.Name, d time.Duration)
	Err(name telemetry.Name, err error)
}

// writeTo writes what the log says of the exchange.
func (x *exchange) writeTo(w fieldWriter, r *http.Request) {
	if x.method == methodOther {
		w.Text("method", bounded(r.Method, maxLoggedMethodBytes))
	} else {
		w.Text("method", x.method.String())
	}
	w.Text("path", x.path[:min(len(x.path), maxLoggedPathBytes)]) // which is ASCII
	w.Int("status", int64(x.status))
	w.Int("bytes", x.bytes)
	w.Milliseconds("duration_ms", x.elapsed)
	text := func(name telemetry.Name, value string) {
		if value != "" {
			w.Text(name, value)
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
		if f.Value != "" {
			w.Field(f.Name, WithoutCredentials(f.Value))
		}
	}
	if x.outcome != completed {
		text("outcome", errorType(x.status, x.outcome))
	}
	if x.info.Err != nil {
		w.Err("err", x.info.Err)
	}
}

// recordFields makes them attributes of a record.
type recordFields struct{ *slog.Record }

// Text implements fieldWriter.
func (f recordFields) Text(name telemetry.Name, value string) { f.Field(string(name), value) }

// Field implements fieldWriter.
func (f recordFields) Field(name, value string) { f.AddAttrs(slog.String(name, value)) }

// Int implements fieldWriter.
func (f recordFields) Int(name telemetry.Name, value int64) {
	f.AddAttrs(slog.Int64(string(name), value))
}

// Milliseconds implements fieldWriter.
func (f recordFields) Milliseconds(name telemetry.Name, d time.Duration) {
	f.AddAttrs(slog.Float64(string(name), telemetry.Milliseconds(d)))
}

// Err implements fieldWriter.
func (f recordFields) Err(name telemetry.Name, err error) { f.AddAttrs(slog.Any(string(name), err)) }
