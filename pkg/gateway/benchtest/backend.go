package main

import (
	"fmt"
	"io"
	"net/http"
	"path"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
)

// What the backend has, by the last element of the path.
const (
	item   = "item"   // 1 KB
	large  = "large"  // 100 KB
	stream = "stream" // events, each as soon as the one before is written
	ticks  = "ticks"  // events, one in each tick
	silent = "silent" // no answer at all
	asked  = "asked"  // how many requests for silent are waiting
)

// Sizes of bodies, and of one event, in bytes, and the time between two ticks.
const (
	itemBytes  = 1 << 10
	largeBytes = 100 << 10
	eventBytes = 128
	tick       = 10 * time.Millisecond
)

// backend is the service behind all the proxies.
func backend() http.Handler {
	bodies := map[string]string{item: strings.Repeat("a", itemBytes), large: strings.Repeat("a", largeBytes)}
	var waiting atomic.Int64
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch what := path.Base(r.URL.Path); what {
		case stream:
			events(w, r, 0)
		case ticks:
			events(w, r, tick)
		case silent:
			waiting.Add(1)
			<-r.Context().Done()
			waiting.Add(-1)
		case asked:
			_, _ = fmt.Fprintf(w, `{"waiting": %d}`, waiting.Load())
		default:
			body, known := bodies[what]
			if !known {
				http.NotFound(w, r)
				return
			}
			h := w.Header()
			h.Set("Content-Type", "text/plain")
			h.Set("Content-Length", strconv.Itoa(len(body)))
			_, _ = io.WriteString(w, body)
		}
	})
}

// events writes events until the client goes.
func events(w http.ResponseWriter, r *http.Request, every time.Duration) {
	w.Header().Set("Content-Type", "text/event-stream")
	event := []byte("data: " + strings.Repeat("e", eventBytes-len("data: \n\n")) + "\n\n")
	out := http.NewResponseController(w)
	next := time.NewTimer(0)
	defer next.Stop()
	for r.Context().Err() == nil {
		if every > 0 {
			select {
			case <-next.C:
				next.Reset(every)
			case <-r.Context().Done():
				return
			}
		}
		if _, err := w.Write(event); err != nil {
			return
		}
		if err := out.Flush(); err != nil {
			return
		}
	}
}

// collector takes traces and forgets them.
func collector() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		w.Header().Set("Content-Type", "application/x-protobuf")
	})
}
