package charts_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"go.yaml.in/yaml/v4"

	"github.com/keywarden/keywarden/pkg/config"
)

// ownedOptions are decided by values of the chart, and so not part of its config.
func ownedOptions() []string {
	return []string{
		"server.addr", "server.metrics_addr", "server.shutdown_delay", "server.drain_timeout",
		"server.tls.cert_file", "server.tls.key_file", "server.tls.dir", "server.tls.client_ca_file", "server.tls.client_auth",
		"database.migrate_on_start", "database.postgres_bin", "data.dir", "gateway.source", "gateway.file",
		"gateway.kubernetes.controller", "gateway.kubernetes.addresses", "gateway.kubernetes.status", "gateway.kubernetes.lease_namespace",
		"gateway.kubernetes.api_url", "gateway.kubernetes.token_file", "gateway.kubernetes.ca_file",
	}
}

// configSchema is the schema of the value config, made from the options of the program.
// Secrets are left out: a ConfigMap is no place for them.
func configSchema() map[string]any {
	root := section()
	for _, row := range config.Describe() {
		if row.Secret || slices.Contains(ownedOptions(), row.Path) {
			continue
		}
		at := root
		names := strings.Split(row.Path, ".")
		for _, name := range names[:len(names)-1] {
			below := at["properties"].(map[string]any)
			if below[name] == nil {
				below[name] = section()
			}
			at = below[name].(map[string]any)
		}
		at["properties"].(map[string]any)[names[len(names)-1]] = optionSchema(row)
	}
	return root
}

func section() map[string]any {
	return map[string]any{"type": "object", "additionalProperties": false, "properties": map[string]any{}}
}

// optionSchema is that of one option; its description is what an editor shows.
func optionSchema(row config.Row) map[string]any {
	kind, isList := strings.CutPrefix(row.Type, "list of ")
	schema := map[string]any{}
	switch kind {
	case "boolean", "integer", "number":
		schema["type"] = kind
		if low, high, ok := strings.Cut(row.Bounds, " to "); ok {
			schema["minimum"], schema["maximum"] = json.Number(low), json.Number(high)
		}
	case "duration":
		schema["type"], schema["pattern"] = "string", `^0$|^([0-9]+(\.[0-9]+)?(ns|us|µs|ms|s|m|h))+$`
	case "size":
		schema["anyOf"] = []any{map[string]any{"const": 0}, map[string]any{"type": "string", "pattern": `^0$|^[0-9]+(B|KiB|MiB|GiB|TiB)$`}}
	default:
		schema["type"] = "string"
		if words, ok := strings.CutPrefix(row.Bounds, "one of "); ok {
			schema["enum"] = strings.Split(words, ", ")
		}
	}
	if isList {
		schema = map[string]any{"type": "array", "items": schema}
	}
	schema["description"] = row.Doc
	return schema
}

// TestSchemaKnowsTheOptionsOfTheProgram compares the schema of config with the options.
func TestSchemaKnowsTheOptionsOfTheProgram(t *testing.T) {
	path := filepath.Join(chart, "values.schema.json")
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var document map[string]any
	decoder := json.NewDecoder(bytes.NewReader(data))
	decoder.UseNumber()
	if err := decoder.Decode(&document); err != nil {
		t.Fatal(err)
	}
	document["definitions"].(map[string]any)["config"] = configSchema()
	var want bytes.Buffer
	encoder := json.NewEncoder(&want)
	encoder.SetIndent("", "  ")
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(document); err != nil {
		t.Fatal(err)
	}
	compareFile(t, path, want.Bytes())
}

// TestOwnedOptionsExist finds options that were renamed since they were left out.
func TestOwnedOptionsExist(t *testing.T) {
	rows := config.Describe()
	for _, path := range ownedOptions() {
		if !slices.ContainsFunc(rows, func(r config.Row) bool { return r.Path == path }) {
			t.Errorf("there is no option %s", path)
		}
	}
}

