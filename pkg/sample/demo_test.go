package sample

import (
	"bufio"
	"context"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

// TestEventsComeEachSecondAndEnd runs the real service's stream on a fake clock.
func TestEventsComeEachSecondAndEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		rec := httptest.NewRecorder()
		Users(quiet()).ServeHTTP(rec, httptest.NewRequestWithContext(t.Context(), "GET", "/users/events", nil))
		if took := time.Since(start); took != 59*time.Second {
			t.Errorf("60 events took %v, want 59s: the first comes at once", took)
		}
		if got := rec.Header().Get("Content-Type"); rec.Code != 200 || got != "text/event-stream" || !rec.Flushed {
			t.Errorf("got %d %q, flushed %t", rec.Code, got, rec.Flushed)
		}
		events := strings.Split(strings.TrimSuffix(rec.Body.String(), "\n\n"), "\n\n")
		if len(events) != 60 {
			t.Fatalf("got %d events, want 60", len(events))
		}
		shape := regexp.MustCompile(`^id: 60\nevent: tick\ndata: \{"n":60,"users":5,"time":"[0-9TZ:-]+"\}$`)
		if last := events[59]; !shape.MatchString(last) {
			t.Errorf("the last event is %q", last)
		}
	})
}

func TestEventsEndWhenTheClientLeaves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 2500*time.Millisecond)
		defer cancel()
		rec := httptest.NewRecorder()
		Users(quiet()).ServeHTTP(rec, httptest.NewRequestWithContext(ctx, "GET", "/users/events", nil))
		if got := strings.Count(rec.Body.String(), "event: tick"); got != 3 {
			t.Errorf("got %d events within 2.5 s, want 3", got)
		}
	})
}

// TestEventsOutliveTheServersTimeouts streams over a real connection for longer
// than a request may take to read or to write.
func TestEventsOutliveTheServersTimeouts(t *testing.T) {
	stream := events{interval: 30 * time.Millisecond, limit: 10, count: func() int { return 0 }}
	srv := httptest.NewUnstartedServer(logging(quiet(), answering(quiet(), stream.serve)))
	srv.Config.ReadTimeout = 60 * time.Millisecond
	srv.Config.WriteTimeout = 60 * time.Millisecond
	srv.Start()
	defer srv.Close()
	req, err := http.NewRequestWithContext(t.Context(), "GET", srv.URL, nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := srv.Client().Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	seen := 0
	for lines := bufio.NewScanner(resp.Body); lines.Scan(); {
		if lines.Text() == "event: tick" {
			seen++
		}
	}
	if seen != 10 {
		t.Errorf("got %d events, want 10", seen)
	}
}

func TestEventsAnswerHeadWithoutAStream(t *testing.T) {
	rec := httptest.NewRecorder()
	Users(quiet()).ServeHTTP(rec, httptest.NewRequestWithContext(t.Context(), "HEAD", "/users/events", nil))
	if rec.Code != 200 || rec.Header().Get("Content-Type") != "text/event-stream" || rec.Body.Len() != 0 {
		t.Errorf("got %d %v %q", rec.Code, rec.Header(), rec.Body)
	}
}

func TestWhoamiShowsIdentityAndNoCredential(t *testing.T) {
	srv := serve(t, Users(quiet()))
	got := call(t, srv, "GET", "/whoami", "",
		"X-Consumer: alice", "X-Consumer-Scopes: read", "X-ConsumerX: no", "X-Request-Id: req-1", "X-Forwarded-For: 192.0.2.1",
		"traceparent: 00-a-b-01", "Authorization: Bearer SECRET", "X-API-Key: SECRET", "Cookie: SECRET", "X-Other: SECRET")
	want := identity{
		Headers: map[string][]string{
			"X-Consumer": {"alice"}, "X-Consumer-Scopes": {"read"}, "X-Request-Id": {"req-1"},
			"X-Forwarded-For": {"192.0.2.1"}, "Traceparent": {"00-a-b-01"},
		},
		AuthorizationReceived: true, APIKeyReceived: true,
	}
	if diff := cmp.Diff(want, into[identity](t, got)); diff != "" {
		t.Errorf("identity (-want +got):\n%s", diff)
	}
	if strings.Contains(got.body, "SECRET") {
		t.Errorf("the answer repeats a credential: %s", got.body)
	}
	plain := into[identity](t, call(t, srv, "GET", "/whoami", ""))
	if diff := cmp.Diff(identity{Headers: map[string][]string{}}, plain); diff != "" {
		t.Errorf("without headers (-want +got):\n%s", diff)
	}
}
