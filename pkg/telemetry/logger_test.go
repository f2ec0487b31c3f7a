package telemetry_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	"go.opentelemetry.io/otel/trace"

	"github.com/keywarden/keywarden/pkg/reqctx"
	"github.com/keywarden/keywarden/pkg/seal"
	"github.com/keywarden/keywarden/pkg/telemetry"
)

// hostile are values that try to end the line, to start another one, or to
// speak to the terminal of whoever reads the log.
var hostile = []string{
	"a\r\n{\"level\":\"INFO\",\"msg\":\"forged\"}",
	"line\nfeed", "carriage\rreturn", "nul\x00", "bell\x07", "\x1b[2J\x1b[31mred", "del\x7f",
	"bad utf-8 \xff\xfe", "cut rune \xe2\x82", "c1 csi \u009b31m", "next line \u0085", "sep \u2028 \u2029",
	`","msg":"forged`, strings.Repeat("\x1b", 20000), strings.Repeat("é", 20000),
}

func checkOneLine(t *testing.T, out string) {
	t.Helper()
	if strings.Count(out, "\n") != 1 || !strings.HasSuffix(out, "\n") {
		t.Fatalf("want exactly one line, got %q", out)
	}
	if !utf8.ValidString(out) {
		t.Fatalf("not valid UTF-8: %q", out)
	}
	for _, r := range strings.TrimSuffix(out, "\n") {
		if r < 0x20 || r >= 0x7f && r < 0xa0 || r == 0x2028 || r == 0x2029 {
			t.Fatalf("control character %U in %q", r, out)
		}
	}
}

func checkOneObject(t *testing.T, out string) {
	t.Helper()
	checkOneLine(t, out)
	var members map[string]any
	if err := json.Unmarshal([]byte(out), &members); err != nil {
		t.Fatalf("not JSON: %v in %q", err, out)
	}
	if members["level"] != "INFO" {
		t.Fatalf("level was forged: %q", out)
	}
}

func logHostile(logger *slog.Logger, s string) {
	logger.With("with", s).WithGroup("group").Info("message "+s,
		"string", s, "err", errors.New(s), "bytes", []byte(s), "slice", []string{s},
		"map", map[string]string{s: s}, "struct", struct{ A string }{s}, "url", &url.URL{Path: "/" + s},
		slog.Group("inner", "string", s), "query", &url.Error{Op: "Get", URL: "http://a/?" + s, Err: errors.New(s)})
}

func TestLogIsOneLinePerRecordWhateverIsLogged(t *testing.T) {
	for i, s := range hostile {
		t.Run(fmt.Sprint(i), func(t *testing.T) {
			var out bytes.Buffer
			logHostile(telemetry.NewLogger(&out, slog.LevelInfo, telemetry.FormatJSON), s)
			checkOneObject(t, out.String())
			out.Reset()
			logHostile(telemetry.NewLogger(&out, slog.LevelInfo, telemetry.FormatText), s)
			checkOneLine(t, out.String())
		})
	}
}

func FuzzLogIsOneLine(f *testing.F) {
	for _, s := range hostile {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		var out bytes.Buffer
		logHostile(telemetry.NewLogger(&out, slog.LevelInfo, telemetry.FormatJSON), s)
		checkOneObject(t, out.String())
		out.Reset()
		logHostile(telemetry.NewLogger(&out, slog.LevelInfo, telemetry.FormatText), s)
		checkOneLine(t, out.String())
	})
}

const canary = "canary-7f3a"