// TestSchemaTakesEveryDefault gives all options with the values that they have anyhow: a
// schema that is stricter than the program would refuse one.
func TestSchemaTakesEveryDefault(t *testing.T) {
	values := map[string]any{}
	for _, row := range config.Describe() {
		if row.Secret || slices.Contains(ownedOptions(), row.Path) {
			continue
		}
		var value any
		if err := yaml.Unmarshal([]byte(row.Default), &value); err != nil {
			t.Fatal(err)
		}
		at := values
		names := strings.Split(row.Path, ".")
		for _, name := range names[:len(names)-1] {
			if at[name] == nil {
				at[name] = map[string]any{}
			}
			at = at[name].(map[string]any)
		}
		at[names[len(names)-1]] = value
	}
	content, err := json.Marshal(map[string]any{"config": values})
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "defaults.json")
	if err := os.WriteFile(file, content, 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := render(t, valuesFiles(t)["minimal"], kubeVersions()[0], "--values", file)
	if err != nil {
		t.Fatal(err)
	}
	r := rendering{"defaults", decode(t, out)}
	for _, p := range r.pods() {
		if p.owner.kind() != "Deployment" {
			continue
		}
		if cfg := r.load(t, p); cfg.Keys.CacheEntries != config.Default().Keys.CacheEntries {
			t.Errorf("the default came through as %d", cfg.Keys.CacheEntries)
		}
	}
}

// value is one value of values.yaml with the comment above it.
type value struct {
	path, standard, comment string
}

