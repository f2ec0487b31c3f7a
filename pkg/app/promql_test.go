package app_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// tool is the path of promtool or amtool: below TOOLS, where "make rules" puts it, or in
// the path. Where there is none the test is skipped, but fails when CI is set.
func tool(t *testing.T, name string) string {
	t.Helper()
	for _, dir := range []string{os.Getenv("TOOLS"), filepath.Join(root, ".cache", "bin")} {
		found, err := filepath.Glob(filepath.Join(dir, name+"-*"))
		if err == nil && dir != "" && len(found) > 0 {
			return found[len(found)-1]
		}
	}
	if path, err := exec.LookPath(name); err == nil {
		return path
	}
	if os.Getenv("CI") == "true" {
		t.Fatalf("%s is not installed: make rules", name)
	}
	t.Skipf("%s is not installed: make rules", name)
	return ""
}

// runTool runs a program and returns what it says; it must end well.
func runTool(t *testing.T, input string, name string, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), tool(t, name), args...)
	cmd.Stdin = strings.NewReader(input)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Errorf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

// selector is a metric that an expression asks for, with the labels it is matched by.
type selector struct {
	metric string
	labels []string
}

// reading is what an expression of PromQL refers to. That it is one, promtool says: here
// names are found, and nothing else.
type reading struct {
	selectors []selector
	groups    []string // labels of by, on, ignoring, group_left and group_right
	made      []string // labels that label_replace makes
}

var (
	promToken = regexp.MustCompile(`"(?:[^"\\]|\\.)*"|\[[^\]]*\]|[a-zA-Z_:][a-zA-Z0-9_:]*|[0-9.]+(?:e[0-9]+)?[smhdwy]?|\S`)
	identity  = regexp.MustCompile(`^[a-zA-Z_:]`)

	labelLists = []string{"by", "without", "on", "ignoring", "group_left", "group_right"}
	operators  = []string{"and", "or", "unless", "bool", "offset"}
)

// readPromQL finds the names in an expression.
func readPromQL(expr string) (r reading) {
	tokens := promToken.FindAllString(expr, -1)
	at := func(i int) string {
		if i < len(tokens) {
			return tokens[i]
		}
		return ""
	}
	// list reads identifiers until the closing token, and tells where that is.
	list := func(i int, end string) (names []string, last int) {
		for ; i < len(tokens) && tokens[i] != end; i++ {
			if identity.MatchString(tokens[i]) {
				names = append(names, tokens[i])
			}
		}
		return names, i
	}
	for i := 0; i < len(tokens); i++ {
		token := tokens[i]
		switch {
		case !identity.MatchString(token), slices.Contains(operators, token):
		case slices.Contains(labelLists, token):
			if at(i+1) == "(" {
				var names []string
				names, i = list(i+2, ")")
				r.groups = append(r.groups, names...)
			}
		case at(i+1) == "(", slices.Contains(labelLists, at(i+1)): // a function, or an aggregation
		case at(i+1) == "{":
			s := selector{metric: token}
			s.labels, i = list(i+2, "}")
			r.selectors = append(r.selectors, s)
		default:
			r.selectors = append(r.selectors, selector{metric: token})
		}
	}
	for _, m := range labelMade.FindAllStringSubmatch(expr, -1) {
		r.made = append(r.made, m[1])
	}
	return r
}

var labelMade = regexp.MustCompile(`\), "([a-z_]+)", "[^"]*", "[a-z_]+", "`)

func TestNamesInExpressionsAreFound(t *testing.T) {
	r := readPromQL(`sum by (a, le) (label_replace(rate(m_bucket{b="x{y}",c!~"z"}[5m]), "class", "${1}xx", "code", "(.)..")) / on (job) group_left () (other > 0.5e3) or vector(0)`)
	if len(r.selectors) != 2 || r.selectors[0].metric != "m_bucket" || !slices.Equal(r.selectors[0].labels, []string{"b", "c"}) || r.selectors[1].metric != "other" {
		t.Errorf("selectors %+v", r.selectors)
	}
	if !slices.Equal(r.groups, []string{"a", "le", "job"}) || !slices.Equal(r.made, []string{"class"}) {
		t.Errorf("groups %v, made %v", r.groups, r.made)
	}
}

// known is what expressions may refer to: what a program exposes, what the recording
// rules make of it, and what Prometheus adds to a scrape.
type known struct {
	exposed  exposition
	recorded map[string]bool
}

// labels are those of a metric; nil when it is unknown. Every scraped series has job and
// instance, and one that was recorded has the labels that its name begins with.
func (k known) labels(metric string) map[string]bool {
	if k.recorded[metric] {
		level, _, _ := strings.Cut(metric, ":")
		return map[string]bool{"job": true, "http_route": level == "job_route"}
	}
	labels := map[string]bool{"job": true, "instance": true}
	if metric == "up" {
		return labels
	}
	f := k.exposed[metric]
	for _, suffix := range []string{"_bucket", "_sum", "_count"} {
		of := k.exposed[strings.TrimSuffix(metric, suffix)]
		if f == nil && strings.HasSuffix(metric, suffix) && of != nil && (of.kind == "histogram" || of.kind == "summary" && suffix != "_bucket") {
			f = of
			labels["le"] = suffix == "_bucket"
		}
	}
	if f == nil {
		return nil
	}
	for l := range f.labels {
		labels[l] = true
	}
	return labels
}

// check reports what an expression, and the legend of its graph, ask for in vain.
func (k known) check(expr string, legend []string) (wrong []string) {
	r := readPromQL(expr)
	if len(r.selectors) == 0 && !strings.Contains(expr, "vector(") {
		wrong = append(wrong, "no metric was found in it")
	}
	all := map[string]bool{}
	for _, s := range r.selectors {
		labels := k.labels(s.metric)
		if labels == nil {
			wrong = append(wrong, "nobody exposes "+s.metric)
			continue
		}
		for l, has := range labels {
			all[l] = all[l] || has
		}
		for _, l := range s.labels {
			if !labels[l] {
				wrong = append(wrong, s.metric+" has no label "+l)
			}
		}
	}
	for _, made := range r.made {
		all[made] = true
	}
	for _, l := range append(slices.Clone(r.groups), legend...) {
		if !all[l] {
			wrong = append(wrong, "nothing in it has a label "+l)
		}
	}
	return wrong
}
