package telemetry

import (
	"context"
	"io"
	"log/slog"
	"math"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/keywarden/keywarden/pkg/reqctx"
)

// plainEncoder writes the lines that make up nearly all of a log, such as those
// of the access log, without what [slog.JSONHandler] needs to write any line. What
// it writes is the same to the byte; what it is not sure of it leaves alone.
type plainEncoder struct {
	out    io.Writer
	level  slog.Leveler           // of what is written
	lines  sync.Pool              // of *Line
	second atomic.Pointer[second] // in which the last line was written
}

// Lines longer than that do not keep their buffer.
const maxKeptLine = 16 << 10

func newPlainEncoder(out io.Writer, level slog.Leveler) *plainEncoder {
	e := &plainEncoder{out: out, level: level}
	if level == nil {
		e.level = slog.LevelInfo // as the handlers of slog have it
	}
	e.lines.New = func() any { return &Line{encoder: e, b: make([]byte, 0, 1<<10)} }
	return e
}

// handle writes a record and the ids of its context; done is false when it did
// not, because something in the record is not plain.
func (e *plainEncoder) handle(ctx context.Context, r slog.Record) (done bool, err error) {
	l := e.start(r.Time, r.Level, r.Message)
	if l == nil {
		return false, nil
	}
	r.Attrs(func(a slog.Attr) bool {
		l.attr(a)
		return l.plain
	})
	info := reqctx.Carried(ctx)
	if info == nil {
		info = &reqctx.Info{}
	}
	l.ids(ctx, info)
	return l.finish()
}

// start begins a line with what each has; nil where that is not plain.
func (e *plainEncoder) start(at time.Time, level slog.Level, message string) *Line {
	if at.IsZero() || len(message) > maxValueBytes || !plainText(message) {
		return nil
	}
	s := e.secondOf(at)
	if s == nil {
		return nil
	}
	l := e.lines.Get().(*Line)
	l.plain = true
	b := append(l.b[:0], `{"time":"`...)
	b = append(b, s.date...)
	b = appendFraction(b, at.Nanosecond(), 1e8)
	b = append(b, s.zone...)
	b = append(b, `","level":"`...)
	b = append(b, level.String()...)
	b = append(b, `","msg":"`...)
	b = append(b, message...)
	l.b = append(b, '"')
	return l
}

// second is a second in a place, as the log writes it: what all lines of it have in
// common.
type second struct {
	unix       int64
	place      *time.Location
	date, zone string
}

// secondOf is the second of at; nil for one that has no form in RFC 3339.
func (e *plainEncoder) secondOf(at time.Time) *second {
	if s := e.second.Load(); s != nil && s.unix == at.Unix() && s.place == at.Location() {
		return s
	}
	if year := at.Year(); year < 0 || year > 9999 {
		return nil
	}
	s := &second{
		unix: at.Unix(), place: at.Location(),
		date: at.Format("2006-01-02T15:04:05"), zone: at.Format("Z07:00"),
	}
	e.second.Store(s)
	return s
}

// attr adds an attribute.
func (l *Line) attr(a slog.Attr) {
	if !plainName(a.Key) {
		l.plain = false
		return
	}
	name := Name(a.Key)
	switch a.Value.Kind() {
	case slog.KindString:
		l.Text(name, a.Value.String())
	case slog.KindInt64:
		l.Int(name, a.Value.Int64())
	case slog.KindUint64:
		l.b = strconv.AppendUint(appendName(l.b, name), a.Value.Uint64(), 10)
	case slog.KindBool:
		l.b = strconv.AppendBool(appendName(l.b, name), a.Value.Bool())
	case slog.KindFloat64:
		// Beyond these bounds encoding/json writes an exponent.
		f := a.Value.Float64()
		if size := math.Abs(f); f != 0 && (size < 1e-6 || size >= 1e21) || math.IsNaN(f) {
			l.plain = false
			return
		}
		l.b = strconv.AppendFloat(appendName(l.b, name), f, 'f', -1, 64)
	default:
		l.plain = false
	}
}