func TestLogRedactsSecrets(t *testing.T) {
	type nested struct {
		Token string `json:"token"`
		ID    string `json:"id"`
	}
	cases := map[string][]any{
		"password":               {"password", canary},
		"upper case":             {"Authorization", canary},
		"mixed case":             {"X-Api-Key", canary},
		"cookie":                 {"cookie", canary},
		"set-cookie":             {"Set-Cookie", canary},
		"token":                  {"token", canary},
		"refresh token":          {"refresh_token", canary},
		"secret":                 {"SECRET", canary},
		"key":                    {"key", canary},
		"not a string":           {"token", []string{canary}},
		"group of that name":     {slog.Group("password", "value", canary)},
		"inside a group":         {slog.Group("body", "password", canary)},
		"header":                 {"headers", http.Header{"Authorization": {canary}, "X-Api-Key": {canary}}},
		"pointer to header":      {"headers", &http.Header{"Cookie": {canary}}},
		"member":                 {"body", map[string]any{"a": []any{map[string]string{"new_password": canary}}}},
		"struct":                 {"body", nested{Token: canary}},
		"raw json":               {"body", json.RawMessage(`{"access_token":"` + canary + `"}`)},
		"secret type":            {"value", seal.NewSecret(canary)},
		"struct with secret":     {"value", struct{ S seal.Secret }{seal.NewSecret(canary)}},
		"query of a failed call": {"err", fmt.Errorf("calling: %w", &url.Error{Op: "Get", URL: "http://a/b?k=" + canary, Err: errors.New("refused")})},
		"odd query":              {"err", &url.Error{Op: "Get", URL: "http://a/b?\x01" + canary, Err: errors.New("refused")}},
		"url":                    {"url", &url.URL{Scheme: "http", User: url.UserPassword("u", canary), Host: "h", RawQuery: canary}},
	}
	for name, args := range cases {
		for _, format := range []string{telemetry.FormatJSON, telemetry.FormatText} {
			t.Run(name+"/"+format, func(t *testing.T) {
				var out bytes.Buffer
				logger := telemetry.NewLogger(&out, slog.LevelInfo, format)
				logger.Info("m", args...)
				logger.With(args...).Info("m")
				logger.WithGroup("g").Info("m", args...)
				if out.Len() == 0 || strings.Contains(out.String(), canary) {
					t.Errorf("got %s", out.String())
				}
			})
		}
	}
}

