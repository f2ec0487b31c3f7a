package telemetry

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"math"
	"net/url"
	"strconv"
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

// What is added field by field is what a record of the same would be, or nothing.
func TestLinesAreWhatTheRecordWouldBe(t *testing.T) {
	text := rapid.OneOf(rapid.StringMatching(`[ -~]{0,20}`), rapid.StringMatching(`[!#-[\]-~]{0,70}`), rapid.String(), rapid.Just(strings.Repeat("x", maxValueBytes+1)))
	field := rapid.OneOf(rapid.StringMatching(`[a-z_]{1,10}`), rapid.SampledFrom([]string{"token", "Authorization", "", "a b", `"`}))
	duration := rapid.OneOf(rapid.Int64(), rapid.Int64Range(-2000, 2_000_000), rapid.Int64Range(0, 1e14),
		rapid.SampledFrom([]int64{0, 1e15 * 1000, 1e15*1000 - 1000, 999, 1000, 1_000_000, 1_010_000}))
	written := 0
	rapid.Check(t, func(t *rapid.T) {
		at := time.Unix(rapid.Int64Range(0, 3).Draw(t, "seconds"), rapid.Int64Range(0, 1e9-1).Draw(t, "nanoseconds"))
		if rapid.Bool().Draw(t, "east") {
			at = at.In(time.FixedZone("", 3600*5+1800))
		}
		message := rapid.OneOf(rapid.Just("request"), text).Draw(t, "message")
		info := &reqctx.Info{ID: text.Draw(t, "id")}
		ctx := reqctx.With(t.Context(), info)
		switch rapid.IntRange(0, 2).Draw(t, "trace") {
		case 0:
			ctx = trace.ContextWithSpanContext(ctx, trace.NewSpanContext(trace.SpanContextConfig{TraceID: trace.TraceID{1}, SpanID: trace.SpanID{2}}))
		case 1:
			info.TraceID, info.SpanID = trace.TraceID{0xab, 15: 0xff}, trace.SpanID{0x0f}
		}
		var a, b bytes.Buffer
		h := NewLogger(&a, slog.LevelInfo, FormatJSON).Handler().(*contextHandler)
		r := slog.NewRecord(at, slog.LevelError, message, 0)
		line := h.StartLine(at, slog.LevelError, message)
		for range rapid.IntRange(0, 12).Draw(t, "fields") {
			var add func()
			switch rapid.IntRange(0, 4).Draw(t, "kind") {
			case 0:
				v := text.Draw(t, "text")
				r.AddAttrs(slog.String("text", v))
				add = func() { line.Text("text", v) }
			case 1:
				k, v := field.Draw(t, "name"), text.Draw(t, "value")
				r.AddAttrs(slog.String(k, v))
				add = func() { line.Field(k, v) }
			case 2:
				v := rapid.Int64().Draw(t, "int")
				r.AddAttrs(slog.Int64("int", v))
				add = func() { line.Int("int", v) }
			case 3:
				v := time.Duration(duration.Draw(t, "duration"))
				r.AddAttrs(slog.Float64("ms", float64(v.Microseconds())/1000))
				add = func() { line.Milliseconds("ms", v) }
			default:
				v := rapid.SampledFrom([]error{
					errors.New("plain"), errors.New(`"`), nil, &url.Error{Op: "Get", URL: "http://a/?key=secret", Err: errors.New("refused")}, knowsBetter{}, panics{},
				}).Draw(t, "error")
				r.AddAttrs(slog.Any("err", v))
				add = func() { line.Err("err", v) }
			}
			if line != nil {
				add()
			}
		}
		if line == nil || !line.Finish(ctx, info) {
			if a.Len() > 0 {
				t.Fatalf("a part was written: %s", a.String())
			}
			return
		}
		written++
		h = NewLogger(&b, slog.LevelInfo, FormatJSON).Handler().(*contextHandler)
		h.plain = nil
		if _ = h.Handle(ctx, r); a.String() != b.String() {
			t.Fatalf("the line differs:\n%.300s\n%.300s", a.String(), b.String())
		}
		if !json.Valid(a.Bytes()) {
			t.Fatalf("not JSON: %s", a.String())
		}
	})
	if written == 0 {
		t.Error("no line was plain")
	}
}

// knowsBetter is an error that says how it is logged.
type knowsBetter struct{ error }

// LogValue implements [slog.LogValuer].
func (knowsBetter) LogValue() slog.Value { return slog.StringValue("less") }

// panics is an error with a bug.
type panics struct{}

// Error implements error.
func (panics) Error() string { panic("no text") }

