package telemetry

import (
	"context"
	"encoding/binary"
	"math/rand/v2"

	"go.opentelemetry.io/otel/trace"
)

// Draw decides whether a new trace is recorded before anything is made for it: of
// a hundred requests, as a rule, 99 are not, and a span that nobody records costs more
// than finding the route. It returns, where the trace is recorded, the context for the
// tracer to start it in; otherwise nil, and the ids that the request has all the same.
type Draw func(ctx context.Context) (recorded context.Context, id trace.TraceID, span trace.SpanID)

// Draw is nil where the tracer has to be asked: there is none, or callers have a say.
func (t *Telemetry) Draw() Draw { return t.draw }

// newDraw makes the draw of a sampler that goes by the id of the trace alone: it decides
// as the SDK's TraceIDRatioBased does, which the tracer asks once more.
func newDraw(ratio float64) Draw {
	bound := uint64(ratio * (1 << 63))
	return func(ctx context.Context) (context.Context, trace.TraceID, trace.SpanID) {
		id := newTraceID()
		if binary.BigEndian.Uint64(id[8:])>>1 >= bound {
			return nil, id, newSpanID()
		}
		return context.WithValue(ctx, drawnKey{}, id), id, trace.SpanID{}
	}
}

// drawnKey is the key of the id with which a context's trace is to start.
type drawnKey struct{}

// drawnIDs makes the ids of spans. Traces have those that were drawn for them. It
// implements the SDK's IDGenerator.
type drawnIDs struct{}

// NewIDs implements the SDK's IDGenerator.
func (drawnIDs) NewIDs(ctx context.Context) (trace.TraceID, trace.SpanID) {
	id, ok := ctx.Value(drawnKey{}).(trace.TraceID)
	if !ok {
		id = newTraceID()
	}
	return id, newSpanID()
}

// NewSpanID implements the SDK's IDGenerator.
func (drawnIDs) NewSpanID(context.Context, trace.TraceID) trace.SpanID { return newSpanID() }

// The ids only have to be different (W3C Trace Context section 3.2.2.3): nobody is let in
// by one.
func newTraceID() (id trace.TraceID) {
	for !id.IsValid() {
		binary.NativeEndian.PutUint64(id[:8], rand.Uint64()) //nolint:gosec // see above
		binary.NativeEndian.PutUint64(id[8:], rand.Uint64()) //nolint:gosec // see above
	}
	return id
}

func newSpanID() (id trace.SpanID) {
	for !id.IsValid() {
		binary.NativeEndian.PutUint64(id[:], rand.Uint64()) //nolint:gosec // see above
	}
	return id
}