func TestLogKeepsWhatIsNotSecret(t *testing.T) {
	var out bytes.Buffer
	telemetry.NewLogger(&out, slog.LevelInfo, telemetry.FormatJSON).Info("m",
		"key_id", "k1", "token_type", "Bearer", "n", uint64(1<<63), "list", []uint64{1 << 63},
		"addr", netip.MustParseAddr("192.0.2.1"), "err", errors.New("boom"), "none", nil,
		"url", &url.URL{Scheme: "http", Host: "h", Path: "/a b", RawQuery: "q"})
	got := members(t, out.Bytes())
	delete(got, "time")
	want := map[string]any{
		"level": "INFO", "msg": "m", "key_id": "k1", "token_type": "Bearer", "n": json.Number("9223372036854775808"),
		"list": []any{json.Number("9223372036854775808")}, "addr": "192.0.2.1", "err": "boom", "none": nil,
		"url": "http://h/a%20b",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

type panicky struct{}

func (*panicky) Error() string { panic(canary) }

func TestLogSurvivesValuesThatPanic(t *testing.T) {
	var out bytes.Buffer
	telemetry.NewLogger(&out, slog.LevelInfo, telemetry.FormatJSON).Info("m", "err", &panicky{}, "fn", func() {})
	checkOneObject(t, out.String())
}

func TestLogBoundsValues(t *testing.T) {
	long := strings.Repeat("é", 1<<20)
	for _, format := range []string{telemetry.FormatJSON, telemetry.FormatText} {
		for name, v := range map[string]any{
			"string": long, "error": errors.New(long), "bytes": []byte(long), "list": []string{long, long}, "members": map[string]string{"a": long, "b": long},
		} {
			var out bytes.Buffer
			telemetry.NewLogger(&out, slog.LevelInfo, format).Info("m", "v", v)
			if out.Len() > 4*8<<10 || !strings.Contains(out.String(), "[truncated]") {
				t.Errorf("%s %s: %d bytes", format, name, out.Len())
			}
			checkOneLine(t, out.String())
		}
	}
}

func members(t *testing.T, line []byte) map[string]any {
	t.Helper()
	d := json.NewDecoder(bytes.NewReader(line))
	d.UseNumber()
	var m map[string]any
	if err := d.Decode(&m); err != nil {
		t.Fatalf("%v in %q", err, line)
	}
	return m
}

func requestContext() context.Context {
	ctx := reqctx.With(context.Background(), &reqctx.Info{ID: "req-1"})
	return trace.ContextWithSpanContext(ctx, trace.NewSpanContext(trace.SpanContextConfig{
		TraceID: trace.TraceID{1}, SpanID: trace.SpanID{2},
	}))
}

func TestLogCarriesTheIDsOfItsContext(t *testing.T) {
	ids := map[string]any{
		"trace_id": "01000000000000000000000000000000", "span_id": "0200000000000000", "request_id": "req-1",
		"level": "INFO", "msg": "m",
	}
	with := func(more map[string]any) map[string]any {
		for k, v := range ids {
			more[k] = v
		}
		return more
	}
	cases := map[string]struct {
		log  func(context.Context, *slog.Logger)
		want map[string]any
	}{
		"plain": {
			func(ctx context.Context, l *slog.Logger) { l.InfoContext(ctx, "m", "a", "1") },
			with(map[string]any{"a": "1"}),
		},
		"with attributes": {
			func(ctx context.Context, l *slog.Logger) { l.With("b", "2").InfoContext(ctx, "m", "a", "1") },
			with(map[string]any{"a": "1", "b": "2"}),
		},
		"more attributes than a record holds inline": {
			func(ctx context.Context, l *slog.Logger) {
				l.InfoContext(ctx, "m", "a", "1", "b", "1", "c", "1", "d", "1", "e", "1", "f", "1")
			},
			with(map[string]any{"a": "1", "b": "1", "c": "1", "d": "1", "e": "1", "f": "1"}),
		},
		"in groups": {
			func(ctx context.Context, l *slog.Logger) {
				l.With("b", "2").WithGroup("g").With("c", "3").WithGroup("").WithGroup("h").InfoContext(ctx, "m", "a", "1")
			},
			with(map[string]any{"b": "2", "g": map[string]any{"c": "3", "h": map[string]any{"a": "1"}}}),
		},
		"no context": {
			func(_ context.Context, l *slog.Logger) { l.Info("m", "a", "1") },
			map[string]any{"level": "INFO", "msg": "m", "a": "1"},
		},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			var out bytes.Buffer
			c.log(requestContext(), telemetry.NewLogger(&out, slog.LevelInfo, telemetry.FormatJSON))
			got := members(t, out.Bytes())
			delete(got, "time")
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestLogHonoursTheLevel(t *testing.T) {
	var out bytes.Buffer
	level := new(slog.LevelVar)
	level.Set(slog.LevelWarn)
	logger := telemetry.NewLogger(&out, level, telemetry.FormatJSON)
	logger.Info("quiet")
	if out.Len() != 0 {
		t.Errorf("got %s", out.String())
	}
	level.Set(slog.LevelDebug)
	logger.Debug("loud")
	if out.Len() == 0 {
		t.Error("the level did not change while running")
	}
}

func BenchmarkLogWithIDs(b *testing.B) {
	logger := telemetry.NewLogger(discard{}, slog.LevelInfo, telemetry.FormatJSON)
	ctx := requestContext()
	b.ReportAllocs()
	for b.Loop() {
		logger.LogAttrs(ctx, slog.LevelInfo, "request", slog.String("method", "GET"), slog.String("path", "/api/users/1"),
			slog.Int("status", 200), slog.Int64("bytes", 1024), slog.Float64("duration_ms", 1.25), slog.String("client", "192.0.2.1"))
	}
}

// discard is io.Discard under another type: slog notices that one and skips the work.
type discard struct{}

func (discard) Write(p []byte) (int, error) { return len(p), nil }
