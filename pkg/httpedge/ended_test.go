package httpedge_test

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/keywarden/keywarden/pkg/httpedge"
	"github.com/keywarden/keywarden/pkg/reqctx"
)

// ending is what somebody was told of a request.
type ending struct {
	Route, Subject, KeyID string
	httpedge.Ended
}

func telling(list *[]ending) edgeOption {
	return func(o *httpedge.ObserveOptions) {
		o.Ended = func(info *reqctx.Info, e httpedge.Ended) {
			*list = append(*list, ending{info.Route, info.Subject, info.KeyID, e})
		}
	}
}

func TestEveryEndOfARequestIsTold(t *testing.T) {
	body := func() io.Reader { return struct{ io.Reader }{strings.NewReader("twelve bytes")} } // of unknown length
	for name, c := range map[string]struct {
		request *http.Request
		handler http.HandlerFunc
		want    ending
	}{
		"answered": {
			httptest.NewRequest(http.MethodPost, "/", body()),
			func(w http.ResponseWriter, r *http.Request) {
				_, _ = io.Copy(io.Discard, r.Body)
				found(404)(w, r)
			},
			ending{"/api/users/{id}", "user-1", "key-1", httpedge.Ended{Status: 404, RequestBytes: 12, ResponseBytes: 5}},
		},
		"half of the body read": {
			httptest.NewRequest(http.MethodPost, "/", body()),
			func(_ http.ResponseWriter, r *http.Request) { _, _ = io.ReadFull(r.Body, make([]byte, 6)) },
			ending{Ended: httpedge.Ended{Status: 200, RequestBytes: 6}},
		},
		"body not read": {
			httptest.NewRequest(http.MethodPost, "/", body()),
			func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(413) },
			ending{Ended: httpedge.Ended{Status: 413}},
		},
		"no body": {
			httptest.NewRequest(http.MethodGet, "/", nil),
			func(_ http.ResponseWriter, r *http.Request) {
				if r.Body != http.NoBody {
					t.Error("a request without a body has got one")
				}
			},
			ending{Ended: httpedge.Ended{Status: 200}},
		},
		"answer to HEAD": {
			httptest.NewRequest(http.MethodHead, "/", nil),
			func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "dropped") },
			ending{Ended: httpedge.Ended{Status: 200}},
		},
		"panic": {
			httptest.NewRequest(http.MethodGet, "/", nil),
			func(http.ResponseWriter, *http.Request) { panic("bug") },
			ending{Ended: httpedge.Ended{Status: 500}},
		},
		"aborted": {
			httptest.NewRequest(http.MethodGet, "/", nil),
			func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) },
			ending{},
		},
	} {
		t.Run(name, func(t *testing.T) {
			var told []ending
			e := newEdge(t, telling(&told))
			before := time.Now()
			func() {
				defer func() { _ = recover() }()
				e.do(c.request, c.handler)
			}()
			if len(told) != 1 {
				t.Fatalf("told %d times", len(told))
			}
			got := told[0]
			if got.At.Before(before) || got.At.After(time.Now()) || got.Duration < 0 {
				t.Errorf("at %v after %v", got.At, got.Duration)
			}
			ignore := cmpopts.IgnoreFields(httpedge.Ended{}, "At", "Duration")
			if name == "panic" { // whose answer has a body that is another test's
				ignore = cmpopts.IgnoreFields(httpedge.Ended{}, "At", "Duration", "ResponseBytes")
			}
			if diff := cmp.Diff(c.want, got, ignore); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// A transport may read a body after its handler has returned.
func TestBodyMayBeReadWhileTheEndIsTold(t *testing.T) {
	var told []ending
	e := newEdge(t, telling(&told))
	done := make(chan struct{})
	e.do(httptest.NewRequest(http.MethodPost, "/", strings.NewReader(strings.Repeat("x", 1<<16))), func(_ http.ResponseWriter, r *http.Request) {
		go func() {
			defer close(done)
			_, _ = io.CopyBuffer(struct{ io.Writer }{io.Discard}, struct{ io.Reader }{r.Body}, make([]byte, 16))
		}()
	})
	<-done
	if len(told) != 1 || told[0].RequestBytes > 1<<16 {
		t.Errorf("told %v", told)
	}
}
