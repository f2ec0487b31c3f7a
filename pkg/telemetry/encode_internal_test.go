package telemetry

import (
	"bytes"
	"context"
	"log/slog"
	"math"
	"strings"
	"testing"
	"time"

	"go.opentelemetry.io/otel/trace"
	"pgregory.net/rapid"

	"github.com/keywarden/keywarden/pkg/reqctx"
)

// bothWays encodes a record with and without the encoder for plain lines.
func bothWays(ctx context.Context, r slog.Record) (plain, full string) {
	var a, b bytes.Buffer
	h := NewLogger(&a, slog.LevelInfo, FormatJSON).Handler().(*contextHandler)
	_ = h.Handle(ctx, r)
	h = NewLogger(&b, slog.LevelInfo, FormatJSON).Handler().(*contextHandler)
	h.plain = nil
	_ = h.Handle(ctx, r)
	return a.String(), b.String()
}

func TestPlainLinesAreWhatSlogWrites(t *testing.T) {
	text := rapid.OneOf(rapid.StringMatching(`[ -~]{0,20}`), rapid.String(), rapid.Just(strings.Repeat("x", maxValueBytes+1)))
	key := rapid.OneOf(rapid.StringMatching(`[a-z_]{1,10}`), rapid.SampledFrom([]string{"token", "Authorization", "", "a b", `"`, "time", "level", "msg"}))
	value := rapid.Custom(func(t *rapid.T) slog.Value {
		switch rapid.IntRange(0, 7).Draw(t, "kind") {
		case 0:
			return slog.Int64Value(rapid.Int64().Draw(t, "int"))
		case 1:
			return slog.Uint64Value(rapid.Uint64().Draw(t, "uint"))
		case 2:
			return slog.Float64Value(rapid.Float64().Draw(t, "float"))
		case 3:
			return slog.Float64Value(rapid.SampledFrom([]float64{0, math.Copysign(0, -1), 1e-6, 9.99e-7, 1e21, 9.99e20, 1.5, math.NaN(), math.Inf(1)}).Draw(t, "edge"))
		case 4:
			return slog.BoolValue(rapid.Bool().Draw(t, "bool"))
		case 5:
			return slog.DurationValue(time.Duration(rapid.Int64().Draw(t, "duration")))
		case 6:
			return slog.GroupValue(slog.String("inner", text.Draw(t, "inner")))
		default:
			return slog.StringValue(text.Draw(t, "text"))
		}
	})
	rapid.Check(t, func(t *rapid.T) {
		at := time.Time{}
		if rapid.Bool().Draw(t, "timed") {
			at = time.Unix(rapid.Int64Range(-1e11, 3e11).Draw(t, "seconds"), rapid.Int64Range(0, 1e9-1).Draw(t, "nanoseconds"))
			if rapid.Bool().Draw(t, "utc") {
				at = at.UTC()
			}
		}
		r := slog.NewRecord(at, rapid.SampledFrom([]slog.Level{slog.LevelInfo, slog.LevelError, slog.Level(2)}).Draw(t, "level"), text.Draw(t, "message"), 0)
		for range rapid.IntRange(0, 12).Draw(t, "attributes") {
			r.AddAttrs(slog.Attr{Key: key.Draw(t, "key"), Value: value.Draw(t, "value")})
		}
		ctx := reqctx.With(t.Context(), &reqctx.Info{ID: text.Draw(t, "id")})
		if rapid.Bool().Draw(t, "traced") {
			ctx = trace.ContextWithSpanContext(ctx, trace.NewSpanContext(trace.SpanContextConfig{TraceID: trace.TraceID{1}, SpanID: trace.SpanID{2}}))
		}
		if plain, full := bothWays(ctx, r); plain != full {
			t.Fatalf("the plain line differs, %d and %d bytes:\n%.300s\n%.300s", len(plain), len(full), plain, full)
		}
	})
}

func TestAccessLogLinesArePlain(t *testing.T) {
	r := slog.NewRecord(time.Unix(1, 500), slog.LevelInfo, "request", 0)
	r.AddAttrs(slog.String("path", "/a"), slog.Int("status", 200), slog.Float64("duration_ms", 1.25))
	e := newPlainEncoder(&bytes.Buffer{})
	if done, err := e.handle(t.Context(), r); !done || err != nil {
		t.Errorf("done %t, %v: it would take the long way", done, err)
	}
	if n := testing.AllocsPerRun(100, func() { _, _ = e.handle(context.Background(), r) }); n > 1 { // the buffer of this test grows
		t.Errorf("%v allocations", n)
	}
}
