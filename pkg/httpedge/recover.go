package httpedge

import (
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"runtime/debug"

	"github.com/keywarden/keywarden/pkg/problem"
	"github.com/keywarden/keywarden/pkg/reqctx"
)

// Recover turns a panic into a 500 problem and a log line with the stack, so
// that one request's fault stays that request's. An answer that had begun
// cannot be taken back; its connection is aborted, since a clean end would sell
// half an answer as a whole one. For the same reason http.ErrAbortHandler,
// with which httputil.ReverseProxy reports a backend that died half way, is
// passed on as it came.
func Recover(logger *slog.Logger) func(http.Handler) http.Handler {
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			res := wrapResponse(w, r)
			defer func() {
				if v := recover(); v != nil {
					answerPanic(logger, res, r, v)
				}
			}()
			next.ServeHTTP(res, r)
		})
	}
}

func answerPanic(logger *slog.Logger, res *response, r *http.Request, v any) {
	if res.hijacked != nil {
		_ = res.hijacked.Close() // nobody else will: net/http has given it away
	}
	err, ok := v.(error)
	if ok && errors.Is(err, http.ErrAbortHandler) {
		panic(http.ErrAbortHandler)
	}
	if !ok {
		err = fmt.Errorf("%v", v)
	}
	err = fmt.Errorf("panic: %w", err)
	logger.LogAttrs(r.Context(), slog.LevelError, "handler panicked",
		slog.Any("err", err), slog.String("stack", string(debug.Stack())))

	info := reqctx.From(r.Context())
	info.Code, info.Err = problem.ErrInternal.Code, err
	if res.begun() {
		panic(http.ErrAbortHandler)
	}
	dropRepresentation(res.Header())
	problem.ErrInternal.Write(res, info.ID)
}

// dropRepresentation removes what the handler had said about an answer that is
// now not given. What is about the exchange (request id, CORS, limits) stays.
func dropRepresentation(h http.Header) {
	for _, name := range []string{
		"Accept-Ranges", "Content-Disposition", "Content-Encoding", "Content-Language", "Content-Length",
		"Content-Location", "Content-Range", "Etag", "Expires", "Last-Modified", "Location", "Set-Cookie",
		"Trailer", "Transfer-Encoding",
	} {
		h.Del(name)
	}
}
