package app_test

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// grafanaBoard is what a test wants to know of a dashboard.
type grafanaBoard struct {
	UID         string
	Title       string
	Description string
	Templating  struct {
		List []struct {
			Name       string
			Type       string
			Definition string
		}
	}
	Panels []grafanaPanel
}

type grafanaPanel struct {
	ID          int
	Type        string
	Title       string
	Description string
	GridPos     struct{ X, Y, W, H int }
	Datasource  struct{ Type, UID string }
	FieldConfig struct {
		Defaults struct{ Unit string }
	}
	Targets []struct {
		RefID        string
		Expr         string
		LegendFormat string
		Datasource   struct{ Type, UID string }
	}
}

// grafanaBoards are the boards by the names of their files.
func grafanaBoards(t *testing.T) map[string]grafanaBoard {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(root, "configs/grafana/dashboards/*.json"))
	if err != nil || len(files) < 5 {
		t.Fatalf("boards %v, %v", files, err)
	}
	all := map[string]grafanaBoard{}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		var b grafanaBoard
		if err := json.Unmarshal(text, &b); err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		all[filepath.Base(file)] = b
	}
	return all
}

func TestBoardsAreWhole(t *testing.T) {
	uids, titles := map[string]string{}, map[string]string{}
	for name, b := range grafanaBoards(t) {
		t.Run(name, func(t *testing.T) {
			if b.UID == "" || b.Title == "" || b.Description == "" || uids[b.UID]+titles[b.Title] != "" {
				t.Errorf("uid %q, title %q, description %q: missing, or those of %s%s", b.UID, b.Title, b.Description, uids[b.UID], titles[b.Title])
			}
			uids[b.UID], titles[b.Title] = name, name
			ids, cells := map[int]bool{}, map[[2]int]string{}
			for _, p := range b.Panels {
				if p.ID == 0 || ids[p.ID] {
					t.Errorf("%s: the id %d is not its own", p.Title, p.ID)
				}
				ids[p.ID] = true
				g := p.GridPos
				if g.X < 0 || g.Y < 0 || g.W < 1 || g.H < 1 || g.X+g.W > 24 {
					t.Errorf("%s: is at %+v", p.Title, g)
				}
				for x := g.X; x < g.X+g.W; x++ {
					for y := g.Y; y < g.Y+g.H; y++ {
						if other := cells[[2]int{x, y}]; other != "" {
							t.Fatalf("%s covers %s", p.Title, other)
						}
						cells[[2]int{x, y}] = p.Title
					}
				}
				checkPanel(t, p)
			}
		})
	}
}

func checkPanel(t *testing.T, p grafanaPanel) {
	t.Helper()
	if p.Title == "" {
		t.Errorf("panel %d has no title", p.ID)
	}
	if p.Type == "row" {
		return
	}
	if p.Description == "" {
		t.Errorf("%s has no description", p.Title)
	}
	if p.Type == "text" {
		return
	}
	if p.FieldConfig.Defaults.Unit == "" {
		t.Errorf("%s has no unit", p.Title)
	}
	if len(p.Targets) == 0 {
		t.Errorf("%s asks nothing", p.Title)
	}
	refs := map[string]bool{}
	for _, q := range p.Targets {
		if q.Datasource.UID != "${datasource}" || p.Datasource.UID != "${datasource}" {
			t.Errorf("%s: the data source is not the reader's choice", p.Title)
		}
		if q.RefID == "" || refs[q.RefID] {
			t.Errorf("%s: the query %q is there twice", p.Title, q.RefID)
		}
		refs[q.RefID] = true
	}
}

// boardQuery is a query with the reader's choices filled in.
type boardQuery struct {
	where  string // board and panel
	expr   string
	legend []string // labels
}

var (
	legendLabel = regexp.MustCompile(`\{\{\s*([a-z_]+)\s*\}\}`)
	labelValues = regexp.MustCompile(`^label_values\((.+), ([a-z_]+)\)$`)
)

// boardQueries are all queries of all boards, those of the variables included.
func boardQueries(t *testing.T) (all []boardQuery) {
	t.Helper()
	fill := strings.NewReplacer("$__rate_interval", "1m", "$job", "api-security-platform", "$instance", ".*", "$route", ".*", "$service", ".*")
	for name, b := range grafanaBoards(t) {
		for _, v := range b.Templating.List {
			if v.Type != "query" {
				continue
			}
			m := labelValues.FindStringSubmatch(v.Definition)
			if m == nil {
				t.Errorf("%s: the variable %s is %q", name, v.Name, v.Definition)
				continue
			}
			all = append(all, boardQuery{name + ", $" + v.Name, fill.Replace(m[1]), []string{m[2]}})
		}
		for _, p := range b.Panels {
			for _, q := range p.Targets {
				one := boardQuery{where: fmt.Sprintf("%s, %s (%s)", name, p.Title, q.RefID), expr: fill.Replace(q.Expr)}
				if strings.Contains(strings.ReplaceAll(one.expr, "${1}", ""), "$") {
					t.Errorf("%s: an unknown variable: %s", one.where, one.expr)
				}
				for _, m := range legendLabel.FindAllStringSubmatch(q.LegendFormat, -1) {
					one.legend = append(one.legend, m[1])
				}
				all = append(all, one)
			}
		}
	}
	return all
}

// The parser of Prometheus reads every query: as the expression of a rule.
func TestBoardsSpeakPromQL(t *testing.T) {
	type rule struct {
		Record string `json:"record"`
		Expr   string `json:"expr"`
	}
	var rules []rule
	for i, q := range boardQueries(t) {
		rules = append(rules, rule{fmt.Sprintf("query_%d", i), q.expr})
	}
	text, err := json.Marshal(map[string]any{"groups": []any{map[string]any{"name": "boards", "rules": rules}}}) // JSON is YAML
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "boards.yml")
	if err := os.WriteFile(file, text, 0o600); err != nil {
		t.Fatal(err)
	}
	runTool(t, "", "promtool", "check", "rules", "--lint=none", file)
}

// boardsAskForWhatIsExposed is part of [TestObservability].
func boardsAskForWhatIsExposed(t *testing.T, k known) {
	for _, q := range boardQueries(t) {
		for _, wrong := range k.check(q.expr, q.legend) {
			t.Errorf("%s: %s\n%s", q.where, wrong, q.expr)
		}
	}
}
