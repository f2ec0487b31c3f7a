package tools

import (
	"net/http"
	"net/http/httptest"
	"os/exec"
	"strings"
	"testing"
)

// platform answers as Keywarden does, as far as smoke.sh asks.
func platform() map[string]func(http.ResponseWriter) {
	refuse := func(w http.ResponseWriter) {
		w.Header().Set("WWW-Authenticate", `Bearer realm="keywarden"`)
		w.Header().Set("Content-Type", "application/problem+json")
		w.WriteHeader(http.StatusUnauthorized)
	}
	say := func(text string) func(http.ResponseWriter) {
		return func(w http.ResponseWriter) { _, _ = w.Write([]byte(text)) }
	}
	return map[string]func(http.ResponseWriter){
		"/readyz": say(`{"status":"ready"}`), "/healthz": say("{}"), "/.well-known/jwks.json": say("{}"),
		"/users/me": refuse, "/api-keys": refuse,
		"/metrics": say(`keywarden_build_info{commit="abc",go_version="go1.26",version="v1.2.3"} 1` + "\n"),
	}
}

func TestSmokeTestSeesWhatIsWrong(t *testing.T) {
	if _, err := exec.LookPath("curl"); err != nil {
		t.Skip("needs curl: apt-get install curl")
	}
	status := func(code int) func(http.ResponseWriter) {
		return func(w http.ResponseWriter) { w.WriteHeader(code) }
	}
	for name, c := range map[string]struct {
		path   string
		answer func(http.ResponseWriter)
		text   string
		good   bool
	}{
		"nothing":            {"", nil, "it is version v1.2.3", true},
		"not ready":          {"/readyz", status(503), "GET /readyz does not answer 200", false},
		"degraded":           {"/readyz", func(w http.ResponseWriter) { _, _ = w.Write([]byte(`{"status":"degraded"}`)) }, "it is degraded", false},
		"lets people in":     {"/users/me", status(200), "GET /users/me answers 200, want 401", false},
		"no challenge":       {"/api-keys", status(401), "does not say WWW-Authenticate: Bearer", false},
		"not the platform":   {"/.well-known/jwks.json", status(404), "answers 404, want 200", false},
		"another version":    {"/metrics", func(w http.ResponseWriter) { _, _ = w.Write([]byte(`keywarden_build_info{version="v1.2.2"} 1` + "\n")) }, "it is version v1.2.2, want v1.2.3", false},
		"metrics are closed": {"/metrics", status(404), "version not checked", true},
	} {
		t.Run(name, func(t *testing.T) {
			answers := platform()
			if c.path != "" {
				answers[c.path] = c.answer
			}
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if answer := answers[r.URL.Path]; answer != nil {
					answer(w)
					return
				}
				w.WriteHeader(http.StatusNotFound)
			}))
			defer server.Close()
			cmd := exec.CommandContext(t.Context(), "./smoke.sh")
			cmd.Env = append(cmd.Environ(), "BASE_URL="+server.URL, "VERSION=v1.2.3", "ATTEMPTS=1", "METRICS_URL=")
			out, err := cmd.CombinedOutput()
			if (err == nil) != c.good || !strings.Contains(string(out), c.text) {
				t.Errorf("it ends with %v and says\n%s", err, out)
			}
		})
	}
}
