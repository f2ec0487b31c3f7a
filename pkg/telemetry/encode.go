package telemetry

import (
	"context"
	"encoding/hex"
	"io"
	"log/slog"
	"math"
	"strconv"
	"sync"
	"time"

	"github.com/keywarden/keywarden/pkg/reqctx"
)

// plainEncoder writes the lines that make up nearly all of a log, such as those
// of the access log, without what [slog.JSONHandler] needs to write any line. What
// it writes is the same to the byte; what it is not sure of it leaves alone.
type plainEncoder struct {
	out     io.Writer
	buffers sync.Pool // of *[]byte
}

// Lines longer than that do not keep their buffer.
const maxKeptLine = 16 << 10

func newPlainEncoder(out io.Writer) *plainEncoder {
	return &plainEncoder{out: out, buffers: sync.Pool{New: func() any {
		b := make([]byte, 0, 1<<10)
		return &b
	}}}
}

// handle writes a record and the ids of its context; done is false when it did
// not, because something in the record is not plain.
func (e *plainEncoder) handle(ctx context.Context, r slog.Record) (done bool, err error) {
	var space [16]slog.Attr
	attrs := space[:0]
	if r.NumAttrs() > len(space) {
		attrs = make([]slog.Attr, 0, r.NumAttrs())
	}
	r.Attrs(func(a slog.Attr) bool { attrs = append(attrs, a); return true })
	return e.line(ctx, r.Time, r.Level, r.Message, attrs)
}

// line is handle for the parts of a record.
func (e *plainEncoder) line(ctx context.Context, at time.Time, level slog.Level, message string, attrs []slog.Attr) (done bool, err error) {
	if at.IsZero() || len(message) > maxValueBytes || !plainText(message) {
		return false, nil
	}
	if year := at.Year(); year < 0 || year > 9999 { // has no form in RFC 3339
		return false, nil
	}
	pooled := e.buffers.Get().(*[]byte)
	b := append((*pooled)[:0], `{"time":"`...)
	b = at.AppendFormat(b, time.RFC3339Nano)
	b = append(b, `","level":"`...)
	b = append(b, level.String()...)
	b = append(b, `","msg":"`...)
	b = append(b, message...)
	b = append(b, '"')
	plain := true
	for _, a := range attrs {
		if b, plain = appendPlain(b, a); !plain {
			break
		}
	}
	if plain {
		b = appendUnrecorded(b, ctx)
		var space [3]slog.Attr
		for _, id := range appendIDs(ctx, space[:0]) {
			if b, plain = appendPlain(b, id); !plain {
				break
			}
		}
	}
	if plain {
		b = append(b, '}', '\n')
		_, err = e.out.Write(b)
	}
	if cap(b) <= maxKeptLine {
		*pooled = b
		e.buffers.Put(pooled)
	}
	return plain, err
}

// appendUnrecorded appends the ids of a trace that is not recorded here.
func appendUnrecorded(b []byte, ctx context.Context) []byte {
	info := reqctx.Carried(ctx)
	if info == nil || info.TraceID == [16]byte{} {
		return b
	}
	b = append(b, `,"`+attrTraceID+`":"`...)
	b = hex.AppendEncode(b, info.TraceID[:])
	b = append(b, `","`+attrSpanID+`":"`...)
	b = hex.AppendEncode(b, info.SpanID[:])
	return append(b, '"')
}

// appendPlain appends an attribute; false when it is not plain.
func appendPlain(b []byte, a slog.Attr) ([]byte, bool) {
	if a.Key == "" || !plainText(a.Key) || secretName(a.Key) {
		return b, false
	}
	b = append(b, ',', '"')
	b = append(b, a.Key...)
	b = append(b, '"', ':')
	switch a.Value.Kind() {
	case slog.KindString:
		text := a.Value.String()
		if len(text) > maxValueBytes || !plainText(text) {
			return b, false
		}
		b = append(b, '"')
		b = append(b, text...)
		return append(b, '"'), true
	case slog.KindInt64:
		return strconv.AppendInt(b, a.Value.Int64(), 10), true
	case slog.KindUint64:
		return strconv.AppendUint(b, a.Value.Uint64(), 10), true
	case slog.KindBool:
		return strconv.AppendBool(b, a.Value.Bool()), true
	case slog.KindFloat64:
		// Beyond these bounds encoding/json writes an exponent.
		f := a.Value.Float64()
		if size := math.Abs(f); f != 0 && (size < 1e-6 || size >= 1e21) || math.IsNaN(f) {
			return b, false
		}
		return strconv.AppendFloat(b, f, 'f', -1, 64), true
	default:
		return b, false
	}
}

// plainText reports whether JSON writes s as it is.
func plainText(s string) bool {
	for i := range len(s) {
		if c := s[i]; c < ' ' || c > '~' || c == '"' || c == '\\' {
			return false
		}
	}
	return true
}
