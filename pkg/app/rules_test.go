package app_test

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// prometheusRule is a rule of Prometheus, one that records or one that alerts.
type prometheusRule struct {
	Record      string
	Alert       string
	Expr        string
	For         string
	Labels      map[string]string
	Annotations map[string]string
}

// prometheusRules are the rules of all files.
func prometheusRules(t *testing.T) (all []prometheusRule) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(root, "configs/prometheus/rules/*.yml"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no rules: %v", err)
	}
	for _, file := range files {
		var f struct {
			Groups []struct{ Rules []prometheusRule }
		}
		name, err := filepath.Rel(root, file)
		if err != nil {
			t.Fatal(err)
		}
		readYAML(t, name, &f)
		for _, g := range f.Groups {
			all = append(all, g.Rules...)
		}
	}
	return all
}

// recordedBy are the names that rules record.
func recordedBy(rules []prometheusRule) map[string]bool {
	names := map[string]bool{}
	for _, r := range rules {
		if r.Record != "" {
			names[r.Record] = true
		}
	}
	return names
}

func TestPrometheusAndAlertmanagerTakeTheirFiles(t *testing.T) {
	runTool(t, "", "promtool", "check", "config", filepath.Join(root, "configs/prometheus/prometheus.yml"))
	runTool(t, "", "amtool", "check-config", filepath.Join(root, "configs/alertmanager/alertmanager.yml"))
}

// Each alert fires when it should, and does not when it should not.
func TestAlertsFireAndDoNot(t *testing.T) {
	runTool(t, "", "promtool", "test", "rules", filepath.Join(root, "configs/prometheus/tests/alerts.yml"))
	var f struct{ Tests []struct{ Name string } }
	readYAML(t, "configs/prometheus/tests/alerts.yml", &f)
	names := map[string]bool{}
	for _, test := range f.Tests {
		names[test.Name] = true
	}
	for _, r := range prometheusRules(t) {
		if r.Alert != "" && (!names[r.Alert+" fires"] || !names[r.Alert+" does not fire"]) {
			t.Errorf("%s has no tests %q and %q", r.Alert, r.Alert+" fires", r.Alert+" does not fire")
		}
	}
}

// What is on call at night needs to know how bad it is, what it is, and what to do.
func TestAlertsSayWhatToDo(t *testing.T) {
	const base = "https://github.com/keywarden/keywarden/blob/main/"
	seen := map[string]bool{}
	for _, r := range prometheusRules(t) {
		if r.Alert == "" {
			continue
		}
		if seen[r.Alert] {
			t.Errorf("%s is there twice", r.Alert)
		}
		seen[r.Alert] = true
		if s := r.Labels["severity"]; s != "critical" && s != "warning" {
			t.Errorf("%s: severity %q", r.Alert, s)
		}
		if r.Annotations["summary"] == "" || r.Annotations["description"] == "" {
			t.Errorf("%s has no summary or no description", r.Alert)
		}
		link, ours := strings.CutPrefix(r.Annotations["runbook_url"], base)
		page, section, found := strings.Cut(link, "#")
		if !ours || !found || !strings.HasPrefix(page, "docs/runbooks/") {
			t.Errorf("%s: the runbook is %q", r.Alert, r.Annotations["runbook_url"])
			continue
		}
		text, err := os.ReadFile(filepath.Join(root, page))
		if err != nil {
			t.Errorf("%s: %v", r.Alert, err)
			continue
		}
		if all := anchors(string(text)); !slices.Contains(all, section) {
			t.Errorf("%s: %s has no section #%s, only %v", r.Alert, page, section, all)
		}
		if strings.Contains(section, "afterwards") || strings.Contains(section, "write-down") || strings.Contains(section, "is-it-over") {
			t.Errorf("%s leads to #%s of %s, which is for when it is over", r.Alert, section, page)
		}
		if !strings.Contains(string(text), "`"+r.Alert+"`") {
			t.Errorf("%s leads to %s, which is not about it", r.Alert, page)
		}
	}
}

// Alertmanager names only alerts that there are.
func TestInhibitionsNameAlerts(t *testing.T) {
	var f struct {
		Rules []struct {
			Source []string `yaml:"source_matchers"`
			Target []string `yaml:"target_matchers"`
		} `yaml:"inhibit_rules"`
	}
	readYAML(t, "configs/alertmanager/alertmanager.yml", &f)
	var alerts []string
	for _, r := range prometheusRules(t) {
		alerts = append(alerts, r.Alert)
	}
	for _, r := range f.Rules {
		for _, m := range slices.Concat(r.Source, r.Target) {
			for _, name := range regexp.MustCompile(`Keyw\w*`).FindAllString(m, -1) {
				if !slices.Contains(alerts, name) {
					t.Errorf("there is no alert %s: %s", name, m)
				}
			}
		}
	}
	if len(f.Rules) == 0 {
		t.Error("no inhibitions")
	}
}

var (
	heading    = regexp.MustCompile(`(?m)^#{1,6} +(.+?) *$`)
	noAnchor   = regexp.MustCompile(`[^\p{L}\p{N}\- _]`)
	codeFences = regexp.MustCompile("(?ms)^```.*?^```")
)

// anchors are the names that GitHub gives to the headings of a page.
func anchors(page string) (all []string) {
	for _, m := range heading.FindAllStringSubmatch(codeFences.ReplaceAllString(page, ""), -1) {
		name := noAnchor.ReplaceAllString(strings.ToLower(m[1]), "")
		all = append(all, strings.ReplaceAll(name, " ", "-"))
	}
	return all
}

// rulesAskForWhatIsExposed is part of [TestObservability].
func rulesAskForWhatIsExposed(t *testing.T, k known) {
	for _, r := range prometheusRules(t) {
		for _, wrong := range k.check(r.Expr, annotationLabels(r)) {
			t.Errorf("%s%s: %s", r.Record, r.Alert, wrong)
		}
	}
}

var templateLabel = regexp.MustCompile(`\$labels\.([a-z_]+)`)

// annotationLabels are the labels that the annotations of a rule name.
func annotationLabels(r prometheusRule) (names []string) {
	for _, text := range r.Annotations {
		for _, m := range templateLabel.FindAllStringSubmatch(text, -1) {
			names = append(names, m[1])
		}
	}
	return names
}
