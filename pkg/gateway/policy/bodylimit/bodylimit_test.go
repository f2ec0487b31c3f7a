package bodylimit_test

import (
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/keywarden/keywarden/pkg/gateway/policy"
	"github.com/keywarden/keywarden/pkg/gateway/policy/bodylimit"
)

// reader counts what the handler behind the step reads, with the error it meets.
type reader struct {
	read int64
	err  error
	runs int
}

func (h *reader) ServeHTTP(_ http.ResponseWriter, r *http.Request) {
	h.runs++
	h.read, h.err = io.Copy(io.Discard, r.Body)
}

func TestLimit(t *testing.T) {
	for _, c := range []struct {
		name      string
		announced bool
		size      int
		status    int // 0: the handler runs
		tooLarge  bool
	}{
		{name: "announced, within", announced: true, size: 1024},
		{name: "announced, beyond", announced: true, size: 1025, status: 413},
		{name: "chunked, within", size: 1024},
		{name: "chunked, beyond", size: 1 << 20, tooLarge: true},
		{name: "empty", announced: true},
	} {
		t.Run(c.name, func(t *testing.T) {
			step, err := bodylimit.New(1024)
			if err != nil {
				t.Fatal(err)
			}
			h := &reader{}
			var body io.Reader = strings.NewReader(strings.Repeat("a", c.size))
			if !c.announced {
				body = io.MultiReader(body) // hides the length
			}
			r := httptest.NewRequest("POST", "/", body)
			w := httptest.NewRecorder()
			policy.Chain(h, nil, policy.Rule{Step: step}).ServeHTTP(w, r)
			if c.status != 0 {
				if w.Code != c.status || h.runs != 0 {
					t.Errorf("status %d, handler ran %d times; want %d before the handler", w.Code, h.runs, c.status)
				}
				return
			}
			var tooLarge *http.MaxBytesError
			if h.runs != 1 || errors.As(h.err, &tooLarge) != c.tooLarge || h.read > 1024 {
				t.Errorf("handler ran %d times, read %d bytes, error %v", h.runs, h.read, h.err)
			}
		})
	}
}

func TestNewRefusesNoLimit(t *testing.T) {
	for _, limit := range []int64{0, -1} {
		if _, err := bodylimit.New(limit); err == nil {
			t.Errorf("limit %d accepted", limit)
		}
	}
}
