package telemetry

import (
	"context"
	"encoding/binary"
	"encoding/hex"
	"log/slog"
	"strconv"
	"time"

	"go.opentelemetry.io/otel/trace"

	"github.com/keywarden/keywarden/pkg/reqctx"
)

// Name is the name of a field of a [Line]: a constant of the program that JSON writes as
// it is, and no name of a secret. Names from elsewhere are for [Line.Field].
type Name string

// Line is a line of the log in the making, for who writes many of one kind, such as those
// of the access log: without a record, and without looking at each name. It holds what
// JSON writes as it is; where something else was added, Finish writes nothing, and a
// record is needed. It belongs to one goroutine, and to nobody once it is finished.
type Line struct {
	encoder *plainEncoder
	b       []byte
	plain   bool // so far
}

// StartLine begins a line; nil where the handler writes other lines than plain ones, or
// none of the level.
func (h *contextHandler) StartLine(at time.Time, level slog.Level, message string) *Line {
	if h.plain == nil || level < h.plain.level.Level() {
		return nil
	}
	return h.plain.start(at, level, message)
}

// Text adds a string.
func (l *Line) Text(name Name, value string) {
	if len(value) > maxValueBytes {
		l.plain = false
		return
	}
	b := append(appendName(l.b, name), '"')
	start := len(b)
	b = append(b, value...)
	if !plainBytes(b[start:]) {
		l.plain = false
	}
	l.b = append(b, '"')
}

// Field adds a string with a name that is not the program's.
func (l *Line) Field(name, value string) {
	if !plainName(name) {
		l.plain = false
		return
	}
	l.Text(Name(name), value)
}

// Int adds a number.
func (l *Line) Int(name Name, value int64) {
	l.b = strconv.AppendInt(appendName(l.b, name), value, 10)
}

// exactMicroseconds is below which a number of microseconds, over a thousand, is written
// by its digits: a float64 keeps 15 of them.
const exactMicroseconds = 1e15

// Milliseconds adds a duration to the microsecond, as a number of milliseconds.
func (l *Line) Milliseconds(name Name, d time.Duration) {
	b, us := appendName(l.b, name), d.Microseconds()
	if us < 0 || us >= exactMicroseconds {
		l.b = strconv.AppendFloat(b, Milliseconds(d), 'f', -1, 64)
		return
	}
	b = strconv.AppendInt(b, us/1000, 10)
	l.b = appendFraction(b, int(us%1000), 100)
}

// Milliseconds is d to the microsecond, as a number of milliseconds.
func Milliseconds(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// appendFraction appends a point and the decimals of n, of which the first counts unit,
// without zeros at the end; nothing for 0.
func appendFraction(b []byte, n, unit int) []byte {
	if n == 0 {
		return b
	}
	b = append(b, '.')
	for ; n > 0; unit /= 10 {
		b = append(b, '0'+byte(n/unit%10))
		n %= unit
	}
	return b
}

// Err adds an error.
func (l *Line) Err(name Name, err error) {
	value := slog.AnyValue(err)
	if value.Kind() == slog.KindAny {
		value = plain(err)
	}
	if value.Kind() != slog.KindString {
		l.plain = false // it knows better how it is logged
		return
	}
	l.Text(name, value.String())
}

// Finish adds the ids of the request that info describes, and of its trace, which is that
// of ctx where info has none; then it writes the line. It reports whether it did.
func (l *Line) Finish(ctx context.Context, info *reqctx.Info) bool {
	l.ids(ctx, info)
	done, _ := l.finish()
	return done
}

// ids adds what ties the line to a request.
func (l *Line) ids(ctx context.Context, info *reqctx.Info) {
	traceID, spanID := trace.TraceID(info.TraceID), trace.SpanID(info.SpanID)
	if !traceID.IsValid() {
		traceID, spanID = spanOf(ctx)
	}
	if traceID.IsValid() {
		b := append(l.b, `,"`+attrTraceID+`":"`...)
		b = hex.AppendEncode(b, traceID[:])
		b = append(b, `","`+attrSpanID+`":"`...)
		b = hex.AppendEncode(b, spanID[:])
		l.b = append(b, '"')
	}
	if info.ID != "" {
		l.Text(attrRequestID, info.ID)
	}
}

// spanOf are the ids of the span of ctx; zero for none.
func spanOf(ctx context.Context) (trace.TraceID, trace.SpanID) {
	span := trace.SpanContextFromContext(ctx)
	if !span.IsValid() {
		return trace.TraceID{}, trace.SpanID{}
	}
	return span.TraceID(), span.SpanID()
}

// finish writes the line, if it is plain.
func (l *Line) finish() (done bool, err error) {
	done = l.plain
	if done {
		l.b = append(l.b, '}', '\n')
		_, err = l.encoder.out.Write(l.b)
	}
	if cap(l.b) <= maxKeptLine {
		l.encoder.lines.Put(l)
	}
	return done, err
}

// appendName appends what precedes a value.
func appendName(b []byte, name Name) []byte {
	b = append(b, ',', '"')
	b = append(b, name...)
	return append(b, '"', ':')
}

// plainName reports whether a name is written as it is, and its value, too.
func plainName(name string) bool { return name != "" && plainText(name) && !secretName(name) }

// plainText reports whether JSON writes s as it is: printable ASCII but for the quotation
// mark and the backslash.
func plainText(s string) bool {
	for i := range len(s) {
		if !plainByte(s[i]) {
			return false
		}
	}
	return true
}

func plainByte(c byte) bool { return ' ' <= c && c <= '~' && c != '"' && c != '\\' }

// plainBytes is plainText, eight bytes at a time.
func plainBytes(b []byte) bool {
	if len(b) < 8 {
		for _, c := range b {
			if !plainByte(c) {
				return false
			}
		}
		return true
	}
	for i := 0; i+8 <= len(b); i += 8 {
		if !plainWord(binary.LittleEndian.Uint64(b[i:])) {
			return false
		}
	}
	return plainWord(binary.LittleEndian.Uint64(b[len(b)-8:])) // some are looked at twice
}

// plainWord is plainText for the eight bytes of w. The subtractions set the highest bit of
// a byte that is too small, and of a byte that is zero after the exclusive or; they may set
// more, but only above such a byte (Hacker's Delight, section 6-1).
func plainWord(w uint64) bool {
	const ones, high = 0x0101010101010101, 0x8080808080808080
	quotation, backslash, del := w^'"'*ones, w^'\\'*ones, w^0x7f*ones
	bad := w | (w-' '*ones)&^w | (quotation-ones)&^quotation | (backslash-ones)&^backslash | (del-ones)&^del
	return bad&high == 0
}