func TestNoLineIsStartedBelowTheLevel(t *testing.T) {
	level := new(slog.LevelVar)
	h := NewLogger(&bytes.Buffer{}, level, FormatJSON).Handler().(*contextHandler)
	for limit, want := range map[slog.Level]bool{slog.LevelInfo: true, slog.LevelWarn: false} {
		level.Set(limit)
		if got := h.StartLine(time.Unix(1, 0), slog.LevelInfo, "m") != nil; got != want {
			t.Errorf("level %v: a line of information was started: %t", limit, got)
		}
	}
}

func TestDurationsAreWrittenAsTheFloatsTheyAre(t *testing.T) {
	e := newPlainEncoder(&bytes.Buffer{}, nil)
	check := func(t rapid.TB, d time.Duration) {
		l := &Line{encoder: e}
		l.Milliseconds("ms", d)
		if want := `,"ms":` + strconv.FormatFloat(float64(d.Microseconds())/1000, 'f', -1, 64); string(l.b) != want {
			t.Fatalf("%d ns is %s, want %s", d, l.b, want)
		}
	}
	for _, us := range []int64{0, 1, 10, 100, 999, 1000, 1001, 1010, 1100, -1, -1500, 1e15 - 1, 1e15, math.MaxInt64 / 1000, math.MinInt64 / 1000} {
		check(t, time.Duration(us*1000))
	}
	rapid.Check(t, func(t *rapid.T) {
		check(t, time.Duration(rapid.OneOf(rapid.Int64Range(0, 1e10), rapid.Int64Range(0, math.MaxInt64), rapid.Int64()).Draw(t, "nanoseconds")))
	})
}

// What lines of one second have in common is kept, for one place.
func TestTimesAreWrittenAsTheyAreInTheirPlace(t *testing.T) {
	var out bytes.Buffer
	e := newPlainEncoder(&out, nil)
	east := time.FixedZone("", 5*3600+1800)
	for _, ns := range []int{0, 1, 500, 1e8, 123456789, 999999999} {
		for _, at := range []time.Time{
			time.Unix(1, int64(ns)).UTC(), time.Unix(1, int64(ns)).In(east), time.Unix(1, int64(ns)).UTC(), time.Unix(2, int64(ns)).UTC(),
		} {
			out.Reset()
			l := e.start(at, slog.LevelInfo, "m")
			if done, err := l.finish(); !done || err != nil {
				t.Fatal(done, err)
			}
			if want := `{"time":"` + at.Format(time.RFC3339Nano) + `","level":"INFO","msg":"m"}` + "\n"; out.String() != want {
				t.Errorf("got %s, want %s", out.String(), want)
			}
		}
	}
	for _, year := range []int{-1, 10000} {
		if e.start(time.Date(year, 1, 1, 0, 0, 0, 0, time.UTC), slog.LevelInfo, "m") != nil {
			t.Errorf("the year %d has no form in RFC 3339", year)
		}
	}
}

// Eight bytes are looked at together: each byte, in each place and beside each other one,
// must count as it does alone.
func TestPlainBytesAreThoseThatJSONWritesAsTheyAre(t *testing.T) {
	for c := range 256 {
		encoded, err := json.Marshal(string([]byte{byte(c)}))
		if err != nil {
			t.Fatal(err)
		}
		want := c < 0x7f && string(encoded) == `"`+string([]byte{byte(c)})+`"` || c == '<' || c == '>' || c == '&' // which slog leaves alone
		if got := plainText(string([]byte{byte(c)})); got != want {
			t.Errorf("%#x: %t", c, got)
		}
		for _, other := range []byte{' ', '!', '#', '[', ']', '~', 'a'} {
			for n := 1; n <= 17; n++ {
				for at := range n {
					b := bytes.Repeat([]byte{other}, n)
					if b[at] = byte(c); plainBytes(b) != want {
						t.Fatalf("%q: %t", b, !want)
					}
				}
			}
		}
	}
}

func TestAccessLogLinesArePlain(t *testing.T) {
	r := slog.NewRecord(time.Unix(1, 500), slog.LevelInfo, "request", 0)
	r.AddAttrs(slog.String("path", "/a"), slog.Int("status", 200), slog.Float64("duration_ms", 1.25))
	e := newPlainEncoder(&bytes.Buffer{}, nil)
	if done, err := e.handle(t.Context(), r); !done || err != nil {
		t.Errorf("done %t, %v: it would take the long way", done, err)
	}
	if n := testing.AllocsPerRun(100, func() { _, _ = e.handle(context.Background(), r) }); n > 1 { // the buffer of this test grows
		t.Errorf("%v allocations", n)
	}
}