// chartValues reads values.yaml: a key whose members have comments is a group, every other
// one a value.
func chartValues(t *testing.T) []value {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(chart, "values.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	var document yaml.Node
	if err := yaml.Unmarshal(data, &document); err != nil {
		t.Fatal(err)
	}
	return membersOf(t, document.Content[0], "")
}

func membersOf(t *testing.T, mapping *yaml.Node, prefix string) []value {
	t.Helper()
	var values []value
	for i := 0; i < len(mapping.Content); i += 2 {
		key, v := mapping.Content[i], mapping.Content[i+1]
		path := prefix + key.Value
		comment := commentOf(key)
		if comment == "" {
			t.Errorf("values.yaml: %s has no comment", path)
		}
		if v.Kind == yaml.MappingNode && len(v.Content) > 0 && commentOf(v.Content[0]) != "" {
			values = append(values, value{path: path, comment: comment})
			values = append(values, membersOf(t, v, path+".")...)
			continue
		}
		values = append(values, value{path, inline(t, v), comment})
	}
	return values
}

// commentOf is the last paragraph above a key; what is before belongs to the file.
func commentOf(key *yaml.Node) string {
	paragraphs := strings.Split(strings.TrimSpace(key.HeadComment), "\n\n")
	var words []string
	for line := range strings.SplitSeq(paragraphs[len(paragraphs)-1], "\n") {
		words = append(words, strings.TrimSpace(strings.TrimPrefix(line, "#")))
	}
	return strings.TrimSpace(strings.Join(words, " "))
}

// inline writes a default in one line.
func inline(t *testing.T, node *yaml.Node) string {
	t.Helper()
	var v any
	if err := node.Decode(&v); err != nil {
		t.Fatal(err)
	}
	var text bytes.Buffer
	encoder := json.NewEncoder(&text)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(v); err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(text.String())
}

// The generated part of the README.
const (
	tableBegin = "<!-- values: go test ./charts -update -->\n"
	tableEnd   = "<!-- end of values -->"
)

// TestReadmeListsTheValues compares the table of the README with values.yaml.
func TestReadmeListsTheValues(t *testing.T) {
	path := filepath.Join(chart, "README.md")
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, found := strings.Cut(string(data), tableBegin)
	_, after, ended := strings.Cut(rest, tableEnd)
	if !found || !ended {
		t.Fatalf("%s has no place for the table", path)
	}
	var table strings.Builder
	table.WriteString("| value | default | is |\n| --- | --- | --- |\n")
	for _, v := range chartValues(t) {
		standard := ""
		if v.standard != "" {
			standard = "`" + strings.ReplaceAll(v.standard, "|", `\|`) + "`"
		}
		fmt.Fprintf(&table, "| `%s` | %s | %s |\n", v.path, standard, strings.ReplaceAll(v.comment, "|", `\|`))
	}
	compareFile(t, path, []byte(before+tableBegin+table.String()+tableEnd+after))
}

// TestSchemaAndValuesNameTheSame finds values without a schema, and the reverse.
func TestSchemaAndValuesNameTheSame(t *testing.T) {
	data, err := os.ReadFile(filepath.Join(chart, "values.schema.json"))
	if err != nil {
		t.Fatal(err)
	}
	var schema map[string]any
	if err := json.Unmarshal(data, &schema); err != nil {
		t.Fatal(err)
	}
	inValues := map[string]bool{}
	for _, v := range chartValues(t) {
		inValues[v.path] = true
	}
	inSchema := map[string]bool{}
	for _, path := range schemaPaths(schema, "", inValues) {
		inSchema[path] = true
	}
	delete(inSchema, "global") // Helm's own, for charts within charts
	for _, path := range slices.Sorted(maps.Keys(inValues)) {
		if !inSchema[path] {
			t.Errorf("%s is not in the schema", path)
		}
	}
	for _, path := range slices.Sorted(maps.Keys(inSchema)) {
		if !inValues[path] {
			t.Errorf("%s is in the schema, but not in values.yaml", path)
		}
	}
}

// schemaPaths lists the members of a schema, down to those that values.yaml has as groups.
func schemaPaths(schema map[string]any, prefix string, groups map[string]bool) []string {
	var paths []string
	properties, _ := schema["properties"].(map[string]any)
	for name, p := range properties {
		path := prefix + name
		paths = append(paths, path)
		inner := p.(map[string]any)
		isGroup := slices.ContainsFunc(slices.Collect(maps.Keys(groups)), func(other string) bool { return strings.HasPrefix(other, path+".") })
		if inner["properties"] != nil && inner["additionalProperties"] != false {
			paths = append(paths, path+" (open)")
		}
		if isGroup {
			paths = append(paths, schemaPaths(inner, path+".", groups)...)
		}
	}
	return paths
}

// TestCopiesOfRulesAndDashboardsAreCurrent compares what the chart carries along with where
// it is written: Helm reads no file outside of the chart.
func TestCopiesOfRulesAndDashboardsAreCurrent(t *testing.T) {
	for _, c := range []struct{ from, pattern, to string }{
		{"configs/prometheus/rules", "*.yml", "files/rules"},
		{"configs/grafana/dashboards", "*.json", "files/dashboards"},
	} {
		originals, err := filepath.Glob(filepath.Join("..", filepath.FromSlash(c.from), c.pattern))
		if err != nil {
			t.Fatal(err)
		}
		folder := filepath.Join(chart, filepath.FromSlash(c.to))
		if *update && len(originals) > 0 {
			if err := os.MkdirAll(folder, 0o755); err != nil {
				t.Fatal(err)
			}
		}
		names := map[string]bool{}
		for _, path := range originals {
			data, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			names[filepath.Base(path)] = true
			compareFile(t, filepath.Join(folder, filepath.Base(path)), data)
		}
		copies, err := filepath.Glob(filepath.Join(folder, "*"))
		if err != nil {
			t.Fatal(err)
		}
		for _, path := range copies {
			if names[filepath.Base(path)] {
				continue
			}
			if !*update {
				t.Errorf("%s is no longer in %s; run: go test ./charts -update", path, c.from)
			} else if err := os.Remove(path); err != nil {
				t.Error(err)
			}
		}
	}
}

// TestMonitoringIsComplete counts what the objects hold against the files of the chart.
func TestMonitoringIsComplete(t *testing.T) {
	out, err := render(t, valuesFiles(t)["full"], kubeVersions()[0], "--values", filepath.Join("testdata", "monitoring.yaml"), "--set", "monitoring.serviceMonitor.job=gate")
	if err != nil {
		t.Fatal(err)
	}
	r := rendering{"monitoring", decode(t, out)}
	validateAll(t, compileSchemas(t, kubeVersions()[0]), r)
	namesAreAllowed(t, r)
	groups, boards, expected := 1, 0, "" // one group is of the values
	files, _ := filepath.Glob(filepath.Join(chart, "files", "rules", "*.yml"))
	for _, path := range files {
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		var file struct{ Groups []any }
		if err := yaml.Unmarshal(data, &file); err != nil {
			t.Fatal(err)
		}
		groups += len(file.Groups)
	}
	dashboards, _ := filepath.Glob(filepath.Join(chart, "files", "dashboards", "*.json"))
	for _, o := range r.objects {
		switch {
		case o.kind() == "PrometheusRule":
			if labels(o, "metadata", "labels")["release"] != "prometheus" {
				t.Error("Prometheus does not find the rules")
			}
			for _, g := range list(o, "spec", "groups") {
				for _, rule := range list(g, "rules") {
					if rule["record"] == "keywarden:replicas:expected" {
						expected = text(rule, "expr")
					}
					if strings.Contains(text(rule, "expr"), `job="api-security-platform"`) {
						t.Errorf("the rule %v%v asks for another job than the ServiceMonitor names", rule["alert"], rule["record"])
					}
				}
			}
			if got := len(list(o, "spec", "groups")); got != groups {
				t.Errorf("there are %d groups of rules, want %d", got, groups)
			}
		case labels(o, "metadata", "labels")["grafana_dashboard"] != "":
			boards++
			for name, content := range labels(o, "data") {
				if !json.Valid([]byte(content)) {
					t.Errorf("%s is no JSON", name)
				}
			}
		}
	}
	if expected != "vector(3)" {
		t.Errorf("the rules expect %q replicas, want 3, as autoscaling.minReplicas says", expected)
	}
	if boards != len(dashboards) {
		t.Errorf("there are %d dashboards, want %d", boards, len(dashboards))
	}
}

// TestVersionsAreSemantic reads Chart.yaml.
func TestVersionsAreSemantic(t *testing.T) {
	data, err := os.ReadFile(filepath.Join(chart, "Chart.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	var about struct {
		Version, AppVersion, KubeVersion string
	}
	var raw map[string]any
	if err := yaml.Unmarshal(data, &raw); err != nil {
		t.Fatal(err)
	}
	about.Version, about.AppVersion, about.KubeVersion = text(raw, "version"), text(raw, "appVersion"), text(raw, "kubeVersion")
	for _, v := range []string{about.Version, about.AppVersion} {
		parts := strings.SplitN(v, ".", 3)
		if len(parts) != 3 {
			t.Fatalf("%q is no semantic version", v)
		}
		for _, part := range parts[:2] {
			if _, err := strconv.Atoi(part); err != nil {
				t.Errorf("%q is no semantic version", v)
			}
		}
	}
	if want := ">=" + kubeVersions()[0] + ".0-0"; about.KubeVersion != want {
		t.Errorf("kubeVersion is %s; the schemas that are checked begin at %s", about.KubeVersion, want)
	}
}

// TestMakefileSetsRealValues reads the values that make deploy sets.
func TestMakefileSetsRealValues(t *testing.T) {
	data, err := os.ReadFile(filepath.Join("..", "Makefile"))
	if err != nil {
		t.Fatal(err)
	}
	checkSetFlags(t, "Makefile", string(data))
}

// TestGuideSetsRealValues reads the values of the examples in the guide and in the README.
func TestGuideSetsRealValues(t *testing.T) {
	for _, path := range []string{filepath.Join("..", "docs", "guides", "kubernetes.md"), routesGuide(), filepath.Join(chart, "README.md"), filepath.Join(chart, "templates", "NOTES.txt")} {
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		checkSetFlags(t, path, string(data))
	}
}

var setFlag = regexp.MustCompile(`--set(?:-string|-file|-json)?[ =]['"]?([A-Za-z][A-Za-z0-9_.]*)=`)

// checkSetFlags looks each --set up among the values. Commands of the program have a --set,
// too, whose lines name keywarden.
func checkSetFlags(t *testing.T, path, content string) {
	t.Helper()
	known := chartValues(t)
	found := 0
	for line := range strings.Lines(content) {
		if strings.Contains(line, "keywarden serve") || strings.Contains(line, "keywarden migrate") {
			continue
		}
		for _, flag := range setFlag.FindAllStringSubmatch(line, -1) {
			found++
			name := flag[1]
			isKnown := slices.ContainsFunc(known, func(v value) bool {
				return v.path == name || strings.HasPrefix(name, v.path+".") && v.standard != "" && strings.HasPrefix(v.standard, "{")
			})
			if !isKnown {
				t.Errorf("%s sets %s, which is no value of the chart", path, name)
			}
		}
	}
	if found == 0 {
		t.Errorf("%s sets nothing: this test looks for the wrong thing", path)
	}
}

// example finds the examples of values in the guide: blocks that begin with their file's name.
var example = regexp.MustCompile("(?s)```yaml\n# values: ([a-z]+)\\.yaml\n(.*?)```")

// TestExamplesOfTheGuideRender renders each example over the least that can be installed,
// holds it to the schemas, and has the program load it.
func TestExamplesOfTheGuideRender(t *testing.T) {
	guide, err := os.ReadFile(filepath.Join("..", "docs", "guides", "kubernetes.md"))
	if err != nil {
		t.Fatal(err)
	}
	schemas := compileSchemas(t, kubeVersions()[1])
	examples := example.FindAllStringSubmatch(string(guide), -1)
	if len(examples) < 8 {
		t.Fatalf("there are %d examples", len(examples))
	}
	for _, found := range examples {
		t.Run(found[1], func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "values.yaml")
			if err := os.WriteFile(file, []byte(found[2]), 0o600); err != nil {
				t.Fatal(err)
			}
			out, err := render(t, valuesFiles(t)["minimal"], kubeVersions()[1], "--values", file)
			if err != nil {
				t.Fatal(err)
			}
			for _, o := range decode(t, out) {
				if o.kind() == "ExternalSecret" { // of another operator
					continue
				}
				if err := problemOf(t, schemas, o); err != nil {
					t.Errorf("%s %s: %v", o.kind(), o.name(), err)
				}
			}
		})
	}
}
