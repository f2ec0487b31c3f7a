package proxy_test

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/keywarden/keywarden/pkg/gateway/credential"
	"github.com/keywarden/keywarden/pkg/seal"
	"github.com/keywarden/keywarden/pkg/spec/services"
)

type oneSecret struct{}

func (oneSecret) Secret(context.Context, string) (seal.Secret, error) {
	return seal.NewSecret("secret"), nil
}

// TestARefusedTokenIsReplacedAndTheRequestRepeatedWhereItMayBe has a service that
// accepts the second token only.
func TestARefusedTokenIsReplacedAndTheRequestRepeatedWhereItMayBe(t *testing.T) {
	for _, c := range []struct {
		method, body     string
		age              time.Duration // of the first token
		challenge        bool
		status           int
		calls, questions int64
	}{
		{"GET", "", time.Minute, true, 200, 2, 2},
		{"DELETE", "", time.Minute, true, 200, 2, 2},
		{"POST", "", time.Minute, true, 401, 1, 2},
		{"PUT", "body", time.Minute, true, 401, 1, 2},
		{"GET", "", time.Second, true, 401, 1, 1},
		{"GET", "", time.Minute, false, 401, 1, 1},
	} {
		t.Run(fmt.Sprint(c), func(t *testing.T) {
			var questions, calls, elapsed atomic.Int64
			tokens := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				fmt.Fprintf(w, `{"access_token":"token-%d","token_type":"Bearer","expires_in":3600}`, questions.Add(1))
			}))
			defer tokens.Close()
			service := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				calls.Add(1)
				if r.Header.Get("Authorization") == "Bearer token-2" {
					return
				}
				if c.challenge {
					w.Header().Set("WWW-Authenticate", `Bearer error="invalid_token"`)
				}
				w.WriteHeader(http.StatusUnauthorized)
			}))
			defer service.Close()
			began := time.Now()
			all, err := credential.NewCredentials(credential.Options{
				Secrets: oneSecret{}, Logger: slog.New(slog.DiscardHandler),
				Now: func() time.Time { return began.Add(time.Duration(elapsed.Load())) },
			})
			if err != nil {
				t.Fatal(err)
			}
			defer all.Close()
			of := &services.Credential{Kind: "oauth2", TokenURL: tokens.URL, ClientID: "c", ClientSecret: `{{ secret "s" }}`}
			of.Normalise()
			made, err := all.New("s", of)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := made.Apply(httptest.NewRequestWithContext(t.Context(), "GET", "/", nil), nil); err != nil {
				t.Fatal(err)
			}
			elapsed.Store(int64(c.age))
			f := newFront(t, service.URL, setup{credential: made})
			resp, _ := f.do(c.method, "/", strings.NewReader(c.body), nil)
			for until := time.Now().Add(10 * time.Second); questions.Load() < c.questions && time.Now().Before(until); {
				time.Sleep(time.Millisecond) // what nobody waits for
			}
			if resp.StatusCode != c.status || calls.Load() != c.calls || questions.Load() != c.questions {
				t.Errorf("%d after %d calls and %d questions", resp.StatusCode, calls.Load(), questions.Load())
			}
		})
	}
}
