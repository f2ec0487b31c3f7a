package app_test

import (
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/keywarden/keywarden/pkg/app/apptest"
)

// TestObservability holds the guide of metrics, the rules and the dashboards against a
// program that has done everything that is measured.
func TestObservability(t *testing.T) {
	o := startObserved(t)
	o.everything(t)
	o.outage(t)
	text, all := o.everything(t)
	all["keywarden_tls_certificate_expires_in_seconds"] = certificateMetric(t)

	t.Run("promtool finds nothing to complain of", func(t *testing.T) {
		// The conventions of OpenTelemetry name this one.
		allowed := regexp.MustCompile(`(?m)^# (HELP|TYPE) go_goroutine_count .*\n|^go_goroutine_count .*\n`)
		if said := runTool(t, allowed.ReplaceAllString(text, ""), "promtool", "check", "metrics"); strings.TrimSpace(said) != "" {
			t.Error(said)
		}
	})
	t.Run("the guide has them all, and no other", func(t *testing.T) { guideHasAll(t, all) })
	rules := prometheusRules(t)
	k := known{all, recordedBy(rules)}
	t.Run("the rules ask for what there is", func(t *testing.T) { rulesAskForWhatIsExposed(t, k) })
	t.Run("the boards ask for what there is", func(t *testing.T) { boardsAskForWhatIsExposed(t, k) })
	t.Run("nobody is a label", func(t *testing.T) { nobodyIsALabel(t, o, text) })
	t.Run("latency leads to traces", func(t *testing.T) { latencyLeadsToTraces(t, o) })
}

// certificateMetric is what only a program with TLS exposes.
func certificateMetric(t *testing.T) *family {
	t.Helper()
	a := newAuthority(t, "servers")
	p := apptest.Start(t, apptest.Options{Set: newKeyPair(t, a).options(nil)})
	answer, err := getHTTPS(t, httpsClient(t, a.config(), false), p, "/metrics")
	if err != nil || answer.Status != http.StatusOK {
		t.Fatalf("/metrics: %d, %v", answer.Status, err)
	}
	f := parseExposition(t, string(answer.Body))["keywarden_tls_certificate_expires_in_seconds"]
	if f == nil {
		t.Fatal("the certificate is not measured")
	}
	return f
}

// documented is a line of the table of the guide.
type documented struct {
	Kind, Unit string
	Labels     []string
}

var tableRow = regexp.MustCompile("(?m)^\\| `([a-z_]+)` \\| ([a-z]+) \\| ([^|]*) \\| ([^|]*) \\| .+ \\|$")

// theGuide is the table of docs/guides/metrics.md.
func theGuide(t *testing.T) map[string]documented {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(root, "docs/guides/metrics.md"))
	if err != nil {
		t.Fatal(err)
	}
	table := map[string]documented{}
	for _, m := range tableRow.FindAllStringSubmatch(string(text), -1) {
		d := documented{Kind: m[2], Unit: strings.TrimSpace(m[3])}
		for _, l := range regexp.MustCompile("`([a-z_]+)`").FindAllStringSubmatch(m[4], -1) {
			d.Labels = append(d.Labels, l[1])
		}
		slices.Sort(d.Labels)
		if _, twice := table[m[1]]; twice {
			t.Errorf("%s is in the guide twice", m[1])
		}
		table[m[1]] = d
	}
	return table
}

// unitOf is what the name of a metric says of its unit.
func unitOf(name string) string {
	name = strings.TrimSuffix(name, "_total")
	for suffix, unit := range map[string]string{"_seconds": "s", "_bytes": "By"} {
		if strings.HasSuffix(name, suffix) {
			return unit
		}
	}
	return ""
}

// Of the Go runtime and the process, the guide speaks in general.
func guideHasAll(t *testing.T, all exposition) {
	exposed := map[string]documented{}
	for name, f := range all {
		if name == "target_info" || strings.HasPrefix(name, "go_") || strings.HasPrefix(name, "process_") {
			continue
		}
		exposed[name] = documented{Kind: f.kind, Unit: unitOf(name), Labels: f.names()}
		if f.help == "" {
			t.Errorf("%s has no help text", name)
		}
	}
	if diff := cmp.Diff(theGuide(t), exposed); diff != "" {
		t.Errorf("docs/guides/metrics.md and /metrics differ (-guide +program):\n%s", diff)
	}
}

// No key, user or raw path is in the names or labels.
func nobodyIsALabel(t *testing.T, o *observed, text string) {
	for _, secret := range []string{o.key.ID, o.key.Secret, o.admin.ID, o.admin.Email, "/shop/1", "/nothing/here"} {
		if strings.Contains(text, secret) {
			t.Errorf("/metrics has %q", secret)
		}
	}
}

// A scraper that asks for OpenMetrics finds ids of traces beside the latency of requests
// and of services; another one does not.
func latencyLeadsToTraces(t *testing.T, o *observed) {
	open := string(o.Want(t, http.StatusOK, "GET", "/metrics", nil, "Accept", "application/openmetrics-text;version=1.0.0").Body)
	for _, metric := range []string{"http_server_request_duration_seconds_bucket", "http_client_request_duration_seconds_bucket"} {
		if !regexp.MustCompile(`(?m)^` + metric + `\{.*\} \d+ # \{.*trace_id="[0-9a-f]{32}".*\}`).MatchString(open) {
			t.Errorf("%s has no exemplar", metric)
		}
	}
	if strings.Contains(scrape(t, o.Program), "trace_id") {
		t.Error("plain text has exemplars")
	}
}
