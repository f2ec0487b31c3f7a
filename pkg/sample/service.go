package sample

import (
	"log/slog"
	"net/http"
	"time"

	"github.com/keywarden/keywarden/pkg/problem"
)

var (
	errNoPath = problem.Define(problem.NotFound, "sample.no_path", "This service has nothing at this path.")
	errMethod = problem.Define(problem.MethodNotAllowed, "sample.method", "This path does not have this method.")
)

// maxRequestID bounds the request id that is repeated in errors and logs.
const maxRequestID = 128

// Users returns the user service: /users, /users/{id}, /users/events, /whoami
// and /health. Each call makes a service with sample data of its own.
func Users(logger *slog.Logger) http.Handler {
	users := resource[user]{path: "/users", store: newStore(maxRecords, seedUsers()...)}
	ticker := events{interval: time.Second, limit: 60, count: users.store.count}
	return service(logger, append(users.routes(),
		route{http.MethodGet, "/users/events", ticker.serve},
		route{http.MethodGet, "/whoami", whoami},
	))
}

// Products returns the product service: /products, /products/{id} and /health.
// Each call makes a service with sample data of its own.
func Products(logger *slog.Logger) http.Handler {
	products := resource[product]{path: "/products", store: newStore(maxRecords, seedProducts()...)}
	return service(logger, products.routes())
}

// route is an operation: a handler that returns an error instead of writing one.
type route struct {
	method, path string
	handle       func(http.ResponseWriter, *http.Request) error
}

// service serves routes and GET /health, at the root and below /api.
func service(logger *slog.Logger, routes []route) http.Handler {
	mux := http.NewServeMux()
	for _, r := range append(routes, route{http.MethodGet, "/health", health}) {
		mux.Handle(r.method+" "+r.path, answering(logger, r.handle))
	}
	root := http.NewServeMux()
	root.Handle("/", explaining(mux))
	root.Handle("/api/", http.StripPrefix("/api", explaining(mux)))
	return logging(logger, root)
}

// health answers that the service runs; it depends on nothing.
func health(w http.ResponseWriter, _ *http.Request) error {
	return writeJSON(w, http.StatusOK, map[string]string{"status": "ok"})
}

// answering writes handle's error as a problem document and logs its cause.
func answering(logger *slog.Logger, handle func(http.ResponseWriter, *http.Request) error) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		err := handle(w, r)
		if err == nil {
			return
		}
		refused := problem.From(err)
		if refused.Kind == problem.Internal {
			logger.ErrorContext(r.Context(), "request failed", "error", err, "request_id", requestID(r))
		}
		refused.Write(w, requestID(r))
	})
}

// explaining serves mux, with problem documents for what it does not match.
func explaining(mux *http.ServeMux) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if _, pattern := mux.Handler(r); pattern != "" {
			mux.ServeHTTP(w, r)
			return
		}
		found := verdict{header: http.Header{}}
		mux.ServeHTTP(&found, r)
		if found.status == http.StatusMethodNotAllowed {
			errMethod.WithAllow(found.header.Get("Allow")).Write(w, requestID(r))
			return
		}
		errNoPath.Write(w, requestID(r))
	})
}

// verdict takes the mux's own error answer, for its status and Allow header.
type verdict struct {
	header http.Header
	status int
}

func (v *verdict) Header() http.Header         { return v.header }
func (v *verdict) Write(p []byte) (int, error) { return len(p), nil }
func (v *verdict) WriteHeader(status int)      { v.status = status }

// logging writes one line for each request, without query, header or body: they
// may hold secrets. Health probes are logged for debugging only.
func logging(logger *slog.Logger, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		start := time.Now()
		w.Header().Set("X-Content-Type-Options", "nosniff")
		seen := &statusWriter{ResponseWriter: w, status: http.StatusOK}
		next.ServeHTTP(seen, r)
		level := slog.LevelInfo
		if r.URL.Path == "/health" {
			level = slog.LevelDebug
		}
		logger.Log(r.Context(), level, "request",
			"method", r.Method, "path", r.URL.Path, "status", seen.status,
			"duration_ms", time.Since(start).Milliseconds(), "request_id", requestID(r))
	})
}

// statusWriter remembers the status that was sent.
type statusWriter struct {
	http.ResponseWriter
	status int
}

// WriteHeader notes the final status.
func (w *statusWriter) WriteHeader(status int) {
	if status >= http.StatusOK {
		w.status = status
	}
	w.ResponseWriter.WriteHeader(status)
}

// Unwrap lets [http.ResponseController] reach the connection.
func (w *statusWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// requestID is the id the gateway gave the request, or nothing.
func requestID(r *http.Request) string {
	if id := r.Header.Get("X-Request-Id"); len(id) <= maxRequestID {
		return id
	}
	return ""
}
