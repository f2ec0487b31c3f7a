package app_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/keywarden/keywarden/pkg/app/apptest"
)

// trafficTime is how long the program gets traffic before Prometheus is asked: windows
// of a minute are full by then.
const trafficTime = 2 * time.Minute

// prometheusServer is a running Prometheus.
type prometheusServer struct{ url string }

// startPrometheus runs the program on loopback with the rules of the repository, and has
// it scrape p.
func startPrometheus(t *testing.T, binary string, p *apptest.Program) prometheusServer {
	t.Helper()
	dir := t.TempDir()
	rules, err := filepath.Abs(filepath.Join(root, "configs/prometheus/rules"))
	if err != nil {
		t.Fatal(err)
	}
	config := fmt.Sprintf(`
global: {scrape_interval: 2s, evaluation_interval: 2s}
rule_files: [%q]
scrape_configs: [{job_name: api-security-platform, static_configs: [{targets: [%q]}]}]
`, rules+"/*.yml", p.Addr)
	if err := os.WriteFile(filepath.Join(dir, "prometheus.yml"), []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	addr := freeAddress(t)
	cmd := exec.Command(binary, "--config.file="+filepath.Join(dir, "prometheus.yml"), "--storage.tsdb.path="+filepath.Join(dir, "data"),
		"--web.listen-address="+addr, "--enable-feature=exemplar-storage", "--log.level=warn")
	cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	s := prometheusServer{"http://" + addr}
	apptest.Eventually(t, "Prometheus is ready", func() bool {
		resp, err := http.Get(s.url + "/-/ready")
		if err != nil {
			return false
		}
		_ = resp.Body.Close()
		return resp.StatusCode == http.StatusOK
	})
	return s
}

// ask calls the API of Prometheus and decodes the data of its answer.
func (s prometheusServer) ask(path string, parameters url.Values, into any) error {
	resp, err := http.Get(s.url + "/api/v1/" + path + "?" + parameters.Encode())
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	answer := struct {
		Status, Error string
		Data          any
	}{Data: into}
	if err := json.NewDecoder(resp.Body).Decode(&answer); err != nil {
		return err
	}
	if answer.Status != "success" {
		return fmt.Errorf("%s: %s", answer.Status, answer.Error)
	}
	return nil
}

// series is how many an expression gives now.
func (s prometheusServer) series(expr string) (int, error) {
	var data struct{ Result []any }
	err := s.ask("query", url.Values{"query": {expr}}, &data)
	return len(data.Result), err
}

// Panels that show nothing when all is well, or that need what this program has not.
var mayBeEmpty = []string{
	"Next certificate", // there is no TLS
	"Memory (B)",       // GOMEMLIMIT is not set
	"Time of waits",    // nobody waited
	"that are left",    // the budgets are worked out each five minutes
}

// TestPrometheusAnswersBoardsAndRules runs every query of the boards, and all rules, by a
// real Prometheus that scrapes a program with traffic: "make test-dashboards".
func TestPrometheusAnswersBoardsAndRules(t *testing.T) {
	binary := os.Getenv("KEYWARDEN_PROMETHEUS")
	if binary == "" {
		t.Skip("KEYWARDEN_PROMETHEUS names no Prometheus: make test-dashboards")
	}
	o := startObserved(t)
	o.everything(t)
	s := startPrometheus(t, binary, o.Program)
	for end := time.Now().Add(trafficTime); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		o.visit(t)
	}

	var loaded struct {
		Groups []struct {
			Rules []struct{ Name, Type, State, Health, LastError string }
		}
	}
	if err := s.ask("rules", nil, &loaded); err != nil {
		t.Fatal(err)
	}
	var firing []string
	rules := 0
	for _, g := range loaded.Groups {
		for _, r := range g.Rules {
			rules++
			if r.LastError != "" || r.Health != "ok" && r.Health != "unknown" {
				t.Errorf("rule %s: %s %s", r.Name, r.Health, r.LastError)
			}
			if r.State == "firing" {
				firing = append(firing, r.Name)
			}
		}
	}
	if rules != len(prometheusRules(t)) {
		t.Errorf("%d rules were loaded of %d", rules, len(prometheusRules(t)))
	}
	t.Logf("%d rules; firing: %v", rules, firing)
	if !slices.Contains(firing, "KeywardenServiceWithoutTargets") {
		t.Error("nobody was told of a service without targets")
	}

	asked, empty := 0, 0
	for _, q := range boardQueries(t) {
		asked++
		n, err := s.series(q.expr)
		switch {
		case err != nil:
			t.Errorf("%s: %v", q.where, err)
		case n == 0 && slices.ContainsFunc(mayBeEmpty, func(part string) bool { return strings.Contains(q.where, part) }):
			empty++
			t.Logf("%s: no data", q.where)
		case n == 0:
			t.Errorf("%s: no data: %s", q.where, q.expr)
		}
	}
	t.Logf("%d queries of boards, %d without data", asked, empty)

	var exemplars []any
	err := s.ask("query_exemplars", url.Values{
		"query": {"http_server_request_duration_seconds_bucket"},
		"start": {fmt.Sprint(time.Now().Add(-trafficTime).Unix())}, "end": {fmt.Sprint(time.Now().Unix())},
	}, &exemplars)
	if err != nil || len(exemplars) == 0 {
		t.Errorf("%d series with exemplars, %v", len(exemplars), err)
	}
}
