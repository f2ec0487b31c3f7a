package app_test

import (
	"strings"
	"testing"

	"github.com/keywarden/keywarden/pkg/app/apptest"
)

// The attack cases of CORS hold as well where there is no CORS at all. This is
// what they do not say: that the page which may use a route can, and that nothing
// of the answer is for another, whatever the caller's key.
func TestOnlyThePageThatMayReadsAnswers(t *testing.T) {
	p, up := startBehind(t, apptest.Options{})
	key := "X-API-Key: " + p.Key(t, p.User(t), nil).Secret
	const app = "https://app.example.com"
	for _, c := range []struct {
		name, line string
		header     []string
		status     int
		reader     string // the origin whose page can read the answer
		asked      int    // requests that reach the backend
	}{
		{"preflight", "OPTIONS /keyed/x", []string{"Origin: " + app, "Access-Control-Request-Method: GET", "Access-Control-Request-Headers: x-api-key"}, 204, app, 0},
		{"preflight with a key", "OPTIONS /keyed/x", []string{"Origin: " + app, "Access-Control-Request-Method: GET", key}, 204, app, 0},
		{"preflight of another page", "OPTIONS /keyed/x", []string{"Origin: https://evil.test", "Access-Control-Request-Method: GET", key}, 403, "", 0},
		{"preflight of a sandbox", "OPTIONS /open/x", []string{"Origin: null", "Access-Control-Request-Method: GET"}, 403, "", 0},
		{"preflight of two pages", "OPTIONS /open/x", []string{"Origin: " + app, "Origin: https://evil.test", "Access-Control-Request-Method: GET"}, 403, "", 0},
		{"preflight where no page may", "OPTIONS /svc/private/x", []string{"Origin: " + app, "Access-Control-Request-Method: GET"}, 401, "", 0},
		{"request", "GET /keyed/x", []string{"Origin: " + app, key}, 200, app, 1},
		{"refusal", "GET /keyed/x", []string{"Origin: " + app}, 401, app, 0},
		{"request of another page", "GET /keyed/x", []string{"Origin: https://evil.test", key}, 200, "", 1},
		{"what the backend says", "GET /open/x?hdr=Access-Control-Allow-Origin:%20https://evil.test", []string{"Origin: https://evil.test"}, 200, "", 1},
		{"what the backend says of itself", "GET /open/x?hdr=access-control-allow-origin:%20*", nil, 200, "", 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			a, seen := askBehind(t, p, up, rawRequest(c.line+" HTTP/1.1", c.header...))
			if a.Status != c.status || len(seen) != c.asked {
				t.Errorf("status %d, want %d; %d requests reached the backend, want %d", a.Status, c.status, len(seen), c.asked)
			}
			var want []string
			if c.reader != "" {
				want = []string{c.reader}
			}
			got := a.Header["Access-Control-Allow-Origin"]
			if len(got) != len(want) || len(want) > 0 && got[0] != want[0] || (a.Header.Get("Access-Control-Allow-Credentials") != "") != (c.reader != "") {
				t.Errorf("may read: %q, want %q; header %v", got, want, a.Header)
			}
			if !strings.Contains(c.line, "/svc/") && a.Header.Get("Vary") == "" {
				t.Error("caches are not told that the answer depends on the origin")
			}
		})
	}
}
