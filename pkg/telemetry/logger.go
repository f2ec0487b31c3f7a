package telemetry

import (
	"context"
	"io"
	"log/slog"
	"sync"

	"go.opentelemetry.io/otel/trace"

	"github.com/keywarden/keywarden/pkg/reqctx"
)

// The formats of the log; anything else is taken for JSON.
const (
	FormatJSON = "json"
	FormatText = "text" // for people at a terminal
)

// Names of the attributes that tie a log line to its request and its trace.
const (
	attrTraceID   = "trace_id"
	attrSpanID    = "span_id"
	attrRequestID = "request_id"
)

// NewLogger writes one line per record to w, from level up. Each line carries
// the trace id, span id and request id of its context; values are encoded, cut
// at 8 KiB and, where the attribute's name says that it is a secret, redacted.
//
// Writing is synchronous: w decides what a slow reader of the log costs.
func NewLogger(w io.Writer, level slog.Leveler, format string) *slog.Logger {
	options := &slog.HandlerOptions{Level: level, ReplaceAttr: sanitise}
	if format == FormatText {
		h := slog.NewTextHandler(w, options)
		return slog.New(&contextHandler{Handler: h, root: h})
	}
	if _, safe := w.(*Lines); !safe {
		w = &oneWriter{w: w} // two encoders share it
	}
	h := slog.NewJSONHandler(w, options)
	return slog.New(&contextHandler{Handler: h, root: h, plain: newPlainEncoder(w, level)})
}

// oneWriter lets one line through at a time.
type oneWriter struct {
	mu sync.Mutex
	w  io.Writer
}

// Write implements [io.Writer].
func (o *oneWriter) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.w.Write(p)
}

// contextHandler adds to each record the ids that its context carries.
type contextHandler struct {
	slog.Handler // with everything below applied

	// The ids belong at the top of a line, but what is added to a record lands
	// in the group that is open. So root is the handler before the first group,
	// and inGroup repeats on it what was done since.
	root    slog.Handler
	inGroup []func(slog.Handler) slog.Handler

	plain *plainEncoder // nil for text, and once anything was added to the handler
}

// Handle implements slog.Handler.
func (h *contextHandler) Handle(ctx context.Context, r slog.Record) error {
	if h.plain != nil {
		if done, err := h.plain.handle(ctx, r); done {
			return err
		}
	}
	var buf [3]slog.Attr
	ids := appendIDs(ctx, appendUnrecordedIDs(ctx, buf[:0]))
	if len(ids) == 0 {
		return h.Handler.Handle(ctx, r)
	}
	if len(h.inGroup) > 0 {
		target := h.root.WithAttrs(ids)
		for _, step := range h.inGroup {
			target = step(target)
		}
		return target.Handle(ctx, r)
	}
	r = r.Clone() // records share their tail: adding to one must not change another
	r.AddAttrs(ids...)
	return h.Handler.Handle(ctx, r)
}

// appendUnrecordedIDs appends the ids of a trace that is not recorded here.
func appendUnrecordedIDs(ctx context.Context, ids []slog.Attr) []slog.Attr {
	if info := reqctx.Carried(ctx); info != nil && info.TraceID != [16]byte{} {
		ids = append(ids,
			slog.String(attrTraceID, trace.TraceID(info.TraceID).String()),
			slog.String(attrSpanID, trace.SpanID(info.SpanID).String()))
	}
	return ids
}

func appendIDs(ctx context.Context, ids []slog.Attr) []slog.Attr {
	if sc := trace.SpanContextFromContext(ctx); sc.IsValid() {
		ids = append(ids,
			slog.String(attrTraceID, sc.TraceID().String()),
			slog.String(attrSpanID, sc.SpanID().String()))
	}
	if id := reqctx.From(ctx).ID; id != "" {
		ids = append(ids, slog.String(attrRequestID, id))
	}
	return ids
}

// WithAttrs implements slog.Handler.
func (h *contextHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	if len(h.inGroup) > 0 {
		return h.with(func(t slog.Handler) slog.Handler { return t.WithAttrs(attrs) })
	}
	next := h.Handler.WithAttrs(attrs)
	return &contextHandler{Handler: next, root: next}
}

// WithGroup implements slog.Handler.
func (h *contextHandler) WithGroup(name string) slog.Handler {
	if name == "" {
		return h
	}
	return h.with(func(t slog.Handler) slog.Handler { return t.WithGroup(name) })
}

func (h *contextHandler) with(step func(slog.Handler) slog.Handler) slog.Handler {
	steps := append(append([]func(slog.Handler) slog.Handler(nil), h.inGroup...), step)
	return &contextHandler{Handler: step(h.Handler), root: h.root, inGroup: steps}
}
